"""Hostile payloads: whatever arrives gives messages or a named error, and no bomb goes off.

Large ones: tests/load.
"""

import random
import zlib
from collections import Counter

import lz4.frame
import pytest
import zstandard

from mpim_lab.errors import (
    CorruptPayload,
    InvalidParameter,
    OversizedPayload,
    UnknownFormat,
    UnreadablePayload,
)
from mpim_lab.mq.compression.codec import Algorithm, Codec
from mpim_lab.mq.compression.dictionary import ZstdDictionary, train_dictionary
from mpim_lab.mq.compression.framing import (
    LZ4,
    ZLIB,
    ZSTD,
    ZSTD_DICTIONARY,
    decode_batch,
    decode_messages,
    encode_batch,
    encode_plain,
)

LINES = [
    f"see you at {hour} o'clock in the {place}".encode()
    for hour in range(24)
    for place in ("park", "office")
]
DICTIONARY = train_dictionary(LINES * 20, size_bytes=1_024, id=7)
MIB = 1024 * 1024
READER = Codec("none", dictionaries=[DICTIONARY])
PACKING = [each for each in Algorithm if each is not Algorithm.NONE]


def sender(algorithm, **options):
    return Codec(algorithm, threshold_bytes=0, dictionaries=[DICTIONARY], **options)


def zstd_head(size, window=None):
    """A frame's head that claims so many bytes.

    With a window of its own, or as large as the content.
    """
    if window is None:
        return bytes([ZSTD, 0xE0]) + size.to_bytes(8, "little")
    return bytes([ZSTD, 0xC0, window]) + size.to_bytes(8, "little")


def zstd_zeros(size, *, is_last=True):
    """A block of 4 bytes that becomes `size`."""
    return ((size << 3) | (1 << 1) | is_last).to_bytes(3, "little") + b"\0"


def mutated(payload, chance):
    """Cut, lengthened, under another mark, or with some bytes changed, most of them in the head."""
    changed = bytearray(payload)
    kind = chance.randrange(5)
    if kind == 0:
        return bytes(changed[: chance.randrange(len(changed))])
    if kind == 1:
        return bytes(changed) + chance.randbytes(chance.randrange(1, 9))
    if kind == 2:
        changed[0] = chance.randrange(0xF8, 0x100)
    for _ in range(chance.randrange(1, 5)):
        changed[chance.randrange(min(len(changed), 30 if kind == 3 else len(changed)))] = (
            chance.randrange(256)
        )
    return bytes(changed)


def test_10_000_mutated_frames_give_messages_or_a_named_error():
    """Single messages and batches of every algorithm; every named error is among the outcomes."""
    chance = random.Random(6)
    senders = [sender(each) for each in Algorithm]
    frames = [
        each.compress(encode_batch(LINES[:many], b"confirm", 3))
        for each in senders
        for many in (1, 9, 48)
    ]
    frames += [each.encode(line * 3) for each in senders for line in LINES[:4]]
    reader, outcomes = Codec(max_bytes=4_000, dictionaries=[DICTIONARY]), Counter()
    for _ in range(10_000):
        payload = mutated(chance.choice(frames), chance)
        for read in (
            lambda data: decode_messages(reader.decompress(data)),
            lambda data: [reader.decode(data)],
        ):
            try:
                assert all(type(message) is bytes for message in read(payload))
                outcomes["messages"] += 1
            except UnreadablePayload as error:
                outcomes[type(error).__name__] += 1
    assert set(outcomes) == {"messages", "CorruptPayload", "OversizedPayload", "UnknownFormat"}
    assert min(outcomes.values()) > 10, outcomes


@pytest.mark.parametrize("algorithm", PACKING)
def test_a_small_bomb_is_refused_whatever_packed_it(algorithm):
    """32 MiB of zeros in some kilobytes; the limit is that of the receiver, not of the sender."""
    packed = sender(algorithm, max_bytes=64 * MIB).encode(bytes(32 * MIB))
    assert len(packed) < 300_000
    with pytest.raises(OversizedPayload, match="1,048,576"):
        READER.decode(packed)


@pytest.mark.parametrize("outer", PACKING)
@pytest.mark.parametrize("inner", PACKING)
def test_a_bomb_within_a_bomb_is_not_unpacked_a_second_time(outer, inner):
    """The inner one is looked at by its mark alone."""
    bomb = sender(inner, max_bytes=64 * MIB).encode(bytes(8 * MIB))
    nested = sender(outer).compress_raw(bomb)
    with pytest.raises(CorruptPayload, match="never compressed twice"):
        READER.decode(nested)


def test_a_batch_of_more_messages_than_it_has_bytes_is_refused():
    """Packed small, it claims four billion messages, or messages of four billion bytes."""
    frame = encode_batch([b"a" * 5_000] * 100)
    many, long = bytearray(frame), bytearray(frame)
    many[10:14] = long[14:18] = b"\xff" * 4
    for wrong in (many, long):
        packed = sender("zstd").compress(bytes(wrong))
        assert len(packed) < len(wrong) / 100
        with pytest.raises(CorruptPayload):
            decode_batch(READER.decompress(packed))


@pytest.mark.parametrize(
    "window", [None, 0x00, 0x70, 0xA8, 0xF8], ids=["content", "1 KiB", "16 MiB", "2 GiB", "2 TiB"]
)
def test_a_zstandard_head_alone_reserves_nothing(window):
    """It claims up to 2 TiB of content, or as much for its window, and no content follows."""
    for size in (2**63, 2**40, MIB + 1):
        with pytest.raises(UnreadablePayload):
            READER.decode(zstd_head(size, window))
    with pytest.raises(CorruptPayload):
        READER.decode(zstd_head(MIB, window))


def test_a_zstandard_frame_holds_what_its_head_says_and_nothing_more():
    """Too much, too little, another frame behind it.

    Also where the head says that there is nothing.
    """
    block = zstd_zeros(1_000)
    assert READER.decode(zstd_head(1_000) + block) == bytes(1_000)
    for wrong in (
        zstd_head(999) + block,
        zstd_head(1_001) + block,
        zstd_head(1_000) + zstd_zeros(1_000, is_last=False) + block,
        zstd_head(1_000) + block + (zstd_head(1_000) + block)[1:],
        zstd_head(0) + block,
        zstd_head(0),
        sender("zstd").compress_raw(b"") + b"more",
    ):
        with pytest.raises(CorruptPayload):
            READER.decode(wrong)


def test_an_lz4_frame_may_not_be_followed_by_another():
    """Of several frames, only the first would be read by some libraries, and all by others."""
    frame = lz4.frame.compress(b"a" * 500)
    assert READER.decode(bytes([LZ4]) + frame) == b"a" * 500
    with pytest.raises(CorruptPayload, match="do not belong"):
        READER.decode(bytes([LZ4]) + frame + frame)


def test_zlib_with_a_dictionary_of_its_own_is_refused():
    """RFC 1950 has such a thing; nobody here knows the dictionary."""
    packer = zlib.compressobj(zdict=b"see you at eight")
    with pytest.raises(CorruptPayload, match="zlib"):
        READER.decode(bytes([ZLIB]) + packer.compress(b"see you at eight") + packer.flush())


@pytest.mark.parametrize("algorithm", PACKING)
def test_after_a_hostile_payload_the_same_codec_reads_the_next_one(algorithm):
    """Its decompressors are used again; none keeps anything of the one before."""
    packed = sender(algorithm).encode(LINES[0] * 10)
    for hostile in (
        packed[:-3],
        packed + b"x",
        packed[:1],
        zstd_head(MIB),
        packed[:1] + random.Random(1).randbytes(40),
    ):
        with pytest.raises(UnreadablePayload):
            READER.decode(hostile)
        assert READER.decode(packed) == LINES[0] * 10


def test_a_mark_of_the_future_is_unknown_not_corrupt():
    """So that an operator knows to update the receiver, and does not look for a broken line."""
    for first in (0xFE, 0xFF):
        with pytest.raises(UnknownFormat, match=f"{first:02X}"):
            READER.decode(bytes([first]) + b"anything")
    stranger = train_dictionary(LINES[::-1] * 20, size_bytes=1_024, id=70_000)
    packed = Codec("zstd-dictionary", dictionaries=[stranger]).encode(LINES[0])
    assert packed[0] == ZSTD_DICTIONARY
    with pytest.raises(UnknownFormat, match="dictionary 70000"):
        READER.decode(packed)


def test_a_changed_byte_is_noticed_where_the_frame_has_a_checksum():
    """zlib always; a Zstandard frame of a sender who asked for one.

    A plain payload has none either.
    """
    text = b"".join(LINES)
    options = zstandard.ZstdCompressionParameters.from_level(
        3, format=zstandard.FORMAT_ZSTD1_MAGICLESS, write_checksum=True
    )
    checked = bytes([ZSTD]) + zstandard.ZstdCompressor(compression_params=options).compress(text)
    for packed in (sender("zlib").encode(text), checked):
        for place in range(1, len(packed)):
            changed = bytearray(packed)
            changed[place] ^= 0x01
            try:
                assert (
                    READER.decode(bytes(changed)) == text
                )  # a bit that says nothing about the content
            except UnreadablePayload:
                continue
    plain_text = encode_plain(text)
    assert READER.decode(plain_text[:-1] + b"!") != text


def test_a_dictionary_that_is_none_or_not_the_only_one_of_its_number_is_refused():
    """When it is made known, not when the first message comes."""
    with pytest.raises(InvalidParameter, match="behind its head"):
        ZstdDictionary(DICTIONARY.content[:8] + bytes(range(256)) * 2)
    other = train_dictionary(
        [line.upper() for line in LINES] * 20, size_bytes=1_024, id=DICTIONARY.id
    )
    with pytest.raises(InvalidParameter, match="two dictionaries have the number 7"):
        Codec(dictionaries=[DICTIONARY, other])
    assert Codec(
        dictionaries=[DICTIONARY, ZstdDictionary(DICTIONARY.content)]
    ).dictionaries.keys() == {7}


@pytest.mark.parametrize("algorithm", ["zlib", "lz4", "zstd"])
@pytest.mark.parametrize("level", [99, -101, 3.5, "3", 10**12])
def test_a_level_that_an_algorithm_does_not_have_is_refused(algorithm, level):
    """Some libraries would take the nearest one silently, others fail at the first message."""
    with pytest.raises(InvalidParameter, match="level"):
        Codec(algorithm, level=level)
