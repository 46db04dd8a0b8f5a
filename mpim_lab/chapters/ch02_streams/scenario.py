"""StreamScenario of chapter 2: alice adds orders to a stream, workers of one group handle them, one worker at a time.

In turns, so that a seeded run is the same every time: alice adds one order, the worker finishes it,
alice adds the next. When the worker dies, orders wait; `duration` orders later another one is
started, of the same design.
"""

import asyncio
import contextlib
from typing import Any, Self

from mpim_lab.chapters.ch02_streams.designs import NAIVE_WORKERS
from mpim_lab.chapters.shared.worker_fleet import CLAIM_IDLE_MS, DIED, WorkerFleet, correct_worker
from mpim_lab.errors import MpimError
from mpim_lab.events import EventKind, message_id
from mpim_lab.lab.exercise.experiment import Run
from mpim_lab.lab.faults.injector import Fault, IdleDetector, check_available, wait_until
from mpim_lab.lab.server.embedded import EmbeddedServer
from mpim_lab.lab.server.external import ExternalServer
from mpim_lab.mq.connection.config import ConnectionConfig
from mpim_lab.mq.connection.retry import Backoff
from mpim_lab.mq.pubsub.queue import MessageQueue
from mpim_lab.mq.streams.entries import Entry
from mpim_lab.mq.streams.group import ConsumerGroup

STREAM, GROUP = "orders", "billing"
IDLE_S = 0.2  # nothing happened for so long: nothing will
NEVER_STARTED_AFTER_S = 1.0  # nobody has begun an order for so long: nobody will
MAX_FAILURES = 12  # after so many failures of one order we have seen enough of an endless retry
LIMITS = ConnectionConfig(
    timeout_s=1.0, connect_timeout_s=1.0, backoff=Backoff(initial_s=0.005, max_s=0.05)
)


class StreamScenario:
    """The scenario of chapter 2: alice, the stream, the live worker."""

    def __init__(
        self,
        server: EmbeddedServer | ExternalServer,
        run: Run,
        *,
        design: str,
        planned: list[Fault],
        duration: int,
    ) -> None:
        self.server, self.run, self._design, self._duration = server, run, design, duration
        self._fault_of = {f"m{fault.at}": fault.kind for fault in planned}
        common: dict[str, Any] = {"prefix": server.prefix, "config": LIMITS, "observer": run.trace}
        self.alice = MessageQueue(server.url, name="alice", **common)
        self.workers = MessageQueue(server.unix_url or server.url, name="workers", **common)
        self.stream = self.alice.stream(STREAM)
        self.group: ConsumerGroup
        self.fleet: WorkerFleet
        self._sent: list[str] = []
        self._missed = 0  # orders that came while nobody worked
        self._lost_by_server: set[str] = set()  # orders that the server forgot
        self._never_started: set[str] = set()  # orders that nobody begins
        self._stuck: set[str] = set()  # ids of entries that stay pending for good
        self._quiet = IdleDetector(run.trace)
        self._open = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        for kind in self._fault_of.values():
            self._check_available(kind)
        try:
            await self._open.enter_async_context(self.alice)
            await self._open.enter_async_context(self.workers)
            self.group = await self.workers.stream(STREAM).group(GROUP)
            self.fleet = WorkerFleet(
                self._make_worker, self.workers.reporter, STREAM, self.run.trace, self._fault_of
            )
            self._open.push_async_callback(self.fleet.close)
            self.fleet.start()
        except BaseException:
            await self._open.aclose()
            raise
        self.run.injector = self._inject
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.run.injector = None
        await self._open.aclose()

    def _make_worker(self, name: str) -> Any:
        make: Any = NAIVE_WORKERS.get(self._design, correct_worker)

        async def handle(entry: Entry) -> None:
            await self.fleet.work(name, entry.data, lambda: do(entry.data))

        def do(payload: bytes) -> None:
            self.fleet.report(EventKind.EFFECT, name, payload)
            self.fleet.on_effect(name, payload)

        return make(self.group, name, handle)

    def _check_available(self, kind: str) -> None:
        check_available(self.server, kind)

    async def _inject(self, fault: str) -> None:
        self._check_available(fault)
        self.fleet.inject(f"m{len(self._sent) + 1}", fault)

    async def send(self, payload: bytes) -> None:
        """Add one order of alice's; it is finished when this returns, unless no worker is alive."""
        if self.fleet.alive is None and self._missed >= self._duration:
            await self._restart_worker()
        self._sent.append(message_id(payload))  # a fault injected from now on hits the next one
        is_worked_on = (
            self.fleet.alive is not None
        )  # before the worker can have the order, and die of it
        try:
            await self.stream.add(payload)
            reported = "added"
        except MpimError as error:
            reported = (
                f"failed{'' if error.definite else ', perhaps added'}: {type(error).__name__}"
            )
        self.alice.reporter.message(EventKind.OUTCOME, payload, STREAM, outcome=reported)
        self._missed = 0 if is_worked_on else self._missed + 1
        if is_worked_on:
            await self._wait_idle()

    async def finish(self) -> None:
        """Restart a worker if none is alive; report what is never processed all the same."""
        for _ in range(1 + len(self._sent)):  # a fault may be planned for the restarted worker, too
            if self.fleet.alive is not None:
                break
            await self._restart_worker()
            if self.fleet.fault == DIED:
                break
        orders = await self._orders()
        pending = {line.id for line in await self.group.pending(count=10_000)}
        for entry_id, payload in orders.items():
            if entry_id in pending or message_id(payload) not in self.fleet.started:
                self.alice.reporter.message(EventKind.STALLED, payload, STREAM)

    async def _orders(self) -> dict[str, bytes]:
        """Return what the stream holds, by the ids of its entries."""
        return {entry.id: entry.data for entry in await self.stream.range()}

    async def _restart_worker(self) -> None:
        """Start another worker, which takes over.

        The orders that wait are finished when this returns.
        """
        if self.fleet.fault == "server kill":
            assert isinstance(self.server, EmbeddedServer)
            self.server.kill()
            await self.server.start()
            await wait_until(
                lambda: self.alice.is_connected and self.workers.is_connected,
                "the return of the connections",
            )
            await self.group.create()
            self._lost_by_server = set(self._sent) - {
                message_id(payload) for payload in (await self._orders()).values()
            }
        await asyncio.sleep(
            CLAIM_IDLE_MS * 1.5e-3
        )  # what the dead one was processing is idle for long enough now
        self.run.trace.record(EventKind.FAULT_ENDED, "lab", self.fleet.fault)
        self.fleet.start()
        await self._wait_idle()
        await self.fleet.resume_zombie()

    async def _wait_idle(self) -> None:
        self._quiet.restart()
        await wait_until(self._is_idle, "the end of the work", timeout_s=20.0)
        if self.fleet.dies_after_ack:
            await self.fleet.kill_after_ack()
            # Once this is answered the server has seen that the connection is closed: it would
            # deliver the next order to the dead one's read, which waited.
            await self.group.pending(count=1)

    async def _is_idle(self) -> bool:
        """Say whether every order was started, no worker is busy, and nothing is pending but what is stalled for good."""
        fleet = self.fleet
        fleet.reap()
        if fleet.alive is None or fleet.failures >= MAX_FAILURES:
            return True
        if fleet.is_busy:
            return False
        waiting = set(self._sent) - self._lost_by_server - fleet.started - self._never_started
        if waiting and self._quiet.is_idle_for(
            IDLE_S if self._never_started else NEVER_STARTED_AFTER_S
        ):
            self._never_started |= waiting
        pending = {line.id for line in await self.group.pending(count=10_000)} - self._stuck
        if pending and not waiting and self._quiet.is_idle_for(IDLE_S):
            self._stuck |= pending
        return waiting <= self._never_started and pending <= self._stuck
