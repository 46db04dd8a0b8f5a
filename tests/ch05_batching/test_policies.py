"""The rules of batching, without clock or I/O: when a batch is closed, what is in it, and how far ahead a sender may be."""

import asyncio
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mpim_lab.errors import InvalidParameter
from mpim_lab.mq.batching.buffer import Backlog, Receipt
from mpim_lab.mq.batching.flow_control import Credit
from mpim_lab.mq.batching.policies import Adaptive, Counted, FixedWindow


@pytest.mark.parametrize(
    "wrong",
    [{"max_messages": 0}, {"max_messages": 1.5}, {"max_messages": True}, {"max_bytes": -1}, {"max_bytes": 2**40}]
    + [{"window_ms": value} for value in (-0.1, math.nan, math.inf, "5", None)],
)
def test_limits_out_of_bounds_are_refused(wrong):
    """Named, before anything is sent."""
    with pytest.raises(InvalidParameter, match=next(iter(wrong))):
        FixedWindow(**wrong)


@given(st.floats(0, 1e9), st.floats(0, 60_000))
def test_a_window_ends_so_long_after_the_oldest_message(opened_at, window_ms):
    """An adaptive rule has no window, and a counted one no end."""
    assert FixedWindow(window_ms=window_ms).closes_at(opened_at) == opened_at + window_ms / 1e3
    assert Adaptive().closes_at(opened_at) == opened_at
    assert Counted().closes_at(opened_at) == math.inf


@given(
    st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=8), max_size=20),
    st.integers(1, 10),
    st.integers(1, 60),
)
def test_batches_keep_the_order_and_the_limits(calls, max_messages, max_bytes):
    """Everything comes out once, in order; a batch is above its bytes only if it is one large message; none is smaller
    than it must be; and every call gets exactly its own outcomes.
    """
    loop, backlog, limits = asyncio.new_event_loop(), Backlog(), FixedWindow(max_messages, max_bytes)
    numbers = iter(range(1_000))
    payloads = [[b"%d:" % next(numbers) + b"x" * size for size in sizes] for sizes in calls]
    receipts = [Receipt(len(each), at=0.0, loop=loop) for each in payloads]
    for each, receipt in zip(payloads, receipts, strict=True):
        backlog.put(each, sum(map(len, each)), receipt)
    everything = [payload for each in payloads for payload in each]
    out = []
    while backlog.messages:
        batch = backlog.take(limits)
        size = sum(map(len, batch))
        out += batch
        assert 1 <= len(batch) <= max_messages
        assert size <= max_bytes or len(batch) == 1
        if backlog.messages and len(batch) < max_messages:
            assert size + len(everything[len(out)]) > max_bytes
        backlog.settle(batch)  # each message is its own outcome
        assert backlog.bytes == sum(map(len, everything[len(out) :]))
        assert backlog.unsettled == backlog.messages == len(everything) - len(out)
    assert out == everything
    assert [receipt.result() for receipt in receipts] == payloads
    loop.close()


class CreditMachine(RuleBasedStateMachine):
    """A sender and three receivers that confirm, sleep and wake, against a plain list of what is on its way."""

    def __init__(self):
        super().__init__()
        self.credit, self.at, self.number = Credit(max_bytes=100, patience_s=1.0), 0.0, 0
        self.sizes = {}

    @precondition(lambda self: self.credit.has_room(self.at))
    @rule(size=st.integers(1, 200))
    def send(self, size):
        self.number += 1
        self.sizes[self.number] = size
        self.credit.sent(self.number, size, self.at)

    @precondition(lambda self: self.number)
    @rule(name=st.sampled_from([b"bob", b"carol", b"dave"]), back=st.integers(0, 5))
    def confirm(self, name, back):
        self.credit.confirmed(name, max(0, self.number - back), self.at)

    @precondition(lambda self: self.number)
    @rule()
    def nobody(self):
        self.credit.nobody(self.number)
        assert self.credit.unconfirmed_bytes == 0

    @rule(seconds=st.floats(0, 3))
    def wait(self, seconds):
        self.at += seconds

    @invariant()
    def what_is_on_its_way_is_bounded(self):
        assert 0 <= self.credit.unconfirmed_bytes < 100 + 200 or self.credit.has_room(self.at)

    @invariant()
    def nobody_is_waited_for_for_ever(self):
        at, patient = self.at, 0
        while not self.credit.has_room(at):
            assert self.credit.waits_until() > at - 1e-9
            at, patient = max(at, self.credit.waits_until()), patient + 1
            assert patient < 10


TestCredit = CreditMachine.TestCase


def test_the_slowest_of_those_who_confirm_counts():
    """A fast one does not open the way as long as a slower one is heard."""
    credit = Credit(max_bytes=10, patience_s=1.0)
    credit.sent(1, 6, at=0.0)
    credit.sent(2, 6, at=0.0)
    credit.confirmed(b"slow", 0, at=0.1)
    credit.confirmed(b"fast", 2, at=0.1)
    assert not credit.has_room(at=0.2)
    credit.confirmed(b"slow", 1, at=0.9)
    assert credit.has_room(at=0.9)


def test_one_who_went_silent_is_no_longer_waited_for():
    """After the patience, those who are heard count."""
    credit = Credit(max_bytes=10, patience_s=1.0)
    credit.sent(1, 12, at=0.0)
    credit.confirmed(b"gone", 0, at=0.1)
    credit.confirmed(b"here", 1, at=0.1)
    assert not credit.has_room(at=1.0)
    assert credit.has_room(at=1.2)
    assert credit.unconfirmed_bytes == 0


@pytest.mark.parametrize("wrong", [{"max_bytes": 0}, {"patience_s": 0.0}, {"patience_s": math.nan}])
def test_credit_without_room_or_patience_is_refused(wrong):
    """Both must be above 0."""
    with pytest.raises(InvalidParameter):
        Credit(**wrong)
