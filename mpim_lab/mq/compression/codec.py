"""Codec: fewer bytes, when it pays. What a compressed payload looks like is in `framing.py`.

The encoder chooses the algorithm; the decoder reads the type byte and needs no setting, so that old
and new senders can be side by side. Below a threshold, and whenever the result would not be
shorter, a payload stays plain.

A few kilobytes may unpack to gigabytes (a bomb). The limit is therefore checked while unpacking,
and a size that a frame claims is never believed: at most `max_bytes` are made of any payload.

A byte changed on the way is noticed by zlib, which has a checksum. LZ4 and Zstandard are made
without one, as a plain payload
is: it would be 4 bytes of a message of 30. TCP and TLS have theirs; whoever stores payloads for
    long adds one.

Sources: RFC 1950 (zlib), RFC 8878 (Zstandard),
https://github.com/lz4/lz4/blob/dev/doc/lz4_Frame_format.md
"""

import zlib
from collections.abc import Callable, Sequence
from enum import StrEnum

import lz4.frame
import zstandard

from mpim_lab.errors import CorruptPayload, InvalidMessage, InvalidParameter, UnknownFormat
from mpim_lab.mq.compression.decompress import decompress_lz4, decompress_zlib, decompress_zstd
from mpim_lab.mq.compression.dictionary import ZstdDictionary
from mpim_lab.mq.compression.framing import (
    BATCH,
    LZ4,
    PLAIN,
    ZLIB,
    ZSTD,
    ZSTD_DICTIONARY,
    encode_plain,
    frame_type,
)
from mpim_lab.mq.connection.bounds import MAX_INT, check_bounds


class Algorithm(StrEnum):
    """The algorithm that a codec encodes with."""

    NONE = "none"
    ZLIB = "zlib"
    LZ4 = "lz4"
    ZSTD = "zstd"
    ZSTD_DICTIONARY = "zstd-dictionary"


# level if none is given, the payload's length from which on trying pays, mark. Measured on chat
# lines (chapter 6): below its threshold an algorithm almost never wins a byte, and the attempt
# costs a microsecond or more.
_SETTINGS: dict[Algorithm, tuple[int, int, int]] = {
    Algorithm.NONE: (0, 1 << 62, PLAIN),
    Algorithm.ZLIB: (6, 96, ZLIB),
    Algorithm.LZ4: (0, 96, LZ4),
    Algorithm.ZSTD: (3, 96, ZSTD),
    Algorithm.ZSTD_DICTIONARY: (3, 24, ZSTD_DICTIONARY),
}


class Codec:
    """A codec that encodes with one algorithm and decodes them all.

    For the tasks of one event loop, not for several threads.

    Args:
        algorithm: With which one it encodes.
        level: The algorithm's own; None chooses.
        threshold_bytes: Shorter payloads stay plain; None chooses.
        max_bytes: No payload is decoded to more.
        dictionaries: The first one encodes, all of them decode, so that a new one can be brought in
            while others still use the old.

    Raises:
        InvalidParameter: An option is out of bounds.

        >>> codec = Codec("zlib", threshold_bytes=20)
        >>> packed = codec.encode(b"see you at eight! " * 5)
        >>> len(packed), codec.decode(packed) == b"see you at eight! " * 5, codec.encode(b"hi")
        (30, True, b'hi')
    """

    def __init__(
        self,
        algorithm: Algorithm | str = Algorithm.ZSTD,
        *,
        level: int | None = None,
        threshold_bytes: int | None = None,
        max_bytes: int = 1024 * 1024,
        dictionaries: Sequence[ZstdDictionary] = (),
    ) -> None:
        if algorithm not in list(Algorithm):
            raise InvalidParameter(
                f"algorithm={algorithm!r}: must be one of {', '.join(Algorithm)}"
            )
        check_bounds(1, MAX_INT, max_bytes=max_bytes)
        check_bounds(0, MAX_INT, threshold_bytes=0 if threshold_bytes is None else threshold_bytes)
        self.algorithm, self.max_bytes = Algorithm(algorithm), max_bytes
        self.dictionaries = _by_id(dictionaries)
        usual_level, usual_threshold, mark = _SETTINGS[self.algorithm]
        self.level = usual_level if level is None else level
        self.threshold_bytes = usual_threshold if threshold_bytes is None else threshold_bytes
        self._type_byte = bytes([mark])
        self._compress = _make_compressor(self.algorithm, self.level, dictionaries)
        self._decompressors = {
            number: _decompressor(each) for number, each in self.dictionaries.items()
        }
        self._decompressors[0] = _decompressor(None)

    # Encoding

    def encode(self, payload: bytes) -> bytes:
        """Encode a payload as it is to travel: compressed if that makes it shorter, else plain.

        Args:
            payload: The payload, in bytes.

        Returns:
            What is sent.

        Raises:
            InvalidMessage: It is not bytes, or too large.
        """
        if type(payload) is not bytes:
            raise InvalidMessage(f"a payload to pack is bytes, not {type(payload).__name__}")
        return self.compress(encode_plain(payload))

    def compress(self, framed: bytes) -> bytes:
        """Compress what is in its form already: what `framing.encode_plain` made, or a batch.

        Args:
            framed: The framed payload.

        Returns:
            The compressed payload, or the same where that is not shorter.

        Raises:
            InvalidMessage: It is larger than a receiver would take.
        """
        if len(framed) < self.threshold_bytes:
            return framed
        if len(framed) > self.max_bytes:
            raise InvalidMessage(
                f"{len(framed):,} bytes to compress; a receiver would refuse more than "
                f"{self.max_bytes:,}"
            )
        packed = self.compress_raw(framed)
        return packed if len(packed) < len(framed) else framed

    def compress_raw(self, framed: bytes) -> bytes:
        """Compress whatever comes of it, even if it grows: to see where the threshold belongs."""
        return self._type_byte + self._compress(framed)

    # Decoding

    def decode(self, payload: bytes) -> bytes:
        """Return the payload that was encoded.

        Args:
            payload: What was received.

        Returns:
            The payload.

        Raises:
            CorruptPayload: It is damaged.
            OversizedPayload: It would have more than `max_bytes`.
            UnknownFormat: It is a batch, or made by a newer program.
        """
        framed = self.decompress(payload)
        mark = frame_type(framed)
        if mark == BATCH:
            raise UnknownFormat("the payload is a batch of messages: a `FrameDecoder` gives them")
        return framed[1:] if mark == PLAIN else framed

    def decompress(self, payload: bytes) -> bytes:
        """Decompress, and leave what is inside in its form: plain, behind F8, or a batch.

        Args:
            payload: What was received.

        Returns:
            The framed payload.
        """
        mark = frame_type(payload)
        if mark is None or mark in (PLAIN, BATCH):
            return payload
        body = memoryview(payload)[1:]  # no copy of what may be large
        if mark == ZLIB:
            framed = decompress_zlib(body, self.max_bytes)
        elif mark == LZ4:
            framed = decompress_lz4(body, self.max_bytes)
        elif mark in (ZSTD, ZSTD_DICTIONARY):
            framed = decompress_zstd(body, self.max_bytes, self._decompressors)
        else:
            raise UnknownFormat(
                f"the payload begins with {mark:02X}, which this version does not know"
            )
        if (inner := frame_type(framed)) is not None and inner not in (PLAIN, BATCH):
            raise CorruptPayload(
                f"a compressed payload holds one that begins with {inner:02X}: never compressed "
                "twice"
            )
        return framed


def _by_id(dictionaries: Sequence[ZstdDictionary]) -> dict[int, ZstdDictionary]:
    known: dict[int, ZstdDictionary] = {}
    for each in dictionaries:
        if known.setdefault(each.id, each).content != each.content:
            raise InvalidParameter(
                f"two dictionaries have the number {each.id}: a frame could mean either"
            )
    return known


def _make_compressor(
    algorithm: Algorithm, level: int, dictionaries: Sequence[ZstdDictionary]
) -> Callable[[bytes], bytes]:
    """What compresses; made once. Raises InvalidParameter."""
    if algorithm is Algorithm.ZSTD_DICTIONARY and not dictionaries:
        raise InvalidParameter(f"{algorithm} needs at least one dictionary")
    try:
        if algorithm is Algorithm.ZLIB:
            zlib.compress(b"", level)
            return lambda data: zlib.compress(data, level)
        if algorithm is Algorithm.LZ4:
            _check_level(level, lz4.frame.COMPRESSIONLEVEL_MAX)
            return lambda data: lz4.frame.compress(data, compression_level=level, store_size=False)
        if algorithm in (Algorithm.ZSTD, Algorithm.ZSTD_DICTIONARY):
            with_one = algorithm is Algorithm.ZSTD_DICTIONARY
            return _compressor(level, dictionaries[0] if with_one else None).compress
    except (zlib.error, ValueError, TypeError, OverflowError, zstandard.ZstdError) as error:
        raise InvalidParameter(f"level={level!r} is not one of {algorithm}: {error}") from error
    return lambda data: data


def _check_level(level: int, highest: int) -> None:
    if (
        type(level) is not int or not -100 <= level <= highest
    ):  # the library would take the nearest one, silently
        raise ValueError(f"a whole number from -100 to {highest}")


def _compressor(level: int, dictionary: ZstdDictionary | None) -> zstandard.ZstdCompressor:
    """No magic number, as the mark says what it is, and no checksum, as TCP has one.

    8 bytes of a short message.
    """
    _check_level(level, zstandard.MAX_COMPRESSION_LEVEL)
    parameters = zstandard.ZstdCompressionParameters.from_level(
        level,
        format=zstandard.FORMAT_ZSTD1_MAGICLESS,
        write_content_size=True,
        write_checksum=False,
        write_dict_id=True,
    )
    prepared = None if dictionary is None else dictionary.prepared
    return zstandard.ZstdCompressor(compression_params=parameters, dict_data=prepared)


def _decompressor(dictionary: ZstdDictionary | None) -> zstandard.ZstdDecompressor:
    prepared = None if dictionary is None else dictionary.prepared
    return zstandard.ZstdDecompressor(dict_data=prepared, format=zstandard.FORMAT_ZSTD1_MAGICLESS)
