"""PipelineFuture of many commands in one future, and how many commands go at once."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from mpim_lab.errors import CommandRejected
from mpim_lab.mq.connection.resp import PipelineFuture, take_fitting

COMMANDS = st.lists(st.binary(min_size=1, max_size=20), min_size=1, max_size=50)


@given(st.lists(st.one_of(st.binary(), st.none()), min_size=1, max_size=20))
def test_each_command_has_its_own_outcome_in_order(outcomes):
    """A refusal stands in its place.

    It is done with the last one, not before, and never fails as a whole.
    """
    loop = asyncio.new_event_loop()
    replies, error = PipelineFuture(len(outcomes), loop=loop), CommandRejected("no")
    for outcome in outcomes:
        assert not replies.done()
        replies.set_exception(error) if outcome is None else replies.set_result(outcome)
    assert replies.result() == [error if outcome is None else outcome for outcome in outcomes]
    loop.close()


@given(st.integers(1, 10), st.integers(0, 9), st.booleans())
def test_what_comes_late_changes_nothing(count, answered, cancelled):
    """After a time-out or a cancellation the server's answers still use up their places."""
    loop = asyncio.new_event_loop()
    replies, error = PipelineFuture(count, loop=loop), CommandRejected("too late")
    answered = min(answered, count)
    for number in range(answered):
        replies.set_result(number)
    if cancelled and not replies.done():
        replies.cancel()
    for _ in range(count - answered):
        if not replies.done():
            replies.set_exception(error)
    before = None if replies.cancelled() else list(replies.result())
    for _ in range(count - answered):
        replies.set_result(b"late")
    assert replies.cancelled() if before is None else replies.result() == before
    loop.close()


@given(COMMANDS, st.integers(1, 10), st.integers(1, 100))
def test_all_commands_go_in_order_within_the_limits(commands, max_commands, max_bytes):
    """Each time at least one.

    Never more than there are slots, and only the last one may reach the limit on bytes.
    """
    left, written = commands, []
    while left:
        some = take_fitting(left, max_commands, max_bytes)
        assert 1 <= len(some) <= max_commands
        assert sum(map(len, some[:-1])) < max_bytes
        whole = len(some) == min(max_commands, len(left))
        assert whole or sum(map(len, some)) >= max_bytes
        written += some
        left = left[len(some) :]
    assert written == commands
