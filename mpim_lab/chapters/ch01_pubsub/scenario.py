"""PubSubScenario of chapter 1: alice and bob with a queue each on one server, and everything that can go wrong."""

import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, Self, cast

from mpim_lab.chapters.ch01_pubsub.naive import NaiveSender
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
    check_available,
    server_faults,
    wait_until,
)
from mpim_lab.lab.faults.server_admin import cut_connections, limit_output_buffer
from mpim_lab.lab.server.embedded import EmbeddedServer
from mpim_lab.lab.server.external import ExternalServer
from mpim_lab.mq.connection.config import ConnectionConfig
from mpim_lab.mq.connection.encoding import Message
from mpim_lab.mq.connection.retry import Backoff
from mpim_lab.mq.pubsub.confirmed import AckedPublisher, AckingSubscriber
from mpim_lab.mq.pubsub.queue import MessageQueue

BOB = "1001"
CHANNEL = user_channel(BOB)
# The slow subscriber gets photos: one of 1 MiB is more than the sockets between hold, so that what
# is lost does not depend on their size; about four fill the server's buffer for him.
PHOTO_BYTES = 1024 * 1024
BUFFER_LIMIT_BYTES = 4_400 * 1024
# How long alice waits for an acknowledgement: long, so that a busy machine makes her repeat
# nothing.
SHORT_ACK_TIMEOUT_S, ACK_TIMEOUT_S = 0.2, 5.0
FAST_LIMITS = ConnectionConfig(
    timeout_s=0.5, connect_timeout_s=5.0, backoff=Backoff(initial_s=0.005, max_s=0.05)
)


class _PlainReceiver:
    """bob as the naive version has him: he listens and acknowledges nothing."""

    def __init__(self, queue: MessageQueue, handler: Callable[[Message], Awaitable[None]]) -> None:
        self._queue, self._handler = queue, handler

    async def start(self) -> None:
        await self._queue.subscribe(CHANNEL, self._handler, max_buffered=1)

    async def stop(self) -> None:
        await self._queue.unsubscribe(CHANNEL)


class PubSubScenario:
    """The scenario of chapter 1.

    Alice and bob with their queues on one server, and all faults between them.
    """

    def __init__(
        self,
        server: EmbeddedServer | ExternalServer,
        run: Run,
        *,
        design: str,
        planned: list[Fault],
        duration: int,
    ) -> None:
        self.server, self.run, self._planned, self._duration = server, run, planned, duration
        self.connection_gate, self.handler_gate = Gate(), Gate()
        common: dict[str, Any] = {
            "prefix": server.prefix,
            "config": FAST_LIMITS,
            "observer": run.trace,
        }
        self.alice = MessageQueue(
            server.url, name="alice", max_payload_bytes=2 * PHOTO_BYTES, **common
        )
        self.bob = MessageQueue(
            server.unix_url or server.url, name="bob", sleep=self.connection_gate.sleep, **common
        )
        if design != "confirmed":
            self._receiver: _PlainReceiver | AckingSubscriber = _PlainReceiver(
                self.bob, self._handle
            )
        else:
            self._receiver = AckingSubscriber(self.bob, BOB, self._handle, max_buffered=1)
        self.faults = FaultInjector(self._causes(), run.trace)
        self._sender = self._make_sender(design)
        self._open = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        for fault in self._planned:
            check_available(self.server, fault.kind)
            self.faults.add(fault)
        try:
            await self._open_all()
        except BaseException:  # whoever was opened must not be left behind
            await self._open.aclose()
            raise
        self.run.injector = self._inject
        return self

    async def _open_all(self) -> None:
        if self.server.unavailable_reason("slow") is None:
            await limit_output_buffer(self.server.url, BUFFER_LIMIT_BYTES)
        await self._open.enter_async_context(self.alice)
        await self._open.enter_async_context(self.bob)
        await self._receiver.start()
        if isinstance(self._sender, AckedPublisher):
            await self._open.enter_async_context(self._sender)

    async def __aexit__(self, *exc_info: object) -> None:
        self.run.injector = None
        self.handler_gate.open()
        self.connection_gate.open()
        await self._open.aclose()

    def _make_sender(self, design: str) -> Any:
        faulty = cast(MessageQueue, FaultyQueue(self.alice, self.faults))
        if design == "naive":
            return NaiveSender(faulty)
        attempts = self._duration + 20
        return AckedPublisher(
            faulty,
            BOB,
            max_attempts=attempts,
            ack_timeout_s=ACK_TIMEOUT_S,
            backoff=FAST_LIMITS.backoff,
        )

    async def send(self, payload: bytes) -> None:
        """Send one message from alice; an error is reported to her.

        Raise ServerFailed once the server is gone for good.
        """
        try:
            reported = await self._sender.send(BOB, payload)
        except MpimError as error:
            if isinstance(error, NotConnected) and not self.faults.active:
                await self._check_server()
            reported = f"failed{'' if error.definite else ', perhaps sent'}: {type(error).__name__}"
        self.alice.reporter.message(EventKind.OUTCOME, payload, CHANNEL, outcome=str(reported))
        if not self.faults.active:
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

    async def _inject(self, fault: str) -> None:
        check_available(self.server, fault)
        self.faults.inject(fault, self._duration)

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
