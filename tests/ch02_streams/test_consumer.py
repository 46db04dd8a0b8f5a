"""Consumer on a real server.

Reads ahead within a bound, gives back, and picks up what a broken line swallowed.
"""

import asyncio

import pytest

from mpim_lab.errors import ConnectionLost
from mpim_lab.lab.faults.server_admin import cut_connections
from mpim_lab.lab.server.embedded import EmbeddedServer
from mpim_lab.mq.connection.config import ConnectionConfig
from mpim_lab.mq.connection.retry import Backoff
from mpim_lab.mq.pubsub.queue import MessageQueue
from mpim_lab.mq.streams.consumer import Consumer
from tests.streams import AN_HOUR_MS, data, dies_with, everything_done, fetched, shop
from tests.support import wait_until


async def test_a_consumer_claims_from_the_dead_by_itself(server):
    """While it reads; what is in its own hands it does not claim, however long it takes."""
    async with shop(server, *"ab") as (group, stream):
        await dies_with(group)
        await stream.add("c")
        async with Consumer(group, "heir", claim_idle_ms=30) as heir:
            found = await fetched(heir, 3)
            assert sorted(data(found)) == ["a", "b", "c"]
            await asyncio.sleep(0.08)
            assert await heir.fetch(50) == []


async def test_reading_ahead_is_bounded_by_what_is_in_hand(server):
    """Then a fetch waits for an acknowledgement, for as long as it was told to."""
    async with (
        shop(server, *"abcdef") as (group, _),
        Consumer(group, "c", max_in_flight=3, batch_size=2) as consumer,
    ):
        held = await fetched(consumer, 3)
        assert data(held) == ["a", "b", "c"]
        assert await consumer.fetch(20) == []
        waiting = asyncio.create_task(consumer.fetch(10_000))
        await asyncio.sleep(0)
        await consumer.ack(held[0])
        async with asyncio.timeout(5):
            assert await waiting == []
        assert data(await consumer.fetch()) == ["d"]


async def test_what_a_leaving_consumer_had_is_given_back_for_the_next_claim(server):
    """At once, though it would have to be idle for an hour; also when it leaves with an error."""
    async with shop(server, *"abc") as (group, _):
        with pytest.raises(ValueError, match="enough"):
            async with Consumer(group, "first") as first:
                done, *_ = await first.fetch(5_000)
                await first.ack(done)
                raise ValueError("enough")
        async with Consumer(group, "second", claim_idle_ms=AN_HOUR_MS) as second:
            assert data(await second.fetch()) == ["b", "c"]


async def test_a_consumer_of_the_same_name_picks_up_its_earlier_life(server):
    """What the dead one had is its own: no waiting, no claim."""
    async with shop(server, *"ab") as (group, _):
        await dies_with(group, "c")
        async with Consumer(group, "c", claim_idle_ms=None) as consumer:
            found = await consumer.fetch(5_000)
        assert (data(found), [delivery.deliveries for delivery in found]) == (["a", "b"], [2, 2])


async def test_an_iterator_gives_one_delivery_after_the_other(server):
    """For as long as one likes."""
    async with shop(server, *"abc") as (group, _), Consumer(group, "c", batch_size=2) as consumer:
        seen = []
        async for delivery in consumer:
            seen.append(delivery.entry.data)
            await consumer.ack(delivery)
            if len(seen) == 3:
                break
        assert seen == [b"a", b"b", b"c"]


async def test_a_line_that_is_cut_in_the_middle_of_a_read_loses_nothing(server):
    """What the broken line swallowed is pending in my name: it is picked up.

    Nothing acknowledged comes again.
    """
    limits = ConnectionConfig(backoff=Backoff(initial_s=0.002, max_s=0.01))
    async with (
        shop(server, config=limits) as (group, stream),
        Consumer(group, "c 1", batch_size=3) as consumer,
    ):
        seen = []

        async def read():
            while len(seen) < 300:
                for delivery in await fetched(consumer, 1):
                    seen.append(int(delivery.entry.data))
                    await consumer.ack(delivery)

        reading = asyncio.create_task(read())
        for number in range(300):
            await stream.add(str(number))
            if number % 50 == 25:
                assert await cut_connections(server.url, "c 1") <= 1
        async with asyncio.timeout(10):
            await reading
        assert sorted(seen) == list(range(300))


async def test_an_answer_that_was_lost_on_the_way_is_asked_for_again(server, monkeypatch):
    """The server has handed entries over, and nobody has them."""
    async with shop(server, *"ab") as (group, _), Consumer(group, "c") as consumer:
        connection = consumer._link.connection
        send = connection.send_blocking

        def swallow(packed, blocks_s):
            monkeypatch.undo()
            send(packed, blocks_s)
            lost = asyncio.get_running_loop().create_future()
            lost.set_exception(ConnectionLost("the line broke"))
            return lost

        monkeypatch.setattr(connection, "send_blocking", swallow)
        with pytest.raises(ConnectionLost):
            await consumer.fetch()
        assert data(await fetched(consumer, 2)) == ["a", "b"]


async def test_a_group_that_the_server_forgot_is_made_again(lab_server):
    """Persistence "none": after a restart neither stream nor group is there.

    Reading fixes it, what was in them is gone.
    """
    limits = ConnectionConfig(backoff=Backoff(initial_s=0.002, max_s=0.02))
    async with EmbeddedServer() as server, MessageQueue(server.url, config=limits) as mq:
        stream = mq.stream("orders")
        group = await stream.group("billing")
        await stream.add("forgotten")
        async with Consumer(group, "c") as consumer:
            server.kill()
            await wait_until(lambda: not (mq.is_connected or consumer._link.is_connected))
            await server.start()
            await wait_until(lambda: mq.is_connected and consumer._link.is_connected)
            await stream.add("new")
            assert data(await fetched(consumer, 1)) == ["new"]


async def test_each_entry_goes_to_one_of_the_tasks_that_ask_the_same_consumer(server):
    """They ask one after the other: no answer is taken twice, and none is left unread."""
    async with shop(server) as (group, stream), Consumer(group, "c", batch_size=10) as consumer:
        seen = []

        async def read():
            async for delivery in consumer:
                seen.append(delivery.id)
                await asyncio.sleep(0)
                await consumer.ack(delivery)

        readers = [asyncio.create_task(read()) for _ in range(3)]
        ids = [await stream.add(str(number)) for number in range(100)]
        await wait_until(lambda: len(seen) >= len(ids))
        await everything_done(group)
        for reader in readers:
            reader.cancel()
        await asyncio.wait(readers)
        assert sorted(seen) == sorted(ids)
