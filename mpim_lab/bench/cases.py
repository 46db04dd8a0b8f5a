"""Cases: under which loads the candidates are compared."""

from dataclasses import dataclass
from typing import Any

# How many publishes may be unanswered before an open loop falls behind its schedule.
OPEN_LOOP_TASKS = 512


@dataclass(frozen=True)
class Case:
    """A load: closed with `tasks` tasks, or open at `offered_per_s`.

    >>> [str(case) for case in (Case(tasks=1), Case(tasks=16), Case(offered_per_s=20_000))]
    ['1 task', '16 tasks', '20,000 msg/s']
    """

    tasks: int = OPEN_LOOP_TASKS
    offered_per_s: int | None = None

    def __str__(self) -> str:
        if self.offered_per_s is not None:
            return f"{self.offered_per_s:,} msg/s"
        return f"{self.tasks} task{'s' if self.tasks > 1 else ''}"

    @property
    def is_open(self) -> bool:
        """Messages are due at a rate, whatever the answers do."""
        return self.offered_per_s is not None

    def columns(self) -> dict[str, Any]:
        """What a row has of it."""
        loop = "open" if self.is_open else "closed"
        load = {"tasks": self.tasks, "offered_per_s": self.offered_per_s}
        return {"case": str(self), "loop": loop} | load


@dataclass(frozen=True)
class Schedule:
    """What one command runs: each case `rounds` times, `seconds` each.

    cases: loads to compare under; of a sweep the points, sizes or numbers of callers.
    """

    cases: tuple[Any, ...]
    rounds: int
    seconds: float


_CLOSED = tuple(Case(tasks) for tasks in (1, 16, 64))
FULL = Schedule(
    cases=(
        *(Case(tasks) for tasks in (1, 16, 128)),
        *(Case(offered_per_s=rate) for rate in (20_000, 50_000, 100_000)),
    ),
    rounds=5,
    seconds=1.0,
)
QUICK = Schedule(cases=(Case(1), Case(128), Case(offered_per_s=100_000)), rounds=2, seconds=0.3)
FULL_BATCHING = Schedule(
    cases=(*_CLOSED, Case(offered_per_s=1_000), Case(offered_per_s=50_000)), rounds=5, seconds=1.0
)
QUICK_BATCHING = Schedule(cases=(*_CLOSED, Case(offered_per_s=50_000)), rounds=2, seconds=0.3)
