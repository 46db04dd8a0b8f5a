"""A group that the server has lost is made again where it was.

And nothing is handled because of that.
"""

import asyncio

import pytest

from mpim_lab.mq.streams.consumer import Consumer
from mpim_lab.mq.streams.group import ConsumerGroup
from tests.streams import everything_done, fetched, shop, working
from tests.support import wait_until


async def server_command(group, *words):
    """Whatever an operator does to the server."""
    return await group.context.connection.call(*words)


@pytest.mark.parametrize("start", ["$", "0", "an id"])
async def test_it_goes_on_where_it_was_wherever_it_had_begun(server, start):
    """What was handled, or was there before it began, does not come.

    What was added after the destruction does.
    """
    got = []
    async with shop(server) as (_, stream):
        ids = await stream.add_many([b"old"] * 300)
        group = await stream.group("g", start=ids[-1] if start == "an id" else start)
        async with working(group, lambda entry: got.append(entry.data)):
            await stream.add("new 1")
            await wait_until(lambda: got[-1:] == [b"new 1"])
            before = list(got)
            await server_command(group, "XGROUP", "DESTROY", stream.key, "g")
            await stream.add("new 2")
            await wait_until(lambda: len(got) > len(before))
            await everything_done(group)
    assert got == [*before, b"new 2"]
    assert len(before) == (301 if start == "0" else 1)


@pytest.mark.parametrize("how", ["FLUSHALL", "DEL", "lower ids"])
async def test_a_stream_that_began_anew_is_read_from_its_first_entry(server, how):
    """Also when its ids are below those that the group has seen."""
    got = []
    async with (
        shop(server, *"abc") as (group, stream),
        working(group, lambda entry: got.append(entry.data)),
    ):
        await everything_done(group)
        await server_command(group, *(("DEL", stream.key) if how == "DEL" else ("FLUSHALL",)))
        await stream.add("after", id="1-1" if how == "lower ids" else None)
        await wait_until(lambda: got == [b"a", b"b", b"c", b"after"])


async def test_what_waits_for_its_retry_is_pending_again_and_retried(server):
    """It was in the list that is gone.

    Whoever has it in hand brings it back, with its deliveries counted.
    """
    async with shop(server, "a") as (group, stream), Consumer(group, "w") as consumer:
        (delivery,) = await fetched(consumer, 1)
        (delivery,) = [await consumer.redeliver(delivery)]
        await server_command(group, "XGROUP", "DESTROY", stream.key, "billing")
        assert await consumer.fetch(20) == []
        (line,) = await group.pending()
        assert (line.id, line.consumer, line.deliveries) == (delivery.id, "w", 2)
        assert (await consumer.redeliver(delivery)).deliveries == 3


async def test_a_member_that_knows_less_does_not_take_the_group_back(server):
    """One has read to the end, the other nothing.

    Whoever makes it again, it is where the first one knew.
    """
    async with shop(server, *"abc") as (group, stream):
        ignorant = ConsumerGroup(group.context, "billing")  # as of another process
        async with Consumer(group, "reads") as reads, Consumer(ignorant, "idle") as idle:
            await reads.ack_all(await fetched(reads, 3))
            await idle._send_heartbeat(idle._membership)
            await server_command(group, "XGROUP", "DESTROY", stream.key, "billing")
            assert await idle.fetch(20) == [] and await idle.fetch(20) == []
            await stream.add("d")
            assert [entry.data for entry in await fetched(idle, 1)] == [b"d"]


async def test_a_member_that_knows_more_moves_the_group_on(server):
    """The other one was there first, and began too early."""
    async with shop(server, *"abc") as (group, stream):
        late = ConsumerGroup(group.context, "billing")
        async with Consumer(group, "reads") as reads:
            await reads.ack_all(await fetched(reads, 3))
        await server_command(group, "XGROUP", "DESTROY", stream.key, "billing")
        await late.recreate("late", [])
        assert await group.lag() == 3
        await group.recreate("reads", [])
        async with Consumer(late, "late") as consumer:
            assert await consumer.fetch(20) == []


async def test_every_member_of_a_destroyed_group_goes_on(server):
    """While they read, wait for retries and acknowledge: each new entry is handled once."""
    got = []

    async def handle(entry):
        await asyncio.sleep(0.001)
        got.append(int(entry.data))

    async with (
        shop(server) as (group, stream),
        working(group, handle, "a"),
        working(group, handle, "b", concurrency=3),
        working(group, handle, "c"),
    ):
        for number in range(90):
            await stream.add(str(number))
            if number % 30 == 20:
                await wait_until(lambda: len(set(got)) == number + 1)  # noqa: B023
                await server_command(group, "XGROUP", "DESTROY", stream.key, "billing")
        await wait_until(lambda: len(set(got)) == 90)
    assert sorted(got) == list(range(90))
