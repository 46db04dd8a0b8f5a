"""Compare: candidates side by side under the loads of a schedule.

What `bench pubsub`, `streams` and `batching` share.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from mpim_lab.bench.cases import Case, Schedule
from mpim_lab.bench.machine import describe_machine
from mpim_lab.bench.rounds import Sample, absent, play
from mpim_lab.bench.rows import rows_of
from mpim_lab.lab.server.embedded import EmbeddedServer, open_server
from mpim_lab.lab.server.external import ExternalServer
from mpim_lab.load.load import LoadResult, measure

PAYLOAD_BYTES = 100
Server = EmbeddedServer | ExternalServer
Progress = Callable[[Sample], None]
Measure = Callable[[Server, str, Case], Awaitable[LoadResult | float]]


def keep_quiet(sample: Sample) -> None:
    """The progress that nobody watches."""


async def compare(
    bench: str,
    missing: Mapping[str, str | None],
    schedule: Schedule,
    measure_one: Measure,
    progress: Progress,
) -> dict[str, Any]:
    """Play the schedule on one server with everybody who is not missing.

    Gives `{"machine": …, "rows": …}`.

    `missing`: who → why they cannot run here, None if they can; those who cannot have rows too.
    `measure_one(server, who, case)` runs one candidate once.
    """
    samples = []
    async with open_server() as server:
        machine = await describe_machine(server.url)

        async def run(who: str, case: Case) -> LoadResult | float:
            return await measure_one(server, who, case)

        present = [who for who, reason in missing.items() if reason is None]
        async for sample in play(present, schedule, run):
            progress(sample)
            samples.append(sample)
    return {"machine": machine, "rows": rows_of(bench, samples + absent(missing, schedule))}


async def measure_case(server: Server, name: str, case: Case, seconds: float) -> LoadResult:
    """Run one candidate, by its name among all, in one case."""
    options = {
        "tasks": case.tasks,
        "offered_per_s": case.offered_per_s,
        "payload_bytes": PAYLOAD_BYTES,
    }
    return await measure(server.url, name, seconds=seconds, prefix=server.prefix, **options)
