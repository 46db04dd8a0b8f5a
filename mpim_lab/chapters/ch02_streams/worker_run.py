"""WorkerRun: alice orders, workers handle; what chapter 2's challenges have in common."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar

from mpim_lab.errors import MpimError
from mpim_lab.events import EventKind, now
from mpim_lab.lab.exercise.actors import Actor
from mpim_lab.lab.exercise.schedule_run import ScheduleRun
from mpim_lab.lab.exercise.schedules import DIES, IS_HELD, LOSES_CONNECTION, Action
from mpim_lab.lab.exercise.solution import Violation, finished
from mpim_lab.mq.streams.dead_letters import DeadLetter
from mpim_lab.mq.streams.entries import Entry
from mpim_lab.mq.streams.group import ConsumerGroup
from mpim_lab.mq.streams.stream import Stream

STREAM, GROUP = "orders", "billing"
WORK_S, LONG_WORK_S = 0.005, 0.04
TOO_SOON_S = 0.05  # who has had an order for less than this is not dead
LATER_S = 0.3  # until the next worker comes, where it comes later
PAUSE_S = 1.2
MAX_S = 30.0  # for all of a run
MAX_TRIES, MAX_DONE = 25, 8  # for each worker that was hired
RUN_IS_CANCELLED = Action("run is cancelled")
STOP_IS_CALLED = Action("stop is called")
LOSES_ITS_OWN = Action(LOSES_CONNECTION.name, on_calls=False, weight=0.5)


class OutOfTea(Exception):
    """What a handler may raise, too."""

    def __init__(self, table: int, tea: str) -> None:
        super().__init__(table, tea)


@dataclass(eq=False)
class Order:
    """One order, and what became of it. `error`: what its handler raises, each time."""

    id: str
    fields: dict[str, bytes]
    error: Exception | None = None
    work_s: float = WORK_S
    entry_id: str = ""
    added_at: float = 0.0
    begun_at: list[float] = field(default_factory=list)
    done: int = 0

    @property
    def pairs(self) -> tuple[tuple[bytes, bytes], ...]:
        """Its fields as they are in the stream."""
        return tuple((name.encode(), value) for name, value in self.fields.items())


@dataclass(eq=False)
class Hired:
    """One worker: its process, the learner's object, and the task of its `run`."""

    actor: Actor
    own: Any
    running: "asyncio.Task[None] | None" = None
    may_leave: bool = False  # it was stopped or cancelled

    @property
    def is_gone(self) -> bool:
        """Whether it is dead, or its `run` has ended."""
        return self.actor.is_dead or (self.running is not None and self.running.done())


class WorkerRun(ScheduleRun):
    """alice orders, workers of one group handle; whoever goes is followed by the next one."""

    actions = (DIES, IS_HELD, LOSES_ITS_OWN, RUN_IS_CANCELLED, STOP_IS_CALLED)
    hold_s = 0.3
    limit_s = 2.5
    has_one_name: ClassVar[str] = "the next worker has the same name"
    comes_later: ClassVar[str] = "the next worker comes later"

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.orders: list[Order] = []
        self._workers: list[Hired] = []
        self._problem: Violation | None = None
        self._hired = 0
        self._news = 0  # goes up with everything that happens
        self._is_over = False
        self._endings: list[asyncio.Task[None]] = []  # workers that were stopped or cancelled
        self._stream: Stream
        self._group: ConsumerGroup

    async def play(self) -> None:
        """Play the workload, wait until all is done, then stop the workers."""
        lab = await self.queue(self.server, "lab")
        self._stream = lab.stream(STREAM)
        self._group = await self._stream.group(GROUP)
        try:
            await self.deliver()
            await self._settle()
            for ending in self._endings:
                await ending
            self._check()
        finally:
            self._is_over = True
        await asyncio.gather(*(self._stop(each) for each in self._workers if not each.is_gone))
        self._check()

    async def deliver(self) -> None:
        """Hire workers and add orders, as the workload says."""
        raise NotImplementedError

    async def add(
        self,
        fields: Mapping[str, bytes] = MappingProxyType({}),
        *,
        error: Exception | None = None,
        work_s: float = WORK_S,
    ) -> None:
        """Add an order; the next ones come a little later."""
        name = f"m{len(self.orders) + 1}"
        order = Order(name, {"data": f"{name} tea".encode(), **fields}, error, work_s)
        self.orders.append(order)
        order.added_at = now()
        order.entry_id = await self._stream.add(order.fields)
        await asyncio.sleep(WORK_S)

    # The workers

    async def hire(self) -> None:
        """Start a worker."""
        self._hired += 1
        actor = await self.actor(f"worker-{self._hired}")
        queue = await self.queue(actor.url, actor.name, observer=self.trace)
        group = ConsumerGroup(queue.context(STREAM), GROUP)
        if self._is_over:
            return
        try:
            own = self.solution.load()(group, self._name_of(actor), self._handler(actor))
        except Exception as error:
            text = f"`__init__` raised {type(error).__name__}: {error}"
            self._say(Violation(text, error=error))
            return
        worker = Hired(actor, own)
        worker.running = actor.spawn(self._work(worker))
        self._workers.append(worker)
        self._news += 1

    def _name_of(self, actor: Actor) -> str:
        if self.workload == self.has_one_name:
            return "worker"
        return (
            f"käthe {{{actor.name}}}: 1" if self.workload == "orders wait already" else actor.name
        )

    async def _work(self, worker: Hired) -> None:
        name = worker.actor.name
        try:
            await finished("run", worker.own.run())
            if not worker.may_leave:
                self._say(Violation(f"{name}: `run` returned, and nobody has called `stop`", 4))
        except Violation as violation:
            self._say(violation)
        except Exception as error:
            if not (isinstance(error, MpimError) and self._has_lost_connection(worker.actor)):
                text = f"{name}: `run` raised {type(error).__name__}: {error}"
                self._say(Violation(text, 4, error=error))
        finally:
            if not self._is_over:
                self.background(self._follow())

    async def _follow(self) -> None:
        if self.workload == self.comes_later:
            await asyncio.sleep(LATER_S)
        if not self._is_over:
            await self.hire()

    def _has_lost_connection(self, actor: Actor) -> bool:
        return any(
            each.action == LOSES_ITS_OWN.name and each.step.actor == actor.name
            for each in self.schedule.disturbances
            if each not in self.played.missed
        )

    def _handler(self, actor: Actor) -> Callable[[Entry], Awaitable[None]]:
        async def handler(entry: Entry) -> None:
            order = self._order_of(entry)
            if order is None:
                what = f"the handler was given {entry!r:.60}, which nobody has ordered"
                self._say(Violation(what, 0))
                return
            error = await actor.step("handler", lambda: self._do(actor, order))
            if error is not None:
                raise error

        return handler

    def _order_of(self, entry: Any) -> Order | None:
        if not isinstance(entry, Entry):
            return None
        return next((each for each in self.orders if each.pairs == entry.pairs), None)

    async def _do(self, actor: Actor, order: Order) -> Exception | None:
        self._news += 1
        order.begun_at.append(now())
        if len(order.begun_at) > self._hired * (MAX_TRIES if order.error else MAX_DONE):
            what = "tried" if order.error else "done"
            text = (
                f"{order.id} was {what} {len(order.begun_at) - 1} times, and there is no end to it"
            )
            self._say(Violation(text, 2 if order.error else 3, order.id))
        await asyncio.sleep(order.work_s)
        await actor.goes_on.wait()
        if actor.is_dead:  # in the middle of its work
            await asyncio.Event().wait()
        if order.error is None:
            order.done += 1
        kind = EventKind.FAILED if order.error else EventKind.EFFECT
        self.report(kind, actor.name, order.id, error=type(order.error).__name__)
        return order.error

    # What happens to them

    async def on_death(self, actor: Actor) -> None:
        """Have the next one come."""
        await self._follow()

    async def on_hold(self, actor: Actor) -> None:
        """Have another one take over meanwhile, unless there is one, or it had the same name."""
        others = [each for each in self._workers if each.actor is not actor and not each.is_gone]
        if not others and self.workload != self.has_one_name:
            await self.hire()
        await asyncio.sleep(self.hold_s)

    async def run_is_cancelled(self, actor: Actor) -> None:
        """Cancel the task of its `run`, which must end."""
        worker = self._worker(actor)
        if worker.running is not None:
            worker.may_leave = True
            worker.running.cancel()
            ending = self._must_end(worker, "it was cancelled")
            self._endings.append(self.background(ending))
            await asyncio.sleep(0)

    async def stop_is_called(self, actor: Actor) -> None:
        """Call its `stop`, while it works."""
        worker = self._worker(actor)
        worker.may_leave = True  # before anything else can happen
        self._endings.append(self.background(self._stop(worker)))

    def _worker(self, actor: Actor) -> Hired:
        return next(each for each in self._workers if each.actor is actor)

    async def _stop(self, worker: Hired) -> None:
        worker.may_leave = True
        stopping = worker.actor.spawn(finished("stop", worker.own.stop()))
        await self._must_end(worker, "`stop` was called")
        if stopping.done() and not stopping.cancelled():
            error = stopping.exception()
            if isinstance(error, Violation):
                self._say(error)
            elif error is not None and not self._has_lost_connection(worker.actor):
                text = f"{worker.actor.name}: `stop` raised {type(error).__name__}: {error}"
                self._say(Violation(text, 4, error=error))

    async def _must_end(self, worker: Hired, why: str) -> None:
        if not await self.until(lambda: worker.is_gone):
            name, limit = worker.actor.name, f"{self.limit_s:g} s"
            self._say(Violation(f"{name}: `run` has not ended {limit} after {why}", 4))

    # What is judged

    def _say(self, violation: Violation) -> None:
        self._problem = self._problem or violation

    def _check(self) -> None:
        if self._problem is not None:
            raise self._problem

    async def _settle(self) -> None:
        """Wait until all is done; nothing may happen for `limit_s` at most."""
        left_s, news, until = self.limit_s, self._news, now() + MAX_S
        while True:
            self._check()
            unfinished = await self._unfinished()
            if unfinished is None:
                return
            if self._news != news:
                left_s, news = self.limit_s, self._news
            if left_s <= 0 or now() > until:
                raise unfinished
            await self.until(lambda: self._problem is not None, 4 * WORK_S)
            left_s -= 4 * WORK_S

    async def _unfinished(self) -> Violation | None:
        """What is not as it must be at the end, if there is anything."""
        for order in self.orders:
            if not order.error and not order.done:
                text = f"{order.id} was not done, and nothing happens for {self.limit_s:g} s"
                return Violation(text, 1, order.id)
        for order in self.orders:
            if order.error and not await self._letters_of(order):
                text = f"{order.id} is not among the dead letters, and nothing happens any more"
                return Violation(text, 2, order.id)
        if pending := await self._group.pending():
            found = next(each for each in self.orders if each.entry_id == pending[0].id)
            what = "among the dead letters" if found.error else "done"
            return Violation(f"{found.id} is {what}, and is still pending", 3, found.id)
        return None

    async def _letters_of(self, order: Order) -> list[DeadLetter]:
        letters = await self._group.dead_letters.list()
        return [each for each in letters if each.pairs[:1] == order.pairs[:1]]

    async def judge(self) -> None:
        """All is still as it was before the workers were stopped, and nothing was done in vain."""
        if (unfinished := await self._unfinished()) is not None:
            raise unfinished
        for order in self.orders:
            letters = await self._letters_of(order)
            if letters and not order.error:
                text = f"{order.id} could be done, and is among the dead letters"
                raise Violation(text, 3, order.id)
            if len(letters) > 1:
                text = f"{order.id} is among the dead letters {len(letters)} times"
                raise Violation(text, 2, order.id)
            if letters and letters[0].pairs != order.pairs:
                text = f"{order.id} is among the dead letters with other fields than it had"
                raise Violation(text, 2, order.id)
