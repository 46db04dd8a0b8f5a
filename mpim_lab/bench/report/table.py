"""Table: a report as a terminal shows it. Pandas aligns; what stands in a cell is decided here."""

import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from mpim_lab.bench.gateway.cases import CONNECT, NOTICE
from mpim_lab.bench.machine import machine_text
from mpim_lab.bench.rows import EVERY_CASE, Row, reasons_of
from mpim_lab.bench.sweeps import CHAT_MESSAGE

NOTHING = "–"
MIB = 2**20
Cell = Callable[[Row], str]
Columns = Mapping[str, Cell]


def report_text(report: dict[str, Any]) -> str:
    """Every bench's tables, one after another, and why something is missing."""
    blocks = [machine_text(report["machine"], "python", "server")]
    benches = list(dict.fromkeys(row["bench"] for row in report["rows"]))
    for bench in benches:
        rows = [row for row in report["rows"] if row["bench"] == bench]
        if len(benches) > 1:
            blocks.append(bench)
        if any(row["case"] != EVERY_CASE for row in rows):
            blocks += BLOCKS[bench](rows)
        if reasons := reasons_of(rows):
            blocks.append("not measured, or not in every round\n" + _indented(reasons))
    return "\n\n".join(blocks)


def number(column: str, form: str = "{:,.0f}", unit: float = 1) -> Cell:
    """A cell with a number, and a dash where a row has none."""

    def cell(row: Row) -> str:
        value = row.get(column)
        return NOTHING if value is None else form.format(value / unit)

    return cell


def precise(column: str, unit: float = 1) -> Cell:
    """A cell with three digits.

    >>> [precise("ms")({"ms": value}) for value in (0.123, 12.34, 1234.5, None)]
    ['0.12', '12.3', '1,234', '–']
    """

    def cell(row: Row) -> str:
        value = row.get(column)
        if value is None:
            return NOTHING
        digits = 2 if value / unit < 10 else 1 if value / unit < 100 else 0
        return f"{value / unit:,.{digits}f}"

    return cell


def spread(column: str) -> Cell:
    """A cell with half the way from the least to the most, in percent of the median."""

    def cell(row: Row) -> str:
        if not row.get(column):
            return NOTHING
        low, high = row["spread"]
        return f"±{(high - low) / 2 / row[column]:.0%}"

    return cell


def _kept_up(row: Row) -> str:
    return "" if row["kept_up"] else "did not keep up"


LATENCIES: Columns = {
    "p50 ms": precise("p50_ms"),
    "p90 ms": precise("p90_ms"),
    "p99 ms": precise("p99_ms"),
    "max ms": precise("max_ms"),
}
P50_P99: Columns = {name: LATENCIES[name] for name in ("p50 ms", "p99 ms")}
RATE: Columns = {"received/s": number("messages_per_s")}
LOST: Columns = {"lost": number("lost")}
COSTS: Columns = {
    **P50_P99,
    "publisher CPU µs": number("publisher_cpu_us", "{:.1f}"),
    "receiver CPU µs": number("receiver_cpu_us", "{:.1f}"),
    "publisher MiB": number("publisher_rss_bytes", unit=MIB),
    "receiver MiB": number("receiver_rss_bytes", unit=MIB),
    **LOST,
    "reordered": number("reordered"),
}
CORES: Columns = {
    "server cores": number("server_cpu", "{:.2f}"),
    "load cores": number("load_cpu", "{:.2f}"),
}
RATIO = number("vs_mpim_lab", "{:.3g}×")
CALLS = {
    "pubsub": "one publish",
    "streams": "one add (pipelined or add_many: 100 messages)",
    "batching": "one publish (mpim_lab itself and pipelined: 100 messages)",
}


def _comparison(rows: Sequence[Row]) -> Iterator[str]:
    closed = [row for row in rows if row["loop"] == "closed"]
    if closed:
        columns = {"": number("messages_per_s"), "spread": spread("messages_per_s"), "ratio": RATIO}
        yield crossed(
            f"closed loop: each task awaits {CALLS[rows[0]['bench']]} after another; "
            "messages received a second, and ratio to mpim_lab",
            closed,
            columns,
        )
    for case, own in _by_case(rows):
        if own[0]["loop"] == "open":
            yield lines(
                f"open loop: {case} are due whatever the answers do; latency from due to handled",
                [row for row in own if "p50_ms" in row],
                {**LATENCIES, **RATE, **LOST, "": _kept_up},
            )
    for case, own in _by_case(closed)[-1:]:
        yield lines(
            f"closed loop, {case}: latency, CPU a message, most memory, faults",
            [row for row in own if "p50_ms" in row],
            COSTS,
        )


def _compression(rows: Sequence[Row]) -> Iterator[str]:
    sizes = [row for row in rows if "bytes" in row]
    left = {"": number("left_percent")}
    yield crossed("bytes left in percent, by bytes of chat text", sizes, left)
    saved = {"": number("saved_bytes_a_us", "{:.1f}")}
    yield crossed("bytes saved a microsecond of CPU, packing and unpacking", sizes, saved)
    columns = {
        "median bytes": number("median_bytes"),
        "times smaller": number("times_smaller", "{:.2f}"),
        "grew": number("grew_percent", "{:.0f} %"),
        "of all bytes left": number("left_percent", "{:.0f} %"),
    }
    yield lines("one chat message", [row for row in rows if row["case"] == CHAT_MESSAGE], columns)


def _pool(rows: Sequence[Row]) -> Iterator[str]:
    yield crossed("calls a second", rows, {"": number("calls_per_s")})
    for what, column in (("a connection", "p99_wait_ms"), ("their reply", "p99_ms")):
        yield crossed(f"99 % of calls had {what} within so many ms", rows, {"": precise(column)})


def _growth(rows: Sequence[Row]) -> Iterator[str]:
    for axis in dict.fromkeys(row["axis"] for row in rows):
        rate = "deliveries/s" if axis == "subscribers" else "received/s"
        columns = {
            rate: number("messages_per_s"),
            "server MiB": number("server_bytes", "{:,.1f}", MIB),
            "clients MiB": number("client_bytes", "{:,.1f}", MIB),
            **LOST,
        }
        own = [row for row in rows if row["axis"] == axis]
        yield lines(axis, own, columns, number("value"))


def _live(rows: Sequence[Row]) -> Iterator[str]:
    columns = {**RATE, "ratio": number("vs_unwatched", "{:.3f}×"), **P50_P99, **LOST}
    for case, own in _by_case(rows):
        yield lines(case, own, columns)


def _gateway(rows: Sequence[Row]) -> Iterator[str]:
    """A table a kind of case, and what each candidate promises."""
    for case, own in _by_case([row for row in rows if "rounds" in row]):
        yield lines(*_gateway_form(case, own))
    promises = dict.fromkeys(f"{row['who']}: {row['note']}" for row in rows)
    yield "what a client can rely on\n" + _indented(promises)


def _gateway_form(case: str, rows: Sequence[Row]) -> tuple[str, Sequence[Row], Columns]:
    row = rows[0]
    if case == CONNECT:
        columns = {
            "seconds": number("seconds", "{:.2f}"),
            "spread": spread("seconds"),
            "a second": number("connects_per_s"),
            "KiB a connection": precise("memory_kib"),
            **CORES,
        }
        return f"{row['clients']:,} clients connect", rows, columns
    if row.get("loop") == "open":
        heading = f"{case} are due whatever the answers do; latency from due to handled"
        return heading, rows, {**RATE, **LATENCIES, **LOST, **CORES, "": _kept_up}
    if row.get("loop") == "closed":
        heading = (
            f"{row['tasks']:,} clients write, each with at most {row['in_flight']} unanswered; "
            "ratio to mpim_lab"
        )
        columns = {**RATE, "spread": spread("messages_per_s"), "ratio": RATIO}
        return heading, rows, {**columns, **P50_P99, **LOST, **CORES}
    what = f"a notice to all {row['clients']:,}" if case == NOTICE else f"a message to a {case}"
    columns = {
        "ms": number("seconds", unit=1e-3),
        "spread": spread("seconds"),
        "slowest ms": number("slowest_s", unit=1e-3),
        **LOST,
    }
    return f"{what}: until the last one has it", rows, columns


BLOCKS: dict[str, Callable[[Sequence[Row]], Iterator[str]]] = {
    "pubsub": _comparison,
    "streams": _comparison,
    "batching": _comparison,
    "compression": _compression,
    "pool": _pool,
    "growth": _growth,
    "live": _live,
    "gateway": _gateway,
}


def _by_case(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    cases = dict.fromkeys(row["case"] for row in rows)
    return [(case, [row for row in rows if row["case"] == case]) for case in cases]


def lines(
    heading: str, rows: Sequence[Row], columns: Columns, name: Cell = lambda row: row["who"]
) -> str:
    """One line a row: its name, and a cell a column.

    >>> rows = [{"who": "redis-py", "rate": 12_800}, {"who": "ours", "rate": 200_000}]
    >>> print(lines("how fast", rows, {"rate": number("rate")}))
    how fast
                   rate
      redis-py   12,800
      ours      200,000
    """
    cells = {title: [cell(row) for row in rows] for title, cell in columns.items()}
    return _block(heading, pd.DataFrame(cells, index=[name(row) for row in rows]))


def crossed(heading: str, rows: Sequence[Row], columns: Columns) -> str:
    """Names down, cases across; the column without a title has its case's."""
    cells = {
        (case, title): {row["who"]: cell(row) for row in own}
        for case, own in _by_case(rows)
        for title, cell in columns.items()
    }
    whos = list(dict.fromkeys(row["who"] for row in rows))
    frame = pd.DataFrame(cells, index=whos).fillna(NOTHING)
    titles = [title or case.removesuffix(" bytes") for case, title in cells]
    return _block(heading, frame.set_axis(titles, axis=1))


def _block(heading: str, frame: pd.DataFrame) -> str:
    text = frame.to_string(col_space=[len(title) + 1 for title in frame.columns])
    return f"{heading}\n{_indented(text.splitlines())}"


def _indented(texts: Any) -> str:
    return textwrap.indent("\n".join(text.rstrip() for text in texts), "  ")
