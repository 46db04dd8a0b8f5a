"""Client: one WebSocket connection of a swarm."""

import asyncio
from collections.abc import Callable
from typing import cast

from mpim_lab.errors import CorruptPayload, LoadFailed
from mpim_lab.im.gateway.fast_connection import BINARY, CLOSE, PING, PONG, TEXT
from mpim_lab.load.gateway.client_protocol import ClientProtocol, FrameKind, ReceivedEvent
from mpim_lab.load.gateway.frames import FrameReader, Handshake, masked


class Client(asyncio.Protocol):
    """One WebSocket client.

    `on_failed(why)`: it was cut off, or was answered that something was not done.

    `on_received(client)`: it may have something to send by and by, with `flush_due`.

    `on_pushed`, `on_notice` and `on_answer` are for whoever counts or asks just now; `ready` until
    it is connected.
    """

    __slots__ = (
        "_handshake",
        "_on_failed",
        "_on_received",
        "_reader",
        "_transport",
        "on_answer",
        "on_notice",
        "on_pushed",
        "protocol",
        "ready",
    )

    def __init__(
        self,
        protocol: ClientProtocol,
        host: str,
        on_failed: Callable[[str], None],
        on_received: Callable[["Client"], None],
    ) -> None:
        self.protocol, self._on_failed, self._on_received = protocol, on_failed, on_received
        self._handshake: Handshake | None = Handshake(host, protocol.path)
        self._reader = FrameReader()
        self._transport: asyncio.Transport | None = None
        self.ready: asyncio.Future[None] | None = asyncio.get_running_loop().create_future()
        self.on_answer: Callable[[], None] = _ignore
        self.on_pushed: Callable[[str], None] = _ignore_text
        self.on_notice: Callable[[str], None] = _ignore_text

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for a WebSocket."""
        assert self._handshake is not None
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass
        self._transport.write(self._handshake.request)

    def data_received(self, data: bytes) -> None:
        """Handle what arrived; disconnect from a server that cannot be understood."""
        try:
            if self._handshake is not None:
                rest = self._handshake.feed(data)
                if rest is None:
                    return
                self._handshake = None
                if hello := self.protocol.hello():
                    self.send(hello)
                data = rest
            for first, payload in self._reader.feed(data):
                self._on_frame(first, payload)
        except CorruptPayload as error:
            self._fail(str(error))

    def _on_frame(self, first: int, payload: bytes) -> None:
        if first == TEXT:
            for event in self.protocol.receive(payload):
                self._on_event(event)
        elif first == BINARY:
            for frame in self.protocol.unpack(payload):
                self._on_frame(TEXT, frame)
        elif first == PING:
            assert self._transport is not None
            self._transport.write(masked(payload, PONG))
        elif first == CLOSE:
            why = payload[2:].decode(errors="replace") or payload[:2].hex()
            self._fail(f"the gateway closed the connection: {why}")
        elif first != PONG:
            raise CorruptPayload(f"not a frame that was asked for: {first:#x}")

    def _on_event(self, event: ReceivedEvent) -> None:
        kind, text, reply = event
        if reply:
            self.send(reply)
        if kind is FrameKind.PUSHED:
            self.on_pushed(text)
            self._on_received(self)
        elif kind is FrameKind.ANSWERED:
            self.on_answer()
        elif kind is FrameKind.NOTICE:
            self.on_notice(text)
        elif kind is FrameKind.READY:
            if self.ready is not None and not self.ready.done():
                self.ready.set_result(None)
        elif kind is FrameKind.FAILED:
            self._fail(text)

    def send(self, frame: bytes) -> None:
        """Send one frame; one that is not connected any more has said so by `on_failed`."""
        if self._transport is not None:
            self._transport.write(masked(frame))

    def flush_due(self) -> None:
        """Send what was gathered."""
        for frame in self.protocol.flush():
            self.send(frame)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection ended, and a load never ends one itself."""
        self._transport = None
        self._fail(f"the connection ended: {exc or 'end of file'}")

    def _fail(self, why: str) -> None:
        if self.ready is not None and not self.ready.done():
            self.ready.set_exception(LoadFailed(why))
            self.ready.exception()  # whoever awaits it still gets it
        else:
            self._on_failed(why)


def _ignore() -> None:
    """Nobody asked."""


def _ignore_text(text: str) -> None:
    """Nobody counts."""
