"""The naive version of chapter 6: compress everything with zlib, decompress everything.

The correct one: `mq.compression`.

Flaws kept on purpose:

- a short chat message grows: zlib's head and checksum alone are 6 bytes, and a line has no repeats
  within itself;
- no mark says whether a payload is compressed, so a plain sender beside a compressing one cannot be
  read;
- nothing limits what comes out: a few kilobytes from a hostile sender become gigabytes in the
receiver's memory.
"""

import zlib


class NaiveCodec:
    """Compress as most candidates would write it."""

    def encode(self, payload: bytes) -> bytes:
        """Compress."""
        return zlib.compress(payload)

    def decode(self, payload: bytes) -> bytes:
        """Decompress. Raises zlib.error for whatever is not compressed."""
        return zlib.decompress(payload)
