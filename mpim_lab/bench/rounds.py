"""Rounds: every candidate in every case, again and again, so that a machine's moods fall on all alike."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from mpim_lab.bench.cases import Case, Schedule
from mpim_lab.errors import MpimError
from mpim_lab.load.load import LoadResult

OURS = "mpim_lab"
FELL_FAR_BEHIND = 0.8


@dataclass(frozen=True)
class Sample:
    """One candidate in one case in one round: its numbers, or the reason why there are none."""

    who: str
    case: Case
    round: int
    result: LoadResult | float | None = None  # the limit has a rate only
    reason: str | None = None

    @property
    def messages_per_s(self) -> float | None:
        """Received messages a second, as far as they were sent so fast."""
        return sustained_per_s(self.result) if isinstance(self.result, LoadResult) else self.result


Runner = Callable[[str, Case], Awaitable[LoadResult | float]]


async def play(whos: Sequence[str], schedule: Schedule, run: Runner) -> AsyncIterator[Sample]:
    """Yield one sample after another, round by round. An error becomes a sample with a reason.

    Who begins rotates, from case to case and, within a case, from round to round. Whoever fell far
    behind at one rate is spared the higher ones: their latencies would only tell the length of the
    run. Not ours, whose numbers we owe.
    """
    behind: dict[str, Case] = {}
    for round_ in range(1, schedule.rounds + 1):
        for turn, case in enumerate(schedule.cases, start=round_):
            for place in range(len(whos)):
                who = whos[(place + turn) % len(whos)]
                slower = behind.get(who)
                if slower is not None and (case.offered_per_s or 0) > (slower.offered_per_s or 0):
                    yield Sample(who, case, round_, reason=f"fell behind at {slower}")
                    continue
                sample = await _sample(who, case, round_, run)
                if case.is_open and who != OURS and _fell_behind(sample, case):
                    behind[who] = case
                yield sample


def sustained_per_s(result: LoadResult) -> float:
    """Messages received a second, counted from the first receipt to the last or over the time of sending: the lower one.

    A receiver that the machine lets wait finds a pile and takes it in no time; that is no rate that
    anybody keeps up.
    """
    return min(result.messages_per_s, result.received / result.seconds)


def absent(missing: Mapping[str, str | None], schedule: Schedule) -> list[Sample]:
    """A sample in each case for everybody with a reason why they are not here."""
    return [
        Sample(who, case, 1, reason=reason)
        for who, reason in missing.items()
        if reason
        for case in schedule.cases
    ]


async def _sample(who: str, case: Case, round_: int, run: Runner) -> Sample:
    try:
        return Sample(who, case, round_, await run(who, case))
    except MpimError as error:
        return Sample(who, case, round_, reason=reason_of(error))


def reason_of(error: Exception) -> str:
    r"""The line of an error that says most.

    The last one, but the first where the last is a place in a program.

    >>> reason_of(ValueError("the publisher ended with code 1:\n  File x\nConnectionError: refused"))
    'ConnectionError: refused'
    >>> reason_of(ValueError("the publisher ended with code 1:\n  File x, line 7 in main"))
    'the publisher ended with code 1, it hung'
    """
    first, *others = str(error).strip().splitlines() or [type(error).__name__]
    if others and others[-1].lstrip().startswith(
        "File "
    ):  # what faulthandler writes at the time limit
        return f"{first.rstrip(':')}, it hung"
    return others[-1] if others else first


def _fell_behind(sample: Sample, case: Case) -> bool:
    rate = sample.messages_per_s
    return rate is not None and rate < FELL_FAR_BEHIND * (case.offered_per_s or 0)
