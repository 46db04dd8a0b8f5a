"""Frames: what was put in comes out, and nothing else is taken for a frame."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpim_lab.errors import CorruptPayload, UnknownFormat, UnreadablePayload
from mpim_lab.mq.compression.framing import (
    BATCH,
    OVERHEAD_BYTES,
    decode_ack,
    decode_batch,
    decode_messages,
    encode_ack,
    encode_batch,
    encode_plain,
    frame_type,
)

MESSAGES = st.lists(st.binary(max_size=50), max_size=40)


@given(MESSAGES, st.binary(max_size=255), st.integers(0, 2**64 - 1))
def test_a_batch_comes_out_as_it_went_in(messages, confirm_to, number):
    """Messages of any bytes, none among them, with the sender's channel and the batch's number."""
    frame = encode_batch(messages, confirm_to, number)
    assert decode_batch(frame) == (messages, confirm_to, number)
    assert decode_messages(frame) == messages
    assert len(frame) <= sum(map(len, messages)) + OVERHEAD_BYTES + 4 * len(messages)


@given(st.binary(max_size=50))
def test_a_plain_payload_stays_as_it_is_unless_it_looks_like_a_frame(payload):
    """One byte more at most, and any reader gets it back."""
    packed = encode_plain(payload)
    assert decode_messages(packed) == [payload]
    assert packed == payload or (frame_type(payload) is not None and packed[1:] == payload)


@given(st.text(max_size=50))
def test_text_is_never_taken_for_a_frame(text):
    """No UTF-8 text begins with a mark."""
    assert encode_plain(text.encode()) == text.encode()


@given(MESSAGES, st.binary(max_size=10), st.data())
def test_a_shortened_or_lengthened_batch_is_corrupt(messages, confirm_to, data):
    """Whatever is missing at the end, or is too much."""
    frame = encode_batch(messages, confirm_to, 1)
    shorter = frame[: data.draw(st.integers(0, len(frame) - 1))]
    with pytest.raises(CorruptPayload):
        decode_batch(shorter)
    with pytest.raises(CorruptPayload):
        decode_batch(frame + data.draw(st.binary(min_size=1, max_size=9)))


@given(st.binary(max_size=80))
def test_any_bytes_give_messages_or_a_named_error(payload):
    """Behind the mark of a batch, and without one."""
    for frame in (payload, bytes([BATCH]) + payload):
        with contextlib.suppress(UnreadablePayload):
            assert all(isinstance(message, bytes) for message in decode_messages(frame))


def test_a_batch_that_claims_billions_of_messages_costs_nothing():
    """Its count is checked against its length before anything is made of it."""
    with pytest.raises(CorruptPayload, match="cannot hold 4,294,967,295 messages"):
        decode_batch(bytes([BATCH, 0]) + bytes(8) + b"\xff\xff\xff\xff" + bytes(100))


@pytest.mark.parametrize("mark", [0xF9, 0xFA, 0xFB, 0xFC, 0xFE, 0xFF])
def test_a_compressed_payload_needs_a_codec(mark):
    """Without one, it is named as what it is."""
    with pytest.raises(UnknownFormat, match=f"{mark:02X}"):
        decode_messages(bytes([mark]) + b"anything")


def test_a_confirmation_of_another_length_is_refused():
    """Anybody may publish to the channel of confirmations."""
    assert decode_ack(encode_ack(b"12345678", 2**63)) == (b"12345678", 2**63)
    for garbage in (b"", b"hello", encode_ack(b"12345678", 1) + b"x"):
        with pytest.raises(CorruptPayload):
            decode_ack(garbage)
