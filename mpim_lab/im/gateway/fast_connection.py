"""QuickConnection: a gateway's WebSocket, on which the usual frame is cut, unmasked and answered in one go.

The library parses a frame in a generator, queues it and wakes the task that reads the connection. That is right for every
frame there is, and most of what a message costs a gateway. Nearly all frames of clients are of one kind: text, whole, masked,
short. Those are handed to `on_frame` here, as soon as they are whole. All others go to the library byte by byte as they came:
the handshake, control frames, and from the first frame of another kind on everything. So does a frame that `on_frame` does
not take; those that come after it wait behind it in the library's queue, so order holds and slow answers hold their client
back.

Source: RFC 6455, section 5.2.

What a WebSocket frame begins with: RFC 6455, section 5.2.
"""

from collections.abc import Callable, Iterable
from typing import Any

from websockets.asyncio.server import ServerConnection
from websockets.frames import CloseCode, Frame, Opcode
from websockets.protocol import Event, State
from websockets.speedups import apply_mask

from mpim_lab.im.protocol.frames import MAX_FRAME_BYTES

TEXT, BINARY, CLOSE, PING, PONG = 0x81, 0x82, 0x88, 0x89, 0x8A  # the first byte: the last fragment, and what it is
MASKED, TWO_BYTES, EIGHT_BYTES = 0x80, 126, 127  # the second byte: its first bit, and where a larger size is


def frame_head(first: int, size: int, mask: int = 0) -> bytes:
    r"""The head of a frame of so many bytes, up to the masking key; mask: MASKED if there is to be one.

    >>> frame_head(TEXT, 5), frame_head(TEXT, 300, MASKED)
    (b'\x81\x05', b'\x81\xfe\x01,')
    """
    if size < TWO_BYTES:
        return bytes((first, mask | size))
    if size < 65_536:
        return bytes((first, mask | TWO_BYTES)) + size.to_bytes(2, "big")
    return bytes((first, mask | EIGHT_BYTES)) + size.to_bytes(8, "big")


_MOST_IDLE_FRAMES = 2_000  # between two looks of the patrol
_CONTROL = frozenset((CLOSE, PING, PONG))
_IDLE = frozenset((Opcode.PING, Opcode.PONG))
_END_OF_REQUEST = b"\r\n\r\n"


class QuickConnection(ServerConnection):
    """`on_frame(payload)` answers a client's frame at once, or gives False: then it waits for `recv`.

    waiting: how many frames the library was given and whoever reads them has not answered; it is counted down by him.
    idle_frames: pings, pongs and unfinished fragments, which ask for nothing and cost time; the patrol sets it back.
    """

    # The library's class keeps a dictionary for each connection, and with six members more it would be twice as large.
    __slots__ = ("_is_quick", "_is_requesting", "_request_end", "_rest", "idle_frames", "on_frame", "waiting")

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.on_frame: Callable[[bytes], bool] | None = None
        self.waiting = self.idle_frames = 0
        self._request_end = b""  # the last bytes of the handshake's request, as far as it has come
        self._is_requesting = True
        self._is_quick = False
        self._rest = b""  # a frame that is not whole yet

    def data_received(self, data: bytes) -> None:
        """Take in what the client sent."""
        if self._is_requesting:
            self._request(data)
        elif self._is_quick:
            self._cut(self._rest + data if self._rest else data)
        else:
            super().data_received(data)

    def _request(self, data: bytes) -> None:
        """The handshake. If anything followed its end at once, the library has it already, and gets the rest as well."""
        super().data_received(data)
        ending = self._request_end + data
        end = ending.find(_END_OF_REQUEST)
        self._is_requesting = end < 0
        self._is_quick = end >= 0 and end + len(_END_OF_REQUEST) == len(ending)
        self._request_end = ending[-3:] if self._is_requesting else b""

    def _cut(self, data: bytes) -> None:
        at, end, is_answered = 0, len(data), self.on_frame or _never
        while end - at >= 2:
            first, size, begin = data[at], data[at + 1] - MASKED, at + 6
            if size >= TWO_BYTES:
                size, begin = int.from_bytes(data[at + 2 : at + 4], "big") if size == TWO_BYTES else -1, at + 8
            if (first != TEXT and first not in _CONTROL) or not 0 <= size <= MAX_FRAME_BYTES or not self._is_open():
                return self._give_up(data[at:])
            stop = begin + size
            if stop > end or begin > end:
                break
            if first != TEXT:
                super().data_received(data[at:stop])
            elif self.waiting or not is_answered(apply_mask(data[begin:stop], data[begin - 4 : begin])):
                self.waiting += 1
                super().data_received(data[at:stop])
            at = stop
        self._rest = data[at:]
        return None

    def _give_up(self, data: bytes) -> None:
        """From now on everything is the library's."""
        self._is_quick, self._rest = False, b""
        super().data_received(data)

    def process_event(self, event: Event) -> None:
        """Take in one frame, or the handshake. Too many frames that say nothing end the connection, before hello as well."""
        if isinstance(event, Frame) and (event.opcode in _IDLE or not event.fin):
            self.idle_frames += 1
            if self.idle_frames > _MOST_IDLE_FRAMES and self._is_open():
                self.protocol.fail(CloseCode.POLICY_VIOLATION, "too many frames that say nothing")
                self.send_data()
                self._give_up(b"")
        super().process_event(event)

    def write(self, frames: Iterable[bytes]) -> None:
        """Write text frames, all at once; nothing if the connection is closing. Never waits: whoever writes sets limits."""
        self._write(b"".join([part for frame in frames for part in (frame_head(TEXT, len(frame)), frame)]))

    def write_batch(self, batch: bytes) -> None:
        """Write one binary frame, likewise."""
        self._write(frame_head(BINARY, len(batch)) + batch)

    def _write(self, raw: bytes) -> None:
        if self._is_open() and not self.transport.is_closing():
            self.transport.write(raw)

    def _is_open(self) -> bool:
        """Neither end has said that it closes."""
        return self.protocol.state is State.OPEN


def _never(payload: bytes) -> bool:
    """Nobody answers at once, before the client is welcome."""
    return False
