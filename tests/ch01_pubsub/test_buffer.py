"""The buffer: bounded, in order, and nothing vanishes without a word."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpim_lab.errors import QueueClosed, SlowSubscriber
from mpim_lab.mq.connection.encoding import Message
from mpim_lab.mq.pubsub.buffer import OverflowPolicy, SubscriberBuffer


class Side:
    """What a buffer tells its queue."""

    def __init__(self):
        self.dropped, self.paused, self.times = [], False, 0

    def buffer(self, limit, overflow_policy):
        return SubscriberBuffer(
            limit,
            overflow_policy,
            pause=self.pause,
            resume=self.resume,
            dropped=self.dropped.append,
        )

    def pause(self, buffer):
        self.paused, self.times = True, self.times + 1

    def resume(self, buffer):
        self.paused = False


def message(number):
    return Message("a", str(number).encode())


@given(
    limit=st.integers(1, 6),
    overflow_policy=st.sampled_from(OverflowPolicy),
    steps=st.lists(st.booleans(), max_size=60),
)
def test_every_message_is_read_or_reported_and_order_is_kept(limit, overflow_policy, steps):
    """For any interleaving of puts and gets: read + dropped + held = put, in order.

    The limit holds where it must.
    """

    async def play():
        side = Side()
        buffer, put, read = side.buffer(limit, overflow_policy), 0, []
        refused = 0
        for is_put in steps:
            if is_put and not side.paused and not refused:
                refused += not buffer.put(message(put))
                put += 1
            elif not is_put and len(buffer):
                read.append(await buffer.get())
            assert len(buffer) <= limit
        rest = buffer.drain()
        assert read + rest == sorted(read + rest, key=lambda each: int(each.payload))
        assert len(read) + len(rest) + len(side.dropped) + refused == put

    asyncio.run(play())


async def test_a_full_buffer_that_waits_stops_the_reading_once_and_restarts_it_when_half_empty():
    """Pausing and resuming for every single message would be a system call each."""
    side = Side()
    buffer = side.buffer(4, OverflowPolicy.WAIT)
    for number in range(4):
        buffer.put(message(number))
    assert (side.paused, side.times) == (True, 1)
    await buffer.get()
    assert side.paused
    await buffer.get()
    assert not side.paused


async def test_a_reader_that_waits_is_woken_by_the_next_message():
    """get waits while there is nothing."""
    buffer = Side().buffer(4, OverflowPolicy.WAIT)
    reader = asyncio.create_task(buffer.get())
    await asyncio.sleep(0)
    buffer.put(message(1))
    assert await reader == message(1)


async def test_an_ended_inbox_gives_what_it_holds_and_then_the_reason():
    """Nothing that arrived is thrown away by ending."""
    buffer = Side().buffer(4, OverflowPolicy.WAIT)
    buffer.put(message(1))
    buffer.close(QueueClosed("over"))
    buffer.put(message(2))
    assert await buffer.get() == message(1)
    with pytest.raises(QueueClosed):
        await buffer.get()


async def test_an_inbox_that_disconnects_says_so_to_both_sides():
    """put gives False, the reader gets SlowSubscriber."""
    buffer = Side().buffer(1, OverflowPolicy.DISCONNECT)
    assert buffer.put(message(1))
    assert not buffer.put(message(2))
    assert await buffer.get() == message(1)
    with pytest.raises(SlowSubscriber):
        await buffer.get()
