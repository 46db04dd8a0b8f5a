r"""Frames: what a payload looks like on the wire once it is compressed or holds several messages.

The one place that says so.

A payload whose first byte is below 0xF8 is plain: exactly what the sender gave. UTF-8 text, and so
JSON, never begins with a higher byte, so that a plain client (`redis-cli SUBSCRIBE user:1001`)
reads a plain message as it is. The eight bytes from 0xF8 on are type bytes:

| first byte | what follows                                               | made by             |
|------------|------------------------------------------------------------|---------------------|
| `F8`       | a plain payload whose own first byte is such               | everybody           |
| `F9`       | a zlib stream (RFC 1950)                                   | `compression.Codec` |
| `FA`       | an LZ4 frame                                               | `compression.Codec` |
| `FB`       | a Zstandard frame (RFC 8878) without its magic number      | `compression.Codec` |
| `FC`       | the same, made with a dictionary, which the frame names by | `compression.Codec` |
|            | number                                                     |                     |
| `FD`       | a batch: see below                                         | `batching.Batcher`  |
| `FE`, `FF` | nothing: kept for later                                    |                     |

A batch, numbers unsigned and big-endian:

| offset | bytes   | content                                                                       |
|--------|---------|-------------------------------------------------------------------------------|
| 0      | 1       | `FD`                                                                          |
| 1      | 1       | n, the length of the channel for confirmations; 0: none are wanted            |
| 2      | 8       | the batch's number, counted by its sender from 1 (it counts only if n > 0)    |
| 10     | 4       | m, how many messages                                                          |
| 14     | n       | the channel on which the receiver publishes the numbers of batches it took in |
| 14+n   | 4 × m   | the length of each message                                                    |
| …      | the sum | the messages, one after another; each is plain whatever its first byte        |

A confirmation is 16 bytes: 8 that name the receiver, and the number of the last batch that it took
in.

A Zstandard frame must state its content's size (one-shot compressors do), so that a receiver can
refuse it unread.

Compressing comes last: what is inside F9 to FC is a plain payload or a whole batch, never
compressed again.
"""

import struct
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

from mpim_lab.errors import CorruptPayload, UnknownFormat

FIRST_TYPE_BYTE = 0xF8
PLAIN, ZLIB, LZ4, ZSTD, ZSTD_DICTIONARY, BATCH = range(FIRST_TYPE_BYTE, 0xFE)
MAX_MESSAGES = 65_536
_HEAD = struct.Struct(">BBQI")
_CONFIRMATION = struct.Struct(">8sQ")
MAX_CHANNEL_BYTES = 255  # of the channel for confirmations: its length is one byte
# how much longer than its one message a batch is at most
OVERHEAD_BYTES = _HEAD.size + MAX_CHANNEL_BYTES + 4
_PLAIN_MARK = bytes([PLAIN])


class Batch(NamedTuple):
    """What one batch holds; `confirm_to` is empty when its sender wants no confirmation."""

    messages: list[bytes]
    confirm_to: bytes = b""
    number: int = 0


def frame_type(payload: bytes) -> int | None:
    r"""Return the type byte a payload begins with, None for a plain one.

    >>> frame_type("你好".encode()), frame_type(b""), frame_type(b"\xfd...") == BATCH
    (None, None, True)
    """
    return payload[0] if payload and payload[0] >= FIRST_TYPE_BYTE else None


def encode_plain(payload: bytes) -> bytes:
    r"""A payload as it travels when nothing is done to it.

    Itself, or behind F8 if it could be taken for a frame.

    >>> encode_plain(b"hello"), encode_plain(b"\xfb\x00")
    (b'hello', b'\xf8\xfb\x00')
    """
    return payload if frame_type(payload) is None else _PLAIN_MARK + payload


def encode_batch(messages: Sequence[bytes], confirm_to: bytes = b"", number: int = 0) -> bytes:
    """Put messages into one frame. `confirm_to` has at most MAX_CHANNEL_BYTES.

    >>> frame = encode_batch([b"hi", b"there"])
    >>> len(frame), decode_batch(frame).messages
    (29, [b'hi', b'there'])
    """
    head = _HEAD.pack(BATCH, len(confirm_to), number, len(messages))
    lengths = struct.pack(f">{len(messages)}I", *map(len, messages))
    return b"".join((head, confirm_to, lengths, *messages))


def decode_batch(frame: bytes) -> Batch:
    r"""Read a batch. Raises CorruptPayload for anything that `encode_batch` could not have made.

    >>> decode_batch(b"\xfd\x00")
    Traceback (most recent call last):
    mpim_lab.errors.CorruptPayload: a batch of 2 bytes is shorter than its head of 14
    """
    if len(frame) < _HEAD.size:
        raise CorruptPayload(
            f"a batch of {len(frame)} bytes is shorter than its head of {_HEAD.size}"
        )
    mark, name_bytes, number, count = _HEAD.unpack_from(frame)
    if mark != BATCH:
        raise CorruptPayload(f"a batch begins with FD, not {mark:02X}")
    start = _HEAD.size + name_bytes
    body = start + 4 * count
    if count > MAX_MESSAGES or len(frame) < body:
        raise CorruptPayload(f"a batch of {len(frame):,} bytes cannot hold {count:,} messages")
    lengths = struct.unpack_from(f">{count}I", frame, start)
    if body + sum(lengths) != len(frame):
        raise CorruptPayload(
            f"the messages have {sum(lengths):,} bytes by their lengths, and "
            f"{len(frame) - body:,} came"
        )
    messages = [frame[begin:end] for begin, end in pairwise(accumulate(lengths, initial=body))]
    return Batch(messages, frame[_HEAD.size : start], number)


def encode_ack(receiver: bytes, number: int) -> bytes:
    """Encode the acknowledgement of a receiver, named by 8 bytes, of all up to `number`."""
    return _CONFIRMATION.pack(receiver, number)


def decode_ack(payload: bytes) -> tuple[bytes, int]:
    """Read a confirmation: the receiver and the number. Raises CorruptPayload.

    >>> decode_ack(encode_ack(b"receiver", 7))
    (b'receiver', 7)
    """
    if len(payload) != _CONFIRMATION.size:
        raise CorruptPayload(f"a confirmation has {_CONFIRMATION.size} bytes, not {len(payload)}")
    receiver, number = _CONFIRMATION.unpack(payload)
    return receiver, number


def decode_messages(payload: bytes) -> list[bytes]:
    r"""The messages in a payload that is not compressed: one, or a batch of them.

    Raises CorruptPayload, and UnknownFormat for a compressed payload, which a `compression.Codec`
    can read.

    >>> batch = encode_batch([b"a", b"b"])
    >>> decode_messages(b"hello"), decode_messages(b"\xf8\xfb\x00"), decode_messages(batch)
    ([b'hello'], [b'\xfb\x00'], [b'a', b'b'])
    """
    mark = frame_type(payload)
    if mark is None:
        return [payload]
    if mark == PLAIN:
        return [payload[1:]]
    if mark == BATCH:
        return decode_batch(payload).messages
    raise UnknownFormat(
        f"the payload begins with {mark:02X}: it is compressed, or from a newer sender"
    )
