"""Rows: from samples to one row a candidate and case.

The table, the picture, the JSON and the notebooks read them.
"""

from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any

from mpim_lab.bench.cases import Case
from mpim_lab.bench.rounds import OURS, Sample
from mpim_lab.load.load import LoadResult

Row = dict[str, Any]


def rows_of(bench: str, samples: Sequence[Sample]) -> list[Row]:
    """One row a case and candidate, in the order in which they first came.

    Medians over the rounds.
    """
    cases = list(dict.fromkeys(sample.case for sample in samples))
    whos = list(dict.fromkeys(sample.who for sample in samples))
    whos.sort(key=lambda who: who != OURS)
    ours = {
        (sample.case, sample.round): sample.messages_per_s
        for sample in samples
        if sample.who == OURS
    }
    return [
        row
        for case in cases
        for who in whos
        if (
            row := _row(
                bench, who, case, [s for s in samples if (s.who, s.case) == (who, case)], ours
            )
        )
    ]


def _row(
    bench: str,
    who: str,
    case: Case,
    samples: list[Sample],
    ours: dict[tuple[Case, int], float | None],
) -> Row | None:
    if not samples:
        return None
    row: Row = {
        "bench": bench,
        "who": who,
        "case": str(case),
        "loop": "open" if case.is_open else "closed",
    }
    row |= {"tasks": case.tasks, "offered_per_s": case.offered_per_s}
    reasons = [sample.reason for sample in samples if sample.reason]
    rates = [rate for sample in samples if (rate := sample.messages_per_s) is not None]
    if rates:
        row |= {
            "messages_per_s": median(rates),
            "spread": [min(rates), max(rates)],
            "rounds": len(rates),
        }
        row |= {"vs_mpim_lab": _ratio(samples, ours)}
        row |= _latencies_and_costs([s.result for s in samples if isinstance(s.result, LoadResult)])
    if reasons:
        row |= {"reason": reasons[-1], "failed_rounds": len(reasons)}
    return row


def _ratio(samples: Iterable[Sample], ours: dict[tuple[Case, int], float | None]) -> float | None:
    """The median of the rounds' own ratios.

    Two numbers of one round were measured in the same mood.
    """
    ratios = [
        theirs / own
        for sample in samples
        if (theirs := sample.messages_per_s) is not None
        and (own := ours.get((sample.case, sample.round)))
    ]
    return median(ratios) if ratios else None


def _latencies_and_costs(results: Sequence[LoadResult]) -> Row:
    if not results:
        return {}

    def middle(numbers: Iterable[float | None]) -> float | None:
        known = [number for number in numbers if number is not None]
        return median(known) if known else None

    latencies = {
        name: middle(getattr(result, name) for result in results)
        for name in ("p50_ms", "p90_ms", "p99_ms")
    }
    spent_s = [
        (result.publisher_cpu_s, result.receiver_cpu_s, max(result.sent, 1)) for result in results
    ]
    return {
        **latencies,
        "p99_spread_ms": [edge(r.p99_ms or 0.0 for r in results) for edge in (min, max)],
        "max_ms": max(result.max_ms or 0.0 for result in results),
        "sent_per_s": median(result.sent / result.seconds for result in results),
        "kept_up": sum(result.kept_up for result in results) > len(results) / 2,
        "lost": sum(result.lost for result in results),
        "duplicates": sum(result.duplicates for result in results),
        "reordered": sum(result.reordered for result in results),
        "publisher_rss_bytes": max(result.publisher_rss_bytes for result in results),
        "receiver_rss_bytes": max(result.receiver_rss_bytes for result in results),
        "publisher_cpu_us": median(publisher / sent * 1e6 for publisher, _, sent in spent_s),
        "receiver_cpu_us": median(receiver / sent * 1e6 for _, receiver, sent in spent_s),
    }
