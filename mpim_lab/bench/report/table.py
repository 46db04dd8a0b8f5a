"""Table: the rows as a terminal shows them."""

from collections.abc import Sequence
from typing import Any

from mpim_lab.bench.rows import Row

_NOTHING = "–"
_CALLS = {
    "pubsub": "one publish",
    "streams": "one add (pipelined or add_many: 100 messages)",
    "batching": "one publish (mpim_lab itself and pipelined: 100 messages)",
}


def table_of(rows: Sequence[Row], machine: dict[str, Any]) -> str:
    """Throughput, latencies, costs, and why something is missing."""
    blocks = [
        f"{machine['cpu']}, {machine['cores']} cores · {machine['python']} · {machine['server']}"
    ]
    closed = [row for row in rows if row["loop"] == "closed"]
    if closed:
        blocks.append(_throughput(closed))
    blocks += [
        _latencies(case, [row for row in rows if row["case"] == case])
        for case in _cases(rows, "open")
    ]
    blocks += [
        _costs(case, [row for row in closed if row["case"] == case])
        for case in _cases(rows, "closed")[-1:]
    ]
    if reasons := _reasons(rows):
        blocks.append("not measured\n" + "\n".join(f"  {reason}" for reason in reasons))
    return "\n\n".join(blocks)


def live_table_of(rows: Sequence[Row], machine: dict[str, Any]) -> str:
    """What watching costs.

    Throughput with and without it, and the ratio of the two in the same round.
    """
    lines = [["", "received/s", "ratio", "p50 ms", "p99 ms", "lost"]]
    for row in rows:
        times = [_ms(row["p50_ms"]), _ms(row["p99_ms"])]
        lines.append(
            [
                row["case"],
                f"{row['messages_per_s']:,.0f}",
                f"{row['ratio']:.3f}×",
                *times,
                f"{row['lost']:,}",
            ]
        )
    return f"{machine['cpu']}, {machine['cores']} cores · {machine['server']}\n\n{aligned(lines)}"


def _throughput(rows: Sequence[Row]) -> str:
    cases = _cases(rows, "closed")
    lines = [["", *(cell for case in cases for cell in (case, "spread", "ratio"))]]
    for who in dict.fromkeys(row["who"] for row in rows):
        own = {row["case"]: row for row in rows if row["who"] == who}
        lines.append([who, *(cell for case in cases for cell in _rate_cells(own.get(case, {})))])
    heading = (
        f"closed loop: each task awaits {_CALLS.get(rows[0]['bench'], 'one call')} after another"
    )
    return f"{heading}; messages received a second, and ratio to mpim_lab\n{aligned(lines)}"


def _rate_cells(row: Row) -> tuple[str, str, str]:
    if "messages_per_s" not in row:
        return _NOTHING, _NOTHING, _NOTHING
    rate, (low, high), ratio = row["messages_per_s"], row["spread"], row.get("vs_mpim_lab")
    return (
        f"{rate:,.0f}",
        f"±{(high - low) / 2 / rate:.0%}",
        _NOTHING if ratio is None else f"{ratio:.3g}×",
    )


def _latencies(case: str, rows: Sequence[Row]) -> str:
    lines = [["", "p50 ms", "p90 ms", "p99 ms", "max ms", "received/s", "lost", ""]]
    for row in rows:
        if "p50_ms" in row:
            times = [_ms(row[name]) for name in ("p50_ms", "p90_ms", "p99_ms", "max_ms")]
            note = "" if row["kept_up"] else "did not keep up"
            lines.append(
                [row["who"], *times, f"{row['messages_per_s']:,.0f}", f"{row['lost']:,}", note]
            )
    heading = f"open loop: {case} are due whatever the answers do; latency from due to handled"
    return f"{heading}\n{aligned(lines)}"


def _costs(case: str, rows: Sequence[Row]) -> str:
    lines = [
        [
            "",
            "p50 ms",
            "p99 ms",
            "CPU µs: publisher",
            "receiver",
            "MiB: publisher",
            "receiver",
            "lost",
            "reordered",
        ]
    ]
    for row in rows:
        if "p50_ms" in row:
            cpu = [f"{row[name]:.1f}" for name in ("publisher_cpu_us", "receiver_cpu_us")]
            memory = [
                f"{row[name] / 2**20:.0f}" for name in ("publisher_rss_bytes", "receiver_rss_bytes")
            ]
            times = [_ms(row["p50_ms"]), _ms(row["p99_ms"])]
            lines.append(
                [row["who"], *times, *cpu, *memory, f"{row['lost']:,}", f"{row['reordered']:,}"]
            )
    return f"closed loop, {case}: latency, CPU a message, most memory, faults\n{aligned(lines)}"


def _reasons(rows: Sequence[Row]) -> list[str]:
    """One line a candidate and reason, with the cases it holds for."""
    cases: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if "reason" in row:
            cases.setdefault((row["who"], row["reason"]), []).append(row["case"])
    every = {row["case"] for row in rows}
    return [
        f"{who}: {reason}" + ("" if set(found) == every else f" ({', '.join(found)})")
        for (who, reason), found in cases.items()
    ]


def _cases(rows: Sequence[Row], loop: str) -> list[str]:
    return list(dict.fromkeys(row["case"] for row in rows if row["loop"] == loop))


def _ms(milliseconds: float | None) -> str:
    if milliseconds is None:
        return _NOTHING
    return f"{milliseconds:.2f}" if milliseconds < 10 else f"{milliseconds:,.0f}"


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Columns as wide as they must be; the first to the left, numbers to the right.

    >>> print(aligned([["", "rate"], ["redis-py", "12,800"], ["ours", "200,000"]]))
                   rate
      redis-py   12,800
      ours      200,000
    """
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  "
        + "  ".join(
            [
                line[0].ljust(widths[0]),
                *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True)),
            ]
        ).rstrip()
        for line in lines
    )
