"""Medians: from rounds of a sweep to one row a name and case."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from mpim_lab.bench.rows import Row


def medians_of(bench: str, found: Iterable[Mapping[str, Any]], spread_of: str) -> list[Row]:
    """One row a case and name, in the order in which they first came.

    found: rows of all rounds with "who", "case" and numbers, or with a "reason" why there are none.
    What differs between the rounds becomes its median; "spread" holds the least and the most of the
    column `spread_of`.

        >>> rounds = [{"who": "lz4", "case": "64 bytes", "rate": rate} for rate in (5.0, 9.0, 6.0)]
        >>> medians_of("compression", rounds, "rate")[0]["rate"], medians_of("compression", rounds, "rate")[0]["spread"]
        (6.0, [5.0, 9.0])
    """
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in found:
        groups.setdefault((row["case"], row["who"]), []).append(row)
    return [_row(bench, rows, spread_of) for rows in groups.values()]


def _row(bench: str, rows: Sequence[Mapping[str, Any]], spread_of: str) -> Row:
    measured = [row for row in rows if "reason" not in row]
    failed = [row for row in rows if "reason" in row]
    row: Row = {"bench": bench}
    for name in (measured or failed)[0]:
        row[name] = _middle([each[name] for each in measured or failed])
    if measured:
        numbers = [each[spread_of] for each in measured]
        row |= {"spread": [min(numbers), max(numbers)], "rounds": len(measured)}
    if failed:
        row |= {"reason": failed[-1]["reason"], "failed_rounds": len(failed)}
    return row


def _middle(values: Sequence[Any]) -> Any:
    """The one value, if it was the same in every round: a name, a size."""
    return values[0] if all(value == values[0] for value in values) else median(values)


def rounded(value: Any, digits: int = 4) -> Any:
    """Numbers with as many significant digits as a measurement has, in rows and lists alike.

    >>> rounded({"messages_per_s": 123456.78, "spread": [0.0123456, 5], "case": "1 task", "kept_up": True})
    {'messages_per_s': 123500, 'spread': [0.01235, 5], 'case': '1 task', 'kept_up': True}
    """
    if isinstance(value, dict):
        return {name: rounded(each, digits) for name, each in value.items()}
    if isinstance(value, list):
        return [rounded(each, digits) for each in value]
    if not isinstance(value, float):
        return value
    short = float(f"{value:.{digits}g}")
    return int(short) if abs(short) >= 10**digits else short
