"""WorkerScenario: alice sends one message, the live worker finishes it, alice sends the next.

So a seeded run is the same every time. When the worker is gone, messages wait; `duration` messages
later another worker of the same design is started.
"""

import asyncio
from abc import abstractmethod

from mpim_lab.chapters.shared.designs import STREAM
from mpim_lab.chapters.shared.scenario import QUICK, Scenario, failure_outcome
from mpim_lab.chapters.shared.worker_fleet import WorkerFleet
from mpim_lab.errors import MpimError
from mpim_lab.events import EventKind, message_id
from mpim_lab.lab.faults.injector import IdleDetector, wait_until
from mpim_lab.lab.server.embedded import EmbeddedServer
from mpim_lab.mq.connection.config import ConnectionConfig
from mpim_lab.mq.pubsub.queue import MessageQueue

MAX_FAILURES = 12  # after so many failures of one order we have seen enough of an endless retry


class WorkerScenario(Scenario):
    """The scenario of chapters 2 to 4: alice, her queue, and a fleet with one live worker."""

    limits = ConnectionConfig(timeout_s=1.0, connect_timeout_s=1.0, backoff=QUICK)
    alice: MessageQueue
    observer: MessageQueue  # the queue over which the lab looks at the server
    fleet: WorkerFleet
    lease_ms: int  # what a dead worker had is free after so long
    _missed = 0  # messages that came while nobody worked

    def start_fleet(self, faults: dict[str, str]) -> None:
        """Start the first worker; these faults hit workers."""
        self.fleet = WorkerFleet(self.make_worker, self.alice.reporter, STREAM, self.trace, faults)
        self.parts.push_async_callback(self.fleet.close)
        self.idle = IdleDetector(self.trace)
        self.fleet.start()

    @abstractmethod
    def make_worker(self, name: str) -> object:
        """Return a worker, not yet running."""

    @abstractmethod
    async def add(self, payload: bytes) -> None:
        """Have alice send a message. Raise MpimError."""

    @abstractmethod
    async def count_unfinished(self) -> int:
        """Return how many messages the server holds that no worker has finished."""

    @abstractmethod
    async def after_server_kill(self) -> None:
        """Repair what a killed server has lost."""

    @abstractmethod
    async def is_finished(self) -> bool:
        """Say whether nothing is unfinished but what stays so."""

    async def send(self, payload: bytes) -> None:
        """Send one message from alice.

        It is finished when this returns, unless no worker is alive.
        """
        if self.fleet.alive is None and self._missed >= self.duration:
            await self.restart_worker()
        await self.before_send()
        self.sent.append(message_id(payload))  # a fault injected from now on hits the next one
        # The worker may die of this message before alice has her answer.
        is_worked_on = self.fleet.alive is not None
        await self.send_now(payload)
        self._missed = 0 if is_worked_on else self._missed + 1
        if is_worked_on:
            await self.wait_idle()

    async def before_send(self) -> None:
        """Do what comes before a message."""

    async def send_now(self, payload: bytes) -> None:
        """Have alice send a message, and report what became of it to her."""
        try:
            await self.add(payload)
            outcome = "added"
        except MpimError as error:
            outcome = failure_outcome(error, "added")
        self.alice.reporter.message(EventKind.OUTCOME, payload, STREAM, outcome=outcome)

    async def restart_worker(self) -> None:
        """Start another worker, which takes over; what waits is finished when this returns."""
        fault = self.fleet.fault
        if fault == "server kill":
            assert isinstance(self.server, EmbeddedServer)
            self.server.kill()
            await self.server.start()
            await wait_until(
                lambda: self.alice.is_connected and self.observer.is_connected,
                "the return of the connections",
            )
            await self.after_server_kill()
        await self.wait_lease()
        self.record_ended(fault)
        self.fleet.start()
        await self.wait_idle()
        await self.fleet.resume_zombie()

    async def wait_lease(self) -> None:
        """Wait until what the worker before had is free."""
        await asyncio.sleep(self.lease_ms * 1.5e-3)

    async def wait_idle(self) -> None:
        """Wait until the live worker has finished what it can."""
        self.idle.restart()
        await wait_until(self._is_idle, "the end of the work", timeout_s=20.0)
        if self.fleet.dies_after_ack:
            await self.fleet.kill_after_ack()
            # Once this is answered the server has seen that the dead one's connection is closed.
            # It would deliver the next message to the dead one's read, which waited.
            await self.count_unfinished()

    async def _is_idle(self) -> bool:
        fleet = self.fleet
        fleet.reap()
        if fleet.alive is None or fleet.failures >= MAX_FAILURES:
            return True
        if fleet.is_busy:
            self.idle.restart()
            return False
        return await self.is_finished()
