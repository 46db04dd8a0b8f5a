"""The stage of chapter 2: alice adds orders to a stream, workers of one group handle them, one worker at a time.

In turns, so that a seeded run is the same every time: alice adds one order, the worker finishes it, alice adds the next.
When the worker dies, orders wait; `lasts` orders later another one is started, of the same design.
"""

import asyncio
import contextlib
from typing import Any, Self

from mpim_lab.errors import FaultUnavailable, MpimError
from mpim_lab.events import Kind, message_id, now
from mpim_lab.lab.experiment import Run
from mpim_lab.lab.external import ExternalServer
from mpim_lab.lab.faults import Fault, until
from mpim_lab.lab.server import EmbeddedServer
from mpim_lab.mq.backoff import Backoff
from mpim_lab.mq.entries import Entry
from mpim_lab.mq.groups import ConsumerGroup
from mpim_lab.mq.limits import Limits
from mpim_lab.mq.pubsub import MessageQueue
from mpim_lab.mq.retry import RetryRule
from mpim_lab.mq.streams import Stream
from mpim_lab.mq.worker import EntryHandler, Worker
from mpim_lab.naive.streams import AckFirstWorker, EndlessRetryWorker, NoAckWorker, NoClaimWorker

STREAM, GROUP = "orders", "billing"
CLAIM_IDLE_MS = 60
QUIET_S = 0.2  # nothing happened for so long: nothing will
MOST_FAILURES = 12  # after so many failures of one order we have seen enough of an endless retry
LIMITS = Limits(timeout_s=1.0, connect_timeout_s=1.0, backoff=Backoff(first_s=0.005, most_s=0.05))
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


class Stage:
    """alice, the stream, and whichever worker is alive. `design`: a name, or the learner's own class."""

    def __init__(
        self,
        server: EmbeddedServer | ExternalServer,
        run: Run,
        *,
        design: str | type[Any],
        planned: list[Fault],
        lasts: int,
    ) -> None:
        self.server, self.run, self._lasts = server, run, lasts
        self._make = design if not isinstance(design, str) else SKETCHES.get(design, sound_worker)
        self._struck = {f"m{fault.before}": fault.kind for fault in planned}
        common: dict[str, Any] = {"prefix": server.prefix, "limits": LIMITS, "observer": run.trace}
        self.alice = MessageQueue(server.url, name="alice", **common)
        self.workers = MessageQueue(server.unix_url or server.url, name="workers", **common)
        self.stream: Stream = self.alice.stream(STREAM)
        self.group: ConsumerGroup
        self._sent: list[str] = []
        self._down_for: int | None = None  # how many orders the workers have missed; None: one is alive
        self._fault = ""
        self._hired = 0
        self._worker: Any = None
        self._task: asyncio.Task[None] | None = None
        self._asleep: tuple[str, Any, asyncio.Task[None], asyncio.Event] | None = None
        self._begun: set[str] = set()  # orders that somebody's handler was called for
        self._working: set[str] = set()
        self._gone: set[str] = set()  # orders that the server forgot
        self._stuck: set[str] = set()  # ids of entries that stay pending for good
        self._failures = 0
        self._heard = (0, 0.0)
        self._open = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        for kind in self._struck.values():
            self._refuse(kind)
        try:
            await self._open.enter_async_context(self.alice)
            await self._open.enter_async_context(self.workers)
            self.group = await self.workers.stream(STREAM).group(GROUP)
            self._hire()
        except BaseException:
            await self._open.aclose()
            raise
        self.run.injector = self._inject
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.run.injector = None
        for task in (self._task, self._asleep and self._asleep[2]):
            if task is not None:
                task.cancel()
                await asyncio.wait([task])
        await self._open.aclose()

    def _refuse(self, kind: str) -> None:
        if kind == "server kill" and (reason := self.server.unavailable("kill")):
            raise FaultUnavailable(reason)

    async def _inject(self, fault: str) -> None:
        self._refuse(fault)
        self._struck.setdefault(f"m{len(self._sent) + 1}", fault)

    # alice

    async def send(self, payload: bytes) -> None:
        """alice adds one order; it is finished when this returns, unless nobody works."""
        if self._down_for is not None and self._down_for >= self._lasts:
            await self._bring_back()
        missed = self._down_for  # before the worker can have it, and die of it
        try:
            await self.stream.add(payload)
            told = "added"
        except MpimError as error:
            told = f"failed{'' if error.definite else ', perhaps added'}: {type(error).__name__}"
        self.alice.reporter.message(Kind.TOLD, payload, STREAM, detail=told)
        self._sent.append(message_id(payload))
        if missed is None:
            await self._settle()
        else:
            self._down_for = missed + 1

    async def finish(self) -> tuple[list[str], list[str]]:
        """Bring a worker back if none is alive; gives what is stuck in the pending list, and the dead letters."""
        if self._down_for is not None:
            await self._bring_back()
        orders = await self._orders()
        pending = {orders.get(line.id, "") for line in await self.group.pending(count=10_000)}
        letters = await self.group.dead_letters.list(count=10_000)
        unread = set(orders.values()) - self._begun
        return [*(pending | unread)], [message_id(letter.fields.get("data", b"")) for letter in letters]

    async def _orders(self) -> dict[str, str]:
        """What the stream holds: the orders, by the ids of their entries."""
        return {entry.id: message_id(entry.data) for entry in await self.stream.range()}

    # Workers come and go

    def _hire(self) -> None:
        self._hired += 1
        name = f"worker-{self._hired}"
        self._worker = self._make(self.group, name, lambda entry: self._work(name, entry))
        self._task = asyncio.create_task(self._worker.run())
        self._task.add_done_callback(_expected)
        self._down_for = None

    async def _work(self, worker: str, entry: Entry) -> None:
        """One order's work, with what the seed has in store for it."""
        self._working.add(worker)
        try:
            await self._work_struck(worker, entry)
        finally:
            self._working.discard(worker)

    async def _work_struck(self, worker: str, entry: Entry) -> None:
        order = message_id(entry.data)
        self._begun.add(order)
        if self._struck.get(order) == "poison":
            self._failures += 1
            raise ValueError(f"{order} cannot be read")
        kind = self._struck.pop(order, "")  # the others strike once
        if kind in ("crash before work", "server kill"):
            self._crash(worker, entry, kind)
        if kind == "zombie":
            await self._sleep(worker)
        self.workers.reporter.message(Kind.EFFECT, entry.data, STREAM, actor=worker)
        if kind == "crash after work":
            self._crash(worker, entry, kind)
        if kind == "crash after ack":
            self._fault = kind

    def _crash(self, worker: str, entry: Entry, kind: str) -> None:
        self._begin(kind)
        self.workers.reporter.message(Kind.CRASHED, entry.data, STREAM, actor=worker, detail=kind)
        raise Crash(kind)

    def _begin(self, kind: str) -> None:
        self._fault, self._down_for = kind, 0
        self.run.trace.mark(Kind.FAULT_BEGAN, "lab", kind)

    async def _sleep(self, worker: str) -> None:
        woken = asyncio.Event()
        assert self._task is not None
        self._asleep = (worker, self._worker, self._task, woken)
        self._begin("zombie")
        await woken.wait()

    async def _bring_back(self) -> None:
        """Another worker takes over; the orders that wait are finished when this returns."""
        if self._fault == "server kill":
            assert isinstance(self.server, EmbeddedServer)
            self.server.kill()
            await self.server.start()
            await until(lambda: self.alice.is_connected and self.workers.is_connected, "the return of the connections")
            await self.group.create()
            self._gone = set(self._sent) - set((await self._orders()).values())
        await asyncio.sleep(CLAIM_IDLE_MS * 1.5e-3)  # what the dead one had in hand is idle for long enough now
        self.run.trace.mark(Kind.FAULT_ENDED, "lab", self._fault)
        self._hire()
        await self._settle()
        if self._asleep is not None:
            _, worker, task, woken = self._asleep
            await self._wake(worker, task, woken)
            self._asleep = None

    async def _wake(self, worker: Any, task: asyncio.Task[None], woken: asyncio.Event) -> None:
        """The zombie does not know how late it is: it finishes its work, and stops."""
        stopping = asyncio.create_task(worker.stop())
        await asyncio.sleep(0)
        woken.set()
        await stopping
        await task

    # When is everything finished that will be?

    async def _settle(self) -> None:
        self._heard = (0, 0.0)
        await until(self._is_settled, "the end of the work", within_s=20.0)
        if self._fault == "crash after ack" and self._down_for is None:
            assert self._task is not None
            self._begin(self._fault)
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _is_settled(self) -> bool:
        """Every order was begun, nobody works, and nothing is pending but what is stuck for good."""
        if self._down_for is not None or self._failures >= MOST_FAILURES:
            return True
        asleep = {self._asleep[0]} if self._asleep is not None else set()
        if self._working - asleep or not self._begun.issuperset(set(self._sent) - self._gone):
            return False
        pending = {line.id for line in await self.group.pending(count=10_000)} - self._stuck
        if pending and self._is_quiet():
            self._stuck |= pending
        return not pending or pending <= self._stuck

    def _is_quiet(self) -> bool:
        events, at = len(self.run.trace), now()
        if events != self._heard[0]:
            self._heard = (events, at)
        return at - self._heard[1] > QUIET_S


def _expected(task: "asyncio.Task[None]") -> None:
    """A crash is what we wanted; anything else is told by whoever waits for the task."""
    if not task.cancelled():
        task.exception()
