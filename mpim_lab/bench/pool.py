"""`mpim-lab bench pool`: callers with one short command after another, by five ways to a connection."""

from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import Any

from mpim_lab.bench.machine import describe_machine
from mpim_lab.bench.medians import medians_of
from mpim_lab.bench.rounds import reason_of
from mpim_lab.bench.rows import Row
from mpim_lab.chapters.ch07_pool.connection_strategies import CONNECTION_STRATEGIES
from mpim_lab.chapters.ch07_pool.measurements import callers_sweep
from mpim_lab.errors import MpimError
from mpim_lab.lab.server.embedded import open_server

CALLERS = (1, 16, 64, 256)
COLUMNS = {
    "calls a second": "calls_per_s",
    "p50 wait ms": "p50_wait_ms",
    "p99 wait ms": "p99_wait_ms",
    "p50 ms": "p50_ms",
    "p99 ms": "p99_ms",
}


async def bench_pool(
    rounds: int,
    seconds: float,
    tell: Callable[[str], None] = lambda text: None,
    *,
    callers: Sequence[int] = CALLERS,
    ways: Sequence[str] = tuple(CONNECTION_STRATEGIES),
) -> dict[str, Any]:
    """Measure every way with every number of callers, `seconds` each.

    Gives `{"machine": …, "rows": …}`.

    The pools have 16 connections. In each round another way begins; a way that fails has a reason
    instead of numbers.
    """
    async with open_server() as server:
        machine = await describe_machine(server.url)
    found: list[Row] = []
    for round_ in range(1, rounds + 1):
        for turn, count in enumerate(callers, start=round_):
            for place in range(len(ways)):
                row = await _measured(ways[(place + turn) % len(ways)], count, seconds)
                what = row.get("reason") or f"{row['calls_per_s']:,.0f} calls/s"
                tell(f"round {round_} · {row['case']} · {row['who']}: {what}")
                found.append(row)
    found.sort(key=lambda row: (row["callers"], ways.index(row["who"])))
    return {"machine": machine, "rows": medians_of("pool", found, "calls_per_s")}


async def _measured(way: str, callers: int, seconds: float) -> Row:
    row: Row = {
        "who": way,
        "case": f"{callers:,} caller{'s' if callers > 1 else ''}",
        "callers": callers,
    }
    try:
        async with aclosing(callers_sweep([callers], [way], seconds=seconds)) as sweep:  # type: ignore[type-var]
            async for measured in sweep:
                row |= {name: measured[column] for column, name in COLUMNS.items()}
    except* MpimError as errors:  # the callers are a group, and fail as one
        row["reason"] = reason_of(errors.exceptions[0])
    return row
