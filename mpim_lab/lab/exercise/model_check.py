"""ModelCheck: a learner's class beside a model. Hypothesis makes inputs, and failures small.

An input is a list of operations. `play` runs the class with them and raises Violation where it
differs from the model. The inputs are the same in every run; how many there are is fixed.
"""

import ast
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.strategies import SearchStrategy

from mpim_lab.errors import InvalidParameter
from mpim_lab.lab.exercise.explorer import Exploration, Progress
from mpim_lab.lab.exercise.schedule_run import Played
from mpim_lab.lab.exercise.schedules import Schedule
from mpim_lab.lab.exercise.solution import Solution, Violation
from mpim_lab.lab.exercise.virtual_time import patched_clocks

QUICK = 40  # inputs
MAX_SHRINKS = 400  # inputs that are tried after the first failure
Play = Callable[..., None]  # of one class or more, an input, and the trace


class _SmallEnough(BaseException):
    """The end of shrinking; Hypothesis lets it pass."""


class ModelCheck:
    """An examiner by a model.

    Args:
        play: `play(cls, input, trace)` runs the class on an input; it writes what happens to the
            trace.
        inputs: a strategy for inputs; their `repr` is what a failure shows.
        always: inputs that are played first: those that every interviewer knows.
        budget: how many inputs a full check plays.
        processes: so many classes `play` is given, each loaded anew: they share nothing.
    """

    def __init__(
        self,
        play: Play,
        inputs: SearchStrategy[Any],
        always: Sequence[Any] = (),
        budget: int = 600,
        processes: int = 1,
    ) -> None:
        self.play, self.inputs, self.always, self.budget = play, inputs, always, budget
        self.processes = processes

    async def examine(
        self, solution: Solution, *, quick: bool, seed: int, progress: Progress
    ) -> Exploration:
        """Play inputs; a failure is made as small as can be."""
        budget = QUICK if quick else self.budget
        found, failing = Exploration(), list[tuple[Played, Any]]()
        shrinks = 0

        def play_one(given_input: Any) -> None:
            nonlocal shrinks
            if failing:
                shrinks += 1
                progress(found.explored, found.explored)
                if shrinks > MAX_SHRINKS:
                    raise _SmallEnough
            else:
                found.explored += 1
                progress(found.explored, budget + len(self.always))
            played = self._played(solution, given_input)
            if played.violation is not None:
                failing.append((played, given_input))
                raise played.violation

        for each in self.always:
            try:
                play_one(each)
            except Violation:
                found.played = failing[0][0]
                return found
        tried = _settings(budget)(given(self.inputs)(play_one))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                tried()  # the watchdog of the check's process hears of each input
        except (Exception, _SmallEnough):
            if not failing:
                raise
        if failing:
            found.played = min(failing, key=lambda each: len(repr(each[1])))[0]
        return found

    def explain(self) -> str:
        """Say how many inputs there are."""
        return (
            f"{len(self.always)} inputs that every interviewer knows, then {self.budget:,} generated "
            "ones, each beside a model of what must happen."
        )

    async def replay(self, solution: Solution, text: str) -> Exploration:
        """Play one input again, by its text."""
        try:
            again = ast.literal_eval(text)
        except (ValueError, SyntaxError) as error:
            raise InvalidParameter(f"{text!r} is no input: {error}") from error
        played = self._played(solution, again)
        return Exploration(1, played=played if played.violation is not None else None)

    def _played(self, solution: Solution, given_input: Any) -> Played:
        played = Played(Schedule(repr(given_input)))
        try:
            with patched_clocks():
                classes = [solution.load() for _ in range(self.processes)]
            self.play(*classes, given_input, played.trace)
        except Violation as violation:
            played.violation = violation
        return played


def _settings(budget: int) -> settings:
    """Return Hypothesis's settings: the same inputs each time, nothing is kept."""
    return settings(
        max_examples=budget,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
