"""The stage of chapter 1: alice and bob with a queue each on one server, and everything that can go wrong between them."""

import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, Self, cast

from mpim_lab.chapters.ch01_pubsub.naive import SketchSender
from mpim_lab.errors import MpimError, NotConnected, ServerFailed
from mpim_lab.events import Kind
from mpim_lab.keys import user_channel
from mpim_lab.lab.exercise.experiment import Run
from mpim_lab.lab.faults.injector import (
    Cause,
    Fault,
    Faults,
    FaultyQueue,
    Hold,
    check_available,
    server_faults,
    until,
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
# The slow subscriber gets photos: one of 1 MiB is more than the sockets between hold, so that what is lost does not
# depend on their size; about four fill the server's buffer for him.
PHOTO_BYTES = 1024 * 1024
BUFFER_LIMIT_BYTES = 4_400 * 1024
# How long alice waits for a confirmation: long, so that a busy machine does not make her repeat what has arrived.
HURRY_S, PATIENCE_S = 0.2, 5.0
QUICK = ConnectionConfig(timeout_s=0.5, connect_timeout_s=5.0, backoff=Backoff(initial_s=0.005, max_s=0.05))


class _PlainReceiver:
    """bob as the sketch has him: he listens and confirms nothing."""

    def __init__(self, queue: MessageQueue, handler: Callable[[Message], Awaitable[None]]) -> None:
        self._queue, self._handler = queue, handler

    async def start(self) -> None:
        await self._queue.subscribe(CHANNEL, self._handler, max_buffered=1)

    async def stop(self) -> None:
        await self._queue.unsubscribe(CHANNEL)


class Stage:
    """alice and bob with their queues on one server, and everything that can go wrong between them."""

    def __init__(
        self,
        server: EmbeddedServer | ExternalServer,
        run: Run,
        *,
        design: str | type[Any],
        planned: list[Fault],
        lasts: int,
    ) -> None:
        self.server, self.run, self._planned, self._lasts = server, run, planned, lasts
        self.line, self.hand = Hold(), Hold()
        common: dict[str, Any] = {"prefix": server.prefix, "config": QUICK, "observer": run.trace}
        self.alice = MessageQueue(server.url, name="alice", max_payload_bytes=2 * PHOTO_BYTES, **common)
        self.bob = MessageQueue(server.unix_url or server.url, name="bob", sleep=self.line.sleep, **common)
        if design != "confirmed":
            self._receiver: _PlainReceiver | AckingSubscriber = _PlainReceiver(self.bob, self._handle)
        else:
            self._receiver = AckingSubscriber(self.bob, BOB, self._handle, max_buffered=1)
        self.faults = Faults(self._causes(), run.trace)
        self._sender = self._make_sender(design)
        self._open = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        for fault in self._planned:
            check_available(self.server, fault.kind)
            self.faults.add(fault)
        try:
            await self._set()
        except BaseException:  # whoever was opened must not be left behind
            await self._open.aclose()
            raise
        self.run.injector = self._inject
        return self

    async def _set(self) -> None:
        if self.server.unavailable("slow") is None:
            await limit_output_buffer(self.server.url, BUFFER_LIMIT_BYTES)
        await self._open.enter_async_context(self.alice)
        await self._open.enter_async_context(self.bob)
        await self._receiver.start()
        if isinstance(self._sender, AckedPublisher):
            await self._open.enter_async_context(self._sender)

    async def __aexit__(self, *exc_info: object) -> None:
        self.run.injector = None
        self.hand.open()
        self.line.open()
        await self._open.aclose()

    def _make_sender(self, design: str | type[Any]) -> Any:
        faulty = cast(MessageQueue, FaultyQueue(self.alice, self.faults))
        if not isinstance(design, str):
            return design(faulty)
        if design == "sketch":
            return SketchSender(faulty)
        attempts = self._lasts + 20
        return AckedPublisher(faulty, BOB, max_attempts=attempts, ack_timeout_s=PATIENCE_S, backoff=QUICK.backoff)

    async def send(self, payload: bytes) -> None:
        """alice sends one message; an error is what she is told. Raises ServerFailed once the server is gone for good."""
        try:
            told = await self._sender.send(BOB, payload)
        except MpimError as error:
            if isinstance(error, NotConnected) and not self.faults.active:
                await self._look_for_server()
            told = f"failed{'' if error.definite else ', perhaps sent'}: {type(error).__name__}"
        self.alice.reporter.message(Kind.TOLD, payload, CHANNEL, detail=str(told))
        if not self.faults.active:
            await self.settle()

    async def _look_for_server(self) -> None:
        try:
            await self.alice.subscriber_count(CHANNEL)
        except NotConnected as error:
            raise ServerFailed("the server is gone, and no fault of this run has done that") from error

    async def settle(self) -> None:
        """Wait until whatever is on its way has arrived: bob's messages, then alice's confirmations."""
        await self.bob.drain()
        await self.alice.drain()

    async def _handle(self, message: Message) -> None:
        await self.hand.passed()

    # What can go wrong

    async def _inject(self, fault: str) -> None:
        check_available(self.server, fault)
        self.faults.inject(fault, self._lasts)

    def _causes(self) -> dict[str, Cause]:
        """Each fault's begin and end; an end returns when the consequences are over, so that runs are alike."""
        causes: dict[str, Cause] = {
            "away": (self._receiver.stop, self._receiver.start),
            "cut": (self._cut, self._mend),
            "slow": (self.hand.close, self._catch_up),
        }
        for kind, (begin, end) in server_faults(self.server).items():
            causes[kind] = (
                _then(begin, self._all_lines_down) if kind == "kill" else begin,
                _then(end, self._all_lines_up),
            )
        return {kind: (_then(self._hurry, begin), _then(self._relax, end)) for kind, (begin, end) in causes.items()}

    async def _hurry(self) -> None:
        """While a fault lasts, a confirmation that does not come soon does not come."""
        if isinstance(self._sender, AckedPublisher):
            self._sender.ack_timeout_s = HURRY_S

    async def _relax(self) -> None:
        if isinstance(self._sender, AckedPublisher):
            self._sender.ack_timeout_s = PATIENCE_S

    async def _cut(self) -> None:
        await self.line.close()
        await cut_connections(self.server.url, "bob")
        await until(lambda: self.bob.open_connections == 0, "cutting bob's connections")

    async def _mend(self) -> None:
        self.line.open()
        await self._all_lines_up()

    async def _catch_up(self) -> None:
        self.hand.open()
        await until(self._bob_listens, "bob's return")
        await self._all_lines_up()

    async def _bob_listens(self) -> bool:
        return await self.alice.subscriber_count(CHANNEL) > 0

    async def _all_lines_down(self) -> None:
        await until(lambda: self.alice.open_connections + self.bob.open_connections == 0, "the end of the connections")

    async def _all_lines_up(self) -> None:
        await until(lambda: self.alice.is_connected and self.bob.is_connected, "the return of the connections")
        await self.settle()


def _then(first: Callable[[], Awaitable[None]], second: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
    async def both() -> None:
        await first()
        await second()

    return both
