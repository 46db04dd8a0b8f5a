"""Reference solutions of chapter 6's challenges, and others that are right in their own way."""

import lzma
import zlib
from typing import Any

PLAIN, PACKED = b"\xf8", b"\xf9"  # type bytes that no UTF-8 text begins with
MIN_BYTES = 50  # shorter text hardly ever gets shorter


class SelfDescribingCodec:
    """The solution of `say_what_it_is`: a type byte in front, where it is needed."""

    def pack(self, payload: bytes) -> bytes:
        """Compress where it pays; text that is short stays as it is."""
        # What begins with a type byte would be taken for one: it gets one that says "plain".
        framed = PLAIN + payload if payload[:1] in (PLAIN, PACKED) else payload
        packed = PACKED + zlib.compress(framed) if len(framed) > MIN_BYTES else framed
        return packed if len(packed) < len(framed) else framed

    def unpack(self, packed: bytes) -> bytes:
        """Undo `pack`; the first byte says how."""
        framed = zlib.decompress(packed[1:]) if packed[:1] == PACKED else packed
        return framed[1:] if framed[:1] == PLAIN else framed


class OneTypeByte:
    """Right in another style: one type byte, and a second byte behind it that says which of two.

    What is packed has two bytes more than needed, and there is room for other algorithms.
    """

    TYPE, DEFLATE = b"\xff", b"\x01"

    def pack(self, payload: bytes) -> bytes:
        """Compress without zlib's head and checksum; escape what begins with the type byte."""
        packer = zlib.compressobj(9, wbits=-15)
        packed = self.TYPE + self.DEFLATE + packer.compress(payload) + packer.flush()
        if len(packed) < len(payload):
            return packed
        return self.TYPE + payload if payload.startswith(self.TYPE) else payload

    def unpack(self, packed: bytes) -> bytes:
        """Look at one byte, and at the next one only behind it. A plain FF comes twice."""
        if not packed.startswith(self.TYPE):
            return packed
        if packed[1:2] == self.DEFLATE:
            return zlib.decompress(packed[2:], wbits=-15)
        return packed[1:]


class XzWhereItPays:
    """Right in another style: xz, whose frames begin with FD; FE escapes."""

    def pack(self, payload: bytes) -> bytes:
        """Compress what is long."""
        packed = lzma.compress(payload) if len(payload) >= 200 else payload
        if len(packed) < len(payload):
            return packed
        return b"\xfe" + payload if payload[:1] in (b"\xfd", b"\xfe") else payload

    def unpack(self, packed: bytes) -> bytes:
        """Look at the first byte."""
        if packed[:1] == b"\xfd":
            return lzma.decompress(packed)
        return packed[1:] if packed[:1] == b"\xfe" else packed


class BoundedUnpacker:
    """The solution of `defuse_the_bomb`: ask for one byte more than is allowed, and for the end."""

    def unpack(self, packed: bytes, max_bytes: int) -> bytes:
        """Decompress up to `max_bytes`.

        Raise ValueError for more, for a part, and for what follows the end.
        """
        stream = zlib.decompressobj()
        out = stream.decompress(packed, max_bytes + 1)
        if len(out) > max_bytes or not stream.eof or stream.unused_data:
            raise ValueError("too large, cut off, or followed by other bytes")
        return out


class ChunkedUnpacker:
    """Right in another style: a kibibyte at a time, counted.

    It needs no more memory for a small payload with a large limit, and it is slower.
    """

    def unpack(self, packed: bytes, max_bytes: int) -> bytes:
        """Decompress in small steps until the end of the stream; all input must be used."""
        stream, out, left = zlib.decompressobj(), bytearray(), packed
        while not stream.eof:
            chunk = stream.decompress(left, 1024)
            out += chunk
            if len(out) > max_bytes:
                raise OverflowError(f"more than {max_bytes} bytes")
            left = stream.unconsumed_tail
            if not chunk and not left and not stream.eof:
                raise EOFError("cut off")
        if stream.unused_data:
            raise ValueError("followed by other bytes")
        return bytes(out)


SOLUTIONS: dict[str, type[Any]] = {
    "say_what_it_is": SelfDescribingCodec,
    "defuse_the_bomb": BoundedUnpacker,
}
ALTERNATIVES: dict[str, tuple[type[Any], ...]] = {
    "say_what_it_is": (OneTypeByte, XzWhereItPays),
    "defuse_the_bomb": (ChunkedUnpacker,),
}
