"""PubSubScenario of chapter 1: alice and bob on one server, and everything that can go wrong."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

from mpim_lab.chapters.shared.scenario import QUICK, Scenario, Server, failure_outcome
from mpim_lab.errors import MpimError, NotConnected, ServerFailed
from mpim_lab.events import EventKind
from mpim_lab.keys import user_channel
from mpim_lab.lab.exercise.experiment import Run
from mpim_lab.lab.faults.injector import (
    Fault,
    FaultAction,
    FaultInjector,
    FaultyQueue,
    Gate,
    server_faults,
    wait_until,
)
from mpim_lab.lab.faults.server_admin import cut_connections, limit_output_buffer
from mpim_lab.mq.connection.config import ConnectionConfig
from mpim_lab.mq.connection.encoding import Message
from mpim_lab.mq.pubsub.confirmed import AckedPublisher, AckingSubscriber
from mpim_lab.mq.pubsub.queue import MessageQueue

BOB = "1001"
CHANNEL = user_channel(BOB)
# The slow subscriber gets photos: one of 1 MiB is more than the sockets between hold, so that what
# is lost does not depend on their size; about four fill the server's buffer for him.
PHOTO_BYTES = 1024 * 1024
BUFFER_LIMIT_BYTES = 4_400 * 1024
# How long alice waits for an acknowledgement: long, so that a busy machine repeats nothing.
SHORT_ACK_TIMEOUT_S, ACK_TIMEOUT_S = 0.2, 5.0


class _PlainReceiver:
    """bob as the naive version has him: he listens and acknowledges nothing."""

    def __init__(self, queue: MessageQueue, handler: Callable[[Message], Awaitable[None]]) -> None:
        self._queue, self._handler = queue, handler

    async def start(self) -> None:
        await self._queue.subscribe(CHANNEL, self._handler, max_buffered=1)

    async def stop(self) -> None:
        await self._queue.unsubscribe(CHANNEL)


class PubSubScenario(Scenario):
    """The scenario of chapter 1.

    Alice and bob with their queues on one server, and all faults between them.
    """

    limits = ConnectionConfig(timeout_s=0.5, connect_timeout_s=5.0, backoff=QUICK)

    def __init__(
        self, server: Server, run: Run, design: Any, planned: Sequence[Fault], duration: int
    ) -> None:
        super().__init__(server, run, planned, duration)
        self.connection_gate, self.handler_gate = Gate(), Gate()
        self.alice: MessageQueue = self.queue(
            "alice", server.url, max_payload_bytes=2 * PHOTO_BYTES
        )
        self.bob: MessageQueue = self.queue("bob", sleep=self.connection_gate.sleep)
        is_confirmed = design is AckedPublisher
        self._receiver: _PlainReceiver | AckingSubscriber = (
            AckingSubscriber(self.bob, BOB, self._handle, max_buffered=1)
            if is_confirmed
            else _PlainReceiver(self.bob, self._handle)
        )
        self.faults = FaultInjector(self._causes(), run.trace)
        faulty = cast(MessageQueue, FaultyQueue(self.alice, self.faults))
        self._sender = self._make_publisher(faulty) if is_confirmed else design(faulty)

    async def open(self) -> None:
        """Open both queues, and have bob listen."""
        for fault in self.planned:
            self.faults.add(fault)
        if self.server.unavailable_reason("slow") is None:
            await limit_output_buffer(self.server.url, BUFFER_LIMIT_BYTES)
        await self.parts.enter_async_context(self.alice)
        await self.parts.enter_async_context(self.bob)
        await self._receiver.start()
        if isinstance(self._sender, AckedPublisher):
            await self.parts.enter_async_context(self._sender)
        self.parts.callback(self.connection_gate.open)
        self.parts.callback(self.handler_gate.open)

    def _make_publisher(self, queue: MessageQueue) -> AckedPublisher:
        return AckedPublisher(
            queue,
            BOB,
            max_attempts=self.duration + 20,
            ack_timeout_s=ACK_TIMEOUT_S,
            backoff=QUICK,
        )

    async def send(self, payload: bytes) -> None:
        """Send one message from alice; an error is reported to her.

        Raise ServerFailed once the server is gone for good.
        """
        try:
            outcome = str(await self._sender.send(BOB, payload))
        except MpimError as error:
            if isinstance(error, NotConnected) and not self.faults.active:
                await self._check_server()
            outcome = failure_outcome(error)
        self.alice.reporter.message(EventKind.OUTCOME, payload, CHANNEL, outcome=outcome)
        if not self.faults.active:
            await self.wait_idle()

    async def finish(self) -> None:
        """End every fault, and wait until whatever is in flight has arrived."""
        await self.faults.clear()
        await self.wait_idle()

    async def _check_server(self) -> None:
        try:
            await self.alice.subscriber_count(CHANNEL)
        except NotConnected as error:
            raise ServerFailed(
                "the server is gone, and no fault of this run has done that"
            ) from error

    async def wait_idle(self) -> None:
        """Wait until whatever is in flight has arrived.

        Bob's messages, then alice's acknowledgements.
        """
        await self.bob.drain()
        await self.alice.drain()

    async def _handle(self, message: Message) -> None:
        await self.handler_gate.wait()

    # What can go wrong

    async def inject(self, fault: str) -> None:
        """Inject a fault before the next attempt. Raise FaultUnavailable."""
        self.check_available(fault)
        self.faults.inject(fault, self.duration)

    def _causes(self) -> dict[str, FaultAction]:
        """Each fault's begin and end.

        An end returns when the consequences are over, so that runs are alike.
        """
        causes: dict[str, FaultAction] = {
            "away": (self._receiver.stop, self._receiver.start),
            "cut": (self._cut, self._reconnect),
            "slow": (self.handler_gate.close, self._catch_up),
        }
        for kind, (begin, end) in server_faults(self.server).items():
            causes[kind] = (
                _then(begin, self._wait_all_disconnected) if kind == "kill" else begin,
                _then(end, self._wait_all_connected),
            )
        return {
            kind: (_then(self._shorten_timeouts, begin), _then(self._restore_timeouts, end))
            for kind, (begin, end) in causes.items()
        }

    async def _shorten_timeouts(self) -> None:
        """While a fault lasts, an acknowledgement that does not come soon does not come."""
        if isinstance(self._sender, AckedPublisher):
            self._sender.ack_timeout_s = SHORT_ACK_TIMEOUT_S

    async def _restore_timeouts(self) -> None:
        if isinstance(self._sender, AckedPublisher):
            self._sender.ack_timeout_s = ACK_TIMEOUT_S

    async def _cut(self) -> None:
        await self.connection_gate.close()
        await cut_connections(self.server.url, "bob")
        await wait_until(lambda: self.bob.open_connections == 0, "cutting bob's connections")

    async def _reconnect(self) -> None:
        self.connection_gate.open()
        await self._wait_all_connected()

    async def _catch_up(self) -> None:
        self.handler_gate.open()
        await wait_until(self._is_bob_subscribed, "bob's return")
        await self._wait_all_connected()

    async def _is_bob_subscribed(self) -> bool:
        return await self.alice.subscriber_count(CHANNEL) > 0

    async def _wait_all_disconnected(self) -> None:
        await wait_until(
            lambda: self.alice.open_connections + self.bob.open_connections == 0,
            "the end of the connections",
        )

    async def _wait_all_connected(self) -> None:
        await wait_until(
            lambda: self.alice.is_connected and self.bob.is_connected,
            "the return of the connections",
        )
        await self.wait_idle()


def _then(
    first: Callable[[], Awaitable[None]], second: Callable[[], Awaitable[None]]
) -> Callable[[], Awaitable[None]]:
    async def both() -> None:
        await first()
        await second()

    return both
