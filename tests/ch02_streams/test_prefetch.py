"""A consumer that reads ahead.

The next entries are on their way while these are handled, and none of them is lost.
"""

import asyncio

import pytest

from mpim_lab.lab.faults.server_admin import cut_connections
from mpim_lab.mq.connection.config import ConnectionConfig
from mpim_lab.mq.connection.retry import Backoff
from mpim_lab.mq.streams.consumer import Consumer
from tests.streams import AN_HOUR_MS, data, dies_with, everything_done, fetched, shop, working
from tests.support import wait_until


async def test_everything_is_handled_once_and_in_order(server):
    """With many there and with few, to the last one."""
    got = []
    async with shop(server) as (group, stream):
        async with working(
            group, lambda entry: got.append(int(entry.data)), prefetch=True, batch_size=7
        ):
            for first in range(0, 1_000, 100):
                await stream.add_many([str(number) for number in range(first, first + 100)])
            await everything_done(group)
        assert await group.pending() == []
    assert got == list(range(1_000))


async def test_what_was_read_ahead_is_given_back_too(server):
    """Another member takes it at once, though it would have to be idle for an hour."""
    async with shop(server, *"abcdefgh") as (group, _):
        async with Consumer(group, "first", batch_size=3, prefetch=True) as first:
            assert data(await fetched(first, 3)) == ["a", "b", "c"]
            await wait_until(lambda: first._requested.done())
            assert len(await group.pending()) == 6
        async with Consumer(group, "second", claim_idle_ms=AN_HOUR_MS) as second:
            assert sorted(data(await fetched(second, 8))) == [*"abcdefgh"]


async def test_what_was_read_ahead_counts_as_in_hand(server):
    """max_in_flight bounds both together."""
    options = {"batch_size": 2, "max_in_flight": 3, "prefetch": True}
    async with shop(server, *"abcdefgh") as (group, _), Consumer(group, "c", **options) as consumer:
        held = await fetched(consumer, 3)
        assert await consumer.fetch(20) == []
        assert len(await group.pending()) == 3
        await consumer.ack_all(held)
        assert data(await fetched(consumer, 2)) == ["d", "e"]


async def test_a_question_that_is_still_open_is_waited_for_no_longer_than_asked(server):
    """And what it brings comes with a later fetch."""
    async with (
        shop(server, *"ab") as (group, stream),
        Consumer(group, "c", batch_size=2, prefetch=True) as consumer,
    ):
        assert data(await fetched(consumer, 2)) == ["a", "b"]
        assert await consumer.fetch(1) == []
        await stream.add("c")
        assert data(await fetched(consumer, 1)) == ["c"]


async def test_whoever_reads_ahead_claims_from_the_dead_as_well(server):
    """Also while there is always more to read."""
    async with shop(server, *"ab") as (group, stream):
        await dies_with(group)
        await stream.add_many([str(number) for number in range(2_000)])
        seen = []
        async with Consumer(group, "heir", claim_idle_ms=5, batch_size=10, prefetch=True) as heir:
            while not {"a", "b"} <= set(seen):
                found = await fetched(heir, 1)
                seen += data(found)
                await heir.ack_all(found)
                await asyncio.sleep(0.001)
        assert len(seen) < 2_002


@pytest.mark.parametrize("cancelled", [False, True])
async def test_a_broken_line_or_a_cancelled_fetch_loses_nothing(server, cancelled):
    """What the broken line swallowed is picked up.

    What a cancelled fetch left is there for the next one.
    """
    limits = ConnectionConfig(backoff=Backoff(initial_s=0.002, max_s=0.01))
    async with shop(server, config=limits) as (group, stream):
        await stream.add_many([str(number) for number in range(300)])
        seen = []
        async with Consumer(group, "c 1", batch_size=3, prefetch=True) as consumer:
            while len(set(seen)) < 300:
                found = await fetched(consumer, 1)
                seen += [int(delivery.entry.data) for delivery in found]
                if cancelled:
                    fetching = asyncio.create_task(consumer.fetch())
                    await asyncio.sleep(0)
                    fetching.cancel()
                    await asyncio.wait([fetching])
                elif len(seen) % 60 == 30:
                    await cut_connections(server.url, "c 1")
                await consumer.ack_all(found)
        assert sorted(seen) == list(range(300))
        assert await group.pending() == []
