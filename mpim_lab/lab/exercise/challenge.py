"""Challenge: the learner's own class against the checker, on a real server, under many schedules."""

import ast
import importlib
import inspect
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from mpim_lab.errors import InvalidParameter
from mpim_lab.events import EventKind
from mpim_lab.lab.exercise.check_process import run_check
from mpim_lab.lab.exercise.experiment import Result
from mpim_lab.lab.exercise.explorer import Examiner, Exploration
from mpim_lab.lab.exercise.progress import record_attempt
from mpim_lab.lab.exercise.solution import Solution, Violation, pack_solution
from mpim_lab.lab.trace.trace import Trace

MAX_EQUAL_LINES = 3
_MANY = 3  # times that something is done again: more are not counted
SEED = 1
_STARS = 3


@dataclass(frozen=True)
class TrialFailure:
    """A schedule that was not passed.

    Args:
        violation: what happened, in one sentence.
        trial: the schedule; the challenge's `replay` plays it again.
        message_id: the message it is about.
        history: of that message, line by line.
        trace: for the picture.
        guarantee: the guarantee that it breaks, as the task says it.
        traceback: where the learner's class raised, if it did.
    """

    violation: str
    trial: str
    message_id: str = ""
    history: tuple[str, ...] = ()
    trace: Trace | None = field(default=None, compare=False, repr=False)
    guarantee: str = ""
    traceback: str = ""

    def __str__(self) -> str:
        lines = [self.violation]
        lines += [f"  guarantee {self.guarantee}"] if self.guarantee else []
        lines += [f"  trial: {self.trial}"] if self.trial else []
        lines += [f"  {line}" for line in (*self.history, *self.traceback.splitlines())]
        return "\n".join(lines)


@dataclass(frozen=True)
class ChallengeResult:
    """Result of a check.

    Args:
        title: of the challenge.
        failure: the first failure, None if there was none.
        explored: how many schedules or inputs were tried.
        undecided: why there is no verdict, if there is none: the lab's own fault, or no end.
        not_run: schedules whose steps did not occur.
    """

    title: str
    failure: TrialFailure | None = None
    explored: int = field(default=0, compare=False)
    undecided: str = ""
    not_run: tuple[str, ...] = field(default=(), compare=False)

    @property
    def passed(self) -> bool:
        """Whether every trial was passed."""
        return self.failure is None and not self.undecided

    def __repr__(self) -> str:
        if self.undecided:
            return f"? {self.title}: undecided: {self.undecided}"
        if self.failure is None:
            return f"✔ {self.title}: passed"
        return f"✘ {self.title}: {self.failure}"


@dataclass
class Challenge:
    """A task, what is guaranteed by a right solution, and an examiner that tries to break it.

    Args:
        title: as in the notebook.
        task: what to write; with the guarantees it is all that a learner needs.
        examiner: explores schedules, or compares with a model.
        interface: a Protocol with the methods of a solution.
        module: where the function is that makes the challenge, and beside it `solutions`.
        name: of that function.
        guarantees: what is judged, numbered from 1.
        hints: from the idea to the command.
        difficulty: 1 to 3.
        minutes: how long it takes who has read the chapter.
    """

    title: str
    task: str
    examiner: Examiner
    interface: type[Any]
    module: str
    name: str
    guarantees: Sequence[str]
    hints: Sequence[str]
    difficulty: int = 1
    minutes: int = 20
    _hints_given: int = field(default=0, repr=False)
    _has_passed: bool = field(default=False, repr=False)

    async def check(
        self, solution: type[Any], *, in_process: bool = False, quick: bool | None = None
    ) -> ChallengeResult:
        """Try the learner's class; the result says pass, or shows what went wrong.

        Args:
            solution: the class.
            in_process: run it in this process, where breakpoints work and where it can do harm.
            quick: the first schedules only; by default what `MPIM_CHECK=quick` says.

        Returns:
            The result. The attempt is noted in the learner's own file.
        """
        if quick is None:
            quick = os.environ.get("MPIM_CHECK", "").strip() == "quick"
        return await self._examined(solution, "", in_process=in_process, quick=quick)

    async def replay(self, solution: type[Any], trial: str) -> ChallengeResult:
        """Play one schedule again, in this process; `trial` is its text in a failure."""
        return await self._examined(solution, trial, in_process=True, quick=False)

    async def _examined(
        self, given: Any, trial: str, *, in_process: bool, quick: bool
    ) -> ChallengeResult:
        try:
            solution = pack_solution(given, self.methods)
        except InvalidParameter as error:
            return ChallengeResult(self.title, TrialFailure(str(error), ""))
        if in_process or trial:
            result = await self.examine(solution, trial=trial, quick=quick)
        else:
            ended = await run_check(self.module, self.name, self.title, solution, quick=quick)
            failure = TrialFailure(ended.failed, "") if ended.failed else None
            result = ended.result or ChallengeResult(self.title, failure, undecided=ended.undecided)
        self._has_passed |= result.passed and not trial
        if not (trial or result.undecided):
            record_attempt(self.id, passed=result.passed)
        return result

    async def examine(
        self,
        solution: Solution,
        *,
        trial: str = "",
        quick: bool = False,
        progress: Callable[[int, int], None] = lambda done, expected: None,
    ) -> ChallengeResult:
        """Examine a packed solution in this process. What goes wrong in the lab is "undecided"."""
        solution.install_sources()
        try:
            if trial:
                found = await self.examiner.replay(solution, trial)
            else:
                found = await self.examiner.examine(
                    solution, quick=quick, seed=SEED, progress=progress
                )
        except InvalidParameter:
            raise
        except Exception as error:
            return ChallengeResult(
                self.title, undecided=f"an error of the lab, not of yours: {error!r}"
            )
        return self._result(solution, found)

    def _result(self, solution: Solution, found: Exploration) -> ChallengeResult:
        not_run = tuple(map(str, found.not_run))
        if found.played is None:
            return ChallengeResult(self.title, None, found.explored, not_run=not_run)
        violation = found.played.violation
        assert isinstance(violation, Violation)
        number, trace = violation.guarantee, found.played.trace
        failure = TrialFailure(
            violation.text,
            str(found.played.schedule),
            violation.message_id,
            _history_by_actor(trace, violation.message_id) if violation.message_id else (),
            trace,
            f"{number}: {self.guarantees[number - 1]}" if number else "",
            solution.where(violation.error) if violation.error is not None else "",
        )
        return ChallengeResult(self.title, failure, found.explored, not_run=not_run)

    @property
    def methods(self) -> list[str]:
        """The names of the methods that a solution must have."""
        return [name for name in vars(self.interface) if not name.startswith("_")]

    def hint(self) -> "Text":
        """Return the next hint; the last one again when there are no more."""
        self._hints_given = min(self._hints_given + 1, len(self.hints))
        said = self.hints[self._hints_given - 1]
        return Text(f"hint {self._hints_given} of {len(self.hints)}: {said}")

    def explain(self) -> "Text":
        """Return what a check tries, in words."""
        return Text(f"{self.title}: {self.examiner.explain()}")

    def solution(self) -> "Text":
        """Return the reference solution and its alternatives, after a pass or the last hint.

        Raises:
            InvalidParameter: if neither is so yet.
        """
        if not self._has_passed and self._hints_given < len(self.hints):
            left = len(self.hints) - self._hints_given
            raise InvalidParameter(f"first pass it, or take all hints; {left} are left: `.hint()`")
        module = self._solutions
        chosen = [
            module.SOLUTIONS[self.name],
            *getattr(module, "ALTERNATIVES", {}).get(self.name, ()),
        ]
        return Text("\n\n".join(_source_with_constants(module, each) for each in chosen))

    @property
    def _solutions(self) -> Any:
        return importlib.import_module(f"{self.module.rpartition('.')[0]}.solutions")

    @property
    def id(self) -> str:
        """Chapter and name: "ch03/do_it_once"."""
        return f"{self.module.split('.')[-2].partition('_')[0]}/{self.name}"

    def __repr__(self) -> str:
        stars = "★" * self.difficulty + "☆" * (_STARS - self.difficulty)
        numbered = (f"{number}. {text}" for number, text in enumerate(self.guarantees, 1))
        head = f"{self.title}  {stars}  about {self.minutes} minutes"
        return "\n".join([head, self.task, *numbered])


class Text(str):
    """Text that a notebook shows as it is, without quotation marks."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _source_with_constants(module: Any, kind: type[Any]) -> str:
    """Return a class's source, after the constants of its module that it uses, scripts above all."""
    own = inspect.getsource(kind)
    lines = inspect.getsource(module).splitlines()
    constants = [
        "\n".join(lines[node.lineno - 1 : node.end_lineno])
        for node in ast.parse("\n".join(lines)).body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and node.targets[0].id in own
    ]
    return "\n\n".join([*constants, own])


def message_history(result: Result, message_id: str) -> tuple[str, ...]:
    """Return what happened to one message, in order, without times: the same in every run."""
    lines: list[str] = []
    for event in result.trace.history(message_id):
        count = "" if event.count is None else f" ({event.count})"
        detail = (
            f": {event.detail or event.outcome}"
            if (event.detail or event.outcome) and event.kind is not EventKind.ADDED
            else ""
        )  # ids are the server's clock
        line = f"{event.actor}: {event.kind}{count}{detail}"
        if lines[-MAX_EQUAL_LINES:] == [line] * MAX_EQUAL_LINES:
            lines.append("…")  # how often an endless loop went round is luck
        elif lines[-1:] != ["…"] or lines[-2] != line:
            lines.append(line)
    return tuple(lines)


def _history_by_actor(trace: Trace, message_id: str) -> tuple[str, ...]:
    """Return what happened to one message, actor by actor: the same in every run."""
    lines: dict[str, list[str]] = {}
    for event in trace.events:
        if event.kind is EventKind.FAULT_BEGAN:
            lines.setdefault(f"⚡ {event.detail}", [])
        elif event.message_id == message_id:
            count = "" if event.count is None else f" ({event.count})"
            detail = event.detail or event.outcome
            # The ids of entries are the server's clock.
            detail = f" ({detail})" if detail and event.kind is not EventKind.ADDED else ""
            lines.setdefault(event.actor, []).append(f"{event.kind}{count}{detail}")
    # Faults first; who of two actors was first is luck.
    ordered = sorted(lines.items(), key=lambda item: (bool(item[1]), item[0] if item[1] else ""))
    return tuple(
        f"{actor}: {', '.join(_shortened(did))}" if did else actor for actor, did in ordered
    )


def _shortened(did: list[str]) -> list[str]:
    """Say once what is done again and again: how often is luck.

    >>> _shortened(["sent", "lost", "sent", "lost", "sent", "lost", "gave up"])
    ['sent', 'lost', '…', 'gave up']
    """
    short: list[str] = []
    place = 0
    while place < len(did):
        for width in (1, 2, 3):
            block, times = did[place : place + width], 1
            while did[place + times * width : place + (times + 1) * width] == block:
                times += 1
            if times >= _MANY:
                short += [*block, "…"]
                place += times * width
                break
        else:
            short.append(did[place])
            place += 1
    return short
