"""`mpim-lab bench batching`: many messages in a frame, beside single ones and redis-py's pipelines.

All unpack what was packed and hand each message to a handler; the cost of that is in the numbers.
"""

from typing import Any

from mpim_lab.bench.cases import Case, Schedule
from mpim_lab.bench.comparison import Progress, Server, compare, keep_quiet, measure_case
from mpim_lab.bench.rounds import OURS
from mpim_lab.load.load import LoadResult
from mpim_lab.load.redis.candidates import candidates_for

# Ours: adaptive, 100 messages a call; then what each part of it gives, and the peer.
COMPARED = (
    OURS,
    "mpim_lab, one by one",
    "mpim_lab, window 2 ms",
    "mpim_lab, not batched",
    "redis-py pipelined",
)


async def bench_batching(schedule: Schedule, progress: Progress = keep_quiet) -> dict[str, Any]:
    """Run those of COMPARED that are installed.

    Gives `{"machine": …, "rows": …}`, as for Pub/Sub.
    """
    candidates = candidates_for("batching")
    missing = {who: candidates[who].missing for who in COMPARED}

    async def measure_one(server: Server, who: str, case: Case) -> LoadResult:
        return await measure_case(server, candidates[who].name, case, schedule.seconds)

    return await compare("batching", missing, schedule, measure_one, progress)
