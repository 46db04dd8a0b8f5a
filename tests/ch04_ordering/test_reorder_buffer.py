"""ReorderBuffer: whatever the arrival order, each number once and in order."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpim_lab.errors import InvalidParameter, ReorderOverflow
from mpim_lab.mq.ordering.reorder_buffer import ReorderBuffer


@st.composite
def arrivals(draw):
    """1 to n in any order, some of them more than once."""
    numbers = list(range(1, draw(st.integers(1, 30)) + 1))
    again = draw(st.lists(st.sampled_from(numbers), max_size=10))
    return draw(st.permutations(numbers + again)), len(numbers)


@given(arrivals())
def test_any_order_with_repeats_gives_each_number_once_in_order(case):
    """And what was released is always a beginning.

    Nothing is released before what comes before it.
    """
    arriving, last = case
    buffer, released = ReorderBuffer(limit=100), []
    for number in arriving:
        released += buffer.add(number, number)
        assert released == list(range(1, len(released) + 1))
        assert buffer.next == len(released) + 1
    assert released == list(range(1, last + 1))
    assert (len(buffer), list(buffer.missing)) == (0, [])


@given(arrivals(), st.integers(1, 5))
def test_no_more_wait_than_the_limit_and_what_was_refused_may_come_again(case, limit):
    """ReorderOverflow leaves the buffer as it was.

    The number that is waited for is always taken.
    """
    arriving, last = case
    buffer, released, refused = ReorderBuffer(limit=limit), [], []
    for number in arriving:
        before = (buffer.next, len(buffer))
        try:
            released += buffer.add(number, number)
        except ReorderOverflow:
            assert number != buffer.next and (buffer.next, len(buffer)) == before
            refused.append(number)
        assert len(buffer) <= limit
    for number in sorted({*refused}):
        released += buffer.add(number, number)
    assert released == list(range(1, last + 1))


@given(st.sets(st.integers(1, 30)), st.integers(1, 40))
def test_skipping_gives_up_what_is_not_here_and_nothing_else(here, to):
    """Everything that had arrived is released, in order.

    The numbers below come too late from then on.
    """
    buffer, released = ReorderBuffer(limit=100), []
    for number in here:
        released += buffer.add(number, number)
    released += buffer.skip_to(to)
    assert released == sorted(number for number in here if number < buffer.next)
    assert buffer.next >= to and buffer.next not in here
    assert all(buffer.add(number, number) == [] for number in range(1, buffer.next))
    assert len(buffer) == len([number for number in here if number > buffer.next])


@given(st.sets(st.integers(2, 30), min_size=1))
def test_what_is_missing_is_the_first_gap(here):
    """From the number that is waited for to the first one that is here."""
    buffer = ReorderBuffer(limit=100)
    for number in here:
        buffer.add(number, number)
    assert list(buffer.missing) == list(
        itertools.takewhile(lambda number: number not in here, itertools.count(1))
    )


def test_one_more_early_arrival_than_allowed_is_refused_by_name():
    """It says how many wait, for what, and which one was too much."""
    buffer = ReorderBuffer(limit=2)
    assert buffer.add(2, "b") == buffer.add(3, "c") == []
    with pytest.raises(
        ReorderOverflow, match="2 buffered messages wait for sequence number 1; 4 is too much"
    ):
        buffer.add(4, "d")
    assert buffer.add(3, "c again") == []
    assert buffer.add(1, "a") == ["a", "b", "c"]
    assert buffer.add(4, "d") == ["d"]


def test_a_gap_is_overdue_when_it_has_been_open_for_so_long():
    """Further buffered messages do not make it younger; a part that fills does not, either."""
    buffer = ReorderBuffer(limit=9)
    assert not buffer.overdue(now=99.0, gap_timeout_s=0.0)
    buffer.add(3, "c", now=10.0)
    buffer.add(5, "e", now=10.9)
    buffer.add(2, "b", now=10.9)
    assert not buffer.overdue(now=10.9, gap_timeout_s=1.0)
    assert buffer.overdue(now=11.0, gap_timeout_s=1.0)


def test_another_gap_has_its_own_time():
    """It opens when the one before is closed, by an arrival or by giving up."""
    buffer = ReorderBuffer(limit=9)
    for number in (3, 5, 8, 9):
        buffer.add(number, number, now=10.0)
    buffer.add(1, 1, now=11.0)
    assert buffer.overdue(now=12.0, gap_timeout_s=1.0)  # 2 is missing since 11
    assert buffer.add(2, 2, now=12.5) == [2, 3]
    assert not buffer.overdue(now=13.0, gap_timeout_s=1.0)  # 4 since 12.5
    assert buffer.skip_to(6, now=20.0) == [5]
    assert not buffer.overdue(now=20.9, gap_timeout_s=1.0)  # 6 and 7 since 20
    assert buffer.overdue(now=21.0, gap_timeout_s=1.0)
    assert buffer.skip_to(8, now=22.0) == [8, 9]
    assert not buffer.overdue(now=99.0, gap_timeout_s=0.0)


def test_skipping_back_changes_nothing():
    """What was passed stays passed."""
    buffer = ReorderBuffer(next=7)
    assert buffer.skip_to(3) == []
    assert (buffer.next, buffer.add(6, "f"), buffer.add(7, "g")) == (7, [], ["g"])


@pytest.mark.parametrize("options", [{"limit": 0}, {"next": 0}])
def test_bounds_are_refused_by_name(options):
    """At least 1, each."""
    with pytest.raises(InvalidParameter, match="a whole number from 1"):
        ReorderBuffer(**options)
