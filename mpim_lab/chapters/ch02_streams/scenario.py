"""The stage of chapter 2: alice adds orders to a stream, workers of one group handle them, one worker at a time.

In turns, so that a seeded run is the same every time: alice adds one order, the worker finishes it, alice adds the next.
When the worker dies, orders wait; `lasts` orders later another one is started, of the same design.
"""

import asyncio
import contextlib
from typing import Any, Self

from mpim_lab.chapters.ch02_streams.designs import SKETCHES
from mpim_lab.chapters.shared.worker_fleet import CLAIM_IDLE_MS, DIED, Crew, sound_worker
from mpim_lab.errors import MpimError
from mpim_lab.events import Kind, message_id
from mpim_lab.lab.exercise.experiment import Run
from mpim_lab.lab.faults.injector import Fault, Quiet, check_available, until
from mpim_lab.lab.server.embedded import EmbeddedServer
from mpim_lab.lab.server.external import ExternalServer
from mpim_lab.mq.connection.config import ConnectionConfig
from mpim_lab.mq.connection.retry import Backoff
from mpim_lab.mq.pubsub.queue import MessageQueue
from mpim_lab.mq.streams.entries import Entry
from mpim_lab.mq.streams.group import ConsumerGroup

STREAM, GROUP = "orders", "billing"
QUIET_S = 0.2  # nothing happened for so long: nothing will
IGNORED_S = 1.0  # nobody has begun an order for so long: nobody will
MOST_FAILURES = 12  # after so many failures of one order we have seen enough of an endless retry
LIMITS = ConnectionConfig(timeout_s=1.0, connect_timeout_s=1.0, backoff=Backoff(initial_s=0.005, max_s=0.05))


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
        self.server, self.run, self._design, self._lasts = server, run, design, lasts
        self._struck = {f"m{fault.before}": fault.kind for fault in planned}
        common: dict[str, Any] = {"prefix": server.prefix, "config": LIMITS, "observer": run.trace}
        self.alice = MessageQueue(server.url, name="alice", **common)
        self.workers = MessageQueue(server.unix_url or server.url, name="workers", **common)
        self.stream = self.alice.stream(STREAM)
        self.group: ConsumerGroup
        self.crew: Crew
        self._sent: list[str] = []
        self._missed = 0  # orders that came while nobody worked
        self._gone: set[str] = set()  # orders that the server forgot
        self._ignored: set[str] = set()  # orders that nobody begins
        self._stuck: set[str] = set()  # ids of entries that stay pending for good
        self._quiet = Quiet(run.trace)
        self._open = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        for kind in self._struck.values():
            self._refuse(kind)
        try:
            await self._open.enter_async_context(self.alice)
            await self._open.enter_async_context(self.workers)
            self.group = await self.workers.stream(STREAM).group(GROUP)
            self.crew = Crew(self._employ, self.workers.reporter, STREAM, self.run.trace, self._struck)
            self._open.push_async_callback(self.crew.end)
            self.crew.hire()
        except BaseException:
            await self._open.aclose()
            raise
        self.run.injector = self._inject
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.run.injector = None
        await self._open.aclose()

    def _employ(self, name: str) -> Any:
        make = self._design if not isinstance(self._design, str) else SKETCHES.get(self._design, sound_worker)

        async def handle(entry: Entry) -> None:
            await self.crew.work(name, entry.data, lambda: do(entry.data))

        def do(payload: bytes) -> None:
            self.crew.report(Kind.EFFECT, name, payload)
            self.crew.effect_done(name, payload)

        return make(self.group, name, handle)

    def _refuse(self, kind: str) -> None:
        check_available(self.server, kind)

    async def _inject(self, fault: str) -> None:
        self._refuse(fault)
        self.crew.strike(f"m{len(self._sent) + 1}", fault)

    async def send(self, payload: bytes) -> None:
        """alice adds one order; it is finished when this returns, unless nobody works."""
        if self.crew.alive is None and self._missed >= self._lasts:
            await self._bring_back()
        self._sent.append(message_id(payload))  # a fault caused from now on strikes the next one
        somebody_works = self.crew.alive is not None  # before the worker can have the order, and die of it
        try:
            await self.stream.add(payload)
            told = "added"
        except MpimError as error:
            told = f"failed{'' if error.definite else ', perhaps added'}: {type(error).__name__}"
        self.alice.reporter.message(Kind.TOLD, payload, STREAM, detail=told)
        self._missed = 0 if somebody_works else self._missed + 1
        if somebody_works:
            await self._settle()

    async def finish(self) -> None:
        """Bring a worker back if none is alive; report what is stuck all the same."""
        for _ in range(1 + len(self._sent)):  # a fault may be in store for whoever was brought back, too
            if self.crew.alive is not None:
                break
            await self._bring_back()
            if self.crew.fault == DIED:
                break
        orders = await self._orders()
        pending = {line.id for line in await self.group.pending(count=10_000)}
        for entry_id, payload in orders.items():
            if entry_id in pending or message_id(payload) not in self.crew.begun:
                self.alice.reporter.message(Kind.STUCK, payload, STREAM)

    async def _orders(self) -> dict[str, bytes]:
        """What the stream holds, by the ids of its entries."""
        return {entry.id: entry.data for entry in await self.stream.range()}

    async def _bring_back(self) -> None:
        """Another worker takes over; the orders that wait are finished when this returns."""
        if self.crew.fault == "server kill":
            assert isinstance(self.server, EmbeddedServer)
            self.server.kill()
            await self.server.start()
            await until(lambda: self.alice.is_connected and self.workers.is_connected, "the return of the connections")
            await self.group.create()
            self._gone = set(self._sent) - {message_id(payload) for payload in (await self._orders()).values()}
        await asyncio.sleep(CLAIM_IDLE_MS * 1.5e-3)  # what the dead one had in hand is idle for long enough now
        self.run.trace.mark(Kind.FAULT_ENDED, "lab", self.crew.fault)
        self.crew.hire()
        await self._settle()
        await self.crew.wake()

    async def _settle(self) -> None:
        self._quiet.begin()
        await until(self._is_settled, "the end of the work", within_s=20.0)
        if self.crew.dies_after_ack:
            await self.crew.dismiss_after_ack()
            # Once this is answered the server has seen that the line is closed: it would hand the next order to the dead
            # one's
            # read, which waited.
            await self.group.pending(count=1)

    async def _is_settled(self) -> bool:
        """Every order was begun, nobody works, and nothing is pending but what is stuck for good."""
        crew = self.crew
        crew.notice_death()
        if crew.alive is None or crew.failures >= MOST_FAILURES:
            return True
        if crew.is_busy:
            return False
        waiting = set(self._sent) - self._gone - crew.begun - self._ignored
        if waiting and self._quiet.has_lasted(QUIET_S if self._ignored else IGNORED_S):
            self._ignored |= waiting
        pending = {line.id for line in await self.group.pending(count=10_000)} - self._stuck
        if pending and not waiting and self._quiet.has_lasted(QUIET_S):
            self._stuck |= pending
        return waiting <= self._ignored and pending <= self._stuck
