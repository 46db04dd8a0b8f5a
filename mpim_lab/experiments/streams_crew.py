"""The crew of chapter 2: the workers of one group, one alive at a time, and what the seed has in store for them."""

import asyncio
from typing import Any, NamedTuple

from mpim_lab.errors import MpimError
from mpim_lab.events import Kind, message_id
from mpim_lab.lab.trace import Trace
from mpim_lab.mq.backoff import Backoff
from mpim_lab.mq.entries import Entry
from mpim_lab.mq.groups import ConsumerGroup
from mpim_lab.mq.retry import RetryRule
from mpim_lab.mq.worker import EntryHandler, Worker
from mpim_lab.naive.streams import AckFirstWorker, EndlessRetryWorker, NoAckWorker, NoClaimWorker

CLAIM_IDLE_MS = 60
STOPS_WITHIN_S = 3.0
SKETCHES = {
    "no ack": NoAckWorker,
    "ack first": AckFirstWorker,
    "no claim": NoClaimWorker,
    "endless retry": EndlessRetryWorker,
}


class Crash(BaseException):
    """A worker's process is gone: nothing after this line is run. No Exception, so that no handler catches it."""


def sound_worker(group: ConsumerGroup, name: str, handler: EntryHandler) -> Worker:
    """The mend: acknowledge after the work, claim from the dead, three tries, then a dead letter."""
    retry = RetryRule(tries=3, backoff=Backoff(first_s=0.004, most_s=0.02))
    return Worker(group, name, handler, retry=retry, prefetch=1, claim_idle_ms=CLAIM_IDLE_MS)


class Hired(NamedTuple):
    """One worker and the task that runs it."""

    name: str
    worker: Any
    task: "asyncio.Task[None]"


class Crew:
    """Hires workers of one design; their handler does an order's work, or meets the fault that strikes this order."""

    def __init__(self, group: ConsumerGroup, trace: Trace, *, design: str | type[Any], struck: dict[str, str]) -> None:
        self._group, self._trace, self._struck = group, trace, struck
        self._make = design if not isinstance(design, str) else SKETCHES.get(design, sound_worker)
        self.alive: Hired | None = None
        self.fault = ""  # the last one that struck
        self.begun: set[str] = set()  # orders that somebody's handler was called for
        self.failures = 0
        self._working: set[str] = set()
        self._asleep: list[tuple[Hired, asyncio.Event]] = []
        self._dies_after_ack = False
        self._hired = 0

    def hire(self) -> None:
        """Start a worker."""
        self._hired += 1
        name = f"worker-{self._hired}"
        worker = self._make(self._group, name, lambda entry: self._work(name, entry))
        task = asyncio.create_task(worker.run())
        task.add_done_callback(_expected)
        self.alive = Hired(name, worker, task)

    def strike(self, order: str, fault: str) -> None:
        """Have a fault strike an order that is still to come."""
        self._struck.setdefault(order, fault)

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
            self._begin("died")

    async def dismiss_after_ack(self) -> None:
        """The fault "crash after ack": the order is finished, and the worker dies."""
        if self._dies_after_ack and self.alive is not None:
            self._dies_after_ack, task = False, self.alive.task
            self._begin("crash after ack")
            task.cancel()
            await asyncio.wait([task])
            await self._group.pending(count=1)  # once this is answered the server has seen that the line is closed:
            # it would hand the next order to the dead one's read, which waited

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

    async def _work(self, worker: str, entry: Entry) -> None:
        self._working.add(worker)
        try:
            await self._work_or_not(worker, entry)
        finally:
            self._working.discard(worker)

    async def _work_or_not(self, worker: str, entry: Entry) -> None:
        order = message_id(entry.data)
        self.begun.add(order)
        if self._struck.get(order) == "poison":
            self.failures += 1
            raise ValueError(f"{order} cannot be read")
        kind = self._struck.pop(order, "")  # the others strike once
        if kind in ("crash before work", "server kill"):
            self._crash(worker, entry, kind)
        if kind == "zombie":
            await self._sleep()
        self._report(Kind.EFFECT, worker, entry)
        if kind == "crash after work":
            self._crash(worker, entry, kind)
        self._dies_after_ack |= kind == "crash after ack"

    def _crash(self, worker: str, entry: Entry, kind: str) -> None:
        self._begin(kind)
        self._report(Kind.CRASHED, worker, entry, kind)
        raise Crash(kind)

    async def _sleep(self) -> None:
        assert self.alive is not None
        woken = asyncio.Event()
        self._asleep.append((self.alive, woken))
        self._begin("zombie")
        await woken.wait()

    def _begin(self, kind: str) -> None:
        self.fault, self.alive = kind, None
        self._trace.mark(Kind.FAULT_BEGAN, "lab", kind)

    def _report(self, kind: Kind, worker: str, entry: Entry, detail: str = "") -> None:
        access = self._group.access
        access.reporter.message(kind, entry.data, access.name, actor=worker, detail=detail)


def _expected(task: "asyncio.Task[None]") -> None:
    """A crash is what we wanted; anything else is told by whoever waits for the task."""
    if not task.cancelled():
        task.exception()
