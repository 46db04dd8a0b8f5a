"""The rules of batching, without clock or I/O.

When a batch is closed, what is in it, and how far ahead a sender may be.
"""

import asyncio
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mpim_lab.errors import InvalidParameter
from mpim_lab.mq.batching.buffer import BatchFuture, PendingBuffer
from mpim_lab.mq.batching.flow_control import CreditWindow
from mpim_lab.mq.batching.policies import Adaptive, FixedWindow, SizeOnly


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_messages": 0},
        {"max_messages": 1.5},
        {"max_messages": True},
        {"max_bytes": -1},
        {"max_bytes": 2**40},
    ]
    + [{"window_ms": value} for value in (-0.1, math.nan, math.inf, "5", None)],
)
def test_limits_out_of_bounds_are_refused(wrong):
    """Named, before anything is sent."""
    with pytest.raises(InvalidParameter, match=next(iter(wrong))):
        FixedWindow(**wrong)


@given(st.floats(0, 1e9), st.floats(0, 60_000))
def test_a_window_ends_so_long_after_the_oldest_message(oldest_at, window_ms):
    """An adaptive rule has no window, and a counted one no end."""
    assert FixedWindow(window_ms=window_ms).flush_deadline(oldest_at) == oldest_at + window_ms / 1e3
    assert Adaptive().flush_deadline(oldest_at) == oldest_at
    assert SizeOnly().flush_deadline(oldest_at) == math.inf


@given(
    st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=8), max_size=20),
    st.integers(1, 10),
    st.integers(1, 60),
)
def test_batches_keep_the_order_and_the_limits(calls, max_messages, max_bytes):
    """Everything comes out once, in order, and every call gets exactly its own outcomes.

    A batch is above its bytes only if it is one large message; none is smaller than it must be.
    """
    loop, buffer, limits = (
        asyncio.new_event_loop(),
        PendingBuffer(),
        FixedWindow(max_messages, max_bytes),
    )
    numbers = iter(range(1_000))
    payloads = [[b"%d:" % next(numbers) + b"x" * size for size in sizes] for sizes in calls]
    futures = [BatchFuture(len(each), created_at=0.0, loop=loop) for each in payloads]
    for each, future in zip(payloads, futures, strict=True):
        buffer.append(each, sum(map(len, each)), future)
    everything = [payload for each in payloads for payload in each]
    out = []
    while buffer.messages:
        batch = buffer.pop_batch(limits)
        size = sum(map(len, batch))
        out += batch
        assert 1 <= len(batch) <= max_messages
        assert size <= max_bytes or len(batch) == 1
        if buffer.messages and len(batch) < max_messages:
            assert size + len(everything[len(out)]) > max_bytes
        buffer.resolve(batch)  # each message is its own outcome
        assert buffer.bytes == sum(map(len, everything[len(out) :]))
        assert buffer.unresolved == buffer.messages == len(everything) - len(out)
    assert out == everything
    assert [future.result() for future in futures] == payloads
    loop.close()


class CreditMachine(RuleBasedStateMachine):
    """A sender and three receivers that confirm, sleep and wake, against a plain list."""

    def __init__(self):
        super().__init__()
        self.credit, self.at, self.number = CreditWindow(max_bytes=100, stall_timeout_s=1.0), 0.0, 0
        self.sizes = {}

    @precondition(lambda self: self.credit.has_credit(self.at))
    @rule(size=st.integers(1, 200))
    def send(self, size):
        self.number += 1
        self.sizes[self.number] = size
        self.credit.sent(self.number, size, self.at)

    @precondition(lambda self: self.number)
    @rule(name=st.sampled_from([b"bob", b"carol", b"dave"]), back=st.integers(0, 5))
    def confirm(self, name, back):
        self.credit.acked(name, max(0, self.number - back), self.at)

    @precondition(lambda self: self.number)
    @rule()
    def no_receivers(self):
        self.credit.no_receivers(self.number)
        assert self.credit.unacked_bytes == 0

    @rule(seconds=st.floats(0, 3))
    def wait(self, seconds):
        self.at += seconds

    @invariant()
    def what_is_on_its_way_is_bounded(self):
        assert 0 <= self.credit.unacked_bytes < 100 + 200 or self.credit.has_credit(self.at)

    @invariant()
    def nobody_is_waited_for_for_ever(self):
        at, patient = self.at, 0
        while not self.credit.has_credit(at):
            assert self.credit.stall_deadline() > at - 1e-9
            at, patient = max(at, self.credit.stall_deadline()), patient + 1
            assert patient < 10


TestCredit = CreditMachine.TestCase


def test_the_slowest_of_those_who_confirm_counts():
    """A fast one does not open the way as long as a slower one is heard."""
    credit = CreditWindow(max_bytes=10, stall_timeout_s=1.0)
    credit.sent(1, 6, at=0.0)
    credit.sent(2, 6, at=0.0)
    credit.acked(b"slow", 0, at=0.1)
    credit.acked(b"fast", 2, at=0.1)
    assert not credit.has_credit(at=0.2)
    credit.acked(b"slow", 1, at=0.9)
    assert credit.has_credit(at=0.9)


def test_one_who_went_silent_is_no_longer_waited_for():
    """After the patience, those who are heard count."""
    credit = CreditWindow(max_bytes=10, stall_timeout_s=1.0)
    credit.sent(1, 12, at=0.0)
    credit.acked(b"gone", 0, at=0.1)
    credit.acked(b"here", 1, at=0.1)
    assert not credit.has_credit(at=1.0)
    assert credit.has_credit(at=1.2)
    assert credit.unacked_bytes == 0


@pytest.mark.parametrize(
    "wrong", [{"max_bytes": 0}, {"stall_timeout_s": 0.0}, {"stall_timeout_s": math.nan}]
)
def test_credit_without_room_or_patience_is_refused(wrong):
    """Both must be above 0."""
    with pytest.raises(InvalidParameter):
        CreditWindow(**wrong)
