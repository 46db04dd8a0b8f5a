"""Explorer: runs a class under many schedules, and finds the smallest one that it fails.

A clean run of each workload gives the steps; the schedules follow from them (`schedules.plan`). How
many are run is fixed, not how long: a verdict does not depend on the machine. A failure counts once
it has been seen twice. A schedule whose steps did not occur as planned is repeated, and listed as
not run after the third time.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from mpim_lab.lab.exercise.schedule_run import Played, ScheduleRun
from mpim_lab.lab.exercise.schedules import Schedule, Step, plan
from mpim_lab.lab.exercise.solution import Solution
from mpim_lab.lab.server.embedded import EmbeddedServer

AT_ONCE = 12
TRIES = 3  # of a schedule whose steps did not occur
REPLAYS = 3  # of a failure, one of which must show it again
MAX_SMALLER = 3  # schedules that are tried in place of a failing one
QUICK = 24  # schedules
SERVER = {"databases": 64}  # a run may have one of its own

Progress = Callable[[int, int], None]


@dataclass
class Exploration:
    """What was explored. `played`: the failing run, if there is one, with `violation` and trace."""

    explored: int = 0
    not_run: list[Schedule] = field(default_factory=list)
    unconfirmed: list[Schedule] = field(default_factory=list)
    played: Played | None = None


class Examiner(Protocol):
    """Something that examines a solution: by schedules, or against a model."""

    async def examine(
        self, solution: Solution, *, quick: bool, seed: int, progress: Progress
    ) -> Exploration:
        """Examine; at the first failure that counts, return it."""
        ...

    async def replay(self, solution: Solution, text: str) -> Exploration:
        """Play one schedule again, by its text."""
        ...

    def explain(self) -> str:
        """Say in words what is tried."""
        ...


class Explorer:
    """An examiner by schedules.

    Args:
        run: the challenge's runs.
        budget: how many schedules a full check plays at most, clean runs not counted.
    """

    def __init__(self, run: type[ScheduleRun], budget: int = 200) -> None:
        self.run, self.budget = run, budget

    async def examine(
        self, solution: Solution, *, quick: bool, seed: int, progress: Progress
    ) -> Exploration:
        """Run clean, then explore. Raise what goes wrong in the lab itself."""
        budget = QUICK if quick else self.budget
        async with EmbeddedServer(config=SERVER) as server:
            exploring = _Exploring(self.run, solution, server.unix_url, progress, budget)
            clean = [Schedule(workload) for workload in self.run.workloads]
            if (failed := await exploring.first_failure(clean)) is None:
                schedules = plan(
                    exploring.steps, self.run.actions, pairs=self.run.pairs, seed=seed
                )[:budget]
                exploring.expect(len(clean) + len(schedules))
                failed = await exploring.first_failure(schedules)
            if failed is not None:
                exploring.found.played = await exploring.smallest(failed)
            return exploring.found

    def explain(self) -> str:
        """Name the workloads and the actions."""
        actions = ", ".join(dict.fromkeys(each.name for each in self.run.actions))
        return (
            f"up to {self.budget} schedules on a server of their own. Workloads: "
            f"{', '.join(self.run.workloads)}. Before or after each step of each actor "
            f"one of these happens: {actions}"
            + (f"; in up to {self.run.pairs} schedules two of them." if self.run.pairs else ".")
        )

    async def replay(self, solution: Solution, text: str) -> Exploration:
        """Play one schedule, once."""
        async with EmbeddedServer(config=SERVER) as server:
            played = await self.run(solution, server.unix_url, Schedule.parse(text)).run()
        found = Exploration(explored=1, played=played if played.violation is not None else None)
        if played.missed:
            found.not_run.append(played.schedule)
        return found


class _Exploring:
    """The state of one examination on one server."""

    def __init__(
        self,
        run: type[ScheduleRun],
        solution: Solution,
        url: str,
        progress: Progress,
        expected: int,
    ) -> None:
        self._run, self._solution, self._url, self._progress = run, solution, url, progress
        self._expected = expected
        self.steps: dict[str, list[tuple[Step, bool]]] = {}
        self.found = Exploration()

    def expect(self, count: int) -> None:
        """Say how many schedules will be played in all."""
        self._expected = count

    async def first_failure(self, schedules: Sequence[Schedule]) -> Played | None:
        """Play many at a time; return the failure that comes first in their order."""
        failures: dict[int, Played] = {}
        waiting = iter(enumerate(schedules))

        async def play_on() -> None:
            for index, schedule in waiting:
                if failures and index > min(failures):
                    return
                played = await self._play(schedule)
                if played.violation is not None:
                    if await self._is_seen_again(schedule):
                        failures[index] = played
                    else:
                        self.found.unconfirmed.append(schedule)

        async with asyncio.TaskGroup() as group:
            for _ in range(min(AT_ONCE, len(schedules))):
                group.create_task(play_on())
        return failures[min(failures)] if failures else None

    async def _play(self, schedule: Schedule) -> Played:
        for _ in range(TRIES):
            played = await self._run(self._solution, self._url, schedule).run()
            if played.violation is not None or not played.missed:
                break
        else:
            self.found.not_run.append(schedule)
        if not schedule.disturbances:
            self.steps[schedule.workload] = played.steps
        self.found.explored += 1
        self._progress(self.found.explored, self._expected)
        return played

    async def _is_seen_again(self, schedule: Schedule) -> bool:
        again = (self._run(self._solution, self._url, schedule).run() for _ in range(REPLAYS))
        return any(played.violation is not None for played in await asyncio.gather(*again))

    async def smallest(self, failed: Played) -> Played:
        """Return a failing run with fewer disturbances, or of an easier workload, if there is one."""
        schedule = failed.schedule
        smaller = [Schedule(schedule.workload, (each,)) for each in schedule.disturbances]
        if len(smaller) < 2:
            smaller = []
        place = self._run.workloads.index(schedule.workload)
        smaller += [
            Schedule(easier, schedule.disturbances) for easier in self._run.workloads[:place]
        ]
        for candidate in smaller[:MAX_SMALLER]:
            played = await self._run(self._solution, self._url, candidate).run()
            if played.violation is not None and await self._is_seen_again(candidate):
                return await self.smallest(played)
        return failed
