"""`mpim-lab bench streams`: add → consume → acknowledge, ours beside the peers, and what each guarantee costs."""

from collections.abc import Callable
from typing import Any

from redis.asyncio import Redis

from mpim_lab.bench.cases import Case, Schedule
from mpim_lab.bench.machine import describe_machine
from mpim_lab.bench.rounds import OURS, Sample, absent, play
from mpim_lab.bench.rows import rows_of
from mpim_lab.lab.load import LoadResult, measure
from mpim_lab.lab.loadworker.contestants import contestants_of
from mpim_lab.lab.server import open_server

PAYLOAD_BYTES = 100
CHANNEL_ONLY = "mpim_lab, Pub/Sub"


async def bench_streams(schedule: Schedule, progress: Callable[[Sample], None] = lambda sample: None) -> dict[str, Any]:
    """Run every contestant that is installed in every closed case; gives `{"machine": …, "rows": …}`, as for Pub/Sub."""
    schedule = Schedule(tuple(case for case in schedule.cases if not case.is_open), schedule.rounds, schedule.seconds)
    contestants = contestants_of("streams")
    missing = {who: contestant.missing for who, contestant in contestants.items()} | {CHANNEL_ONLY: None}
    samples = []
    async with open_server() as server:
        machine = await describe_machine(server.url)

        async def run(who: str, case: Case) -> LoadResult:
            name = OURS if who == CHANNEL_ONLY else contestants[who].name
            result = await measure(
                server.url,
                name,
                tasks=case.tasks,
                payload_bytes=PAYLOAD_BYTES,
                seconds=schedule.seconds,
                prefix=server.prefix,
            )
            await _forget_streams(server.url, server.prefix)
            return result

        present = [who for who, reason in missing.items() if reason is None]
        async for sample in play(present, schedule, run):
            progress(sample)
            samples.append(sample)
    return {"machine": machine, "rows": rows_of("streams", samples + absent(missing, schedule))}


async def _forget_streams(url: str, prefix: str) -> None:
    """A run leaves a stream of some hundred thousand entries; the next one should find an empty server."""
    async with Redis.from_url(url, protocol=3) as client:
        keys = [key async for key in client.scan_iter(match=f"{prefix}load:*", count=1_000)]
        if keys:
            await client.unlink(*keys)
