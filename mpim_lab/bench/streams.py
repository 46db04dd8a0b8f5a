"""`mpim-lab bench streams`: add → consume → acknowledge, ours beside the peers, and what each guarantee costs."""

from typing import Any

from redis.asyncio import Redis

from mpim_lab.bench.cases import Case, Schedule
from mpim_lab.bench.comparison import Progress, Server, compare, keep_quiet, measure_case
from mpim_lab.bench.rounds import OURS
from mpim_lab.load.load import LoadResult
from mpim_lab.load.redis.candidates import candidates_for

CHANNEL_ONLY = "mpim_lab, Pub/Sub"


async def bench_streams(schedule: Schedule, progress: Progress = keep_quiet) -> dict[str, Any]:
    """Run every candidate that is installed in every closed case.

    Gives `{"machine": …, "rows": …}`, as for Pub/Sub.
    """
    schedule = Schedule(
        tuple(case for case in schedule.cases if not case.is_open),
        schedule.rounds,
        schedule.seconds,
    )
    candidates = candidates_for("streams")
    missing = {who: candidate.missing for who, candidate in candidates.items()} | {
        CHANNEL_ONLY: None
    }

    async def measure_one(server: Server, who: str, case: Case) -> LoadResult:
        name = OURS if who == CHANNEL_ONLY else candidates[who].name
        result = await measure_case(server, name, case, schedule.seconds)
        await _forget_streams(server.url, server.prefix)
        return result

    return await compare("streams", missing, schedule, measure_one, progress)


async def _forget_streams(url: str, prefix: str) -> None:
    """A run leaves a stream of some hundred thousand entries.

    The next one should find an empty server.
    """
    async with Redis.from_url(url, protocol=3) as client:
        keys = [key async for key in client.scan_iter(match=f"{prefix}load:*", count=1_000)]
        if keys:
            await client.unlink(*keys)
