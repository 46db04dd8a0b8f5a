"""Client: one WebSocket connection of a crowd."""

import asyncio
from collections.abc import Callable
from typing import cast

from mpim_lab.errors import CorruptPayload, LoadFailed
from mpim_lab.im.gateway.fast_connection import BINARY, CLOSE, PING, PONG, TEXT
from mpim_lab.load.gateway.client_protocol import ClientProtocol, FrameKind, ReceivedEvent
from mpim_lab.load.gateway.frames import FrameReader, Handshake, masked


class Client(asyncio.Protocol):
    """Say and hear. `on_failed(why)`: this client was cut off, or was told that something was not done. `on_heard(client)`:
    it may have something to say by and by, with `say_due`.

    `on_pushed`, `on_notice` and `on_answer` are for whoever counts or asks just now; `ready` until it is connected.
    """

    __slots__ = (
        "_handshake",
        "_on_failed",
        "_on_heard",
        "_reader",
        "_transport",
        "on_answer",
        "on_notice",
        "on_pushed",
        "ready",
        "speech",
    )

    def __init__(
        self, speech: ClientProtocol, host: str, on_failed: Callable[[str], None], on_heard: Callable[["Client"], None]
    ) -> None:
        self.speech, self._on_failed, self._on_heard = speech, on_failed, on_heard
        self._handshake: Handshake | None = Handshake(host, speech.path, speech.subprotocols)
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
        """Hear what arrived; a server that cannot be understood is left."""
        try:
            if self._handshake is not None:
                rest = self._handshake.feed(data)
                if rest is None:
                    return
                self._handshake = None
                if opening := self.speech.opening():
                    self.tell(opening)
                data = rest
            for first, payload in self._reader.feed(data):
                self._hear(first, payload)
        except CorruptPayload as error:
            self._fail(str(error))

    def _hear(self, first: int, payload: bytes) -> None:
        if first == TEXT:
            for heard in self.speech.hear(payload):
                self._take(heard)
        elif first == BINARY:
            for frame in self.speech.unpacked(payload):
                self._hear(TEXT, frame)
        elif first == PING:
            assert self._transport is not None
            self._transport.write(masked(payload, PONG))
        elif first == CLOSE:
            self._fail(
                f"the gateway closed the connection: {payload[2:].decode(errors='replace') or payload[:2].hex()}"
            )
        elif first != PONG:
            raise CorruptPayload(f"not a frame that was asked for: {first:#x}")

    def _take(self, heard: ReceivedEvent) -> None:
        what, text, reply = heard
        if reply:
            self.tell(reply)
        if what is FrameKind.PUSHED:
            self.on_pushed(text)
            self._on_heard(self)
        elif what is FrameKind.ANSWERED:
            self.on_answer()
        elif what is FrameKind.NOTICE:
            self.on_notice(text)
        elif what is FrameKind.READY:
            if self.ready is not None and not self.ready.done():
                self.ready.set_result(None)
        elif what is FrameKind.FAILED:
            self._fail(text)

    def tell(self, frame: bytes) -> None:
        """Send one frame; whoever is not connected any more has told that by `on_failed`."""
        if self._transport is not None:
            self._transport.write(masked(frame))

    def say_due(self) -> None:
        """Say what was gathered."""
        for frame in self.speech.due():
            self.tell(frame)

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
