"""`mpim-lab bench pubsub`: publish to receive, ours beside the peers and the limit."""

from typing import Any

from mpim_lab.bench.cases import Case, Schedule
from mpim_lab.bench.comparison import (
    PAYLOAD_BYTES,
    Progress,
    Server,
    compare,
    keep_quiet,
    measure_case,
)
from mpim_lab.bench.limit import LIMIT, measure_limit, missing_limit
from mpim_lab.load.load import LoadResult
from mpim_lab.load.redis.candidates import candidates_for


async def bench_pubsub(schedule: Schedule, progress: Progress = keep_quiet) -> dict[str, Any]:
    """Run every candidate that is installed.

    Gives `{"machine": …, "rows": …}`, rows also for those that are not.
    """
    candidates = candidates_for("pubsub")
    missing = {who: candidate.missing for who, candidate in candidates.items()} | {
        LIMIT: missing_limit()
    }

    async def measure_one(server: Server, who: str, case: Case) -> LoadResult | float:
        if who == LIMIT:
            return await measure_limit(
                server.url, case, schedule.seconds, PAYLOAD_BYTES, server.prefix
            )
        return await measure_case(server, who, case, schedule.seconds)

    return await compare("pubsub", missing, schedule, measure_one, progress)
