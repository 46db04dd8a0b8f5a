"""StreamScenario of chapter 2: alice adds orders to a stream, workers of one group handle them."""

from collections.abc import Sequence
from typing import Any

from mpim_lab.chapters.shared.designs import GROUP, STREAM
from mpim_lab.chapters.shared.scenario import Server
from mpim_lab.chapters.shared.worker_fleet import CLAIM_IDLE_MS, DIED
from mpim_lab.chapters.shared.worker_scenario import WorkerScenario
from mpim_lab.events import EventKind, message_id
from mpim_lab.lab.exercise.experiment import Run
from mpim_lab.lab.faults.injector import Fault
from mpim_lab.mq.streams.entries import Entry

IDLE_S = 0.2  # nothing happened for so long: nothing will
NEVER_STARTED_AFTER_S = 1.0  # nobody has begun an order for so long: nobody will


class StreamScenario(WorkerScenario):
    """The scenario of chapter 2: alice, the stream, the live worker.

    `design`: makes a worker from a group, a name and a handler.
    """

    lease_ms = CLAIM_IDLE_MS

    def __init__(
        self, server: Server, run: Run, design: Any, planned: Sequence[Fault], duration: int
    ) -> None:
        super().__init__(server, run, planned, duration)
        self._design = design
        self._lost_by_server: set[str] = set()  # orders that the server forgot
        self._never_started: set[str] = set()  # orders that nobody begins
        self._stuck: set[str] = set()  # ids of entries that stay pending for good

    async def open(self) -> None:
        """Open both queues, and start a worker."""
        self.alice = await self.parts.enter_async_context(self.queue("alice", self.server.url))
        self.observer = await self.parts.enter_async_context(self.queue("workers"))
        self.stream = self.alice.stream(STREAM)
        self.group = await self.observer.stream(STREAM).group(GROUP)
        self.start_fleet(self.fault_of)

    def make_worker(self, name: str) -> Any:
        """Return a worker of the design, whose handler meets the faults."""

        async def handle(entry: Entry) -> None:
            await self.fleet.work(name, entry.data, lambda: do(entry.data))

        def do(payload: bytes) -> None:
            self.fleet.report(EventKind.EFFECT, name, payload)
            self.fleet.on_effect(name, payload)

        return self._design(self.group, name, handle)

    async def add(self, payload: bytes) -> None:
        """Add one order. Raise MpimError."""
        await self.stream.add(payload)

    async def finish(self) -> None:
        """Restart a worker if none is alive; report what is never processed all the same."""
        for _ in range(1 + len(self.sent)):  # a fault may be planned for the restarted worker, too
            if self.fleet.alive is not None:
                break
            await self.restart_worker()
            if self.fleet.fault == DIED:
                break
        pending = await self._pending()
        for entry_id, payload in (await self._orders()).items():
            if entry_id in pending or message_id(payload) not in self.fleet.started:
                self.alice.reporter.message(EventKind.STALLED, payload, STREAM)

    async def _orders(self) -> dict[str, bytes]:
        """Return what the stream holds, by the ids of its entries."""
        return {entry.id: entry.data for entry in await self.stream.range()}

    async def _pending(self) -> set[str]:
        return {line.id for line in await self.group.pending(count=10_000)}

    async def after_server_kill(self) -> None:
        """Make the group again, and note which orders are gone."""
        await self.group.create()
        kept = {message_id(payload) for payload in (await self._orders()).values()}
        self._lost_by_server = set(self.sent) - kept

    async def count_unfinished(self) -> int:
        """Return how many entries are pending."""
        return len(await self._pending())

    async def is_finished(self) -> bool:
        """Say whether every order was started, and nothing is pending but what stays so."""
        waiting = set(self.sent) - self._lost_by_server - self.fleet.started - self._never_started
        patience_s = IDLE_S if self._never_started else NEVER_STARTED_AFTER_S
        if waiting and self.idle.is_idle_for(patience_s):
            self._never_started |= waiting
        pending = await self._pending() - self._stuck
        if pending and not waiting and self.idle.is_idle_for(IDLE_S):
            self._stuck |= pending
        return waiting <= self._never_started and pending <= self._stuck
