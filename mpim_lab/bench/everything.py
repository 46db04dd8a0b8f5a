"""`mpim-lab bench all`: every bench in turn, as one report."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from mpim_lab.bench.medians import rounded
from mpim_lab.bench.rounds import OURS, reason_of
from mpim_lab.bench.rows import Row
from mpim_lab.errors import MpimError

Report = dict[str, Any]
EVERY_CASE = "every case"


async def bench_all(
    benches: Mapping[str, Callable[[], Awaitable[Report]]],
    tell: Callable[[str], None] = lambda text: None,
) -> Report:
    """Run one after another.

    Gives `{"machine": …, "rows": …}` with the rows of all, four digits each.

    The machine is described as the first bench found it. A bench that fails has one row with the
    reason, and the others go on; when all of them fail, the last error is raised.
    """
    machine: dict[str, Any] | None = None
    rows: list[Row] = []
    failure: MpimError | None = None
    for name, bench in benches.items():
        tell(f"bench {name}")
        try:
            report = await bench()
        except MpimError as error:
            failure = error
            rows.append(
                {"bench": name, "who": OURS, "case": EVERY_CASE, "reason": reason_of(error)}
            )
        else:
            machine = machine or report["machine"]
            rows += report["rows"]
    if machine is None and failure is not None:
        raise failure
    return {"machine": machine, "rows": rounded(rows)}
