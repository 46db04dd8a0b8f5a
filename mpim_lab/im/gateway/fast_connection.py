"""FastServerConnection: a gateway's WebSocket with a fast path for the usual frame.

It is parsed, unmasked and handled in one go.

The library parses a frame in a generator, queues it and wakes the task that reads the connection.
That is right for every frame there is, and most of what a message costs a gateway. Nearly all
frames of clients are of one kind: text, whole, masked, short. Those go to `on_frame` here, as soon
as they are whole. All others go to the library byte by byte as they came: the handshake, control
frames, and from the first frame of another kind on everything. So does a frame that `on_frame` does
not handle; those that come after it wait behind it in the library's queue, so order holds and slow
answers put back-pressure on their client.

Source: RFC 6455, section 5.2.
"""

from collections.abc import Callable, Iterable
from typing import Any

from websockets.asyncio.server import ServerConnection
from websockets.frames import CloseCode, Frame, Opcode
from websockets.protocol import Event, State
from websockets.speedups import apply_mask

from mpim_lab.im.protocol.frames import MAX_FRAME_BYTES

# The first byte: the last fragment, and what it is.
TEXT, BINARY, CLOSE, PING, PONG = 0x81, 0x82, 0x88, 0x89, 0x8A
# The second byte: its first bit, and where a larger size is.
MASKED, TWO_BYTES, EIGHT_BYTES = 0x80, 126, 127


def encode_frame_header(first: int, size: int, mask: int = 0) -> bytes:
    r"""Return the header of a frame of `size` bytes, up to the masking key.

    Mask: MASKED if there is to be one.

    >>> encode_frame_header(TEXT, 5), encode_frame_header(TEXT, 300, MASKED)
    (b'\x81\x05', b'\x81\xfe\x01,')
    """
    if size < TWO_BYTES:
        return bytes((first, mask | size))
    if size < 65_536:
        return bytes((first, mask | TWO_BYTES)) + size.to_bytes(2, "big")
    return bytes((first, mask | EIGHT_BYTES)) + size.to_bytes(8, "big")


_MAX_IDLE_FRAMES = 2_000  # between two maintenance rounds
_CONTROL = frozenset((CLOSE, PING, PONG))
_IDLE = frozenset((Opcode.PING, Opcode.PONG))
_END_OF_REQUEST = b"\r\n\r\n"


class FastServerConnection(ServerConnection):
    """A server connection that handles most frames without a task.

    `on_frame(payload)` handles a client's frame at once, or returns False: then the frame waits for
    `recv`.

    unread_frames: frames in the library's queue that the reading task has not handled yet; it
        counts them down.
    idle_frames: pings, pongs and unfinished fragments, which cost time; maintenance resets it.
    """

    # The library's class keeps a dictionary for each connection, and with six members more it would
    # be twice as large.
    __slots__ = (
        "_fast_path",
        "_handshake_tail",
        "_in_handshake",
        "_partial_frame",
        "idle_frames",
        "on_frame",
        "unread_frames",
    )

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.on_frame: Callable[[bytes], bool] | None = None
        self.unread_frames = self.idle_frames = 0
        # the last bytes of the handshake's request, as far as it has come
        self._handshake_tail = b""
        self._in_handshake = True
        self._fast_path = False
        self._partial_frame = b""  # a frame that is not whole yet

    def data_received(self, data: bytes) -> None:
        """Receive what the client sent."""
        if self._in_handshake:
            self._parse_handshake(data)
        elif self._fast_path:
            self._parse_frames(self._partial_frame + data if self._partial_frame else data)
        else:
            super().data_received(data)

    def _parse_handshake(self, data: bytes) -> None:
        """Pass on the handshake.

        If anything followed its end at once, the library has it, and gets the rest as well.
        """
        super().data_received(data)
        ending = self._handshake_tail + data
        end = ending.find(_END_OF_REQUEST)
        self._in_handshake = end < 0
        self._fast_path = end >= 0 and end + len(_END_OF_REQUEST) == len(ending)
        self._handshake_tail = ending[-3:] if self._in_handshake else b""

    def _parse_frames(self, data: bytes) -> None:
        at, end, on_frame = 0, len(data), self.on_frame
        while end - at >= 2:
            first, size, begin = data[at], data[at + 1] - MASKED, at + 6
            if size >= TWO_BYTES:
                size = int.from_bytes(data[at + 2 : at + 4], "big") if size == TWO_BYTES else -1
                begin = at + 8
            if (
                (first != TEXT and first not in _CONTROL)
                or not 0 <= size <= MAX_FRAME_BYTES
                or self.protocol.state is not State.OPEN
            ):
                return self._fall_back(data[at:])
            stop = begin + size
            if stop > end or begin > end:
                break
            if first != TEXT:
                super().data_received(data[at:stop])
            elif (
                on_frame is None  # not welcome yet
                or self.unread_frames
                or not on_frame(apply_mask(data[begin:stop], data[begin - 4 : begin]))
            ):
                self.unread_frames += 1
                super().data_received(data[at:stop])
            at = stop
        self._partial_frame = data[at:]
        return None

    def _fall_back(self, data: bytes) -> None:
        """Leave everything to the library from now on."""
        self._fast_path, self._partial_frame = False, b""
        super().data_received(data)

    def process_event(self, event: Event) -> None:
        """Count idle frames. Too many of them end the connection, before hello as well."""
        if isinstance(event, Frame) and (event.opcode in _IDLE or not event.fin):
            self.idle_frames += 1
            if self.idle_frames > _MAX_IDLE_FRAMES and self.protocol.state is State.OPEN:
                self.protocol.fail(CloseCode.POLICY_VIOLATION, "too many frames that say nothing")
                self.send_data()
                self._fall_back(b"")
        super().process_event(event)

    def write(self, frames: Iterable[bytes], kind: int = TEXT) -> None:
        """Write frames of a kind, all at once; nothing if the connection is closing.

        Never waits: the caller has limits.
        """
        if self.protocol.state is State.OPEN and not self.transport.is_closing():
            parts: list[bytes] = []
            for frame in frames:
                parts += encode_frame_header(kind, len(frame)), frame
            self.transport.write(b"".join(parts))
