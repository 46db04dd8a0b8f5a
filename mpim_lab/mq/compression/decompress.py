"""Bounded decompression: never make more than a limit, whatever the input says or is."""

import zlib
from collections.abc import Callable, Mapping
from typing import Any

import lz4.frame
import zstandard

from mpim_lab.errors import CorruptPayload, OversizedPayload, UnknownFormat

STEP_BYTES = 64 * 1024
_MAGICLESS = zstandard.FORMAT_ZSTD1_MAGICLESS


def decompress_zlib(data: memoryview, max_bytes: int) -> bytes:
    """Undo zlib. Raises CorruptPayload, OversizedPayload."""
    stream = zlib.decompressobj()
    try:
        return _decompress_bounded(
            stream, lambda some, most: stream.decompress(some, most), data, max_bytes, "zlib stream"
        )
    except zlib.error as error:
        raise CorruptPayload(f"no zlib stream: {error}") from error


def decompress_lz4(data: memoryview, max_bytes: int) -> bytes:
    """Undo LZ4. Raises CorruptPayload, OversizedPayload."""
    stream = lz4.frame.LZ4FrameDecompressor()
    try:
        return _decompress_bounded(
            stream,
            lambda some, most: stream.decompress(some, max_length=most),
            data,
            max_bytes,
            "LZ4 frame",
        )
    except (RuntimeError, ValueError, EOFError) as error:
        raise CorruptPayload(f"no LZ4 frame: {error}") from error


def _decompress_bounded(
    stream: Any,
    decompress: Callable[[memoryview, int], bytes],
    data: memoryview,
    max_bytes: int,
    what: str,
) -> bytes:
    """Feed it in steps: a stream that stops at a limit keeps a copy of all its input."""
    parts: list[bytes] = []
    size = position = 0
    while position < len(data) and not stream.eof:
        parts.append(decompress(data[position : position + STEP_BYTES], max_bytes + 1 - size))
        position += STEP_BYTES
        size += len(parts[-1])
        if size > max_bytes:
            raise OversizedPayload(f"the {what} holds more than {max_bytes:,} bytes")
    if not stream.eof:
        raise CorruptPayload(f"the {what} is cut off")
    if stream.unused_data or position < len(data):
        raise CorruptPayload(f"after the {what} come bytes that do not belong to it")
    return parts[0] if len(parts) == 1 else b"".join(parts)


def decompress_zstd(
    data: memoryview, max_bytes: int, decompressors: Mapping[int, zstandard.ZstdDecompressor]
) -> bytes:
    """Undo Zstandard without magic number; `decompressors` by number of dictionary, 0 for none.

    Raises CorruptPayload, OversizedPayload, UnknownFormat.
    """
    try:
        head = zstandard.get_frame_parameters(data, _MAGICLESS)
    except zstandard.ZstdError as error:
        raise CorruptPayload(f"no Zstandard frame: {error}") from error
    if (decompressor := decompressors.get(head.dict_id)) is None:
        raise UnknownFormat(
            f"the payload was packed with dictionary {head.dict_id}, which is not known here"
        )
    size = head.content_size
    if size == zstandard.CONTENTSIZE_UNKNOWN:
        raise CorruptPayload("the Zstandard frame does not say how much it holds; ours must")
    if size > max_bytes:
        raise OversizedPayload(
            f"the Zstandard frame holds {size:,} bytes, more than {max_bytes:,} bytes"
        )
    if size == 0:  # the library would not look at what follows
        raise CorruptPayload("the Zstandard frame says that it is empty; nobody compresses nothing")
    try:
        return decompressor.decompress(data, max_output_size=max_bytes, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise CorruptPayload(f"the Zstandard frame is not what its head says: {error}") from error
