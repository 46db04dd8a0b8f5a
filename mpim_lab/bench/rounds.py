"""Rounds: every candidate in every case, again and again, so that a machine's moods fall on all."""

import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from mpim_lab.bench.cases import Case, Schedule
from mpim_lab.bench.rows import OURS, Row
from mpim_lab.errors import MpimError
from mpim_lab.terminal import first_error

BEHIND = 0.8
Tell = Callable[[str], None]
Run = Callable[[str, Any], Awaitable[Row]]  # who, case → numbers


def keep_quiet(text: str) -> None:
    """The progress that nobody watches."""


async def play(
    whos: Sequence[str],
    schedule: Schedule,
    run: Run,
    tell: Tell = keep_quiet,
    columns: Callable[[Any], Row] = Case.columns,
) -> list[Row]:
    """Run everybody in every case of every round. An error becomes a row with a reason.

    columns(case): what a row has of its case, whether it could be measured or not.

    Who begins rotates, from case to case and, within a case, from round to round. Whoever fell far
    behind at one rate is spared the higher ones: their latencies would only tell the length of the
    run. Not ours, whose numbers we owe.
    """
    behind: dict[str, int] = {}
    rows: list[Row] = []
    for round_ in range(1, schedule.rounds + 1):
        for turn, case in enumerate(schedule.cases, start=round_):
            for who in rotated(whos, turn):
                row: Row = {"who": who, "round": round_} | columns(case)
                offered = row.get("offered_per_s") or 0
                if offered > behind.get(who, math.inf):
                    row["reason"] = f"fell behind at {behind[who]:,} msg/s"
                else:
                    row |= await numbers_or_reason(run(who, case))
                    if who != OURS and row.get("messages_per_s", math.inf) < BEHIND * offered:
                        behind[who] = offered
                tell(f"round {round_} · {row['case']} · {who}: {_told(row)}")
                rows.append(row)
    return rows


def rotated(whos: Sequence[str], turn: int) -> Sequence[str]:
    """Begin with another one each turn.

    >>> rotated(["a", "b", "c"], turn=4)
    ['b', 'c', 'a']
    """
    first = turn % max(len(whos), 1)
    return [*whos[first:], *whos[:first]]


async def numbers_or_reason(numbers: Awaitable[Row]) -> Row:
    """Wait for numbers; an error of ours becomes the reason why there are none."""
    try:
        return await numbers
    except (MpimError, ExceptionGroup) as error:
        first = first_error(error)  # tasks are a group, and fail as one
        if not isinstance(first, MpimError):
            raise
        return {"reason": reason_of(first)}


def reason_of(error: Exception) -> str:
    r"""The line of an error that says most.

    The last one, but the first where the last is a place in a program.

    >>> reason_of(ValueError("the publisher ended with code 1:\n  File x\nConnectionError: no"))
    'ConnectionError: no'
    >>> reason_of(ValueError("the publisher ended with code 1:\n  File x, line 7 in main"))
    'the publisher ended with code 1, it hung'
    """
    first, *others = str(error).strip().splitlines() or [type(error).__name__]
    if others and others[-1].lstrip().startswith("File "):  # faulthandler's, at the time limit
        return f"{first.rstrip(':')}, it hung"
    return others[-1] if others else first


def _told(row: Row) -> str:
    if "reason" in row:
        return str(row["reason"])
    rate, unit = ("calls_per_s", "calls/s") if "calls_per_s" in row else ("messages_per_s", "msg/s")
    return f"{row[rate]:,.0f} {unit}"
