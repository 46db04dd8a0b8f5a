"""Compression: what was packed comes out, whoever unpacks it.

It is hardly ever longer; nothing hostile passes.
"""

import contextlib
import zlib

import lz4.frame
import pytest
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mpim_lab.errors import (
    CorruptPayload,
    InvalidMessage,
    InvalidParameter,
    OversizedPayload,
    UnknownFormat,
    UnreadablePayload,
)
from mpim_lab.mq.compression.codec import Algorithm, Codec
from mpim_lab.mq.compression.dictionary import ZstdDictionary, train_dictionary
from mpim_lab.mq.compression.framing import (
    FIRST_TYPE_BYTE,
    LZ4,
    ZLIB,
    ZSTD,
    ZSTD_DICTIONARY,
    decode_batch,
    decode_messages,
    encode_batch,
)

TEXTS = [
    f"see you at {hour} o'clock in the {place}".encode()
    for hour in range(24)
    for place in ("park", "office")
]
DICTIONARY = train_dictionary(TEXTS * 20, size_bytes=1_024, id=7)
CODECS = {
    each: Codec(each, threshold_bytes=0, max_bytes=10_000, dictionaries=[DICTIONARY])
    for each in Algorithm
}
READER = Codec("none", max_bytes=10_000, dictionaries=[DICTIONARY])
LONG = b"see you at eight in the park, or at nine in the office? " * 20
PAYLOADS = st.one_of(
    st.binary(max_size=300),
    st.sampled_from(TEXTS),
    st.binary(max_size=20).map(lambda part: part * 40),
)


@pytest.mark.parametrize("algorithm", list(Algorithm))
@settings(deadline=None)
@given(PAYLOADS)
@example(b"")
@example(bytes([FIRST_TYPE_BYTE]))
@example(b"\xfd" * 500)
def test_every_receiver_reads_every_sender(algorithm, payload):
    """Whatever its own choice is; and no payload grows by more than its mark."""
    packed = CODECS[algorithm].encode(payload)
    assert READER.decode(packed) == payload
    assert len(packed) <= len(payload) + 1
    if len(packed) == len(payload) + 1:
        assert payload[0] >= FIRST_TYPE_BYTE


@pytest.mark.parametrize("algorithm", [each for each in Algorithm if each is not Algorithm.NONE])
def test_what_pays_is_compressed_and_what_does_not_stays_plain(algorithm):
    """A long repetitive text shrinks; random bytes and short texts travel as they are."""
    codec = Codec(algorithm, dictionaries=[DICTIONARY])
    assert len(codec.encode(LONG)) < len(LONG) / 4
    noise = bytes(range(1, 200))
    assert codec.encode(noise) == noise
    assert codec.encode(b"ok") == b"ok"
    assert (
        Codec(algorithm, threshold_bytes=len(LONG) + 1, dictionaries=[DICTIONARY]).encode(LONG)
        == LONG
    )


def test_a_dictionary_shortens_what_is_too_short_for_plain_compression():
    """A line of chat has no repeats within itself, but some with the samples."""
    line = b"see you at 9 o'clock in the park"
    assert len(zlib.compress(line)) > len(line)
    assert len(CODECS[Algorithm.ZSTD_DICTIONARY].encode(line)) * 1.5 < len(line)


def test_a_receiver_with_both_dictionaries_reads_old_and_new_senders():
    """One who has only the old one names the number that it misses."""
    new = train_dictionary(
        [text.replace(b"park", b"garden") for text in TEXTS] * 20, size_bytes=1_024, id=300
    )
    old_sender, new_sender = (
        Codec("zstd-dictionary", dictionaries=[each]) for each in (DICTIONARY, new)
    )
    both = Codec(dictionaries=[new, DICTIONARY])
    for sender in (old_sender, new_sender):
        assert both.decode(sender.encode(TEXTS[5])) == TEXTS[5]
    with pytest.raises(UnknownFormat, match="dictionary 300"):
        READER.decode(new_sender.encode(TEXTS[5]))


@pytest.mark.parametrize("algorithm", [each for each in Algorithm if each is not Algorithm.NONE])
def test_cut_off_lengthened_and_changed_payloads_have_a_named_error(algorithm):
    """Every length; bytes behind the end; the head changed."""
    packed = CODECS[algorithm].encode(LONG)
    for length in range(1, len(packed)):
        with pytest.raises(UnreadablePayload):
            READER.decode(packed[:length])
    with pytest.raises(CorruptPayload):
        READER.decode(packed + b"x")
    with pytest.raises(UnreadablePayload):
        READER.decode(packed[:1] + bytes(8) + packed[9:])


@pytest.mark.parametrize("algorithm", [each for each in Algorithm if each is not Algorithm.NONE])
def test_more_than_the_limit_is_refused_and_the_limit_itself_is_not(algorithm):
    """To the byte."""
    codec = Codec(algorithm, dictionaries=[DICTIONARY])
    at_limit = Codec(max_bytes=1_000, dictionaries=[DICTIONARY])
    assert at_limit.decode(codec.encode(b"a" * 1_000)) == b"a" * 1_000
    with pytest.raises(OversizedPayload, match="1,000 bytes"):
        at_limit.decode(codec.encode(b"a" * 1_001))


def test_frames_of_other_makers_are_read():
    """With checksums, of another level.

    Several frames in one are refused, and one that does not tell its size.
    """
    magicless = zstandard.FORMAT_ZSTD1_MAGICLESS

    def made(level, **options):
        parameters = zstandard.ZstdCompressionParameters.from_level(
            level, format=magicless, **options
        )
        return bytes([ZSTD]) + zstandard.ZstdCompressor(compression_params=parameters).compress(
            LONG
        )

    frame = made(19, write_checksum=True)
    assert READER.decode(frame) == LONG
    with pytest.raises(CorruptPayload):
        READER.decode(frame + frame[1:])
    with pytest.raises(CorruptPayload, match="how much"):
        READER.decode(made(3, write_content_size=False))
    assert READER.decode(bytes([LZ4]) + lz4.frame.compress(LONG, content_checksum=True)) == LONG
    assert READER.decode(bytes([ZLIB]) + zlib.compress(LONG, 1)) == LONG


def test_a_size_that_a_frame_claims_is_not_believed():
    """One that claims little and holds much, one that claims much and holds little."""
    frame = bytearray(CODECS[Algorithm.ZSTD].encode(b"a" * 5_000))
    position = frame.index((5_000 - 256).to_bytes(2, "little"))
    for claimed in (300, 9_999):
        frame[position : position + 2] = (claimed - 256).to_bytes(2, "little")
        with pytest.raises(CorruptPayload, match="head"):
            READER.decode(bytes(frame))


def test_nothing_is_compressed_twice():
    """A frame within a frame is refused; a batch within one is not, but is no single payload."""
    inner = CODECS[Algorithm.ZLIB].encode(LONG)
    with pytest.raises(CorruptPayload, match="twice"):
        READER.decode(bytes([ZLIB]) + zlib.compress(inner))
    batch = encode_batch([b"a" * 50, b"b" * 50])
    packed = CODECS[Algorithm.ZLIB].compress(batch)
    assert len(packed) < len(batch)
    assert decode_batch(READER.decompress(packed)).messages == [b"a" * 50, b"b" * 50]
    with pytest.raises(UnknownFormat, match="batch"):
        READER.decode(packed)


@settings(max_examples=2_000, deadline=None)
@given(
    st.sampled_from([ZLIB, LZ4, ZSTD, ZSTD_DICTIONARY, 0xFD, 0xFE, None]), st.binary(max_size=200)
)
def test_any_bytes_give_a_result_or_a_named_error(mark, body):
    """From a hostile sender, behind every mark."""
    with contextlib.suppress(UnreadablePayload):
        decode_messages(READER.decompress(body if mark is None else bytes([mark]) + body))


@settings(max_examples=1_000, deadline=None)
@given(st.sampled_from(list(Algorithm)), PAYLOADS, st.data())
def test_a_few_changed_bytes_give_a_result_or_a_named_error(algorithm, payload, data):
    """A damaged frame, as a broken sender would make it."""
    packed = bytearray(CODECS[algorithm].compress(encode_batch([payload, payload])))
    for _ in range(data.draw(st.integers(1, 4))):
        packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(UnreadablePayload):
        decode_messages(READER.decompress(bytes(packed)))


@pytest.mark.parametrize(
    "wrong",
    [
        {"algorithm": "gzip"},
        {"algorithm": "zstd-dictionary"},
        {"algorithm": "zlib", "level": 10},
        {"algorithm": "zstd", "level": 99},
        {"max_bytes": 0},
        {"threshold_bytes": -1},
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong):
    """When the codec is made, not when the first message comes."""
    with pytest.raises(InvalidParameter):
        Codec(**wrong)


def test_what_cannot_be_packed_is_refused():
    """Text must be encoded by its owner; what no receiver would take is not sent."""
    with pytest.raises(InvalidMessage):
        Codec().encode("text")
    with pytest.raises(InvalidMessage, match="refuse more than 100"):
        Codec(max_bytes=100).encode(b"a" * 101)


def test_too_few_samples_make_no_dictionary():
    """And bytes that are none are refused."""
    for samples in ([], [b"a"], TEXTS[:2]):
        with pytest.raises(InvalidParameter, match="samples"):
            train_dictionary(samples)
    for content in (b"", b"hello" * 100, b"\x37\xa4\x30\xec" + bytes(300)):
        with pytest.raises(InvalidParameter):
            ZstdDictionary(content)
    assert train_dictionary(TEXTS * 20, size_bytes=1_024, id=7).content == DICTIONARY.content
