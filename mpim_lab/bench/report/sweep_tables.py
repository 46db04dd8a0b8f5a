"""Sweep tables: compression, pool and growth as a terminal shows them."""

from collections.abc import Sequence
from typing import Any

from mpim_lab.bench.compression import CHAT_MESSAGE
from mpim_lab.bench.report.table import aligned
from mpim_lab.bench.rows import Row

_NOTHING = "–"
MIB = 2**20


def sweep_table_of(rows: Sequence[Row], machine: dict[str, Any]) -> str:
    """The rows of one of these benches, and why something is missing."""
    blocks = [
        f"{machine['cpu']}, {machine['cores']} cores · {machine['python']} · {machine['server']}"
    ]
    blocks += {"compression": _compression, "pool": _pool, "growth": _growth}[rows[0]["bench"]](
        rows
    )
    reasons = [f"  {row['who']}, {row['case']}: {row['reason']}" for row in rows if "reason" in row]
    return "\n\n".join([*blocks, *(["not measured\n" + "\n".join(reasons)] if reasons else [])])


def _compression(rows: Sequence[Row]) -> list[str]:
    sizes = [row for row in rows if "bytes" in row]
    lines = [["one chat message", "median bytes", "times smaller", "grew", "of all bytes left"]]
    for row in rows:
        if row["case"] == CHAT_MESSAGE:
            share = [f"{row[name]:.0f} %" for name in ("grew_percent", "left_percent")]
            lines.append(
                [row["who"], f"{row['median_bytes']:,.0f}", f"{row['times_smaller']:.2f}", *share]
            )
    return [
        _crossed("bytes left in percent, by bytes of chat text", sizes, "left_percent", "{:.0f}"),
        _crossed(
            "bytes saved a microsecond of CPU, packing and unpacking",
            sizes,
            "saved_bytes_a_us",
            "{:.1f}",
        ),
        aligned(lines),
    ]


def _pool(rows: Sequence[Row]) -> list[str]:
    return [
        _crossed("calls a second", rows, "calls_per_s", "{:,.0f}"),
        _crossed("99 % of calls had a connection within so many ms", rows, "p99_wait_ms", "{:.2f}"),
        _crossed("99 % of calls had their reply within so many ms", rows, "p99_ms", "{:.2f}"),
    ]


def _growth(rows: Sequence[Row]) -> list[str]:
    tables = []
    for axis in dict.fromkeys(row["axis"] for row in rows):
        lines = [
            [
                axis,
                "deliveries/s" if axis == "subscribers" else "received/s",
                "server MiB",
                "clients MiB",
                "lost",
            ]
        ]
        lines += [_growth_line(row) for row in rows if row["axis"] == axis]
        tables.append(aligned(lines))
    return tables


def _growth_line(row: Row) -> list[str]:
    memory = [_cell(row, name, "{:,.1f}", MIB) for name in ("server_bytes", "client_bytes")]
    return [
        f"{row['value']:,}",
        _cell(row, "messages_per_s", "{:,.0f}"),
        *memory,
        _cell(row, "lost", "{:,.0f}"),
    ]


def _crossed(title: str, rows: Sequence[Row], column: str, form: str) -> str:
    """Names down, cases across."""
    cases = list(dict.fromkeys(row["case"] for row in rows))
    lines = [["", *(case.removesuffix(" bytes") for case in cases)]]
    for who in dict.fromkeys(row["who"] for row in rows):
        own = {row["case"]: row for row in rows if row["who"] == who}
        lines.append([who, *(_cell(own.get(case, {}), column, form) for case in cases)])
    return f"{title}\n{aligned(lines)}"


def _cell(row: Row, column: str, form: str, unit: float = 1) -> str:
    value = row.get(column)
    return _NOTHING if value is None else form.format(value / unit)
