"""Reference solutions of chapter 6's challenges."""

import zlib
from typing import Any

PLAIN, PACKED = b"\xf8", b"\xf9"  # type bytes that no UTF-8 text begins with


class SelfDescribingCodec:
    """The solution of `say_what_it_is`: a type byte in front, where it is needed."""

    def pack(self, payload: bytes) -> bytes:
        """Compress where it pays; text that is short stays as it is."""
        framed = PLAIN + payload if payload[:1] in (PLAIN, PACKED) else payload
        packed = PACKED + zlib.compress(framed) if len(framed) > 50 else framed
        return packed if len(packed) < len(framed) else framed

    def unpack(self, packed: bytes) -> bytes:
        """Undo `pack`; the first byte says how."""
        framed = zlib.decompress(packed[1:]) if packed[:1] == PACKED else packed
        return framed[1:] if framed[:1] == PLAIN else framed


class BoundedUnpacker:
    """The solution of `defuse_the_bomb`: ask zlib for one byte more than is allowed."""

    def unpack(self, packed: bytes, max_bytes: int) -> bytes:
        """Decompress up to `max_bytes`.

        Raise ValueError for more, for a part, and for what follows the end.
        """
        stream = zlib.decompressobj()
        out = stream.decompress(packed, max_bytes + 1)
        if len(out) > max_bytes or not stream.eof or stream.unused_data:
            raise ValueError("too large, cut off, or followed by other bytes")
        return out


SOLUTIONS: dict[str, type[Any]] = {
    "say_what_it_is": SelfDescribingCodec,
    "defuse_the_bomb": BoundedUnpacker,
}
