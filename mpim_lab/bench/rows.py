"""Rows: from many rounds to one row a candidate and case.

The table, the page, the JSON and the notebooks read them.
"""

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

Row = dict[str, Any]
OURS = "mpim_lab"
EVERY_CASE = "every case"
SUMMED = ("sent", "received", "lost", "duplicates", "reordered", "unanswered")
WORST = ("max_ms", "publisher_rss_bytes", "receiver_rss_bytes")


def rows_of(
    bench: str,
    found: Iterable[Row],
    rate: str = "messages_per_s",
    *,
    whos: Sequence[str] = (),
    against: str | None = None,
) -> list[Row]:
    """One row a case and candidate: cases as they first came, candidates as in `whos`.

    found: rows of all rounds with "who", "case", "round" and numbers, or a "reason" why there are
    none. A number becomes its median; faults are summed, so that no median hides them, and of WORST
    the largest stands. "spread" holds the least and the most of the column `rate`, or of "seconds"
    where there is no rate. against: with whose rounds a ratio compares: "vs_mpim_lab".

        >>> found = [{"who": "lz4", "case": "64 bytes", "round": n, "rate": rate, "lost": n}
        ...     for n, rate in enumerate((5.0, 9.0, 6.0))]
        >>> rows_of("compression", found, "rate")[0]["rate"]
        6.0
        >>> rows_of("compression", found, "rate")[0]["spread"], found[2]["lost"]
        ([5.0, 9.0], 2)
    """
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in found:
        groups.setdefault((row["case"], row["who"]), []).append(row)
    cases = dict.fromkeys(case for case, _ in groups)
    named = dict.fromkeys(who for _, who in groups)
    return [
        _row(bench, groups[case, who], rate)
        | _ratio(groups[case, who], groups.get((case, against or ""), ()), rate, against)
        for case in cases
        for who in whos or named
        if (case, who) in groups
    ]


def _row(bench: str, rounds: Sequence[Row], rate: str) -> Row:
    measured = [row for row in rounds if "reason" not in row]
    failed = [row for row in rounds if "reason" in row]
    columns = [name for name in (measured or failed)[0] if name not in ("round", "reason")]
    row: Row = {"bench": bench}
    row |= {name: _one_of(name, [each[name] for each in measured or failed]) for name in columns}
    if measured:
        rates = [each[rate if rate in each else "seconds"] for each in measured]
        row |= {"spread": [min(rates), max(rates)], "rounds": len(measured)}
    if failed:
        row |= {"reason": failed[-1]["reason"], "failed_rounds": len(failed)}
    return row


def _one_of(name: str, values: Sequence[Any]) -> Any:
    """One value of all rounds; what was the same in each (a name, a size) stays as it is."""
    known = [value for value in values if value is not None]
    if name in SUMMED:
        return sum(known)
    if name in WORST:
        return max(known, default=None)
    if name == "kept_up":
        return sum(known) > len(known) / 2
    if all(value == values[0] for value in values):
        return values[0]
    return median(known)


def _ratio(theirs: Sequence[Row], ours: Sequence[Row], rate: str, against: str | None) -> Row:
    """The median of the rounds' own ratios: within a round the machine was in one mood.

    More is better: of seconds it is the other way round.
    """
    own = {row["round"]: row for row in ours}
    pairs = [(row, own[row["round"]]) for row in theirs if row.get("round") in own]
    ratios = [one[rate] / other[rate] for one, other in pairs if one.get(rate) and other.get(rate)]
    if not ratios:
        ratios = [
            other["seconds"] / one["seconds"]
            for one, other in pairs
            if one.get("seconds") and other.get("seconds")
        ]
    return {f"vs_{against}": median(ratios)} if ratios else {}


def reasons_of(rows: Sequence[Row]) -> list[str]:
    """One line a candidate and reason, with the cases it holds for if those are not all."""
    cases: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if "reason" in row:
            cases.setdefault((row["who"], row["reason"]), []).append(row["case"])
    every = {row["case"] for row in rows}
    return [
        f"{who}: {reason}" + ("" if set(found) == every else f" ({', '.join(found)})")
        for (who, reason), found in cases.items()
    ]


def rounded(value: Any, digits: int = 4) -> Any:
    """Numbers with as many significant digits as a measurement has, in rows and lists alike.

    >>> rounded({"messages_per_s": 123456.78, "spread": [0.0123456, 5], "kept_up": True})
    {'messages_per_s': 123500, 'spread': [0.01235, 5], 'kept_up': True}
    """
    if isinstance(value, Mapping):
        return {name: rounded(each, digits) for name, each in value.items()}
    if isinstance(value, list):
        return [rounded(each, digits) for each in value]
    if not isinstance(value, float):
        return value
    short = float(f"{value:.{digits}g}")
    return int(short) if abs(short) >= 10**digits else short
