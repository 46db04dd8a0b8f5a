"""`mpim-lab bench compression` and `pool`: the sweeps of chapters 6 and 7, round by round."""

import asyncio
from contextlib import aclosing
from typing import Any

from mpim_lab.bench.cases import Schedule
from mpim_lab.bench.machine import describe_this_machine
from mpim_lab.bench.rounds import Tell, keep_quiet, play
from mpim_lab.bench.rows import Row, rows_of
from mpim_lab.chapters.ch06_compression.measurements import SIZES, message_table, size_sweep
from mpim_lab.chapters.ch07_pool.connection_strategies import CONNECTION_STRATEGIES
from mpim_lab.chapters.ch07_pool.measurements import callers_sweep

CHAT_MESSAGE = "chat message"
CALLERS = (1, 16, 64, 256)
FULL_COMPRESSION = Schedule(SIZES, rounds=5, seconds=0.5)
QUICK_COMPRESSION = Schedule(SIZES, rounds=2, seconds=0.2)
FULL_POOL = Schedule(CALLERS, rounds=5, seconds=0.5)
QUICK_POOL = Schedule(CALLERS, rounds=2, seconds=0.2)


async def bench_compression(schedule: Schedule, tell: Tell = keep_quiet) -> dict[str, Any]:
    """Bytes saved against CPU spent, by algorithm and size, and what becomes of a chat message.

    A row's case is a size ("1,024 bytes"), or "chat message": what becomes of the median message of
    a chat. It uses no server; the machine's description names the one that the other benches use.
    """
    found: list[Row] = []
    for round_ in range(1, schedule.rounds + 1):
        async for measured in size_sweep(schedule.cases):
            case = f"{measured['bytes']:,} bytes"
            row: Row = {"who": measured["algorithm"], "case": case, "bytes": measured["bytes"]}
            row |= {
                "left_percent": measured["left %"],
                "pack_us": measured["pack µs"],
                "unpack_us": measured["unpack µs"],
                "saved_bytes_a_us": measured["saved bytes a µs"],
            }
            tell(f"round {round_} · {case} · {row['who']}: {row['left_percent']:.0f} % left")
            found.append(row)
    rows = rows_of("compression", found, "saved_bytes_a_us") + await _chat_rows()
    return {"machine": await describe_this_machine(), "rows": rows}


async def _chat_rows() -> list[Row]:
    """One round: bytes are the same in each."""
    table = await asyncio.to_thread(message_table)
    return [
        {
            "bench": "compression",
            "who": str(who),
            "case": CHAT_MESSAGE,
            "median_bytes": float(measured["median bytes"]),
            "times_smaller": float(measured["times smaller"]),
            "grew_percent": float(measured["messages that grew %"]),
            "left_percent": float(measured["all bytes %"]),
        }
        for who, measured in table.iterrows()
    ]


async def bench_pool(schedule: Schedule, tell: Tell = keep_quiet) -> dict[str, Any]:
    """Callers with one short command after another, by five ways to a connection.

    The pools have 16 connections.
    """

    async def run(way: str, callers: int) -> Row:
        sweep = callers_sweep([callers], [way], seconds=schedule.seconds)
        async with aclosing(sweep) as measuring:  # type: ignore[type-var]
            [measured] = [row async for row in measuring]
        return {
            "calls_per_s": measured["calls a second"],
            "p50_wait_ms": measured["p50 wait ms"],
            "p99_wait_ms": measured["p99 wait ms"],
            "p50_ms": measured["p50 ms"],
            "p99_ms": measured["p99 ms"],
        }

    def columns(callers: int) -> Row:
        return {"case": f"{callers:,} caller{'s' if callers > 1 else ''}", "callers": callers}

    ways = tuple(CONNECTION_STRATEGIES)
    found = await play(ways, schedule, run, tell, columns)
    rows = rows_of("pool", found, "calls_per_s", whos=ways)
    return {"machine": await describe_this_machine(), "rows": rows}
