"""`mpim-lab bench pubsub`: publish to receive, ours beside the peers and the limit."""

import functools
from collections.abc import Callable
from typing import Any

from mpim_lab.bench.cases import Case, Schedule
from mpim_lab.bench.limit import LIMIT, measure_limit, missing_limit
from mpim_lab.bench.machine import describe_machine
from mpim_lab.bench.rounds import Sample, absent, play
from mpim_lab.bench.rows import rows_of
from mpim_lab.lab.load import LoadResult, measure
from mpim_lab.lab.loadworker.contestants import contestants_of
from mpim_lab.lab.server import open_server

PAYLOAD_BYTES = 100


async def bench_pubsub(schedule: Schedule, progress: Callable[[Sample], None] = lambda sample: None) -> dict[str, Any]:
    """Run every contestant that is installed; gives `{"machine": …, "rows": …}`, rows also for those that are not."""
    missing = {who: contestant.missing for who, contestant in contestants_of("pubsub").items()} | {
        LIMIT: missing_limit()
    }
    samples = []
    async with open_server() as server:
        machine = await describe_machine(server.url)
        run = functools.partial(_run, server.url, server.prefix, schedule.seconds)
        present = [who for who, reason in missing.items() if reason is None]
        async for sample in play(present, schedule, run):
            progress(sample)
            samples.append(sample)
    return {"machine": machine, "rows": rows_of("pubsub", samples + absent(missing, schedule))}


async def _run(url: str, prefix: str, seconds: float, who: str, case: Case) -> LoadResult | float:
    if who == LIMIT:
        return await measure_limit(url, case, seconds, PAYLOAD_BYTES)
    options = {"tasks": case.tasks, "offered_per_s": case.offered_per_s, "payload_bytes": PAYLOAD_BYTES}
    return await measure(url, who, seconds=seconds, prefix=prefix, **options)
