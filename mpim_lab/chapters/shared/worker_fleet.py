"""The crew of chapters 2 to 4: workers, one alive at a time, and what the seed has in store for them."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from mpim_lab.errors import ConnectionLost, MpimError
from mpim_lab.events import Kind, Reporter, message_id
from mpim_lab.lab.trace.trace import Trace
from mpim_lab.mq.connection.retry import Backoff, RetryPolicy
from mpim_lab.mq.streams.group import ConsumerGroup
from mpim_lab.mq.streams.worker import EntryHandler, Worker

CLAIM_IDLE_MS = 60
SLEEPS = ("zombie", "slow worker", "two at once")
STOPS_WITHIN_S = 3.0
DIED = "died"  # of an error of its own


class Crash(BaseException):
    """A worker's process is gone: nothing after this line is run. No Exception, so that no handler catches it."""


def sound_worker(
    group: ConsumerGroup, name: str, handler: EntryHandler, *, claim_idle_ms: int = CLAIM_IDLE_MS
) -> Worker:
    """The mend: acknowledge after the work, claim from the dead, three tries, then a dead letter.

    Without a heartbeat: the lab's sleepers stand for processes that are frozen, whose heartbeats stand still, too.
    """
    retry = RetryPolicy(max_attempts=3, backoff=Backoff(initial_s=0.004, max_s=0.02))
    return Worker(group, name, handler, retry=retry, batch_size=1, claim_idle_ms=claim_idle_ms, heartbeat=False)


class Hired(NamedTuple):
    """One worker and the task that runs it."""

    name: str
    worker: Any
    task: "asyncio.Task[None]"


Effect = Callable[[], Awaitable[None] | None]


class Crew:
    """Hires workers; whoever has an order in hand does its work, or meets the fault that strikes this order.

    employ(name) makes a worker with `run` and `stop`, whose handler calls `work`. fault_of: orders and what will strike them.
    """

    def __init__(
        self, employ: Callable[[str], Any], reporter: Reporter, channel: str, trace: Trace, fault_of: dict[str, str]
    ) -> None:
        self._employ, self._reporter, self._channel, self._trace = employ, reporter, channel, trace
        self._fault_of = fault_of
        self.alive: Hired | None = None
        self.fault = ""  # the last one that struck
        self.begun: set[str] = set()  # orders that somebody's handler was called for
        self.failures = 0
        self._working: set[str] = set()
        self._asleep: list[tuple[Hired, asyncio.Event]] = []
        self._after_effect: dict[str, str] = {}
        self.dies_after_ack = False
        self._hired = 0

    def hire(self) -> None:
        """Start a worker."""
        self._hired += 1
        name = f"worker-{self._hired}"
        worker = self._employ(name)
        task = asyncio.create_task(worker.run())
        task.add_done_callback(_expected)
        self.alive = Hired(name, worker, task)

    def strike(self, order: str, fault: str) -> None:
        """Have a fault strike an order that is still to come."""
        self._fault_of.setdefault(order, fault)

    @property
    def is_busy(self) -> bool:
        """Somebody who is awake has an order in hand."""
        return bool(self._working - {hired.name for hired, _ in self._asleep})

    def notice_death(self) -> None:
        """A worker whose `run` has ended by itself, with an error or without, is dead."""
        if self.alive is not None and self.alive.task.done():
            name, _, task = self.alive
            if not task.cancelled() and (error := task.exception()) is not None:
                self._trace.mark(Kind.FAILED, name, f"{type(error).__name__}: {error}")
            self._begin(DIED)

    async def dismiss_after_ack(self) -> None:
        """The fault "crash after ack": the order is finished, and the worker dies."""
        if self.dies_after_ack and self.alive is not None:
            self.dies_after_ack, task = False, self.alive.task
            self._begin("crash after ack")
            task.cancel()
            await asyncio.wait([task])

    async def wake(self) -> None:
        """The zombie does not know how late it is: it finishes its work, and stops."""
        while self._asleep:
            (name, worker, task), woken = self._asleep[0]
            stopping = asyncio.create_task(worker.stop())
            await asyncio.sleep(0)
            woken.set()
            _, unfinished = await asyncio.wait([stopping, task], timeout=STOPS_WITHIN_S)
            if unfinished:
                stopping.cancel()
                raise MpimError(f"{name}: run() has not returned within {STOPS_WITHIN_S:g} s of stop()")
            await stopping
            del self._asleep[0]

    async def end(self) -> None:
        """End everybody."""
        for hired in (self.alive, *(hired for hired, _ in self._asleep)):
            if hired is not None:
                hired.task.cancel()
                await asyncio.wait([hired.task])

    # One order

    async def work(self, worker: str, payload: bytes, effect: Effect) -> None:
        """What a worker's handler does with one order: its effect, unless a fault is in store for it."""
        self._working.add(worker)
        try:
            await self._work_or_not(worker, payload, effect)
        finally:
            self._working.discard(worker)

    async def _work_or_not(self, worker: str, payload: bytes, effect: Effect) -> None:
        order = message_id(payload)
        self.begun.add(order)
        if self._fault_of.get(order) == "poison":
            self.failures += 1
            raise ValueError(f"{order} cannot be read")
        kind = self._fault_of.pop(order, "")  # the others strike once
        if kind in ("crash before work", "server kill"):
            self._crash(worker, payload, kind)
        if kind in SLEEPS:
            await self._sleep(kind)
        if kind in ("crash after work", "answer to the worker lost"):
            self._after_effect[order] = kind
        done = effect()
        if done is not None:
            await done
        self.dies_after_ack |= kind == "crash after ack"

    def effect_done(self, worker: str, payload: bytes) -> None:
        """The effect is there for good; may crash, or raise ConnectionLost, before anybody can say so."""
        kind = self._after_effect.pop(message_id(payload), "")
        if kind == "crash after work":
            self._crash(worker, payload, kind)
        if kind:
            self._trace.mark(Kind.FAULT_BEGAN, "lab", kind)
            self._trace.mark(Kind.FAULT_ENDED, "lab", kind)
            raise ConnectionLost("the line broke after the command was written; it may have been run")

    def _crash(self, worker: str, payload: bytes, kind: str) -> None:
        self._begin(kind)
        self.report(Kind.CRASHED, worker, payload, kind)
        raise Crash(kind)

    async def _sleep(self, kind: str) -> None:
        assert self.alive is not None
        woken = asyncio.Event()
        self._asleep.append((self.alive, woken))
        self._begin(kind)
        await woken.wait()

    def _begin(self, kind: str) -> None:
        self.fault, self.alive = kind, None
        self._trace.mark(Kind.FAULT_BEGAN, "lab", kind)

    def report(self, kind: Kind, worker: str, payload: bytes, detail: str = "") -> None:
        """Report what happened to an order at a worker."""
        self._reporter.message(kind, payload, self._channel, actor=worker, detail=detail)


def _expected(task: "asyncio.Task[None]") -> None:
    """A crash is what we wanted; anything else is told by whoever waits for the task."""
    if not task.cancelled():
        task.exception()
