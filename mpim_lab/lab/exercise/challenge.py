"""Challenge: the learner's own class against the checker, on a real server, under seeded faults."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from mpim_lab.errors import MpimError
from mpim_lab.events import EventKind
from mpim_lab.lab.exercise.experiment import Result
from mpim_lab.lab.exercise.progress import record
from mpim_lab.lab.exercise.sandbox import guarded
from mpim_lab.lab.trace.trace import Trace

MOST_EQUAL_LINES = 3
TRIAL_S = 60.0  # many times what one takes on a slow machine


@dataclass(frozen=True)
class Failure:
    """One trial that was not passed: what was wanted, which fault struck, which message, and its story line by line."""

    complaint: str
    trial: str
    message_id: str = ""
    story: tuple[str, ...] = ()
    trace: Trace | None = field(default=None, compare=False, repr=False)  # for the picture

    def __str__(self) -> str:
        return "\n".join([f"{self.complaint}", f"  trial: {self.trial}", *(f"  {line}" for line in self.story)])


Trial = Callable[[type[Any]], Awaitable[Failure | None]]


@dataclass
class Challenge:
    """A task with trials, easiest first, and hints that are given one at a time.

    `check` runs the class through every trial, stops at the first failure, the shortest failing story, and notes in the
    learner's own file what was passed (`mpim_lab.lab.exercise.progress`).
    """

    title: str
    task: str
    trials: Sequence[Trial]
    hints: Sequence[str]
    _hinted: int = field(default=0, repr=False)

    async def check(self, solution: type[Any]) -> "Outcome":
        """Try the learner's class; the outcome says pass, or shows what went wrong."""
        failure: Failure | None = None
        for trial in self.trials:
            try:
                async with asyncio.timeout(TRIAL_S) as limit:
                    failure = await trial(guarded(solution))
            except (MpimError, Exception) as error:  # the learner's code may raise anything
                failure = Failure(f"your class raised {type(error).__name__}: {error}", "while running")
                if limit.expired():
                    complaint = f"no end after {TRIAL_S:g} s: something of yours waits for what never comes"
                    failure = Failure(complaint, "while running")
            if failure is not None:
                break
        record(self.title, passed=failure is None)
        return Outcome(self.title, failure)

    def hint(self) -> str:
        """The next hint; the last one again when there are no more."""
        self._hinted = min(self._hinted + 1, len(self.hints))
        return f"hint {self._hinted} of {len(self.hints)}: {self.hints[self._hinted - 1]}"

    def __repr__(self) -> str:
        return f"{self.title}\n{self.task}"


@dataclass(frozen=True)
class Outcome:
    """Passed, or the first failure."""

    title: str
    failure: Failure | None

    @property
    def passed(self) -> bool:
        """Every trial was passed."""
        return self.failure is None

    def __repr__(self) -> str:
        return f"✔ {self.title}: passed" if self.failure is None else f"✘ {self.title}: {self.failure}"


def first_complaint(result: Result, trial: str, *, allowed: Collection[str] = ()) -> Failure | None:
    """The first thing a verdict has against a run, as a failure with its story; None if nothing but what is `allowed`."""
    words = {
        "stalled": "is stalled: nobody finished it",
        "dead_lettered": "was dead-lettered",
        "reordered": "came out of order",
    }
    for name in ("lost", "stalled", "duplicated", "dead_lettered", "reordered"):
        ids: tuple[str, ...] = getattr(result.verdict, name)
        if ids and name not in allowed:
            complaint = f"{ids[0]} {words.get(name, f'was {name}')}"
            return Failure(complaint, trial, ids[0], story_of(result, ids[0]), result.trace)
    return None


def story_of(result: Result, message_id: str) -> tuple[str, ...]:
    """What happened to one message, in order, without times: the same in every run."""
    lines: list[str] = []
    for event in result.trace.history(message_id):
        count = "" if event.count is None else f" ({event.count})"
        detail = (
            f": {event.detail}" if event.detail and event.kind is not EventKind.ADDED else ""
        )  # ids are the server's clock
        line = f"{event.actor}: {event.kind}{count}{detail}"
        if lines[-MOST_EQUAL_LINES:] == [line] * MOST_EQUAL_LINES:
            lines.append("…")  # how often an endless loop went round is luck
        elif lines[-1:] != ["…"] or lines[-2] != line:
            lines.append(line)
    return tuple(lines)
