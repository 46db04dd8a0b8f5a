"""Challenge: the learner's own class against the checker, on a real server, under seeded faults."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from mpim_lab.errors import MpimError
from mpim_lab.lab.exercise.challenge import ChallengeResult as ChallengeResult
from mpim_lab.lab.exercise.challenge import TrialFailure as TrialFailure
from mpim_lab.lab.exercise.challenge import message_history as message_history
from mpim_lab.lab.exercise.experiment import Result
from mpim_lab.lab.exercise.progress import record_attempt
from mpim_lab.lab.exercise.sandbox import contain_exit

MAX_EQUAL_LINES = 3
TRIAL_TIMEOUT_S = 60.0  # many times what one takes on a slow machine


Trial = Callable[[type[Any]], Awaitable[TrialFailure | None]]


@dataclass
class Challenge:
    """A task with trials, easiest first, and hints that are given one at a time.

    `check` runs the class through every trial, stops at the first failure, the shortest failing
    history, and notes in the learner's own file what was passed (`mpim_lab.lab.exercise.progress`).
    """

    title: str
    task: str
    trials: Sequence[Trial]
    hints: Sequence[str]
    _hints_given: int = field(default=0, repr=False)

    async def check(self, solution: type[Any]) -> "ChallengeResult":
        """Try the learner's class; the result says pass, or shows what went wrong."""
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
                    violation = f"no end after {TRIAL_TIMEOUT_S:g} s: something of yours waits for what never comes"
                    failure = TrialFailure(violation, "while running")
            if failure is not None:
                break
        record_attempt(self.title, passed=failure is None)
        return ChallengeResult(self.title, failure)

    def hint(self) -> str:
        """Return the next hint; the last one again when there are no more."""
        self._hints_given = min(self._hints_given + 1, len(self.hints))
        return f"hint {self._hints_given} of {len(self.hints)}: {self.hints[self._hints_given - 1]}"

    def __repr__(self) -> str:
        return f"{self.title}\n{self.task}"


def first_violation(
    result: Result, trial: str, *, allowed: Collection[str] = ()
) -> TrialFailure | None:
    """Return the first violation in a verdict, as a failure with its history.

    None if nothing but what is `allowed`.
    """
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
