"""Schedules: what happens at which step of whom. A schedule is printed as text, and played again from it.

A *step* is one command that an actor sends to the server, or one call from its class to the lab (the
handler, the work). A *disturbance* is what happens just before or just after a step. A *schedule* is
a workload and some disturbances.

    >>> text = "two at once; before worker-1's 2nd XACK: dies; after worker-2's 1st GET: is held"
    >>> schedule = Schedule.parse(text)
    >>> schedule.disturbances[0].step
    Step(actor='worker-1', name='XACK', ordinal=2)
    >>> str(schedule) == text
    True
"""

import itertools
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from mpim_lab.errors import InvalidParameter

BEFORE, AFTER = "before", "after"
MAX_EQUAL_STEPS = 3  # of commands that an actor repeats: the later ones are those of a loop
_DISTURBANCE = re.compile(r"(before|after) (.+)'s (\d+)(?:st|nd|rd|th) (\S+): (.+)")


def nth(number: int) -> str:
    """Return an ordinal number as text.

    >>> [nth(number) for number in (1, 2, 3, 4, 11, 12, 21, 112)]
    ['1st', '2nd', '3rd', '4th', '11th', '12th', '21st', '112th']
    """
    special = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{'th' if number % 100 in (11, 12, 13) else special}"


@dataclass(frozen=True)
class Step:
    """One step of one actor: its n-th command or call of that name, counted from 1."""

    actor: str
    name: str
    ordinal: int

    def __str__(self) -> str:
        return f"{self.actor}'s {nth(self.ordinal)} {self.name}"


@dataclass(frozen=True)
class Disturbance:
    """What happens, and when: before the step takes effect, or after that and before its actor knows."""

    moment: str
    step: Step
    action: str

    def __str__(self) -> str:
        return f"{self.moment} {self.step}: {self.action}"


@dataclass(frozen=True)
class Schedule:
    """A workload, by its name, and the disturbances in it."""

    workload: str
    disturbances: tuple[Disturbance, ...] = ()

    def __str__(self) -> str:
        return "; ".join([self.workload, *map(str, self.disturbances)])

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a schedule as it is printed. Raises InvalidParameter."""
        workload, *rest = text.split("; ")
        disturbances = []
        for part in rest:
            if (found := _DISTURBANCE.fullmatch(part.strip())) is None:
                raise InvalidParameter(
                    f"{part!r} is no disturbance: it reads like `before worker-1's 2nd XACK: dies`"
                )
            moment, actor, ordinal, name, action = found.groups()
            disturbances.append(Disturbance(moment, Step(actor, name, int(ordinal)), action))
        return cls(workload.strip(), tuple(disturbances))


@dataclass(frozen=True)
class Action:
    """Something that may happen at a step.

    Args:
        name: how it reads in a schedule.
        moments: when it makes sense.
        on_calls: also at calls to the lab, which have no connection.
        weight: the likely ones come first; 1.0 is usual, more is sooner.
        actors: whom it may happen to; all, if empty.
    """

    name: str
    moments: tuple[str, ...] = (BEFORE, AFTER)
    on_calls: bool = True
    weight: float = 1.0
    actors: tuple[str, ...] = ()

    def suits(self, step: Step, *, is_call: bool) -> bool:
        """Say whether it may happen at that step."""
        return (self.on_calls or not is_call) and (not self.actors or step.actor in self.actors)


DIES = Action("dies", weight=2.0)
IS_HELD = Action("is held", weight=2.0)
LOSES_CONNECTION = Action("loses its connection", on_calls=False)
IS_CANCELLED = Action("is cancelled")
SERVER_STOPS = Action("the server stops for a while", (BEFORE,), on_calls=False, weight=0.5)


def notable(steps: Iterable[tuple[Step, bool]]) -> list[tuple[Step, bool]]:
    """Leave out what a waiting loop repeats: the same step after the same one, for the fourth time.

    >>> [str(step) for step, _ in notable([(Step("a", "GET", n), False) for n in range(1, 9)])]
    ["a's 1st GET", "a's 2nd GET", "a's 3rd GET", "a's 4th GET"]
    """
    kept: list[tuple[Step, bool]] = []
    last: dict[str, str] = {}
    seen = Counter[tuple[str, str, str]]()
    for step, is_call in steps:
        pair = (step.actor, last.get(step.actor, ""), step.name)
        last[step.actor] = step.name
        seen[pair] += 1
        if seen[pair] <= MAX_EQUAL_STEPS:
            kept.append((step, is_call))
    return kept


def plan(
    steps: Mapping[str, Sequence[tuple[Step, bool]]],
    actions: Sequence[Action],
    *,
    pairs: int = 0,
    seed: int = 1,
) -> list[Schedule]:
    """Return all schedules with one disturbance and some with two, the likely ones first.

    Args:
        steps: for each workload the steps of a clean run, and whether each is a call to the lab.
        actions: what may happen.
        pairs: how many schedules with two disturbances.
        seed: of the order.
    """
    singles = [
        (_place(schedule, seed) ** action.weight, schedule)
        for workload, found in steps.items()
        for step, is_call in notable(found)
        for action in actions
        if action.suits(step, is_call=is_call)
        for moment in action.moments
        for schedule in [Schedule(workload, (Disturbance(moment, step, action.name),))]
    ]
    singles.sort(key=lambda weighed: weighed[0])
    ordered = [schedule for _, schedule in singles]
    return [*ordered, *itertools.islice(_pairs(ordered, random.Random(seed)), pairs)]


def _place(schedule: Schedule, seed: int) -> float:
    """A number for the order: one schedule's own, whatever others there are."""
    return random.Random(f"{seed} {schedule}").random()


def _pairs(singles: Sequence[Schedule], rng: random.Random) -> Iterator[Schedule]:
    by_workload: dict[str, list[Disturbance]] = {}
    for schedule in singles:
        by_workload.setdefault(schedule.workload, []).extend(schedule.disturbances)
    seen = set()
    for _ in range(20 * len(singles)):
        workload = rng.choice(list(by_workload))
        first, second = rng.choice(by_workload[workload]), rng.choice(by_workload[workload])
        if first.step != second.step and (workload, first, second) not in seen:
            seen |= {(workload, first, second), (workload, second, first)}
            yield Schedule(workload, (first, second))
