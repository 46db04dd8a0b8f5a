"""ScheduleRun: one run of a learner's class under one schedule, on a real server, judged by its effects.

A challenge writes a subclass: `play` starts the actors and waits for what must happen, and `judge`
looks at what the server, the receivers and the effect log hold at the end. Both raise Violation.

| the schedule says           | then                                                                  |
|-----------------------------|-----------------------------------------------------------------------|
| dies                        | the actor's process ends there, and `on_death` may start another one  |
| is held                     | it waits for `hold_s`, all of it; others go on, leases end (`on_hold`)|
| loses its connection        | before: the command is not done; after: it is, and the reply is lost  |
| is cancelled                | what the actor does is cancelled                                      |
| the server stops for a while| nobody's commands get through for `hold_s`                            |
| an action of the challenge's| the method that `actions_of` names                                    |
"""

import asyncio
import contextlib
import itertools
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from mpim_lab.events import Event, EventKind, now
from mpim_lab.lab.exercise.actors import SETUP, Actor, Fate
from mpim_lab.lab.exercise.schedules import (
    DIES,
    IS_CANCELLED,
    IS_HELD,
    LOSES_CONNECTION,
    SERVER_STOPS,
    Action,
    Disturbance,
    Schedule,
    Step,
)
from mpim_lab.lab.exercise.solution import Solution, Violation
from mpim_lab.lab.trace.trace import Trace
from mpim_lab.mq.connection.address import Address
from mpim_lab.mq.pubsub.queue import MessageQueue

POLL_S = 0.004
MAX_POLL_GAP_S = 0.02  # a machine that stands still for longer is not the class's fault
_numbers = itertools.count(1)


@dataclass
class Played:
    """How a run ended. `missed`: disturbances whose step did not occur."""

    schedule: Schedule
    steps: list[tuple[Step, bool]] = field(default_factory=list)
    missed: list[Disturbance] = field(default_factory=list)
    violation: Violation | None = None
    trace: Trace = field(default_factory=lambda: Trace(sample_above_per_s=None))


class ScheduleRun:
    """The base of a challenge's runs.

    Args:
        solution: the learner's class.
        server: a server that it may write to, under `prefix`.
        schedule: what to play.
    """

    workloads: ClassVar[tuple[str, ...]] = ("",)
    actions: ClassVar[tuple[Action, ...]] = (DIES, IS_HELD, LOSES_CONNECTION)
    pairs: ClassVar[int] = 0
    setup: ClassVar[frozenset[str]] = SETUP  # commands that are no steps
    hold_s: ClassVar[float] = 0.25
    # For what must happen, in time in which the machine did not stand still.
    limit_s: ClassVar[float] = 3.0

    def __init__(self, solution: Solution, server: str, schedule: Schedule) -> None:
        self.solution, self.schedule, self.workload = solution, schedule, schedule.workload
        self.played = Played(schedule, missed=list(schedule.disturbances))
        self.trace, self.server = self.played.trace, server
        self.prefix = f"c{next(_numbers)}:"
        self._left = list(schedule.disturbances)
        self._passing = asyncio.Event()
        self._passing.set()
        self._stack = contextlib.AsyncExitStack()
        self._folder = Path()
        self._background: set[asyncio.Task[Any]] = set()
        self._error: BaseException | None = None  # of something that ran beside
        self._actors: list[Actor] = []

    async def play(self) -> None:
        """Play the workload. Raise Violation for what must happen and does not."""
        raise NotImplementedError

    async def judge(self) -> None:
        """Look at the effects. Raise Violation for a guarantee that does not hold."""
        raise NotImplementedError

    async def on_death(self, actor: Actor) -> None:
        """Do what follows a death; nothing by default."""

    async def on_hold(self, actor: Actor) -> None:
        """Do what happens while an actor is held: time passes, by default."""
        await asyncio.sleep(self.hold_s)

    # What a challenge uses

    async def actor(self, name: str) -> Actor:
        """Start a process with that name; it ends with the run."""
        address = Address.parse(self.server)
        actor = Actor(name, address, self._folder, self._disturb, self._note, self.setup)
        self._actors.append(actor)
        return await self._stack.enter_async_context(actor)

    async def queue(self, url: str, name: str, **options: Any) -> MessageQueue:
        """Open a queue under this run's prefix: an actor's by `actor.url`, the lab's by `self.server`."""
        queue = MessageQueue(url, prefix=self.prefix, name=name, **options)
        return await self._stack.enter_async_context(_bounded(queue))

    def background(self, work: Any) -> "asyncio.Task[Any]":
        """Run something of the lab's beside; it is cancelled at the end."""
        task: asyncio.Task[Any] = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._on_background_done)
        return task

    async def until(self, condition: Callable[[], bool], limit_s: float | None = None) -> bool:
        """Wait until something holds; False if it does not in time. A machine that stands still has time."""
        left_s, at = self.limit_s if limit_s is None else limit_s, now()
        while not condition():
            if left_s <= 0:
                return False
            await asyncio.sleep(POLL_S)
            before, at = at, now()
            left_s -= min(at - before, MAX_POLL_GAP_S)
        return True

    def report(self, kind: EventKind, actor: str, message_id: str, **fields: Any) -> None:
        """Add an event to the trace, for the picture of a failure."""
        self.trace(Event(kind, now(), actor, message_id, fields.pop("channel", ""), **fields))

    # What the engine does

    async def run(self) -> Played:
        """Play, judge, clean up."""
        try:
            async with self._stack:
                folder = tempfile.TemporaryDirectory(prefix="mpim-check-")
                self._folder = Path(self._stack.enter_context(folder))
                try:
                    await self.play()
                    await self.judge()
                except Violation as violation:
                    self.played.violation = violation
                finally:
                    for task in self._background:
                        task.cancel()
                    if self._background:
                        await asyncio.wait(self._background, timeout=0.2)
        finally:
            self._passing.set()
        for error in (self._error, *(actor.lab_error for actor in self._actors)):
            if error is not None:
                raise error
        return self.played

    def _on_background_done(self, task: "asyncio.Task[Any]") -> None:
        self._background.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._error = self._error or error

    def _note(self, step: Step, is_call: bool) -> None:
        self.played.steps.append((step, is_call))

    async def _disturb(self, actor: Actor, moment: str, step: Step) -> Fate:
        await self._passing.wait()
        await actor.goes_on.wait()
        for each in self._left:
            if (each.moment, each.step) == (moment, step):
                self._left.remove(each)
                self.played.missed.remove(each)
                self.report(EventKind.FAULT_BEGAN, actor.name, "", detail=str(each))
                return await self._act(actor, each.action)
        return Fate.GOES_ON

    async def _act(self, actor: Actor, action: str) -> Fate:
        if action == DIES.name:
            actor.die()
            self.background(self.on_death(actor))
            return Fate.DEAD
        if action == LOSES_CONNECTION.name:
            return Fate.CUT
        if action == IS_CANCELLED.name:
            actor.cancel()
            await asyncio.sleep(0)
        elif action == IS_HELD.name:
            actor.goes_on.clear()
            try:
                await self.on_hold(actor)
            finally:
                actor.goes_on.set()
        elif action == SERVER_STOPS.name:
            self._passing.clear()
            asyncio.get_running_loop().call_later(self.hold_s, self._passing.set)
            await self._passing.wait()
        else:
            own: Callable[[Actor], Awaitable[None]] = getattr(self, method_of(action))
            await own(actor)
        return Fate.GOES_ON


def method_of(action: str) -> str:
    """Return the name of the method that does an action of a challenge's own.

    >>> method_of("bob leaves")
    'bob_leaves'
    """
    return "".join(letter if letter.isalnum() else "_" for letter in action)


@contextlib.asynccontextmanager
async def _bounded(queue: MessageQueue) -> AsyncIterator[MessageQueue]:
    await queue.open()
    try:
        yield queue
    finally:  # a dead process's queue waits for a server that does not answer any more
        with contextlib.suppress(Exception):
            async with asyncio.timeout(0.5):
                await queue.close()
