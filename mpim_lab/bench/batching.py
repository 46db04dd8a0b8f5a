"""`mpim-lab bench batching`: many messages in a frame, beside single ones and redis-py's pipelines.

All unpack what was packed and hand each message to a handler; the cost of that is in the numbers.
"""

import functools
from collections.abc import Callable
from typing import Any

from mpim_lab.bench.cases import Case, Schedule
from mpim_lab.bench.machine import describe_machine
from mpim_lab.bench.rounds import OURS, Sample, absent, play
from mpim_lab.bench.rows import rows_of
from mpim_lab.lab.load import LoadResult, measure
from mpim_lab.lab.loadworker.contestants import contestants_of
from mpim_lab.lab.server import open_server

PAYLOAD_BYTES = 100
# Ours: adaptive, 100 messages a call; then what each part of it gives, and the peer.
COMPARED = (
    OURS,
    "mpim_lab, one by one",
    "mpim_lab, window 2 ms",
    "mpim_lab, not batched",
    "redis-py pipelined",
)


async def bench_batching(
    schedule: Schedule, progress: Callable[[Sample], None] = lambda sample: None
) -> dict[str, Any]:
    """Run those of COMPARED that are installed; gives `{"machine": …, "rows": …}`, as for Pub/Sub."""
    contestants = {who: each for who, each in contestants_of("batching").items() if who in COMPARED}
    missing = {who: contestants[who].missing for who in COMPARED}
    samples = []
    async with open_server() as server:
        machine = await describe_machine(server.url)
        run = functools.partial(_run, server.url, server.prefix, schedule.seconds)
        present = [who for who, reason in missing.items() if reason is None]
        async for sample in play(present, schedule, run):
            progress(sample)
            samples.append(sample)
    return {"machine": machine, "rows": rows_of("batching", samples + absent(missing, schedule))}


async def _run(url: str, prefix: str, seconds: float, who: str, case: Case) -> LoadResult:
    options = {"tasks": case.tasks, "offered_per_s": case.offered_per_s, "payload_bytes": PAYLOAD_BYTES}
    return await measure(url, f"batching:{who}", seconds=seconds, prefix=prefix, **options)
