"""Gateway rows: from rounds to one row a case and candidate."""

from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any

from mpim_lab.bench.medians import medians_of
from mpim_lab.bench.rounds import OURS
from mpim_lab.bench.rows import Row

SUMS = (
    "sent",
    "received",
    "lost",
    "duplicates",
    "unanswered",
)  # what must not be hidden by a median


def gateway_rows(found: Iterable[Row], cases: Sequence[str], whos: Sequence[str]) -> list[Row]:
    """Medians over the rounds, in the order of `cases` and `whos`; what was lost is summed up.

    "spread": the least and the most of messages_per_s, or of seconds where there is no rate.
    "vs_mpim_lab": the median of the rounds' own ratios to ours, of messages_per_s; of seconds the
    other way round, so that more is better in both.

        >>> rounds = [{"who": who, "case": "c", "messages_per_s": rate, "lost": 1} for who, rate in (("a", 2.0), ("a", 4.0))]
        >>> gateway_rows(rounds, ["c"], ["a"])[0]["messages_per_s"], gateway_rows(rounds, ["c"], ["a"])[0]["lost"]
        (3.0, 2)
    """
    rounds = list(found)
    return [
        _row(
            [row for row in rounds if (row["case"], row["who"]) == (case, who)], _own(rounds, case)
        )
        for case in cases
        for who in whos
        if any((row["case"], row["who"]) == (case, who) for row in rounds)
    ]


def _own(rounds: Sequence[Row], case: str) -> list[Row]:
    return [row for row in rounds if (row["case"], row["who"]) == (case, OURS)]


def _row(rounds: Sequence[Row], ours: Sequence[Row]) -> Row:
    measured = [row for row in rounds if "reason" not in row]
    column = "messages_per_s" if measured and "messages_per_s" in measured[0] else "seconds"
    (row,) = medians_of("gateway", rounds, column)
    for name in SUMS:
        if measured and name in measured[0]:
            row[name] = sum(each[name] for each in measured)
    if measured and "kept_up" in measured[0]:
        row["kept_up"] = all(each["kept_up"] for each in measured)
    ratios = [_ratio(theirs, own, column) for theirs, own in zip(rounds, ours, strict=False)]
    known = [ratio for ratio in ratios if ratio is not None]
    return row | ({"vs_mpim_lab": median(known)} if known else {})


def _ratio(theirs: dict[str, Any], own: dict[str, Any], column: str) -> float | None:
    """Within one round: two numbers of one round were measured in the same mood."""
    if not theirs.get(column) or not own.get(column):
        return None
    ratio: float = theirs[column] / own[column]
    return ratio if column == "messages_per_s" else 1 / ratio
