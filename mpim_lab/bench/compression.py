"""`mpim-lab bench compression`: bytes saved against CPU spent, by algorithm and size, and what becomes of a chat message."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from mpim_lab.bench.machine import describe_machine
from mpim_lab.bench.medians import medians_of
from mpim_lab.bench.rows import Row
from mpim_lab.chapters.ch06_compression.measurements import SIZES, message_table, size_sweep
from mpim_lab.lab.server.embedded import open_server

BENCH, CHAT_MESSAGE = "compression", "chat message"
COLUMNS = {
    "left %": "left_percent",
    "pack µs": "pack_us",
    "unpack µs": "unpack_us",
    "saved bytes a µs": "saved_bytes_a_us",
}


async def bench_compression(
    rounds: int, tell: Callable[[str], None] = lambda text: None, *, sizes: Sequence[int] = SIZES
) -> dict[str, Any]:
    """Measure every algorithm at every size, round by round; gives `{"machine": …, "rows": …}`.

    A row's case is a size ("1,024 bytes"), or "chat message": what becomes of the median message of
    a chat. It uses no server; the machine's description names the one that the other benches use.
    """
    async with open_server() as server:
        machine = await describe_machine(server.url)
    found: list[Row] = []
    for round_ in range(1, rounds + 1):
        async for measured in size_sweep(sizes):
            row = {
                "who": measured["algorithm"],
                "case": f"{measured['bytes']:,} bytes",
                "bytes": measured["bytes"],
            }
            row |= {name: measured[column] for column, name in COLUMNS.items()}
            tell(f"round {round_} · {row['case']} · {row['who']}: {row['left_percent']:.0f} % left")
            found.append(row)
    return {
        "machine": machine,
        "rows": medians_of(BENCH, found, "saved_bytes_a_us") + await _chat_rows(),
    }


async def _chat_rows() -> list[Row]:
    """One round: bytes are the same in each."""
    table = await asyncio.to_thread(message_table)
    return [
        {
            "bench": BENCH,
            "who": str(who),
            "case": CHAT_MESSAGE,
            "median_bytes": float(measured["median bytes"]),
            "times_smaller": float(measured["times smaller"]),
            "grew_percent": float(measured["messages that grew %"]),
            "left_percent": float(measured["all bytes %"]),
        }
        for who, measured in table.iterrows()
    ]
