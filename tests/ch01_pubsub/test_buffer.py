"""The inbox: bounded, in order, and nothing vanishes without a word."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpim_lab.errors import QueueClosed, SlowSubscriber
from mpim_lab.mq.connection.encoding import Message
from mpim_lab.mq.pubsub.buffer import Inbox, WhenFull


class Side:
    """What an inbox tells its queue."""

    def __init__(self):
        self.dropped, self.paused, self.times = [], False, 0

    def inbox(self, limit, when_full):
        return Inbox(limit, when_full, pause=self.pause, resume=self.resume, dropped=self.dropped.append)

    def pause(self, inbox):
        self.paused, self.times = True, self.times + 1

    def resume(self, inbox):
        self.paused = False


def message(number):
    return Message("a", str(number).encode())


@given(
    limit=st.integers(1, 6),
    when_full=st.sampled_from(WhenFull),
    steps=st.lists(st.booleans(), max_size=60),
)
def test_every_message_is_read_or_reported_and_order_is_kept(limit, when_full, steps):
    """For any interleaving of puts and gets: read + dropped + held = put, in order; the limit holds where it must."""

    async def play():
        side = Side()
        inbox, put, read = side.inbox(limit, when_full), 0, []
        refused = 0
        for is_put in steps:
            if is_put and not side.paused and not refused:
                refused += not inbox.put(message(put))
                put += 1
            elif not is_put and len(inbox):
                read.append(await inbox.get())
            assert len(inbox) <= limit
        rest = inbox.empty()
        assert read + rest == sorted(read + rest, key=lambda each: int(each.payload))
        assert len(read) + len(rest) + len(side.dropped) + refused == put

    asyncio.run(play())


async def test_a_full_inbox_that_waits_stops_the_reading_once_and_restarts_it_when_half_empty():
    """Pausing and resuming for every single message would be a system call each."""
    side = Side()
    inbox = side.inbox(4, WhenFull.WAIT)
    for number in range(4):
        inbox.put(message(number))
    assert (side.paused, side.times) == (True, 1)
    await inbox.get()
    assert side.paused
    await inbox.get()
    assert not side.paused


async def test_a_reader_that_waits_is_woken_by_the_next_message():
    """get waits while there is nothing."""
    inbox = Side().inbox(4, WhenFull.WAIT)
    reader = asyncio.create_task(inbox.get())
    await asyncio.sleep(0)
    inbox.put(message(1))
    assert await reader == message(1)


async def test_an_ended_inbox_gives_what_it_holds_and_then_the_reason():
    """Nothing that arrived is thrown away by ending."""
    inbox = Side().inbox(4, WhenFull.WAIT)
    inbox.put(message(1))
    inbox.end(QueueClosed("over"))
    inbox.put(message(2))
    assert await inbox.get() == message(1)
    with pytest.raises(QueueClosed):
        await inbox.get()


async def test_an_inbox_that_disconnects_says_so_to_both_sides():
    """put gives False, the reader gets SlowSubscriber."""
    inbox = Side().inbox(1, WhenFull.DISCONNECT)
    assert inbox.put(message(1))
    assert not inbox.put(message(2))
    assert await inbox.get() == message(1)
    with pytest.raises(SlowSubscriber):
        await inbox.get()
