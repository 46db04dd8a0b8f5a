"""Frames: as much of WebSocket as a load needs, as cheap as it can be.

A load shares the machine with the gateway that it measures, so a frame must cost it next to
nothing: the codec of a kept library, made for hostile peers, takes several times as long. What a
gateway of the bench does not send (fragments, frames above a mebibyte) is refused. The masking key
is zero: it is there, as the protocol wants it, and masks nothing, for between the two ends there is
no proxy to be protected.

Source: RFC 6455, sections 4 and 5.
"""

from websockets.utils import accept_key, generate_key

from mpim_lab.errors import CorruptPayload
from mpim_lab.im.gateway.fast_connection import MASKED, TEXT, encode_frame_header

MAX_BYTES = 1024 * 1024
MAX_HEAD_BYTES = 16 * 1024
_NO_MASK = bytes(4)


def masked(payload: bytes, first: int = TEXT) -> bytes:
    r"""A frame from a client.

    >>> masked(b"hi")
    b'\x81\x82\x00\x00\x00\x00hi'
    """
    return encode_frame_header(first, len(payload), MASKED) + _NO_MASK + payload


class FrameReader:
    r"""Cut what arrives into frames; a frame is its first byte and its payload.

    Raises CorruptPayload.

    >>> reader = FrameReader()
    >>> reader.feed(b"\x81\x02hi\x89")
    [(129, b'hi')]
    >>> reader.feed(b"\x00")
    [(137, b'')]
    """

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Take bytes, give the frames that are whole now."""
        if self._rest:
            data = self._rest + data
        frames: list[tuple[int, bytes]] = []
        at, end = 0, len(data)
        while end - at >= 2:
            size, begin = data[at + 1], at + 2
            if size > 125:
                width = 2 if size == 126 else 8
                if size > 127 or end - begin < width:
                    break
                size, begin = int.from_bytes(data[begin : begin + width], "big"), begin + width
            if begin + size > end:
                break
            frames.append((data[at], data[begin : begin + size]))
            at = begin + size
        self._rest = data[at:]
        if self._rest:
            self._check()
        return frames

    def _check(self) -> None:
        """Refuse the beginning of what would never be a frame, or of one too large to wait for."""
        first, size = self._rest[0], self._rest[1] if len(self._rest) > 1 else 0
        if not first & 0x80 or size & MASKED or len(self._rest) > MAX_BYTES:
            raise CorruptPayload(f"not a frame that a gateway sends: {self._rest[:20]!r}")


class Handshake:
    """The request that opens a WebSocket, and the check of its answer."""

    __slots__ = ("_head", "_key", "request")

    def __init__(self, host: str, path: str) -> None:
        self._key, self._head = generate_key(), b""
        lines = [
            f"GET {path} HTTP/1.1",
            f"Host: {host}",
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            f"Sec-WebSocket-Key: {self._key}",
        ]
        self.request = "\r\n".join([*lines, "", ""]).encode()

    def feed(self, data: bytes) -> bytes | None:
        """Take bytes; give what follows the answer, None as long as it is not whole.

        Raises CorruptPayload.
        """
        self._head += data
        head, end, rest = self._head.partition(b"\r\n\r\n")
        if not end:
            if len(head) > MAX_HEAD_BYTES:
                raise CorruptPayload("the answer to the handshake does not end")
            return None
        status, *lines = head.decode("latin-1").split("\r\n")
        headers = {
            name.strip().lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines)
        }
        if " 101 " not in f"{status} " or headers.get("sec-websocket-accept") != accept_key(
            self._key
        ):
            raise CorruptPayload(f"the gateway refused the connection: {status}")
        return rest
