"""Challenge: the learner's own class against the checker, on a real server, under seeded faults."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from mpim_lab.errors import MpimError
from mpim_lab.events import EventKind
from mpim_lab.lab.exercise.experiment import Result
from mpim_lab.lab.exercise.progress import record_attempt
from mpim_lab.lab.exercise.sandbox import contain_exit
from mpim_lab.lab.trace.trace import Trace

MAX_EQUAL_LINES = 3
TRIAL_TIMEOUT_S = 60.0  # many times what one takes on a slow machine


@dataclass(frozen=True)
class TrialFailure:
    """A trial that was not passed.

    Args:
        violation: what was violated, and by which message.
        trial: what was tried, and under which fault.
        message_id: the message; "" if it is about none.
        history: what happened to the message, one line each.
        trace: the run, for its picture.
    """

    violation: str
    trial: str
    message_id: str = ""
    history: tuple[str, ...] = ()
    trace: Trace | None = field(default=None, compare=False, repr=False)  # for the picture

    def __str__(self) -> str:
        return "\n".join(
            [f"{self.violation}", f"  trial: {self.trial}", *(f"  {line}" for line in self.history)]
        )


Trial = Callable[[type[Any]], Awaitable[TrialFailure | None]]


@dataclass
class Challenge:
    """A task with trials, easiest first, and hints that are given one at a time.

    Args:
        title: its name, also in the file of the learner's progress.
        task: what to write, and which methods it must have.
        trials: async functions; each tries a class and returns its failure, or None.
        hints: from vague to clear.
    """

    title: str
    task: str
    trials: Sequence[Trial]
    hints: Sequence[str]
    _hints_given: int = field(default=0, repr=False)

    async def check(self, solution: type[Any]) -> "ChallengeResult":
        """Try the learner's class in every trial, up to the first that it does not pass.

        What was passed is noted in the learner's own file (`mpim_lab.lab.exercise.progress`).

        Args:
            solution: the class, not an object of it.

        Returns:
            Passed, or the first failure with the history of one message.
        """
        failure: TrialFailure | None = None
        for trial in self.trials:
            try:
                async with asyncio.timeout(TRIAL_TIMEOUT_S) as limit:
                    failure = await trial(contain_exit(solution))
            except (MpimError, Exception) as error:  # the learner's code may raise anything
                failure = TrialFailure(
                    f"your class raised {type(error).__name__}: {error}", "while running"
                )
                if limit.expired():
                    what = "something of yours waits for what never comes"
                    text = f"no end after {TRIAL_TIMEOUT_S:g} s: {what}"
                    failure = TrialFailure(text, "while running")
            if failure is not None:
                break
        record_attempt(self.title, passed=failure is None)
        return ChallengeResult(self.title, failure)

    def hint(self) -> str:
        """Give the next hint.

        Returns:
            The hint and its number; the last one again when there are no more.
        """
        self._hints_given = min(self._hints_given + 1, len(self.hints))
        return f"hint {self._hints_given} of {len(self.hints)}: {self.hints[self._hints_given - 1]}"

    def __repr__(self) -> str:
        return f"{self.title}\n{self.task}"


@dataclass(frozen=True)
class ChallengeResult:
    """The result of a challenge.

    Args:
        title: the challenge's.
        failure: the first failure; None if every trial was passed.
    """

    title: str
    failure: TrialFailure | None

    @property
    def passed(self) -> bool:
        """Every trial was passed."""
        return self.failure is None

    def __repr__(self) -> str:
        return (
            f"✔ {self.title}: passed" if self.failure is None else f"✘ {self.title}: {self.failure}"
        )


def first_violation(
    result: Result, trial: str, *, allowed: Collection[str] = ()
) -> TrialFailure | None:
    """Return the first violation in a verdict that is not `allowed`, with its history."""
    words = {
        "stalled": "is stalled: nobody finished it",
        "dead_lettered": "was dead-lettered",
        "reordered": "came out of order",
    }
    for name in ("lost", "stalled", "duplicated", "dead_lettered", "reordered"):
        ids: tuple[str, ...] = getattr(result.verdict, name)
        if ids and name not in allowed:
            violation = f"{ids[0]} {words.get(name, f'was {name}')}"
            return TrialFailure(
                violation, trial, ids[0], message_history(result, ids[0]), result.trace
            )
    return None


def message_history(result: Result, message_id: str) -> tuple[str, ...]:
    """Return what happened to one message, in order, without times: the same in every run."""
    lines: list[str] = []
    for event in result.trace.history(message_id):
        line = f"{event.actor}: {event.kind}"
        if event.count is not None:
            line += f" ({event.count})"
        detail = event.detail or event.outcome
        if detail and event.kind is not EventKind.ADDED:  # ids are the server's clock
            line += f": {detail}"
        if lines[-MAX_EQUAL_LINES:] == [line] * MAX_EQUAL_LINES:
            lines.append("…")  # how often an endless loop went round is luck
        elif lines[-1:] != ["…"] or lines[-2] != line:
            lines.append(line)
    return tuple(lines)
