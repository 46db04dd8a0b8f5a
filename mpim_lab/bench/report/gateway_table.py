"""Gateway table: the rows of `mpim-lab bench gateway` as a terminal shows them."""

from collections.abc import Callable, Sequence
from typing import Any

from mpim_lab.bench.gateway.cases import CONNECT, NOTICE
from mpim_lab.bench.report.table import aligned
from mpim_lab.bench.rows import Row

_NOTHING = "–"
Cells = Callable[[Row], Sequence[str]]


def gateway_table_of(rows: Sequence[Row], machine: dict[str, Any]) -> str:
    """A block a kind of case, what each candidate promises, and why something is missing."""
    blocks = [
        f"{machine['cpu']}, {machine['cores']} cores · {machine['python']} · {machine['server']}"
    ]
    for case in dict.fromkeys(row["case"] for row in rows):
        own = [row for row in rows if row["case"] == case]
        measured = [row for row in own if "reason" not in row or "rounds" in row]
        if measured:
            heading, titles, cells = _form(case, measured[0])
            blocks.append(
                f"{heading}\n{aligned([['', *titles], *([row['who'], *cells(row)] for row in measured)])}"
            )
    notes = dict.fromkeys(f"  {row['who']}: {row['note']}" for row in rows)
    blocks.append("what a client can rely on\n" + "\n".join(notes))
    if reasons := dict.fromkeys(
        f"  {row['who']}: {row['reason']}" for row in rows if "reason" in row
    ):
        blocks.append("not measured, or not in every round\n" + "\n".join(reasons))
    return "\n\n".join(blocks)


def _form(case: str, row: Row) -> tuple[str, Sequence[str], Cells]:
    """Heading, titles, and the cells of a row."""
    titles: Sequence[str]
    if case == CONNECT:
        titles = ("seconds", "±", "a second", "KiB a connection", "server cores", "load cores")
        return f"{row['clients']:,} clients connect", titles, _connect_cells
    if row.get("loop") == "open":
        titles = (
            "received/s",
            "p50 ms",
            "p90 ms",
            "p99 ms",
            "max ms",
            "lost",
            "server cores",
            "load cores",
            "",
        )
        return (
            f"{case} are due whatever the answers do; latency from due to handled",
            titles,
            _steady_cells,
        )
    if row.get("loop") == "closed":
        titles = (
            "received/s",
            "±",
            "ratio",
            "p50 ms",
            "p99 ms",
            "lost",
            "server cores",
            "load cores",
        )
        text = f"{row['tasks']:,} clients write, each with at most {row['in_flight']} unanswered; ratio to mpim_lab"
        return text, titles, _closed_cells
    what = f"a notice to all {row['clients']:,}" if case == NOTICE else f"a message to a {case}"
    return f"{what}: until the last one has it", ("ms", "±", "slowest ms", "lost"), _many_cells


def _connect_cells(row: Row) -> Sequence[str]:
    rate = f"{row['connects_per_s']:,.0f}"
    return (
        f"{row['seconds']:.2f}",
        _spread(row, "seconds"),
        rate,
        _number(row["memory_kib"]),
        *_cores(row),
    )


def _steady_cells(row: Row) -> Sequence[str]:
    times = [_number(row[name]) for name in ("p50_ms", "p90_ms", "p99_ms", "max_ms")]
    note = "" if row["kept_up"] else "did not keep up"
    return f"{row['messages_per_s']:,.0f}", *times, f"{row['lost']:,}", *_cores(row), note


def _closed_cells(row: Row) -> Sequence[str]:
    ratio = row.get("vs_mpim_lab")
    cells = [
        f"{row['messages_per_s']:,.0f}",
        _spread(row, "messages_per_s"),
        f"{ratio:.3g}×" if ratio else _NOTHING,
    ]
    return *cells, _number(row["p50_ms"]), _number(row["p99_ms"]), f"{row['lost']:,}", *_cores(row)


def _many_cells(row: Row) -> Sequence[str]:
    return (
        f"{row['seconds'] * 1e3:,.0f}",
        _spread(row, "seconds"),
        f"{row['slowest_s'] * 1e3:,.0f}",
        f"{row['lost']:,}",
    )


def _cores(row: Row) -> Sequence[str]:
    return [
        _NOTHING if row[name] is None else f"{row[name]:.2f}" for name in ("server_cpu", "load_cpu")
    ]


def _spread(row: Row, column: str) -> str:
    low, high = row["spread"]
    return f"{(high - low) / 2 / row[column]:.0%}" if row[column] else _NOTHING


def _number(value: float | None) -> str:
    if value is None:
        return _NOTHING
    return f"{value:.2f}" if value < 10 else f"{value:,.1f}" if value < 100 else f"{value:,.0f}"
