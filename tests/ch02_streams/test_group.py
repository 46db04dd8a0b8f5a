"""Consumer groups on a real server.

Shared out, pending until acknowledged, claimed from the dead.
"""

import asyncio

import pytest
from redis.asyncio import Redis

from mpim_lab.errors import CommandRejected
from mpim_lab.mq.streams.consumer import Consumer
from tests.streams import AN_HOUR_MS, data, dies_with, shop


async def times_run(server, command):
    """How often the server has run a command."""
    async with Redis.from_url(server.url) as client:
        return (await client.info("commandstats")).get(f"cmdstat_{command}", {"calls": 0})["calls"]


async def test_a_group_is_made_once_and_begins_at_the_first_entry_or_from_now_on(server):
    """Making it again changes nothing; so does another start."""
    async with shop(server, "a") as (group, stream):
        assert not await group.create("$")
        late = await stream.group("late", start="$")
        await stream.add("b")
        async with Consumer(group, "c") as first, Consumer(late, "c") as second:
            assert data(await first.fetch()) == ["a", "b"]
            assert data(await second.fetch()) == ["b"]


async def test_joining_a_group_makes_the_stream_too(server):
    """A consumer may be there before the first entry."""
    async with shop(server) as (group, stream):
        assert (await stream.length(), await group.lag()) == (0, 0)
        async with Consumer(group, "c") as consumer:
            assert await consumer.fetch(20) == []


async def test_two_groups_each_get_everything(server):
    """Fan-out, as two subscribers; acknowledging in one does nothing in the other."""
    async with shop(server, "a", "b") as (billing, stream):
        audit = await stream.group("audit")
        async with Consumer(billing, "c") as one, Consumer(audit, "c") as two:
            mine = await one.fetch(5_000)
            assert data(mine) == data(await two.fetch()) == ["a", "b"]
            await one.ack(mine[0])
            assert (len(await billing.pending()), len(await audit.pending())) == (1, 2)


async def test_consumers_of_one_group_share_in_parallel(server):
    """Each entry goes to one of them; together they have all, each in order."""
    async with shop(server) as (group, stream):
        shares = {name: [] for name in ("one", "two", "three")}

        async def work(name):
            async with Consumer(group, name, batch_size=7) as consumer:
                while sum(map(len, shares.values())) < 500:
                    for delivery in await consumer.fetch(20):
                        shares[name].append(int(delivery.entry.data))
                        await consumer.ack(delivery)

        await asyncio.gather(
            *map(work, shares), *(stream.add(str(number)) for number in range(500))
        )
        assert sorted(number for share in shares.values() for number in share) == list(range(500))
        assert all(share == sorted(share) for share in shares.values())
        assert await group.pending() == []


async def test_the_pending_list_says_who_has_what_for_how_long_and_how_often(server):
    """Filtered by consumer and by idleness; as many as asked for."""
    async with shop(server, "a", "b") as (group, stream):
        await dies_with(group, "dead")
        await stream.add("c")
        async with Consumer(group, "w", claim_idle_ms=None) as consumer:
            (third,) = await consumer.fetch(5_000)
            assert [(line.consumer, line.deliveries) for line in await group.pending()] == [
                ("dead", 1),
                ("dead", 1),
                ("w", 1),
            ]
            assert [line.id for line in await group.pending(consumer="w")] == [third.entry.id]
            assert len(await group.pending(count=2)) == 2
            assert [line.id for line in await group.pending(first=third.entry.id)] == [
                third.entry.id
            ]
            assert await group.pending(idle_ms=AN_HOUR_MS) == []
            before = (await group.pending())[0].idle_ms
            await asyncio.sleep(0.02)
            assert (await group.pending())[0].idle_ms >= before + 20
            (again,) = await group.claim("w", idle_ms=1, count=1)
            assert (again.deliveries, (await group.pending())[0].deliveries) == (2, 2)


async def test_acknowledging_says_how_many_were_pending(server):
    """One or many, whoever had them; a second time it is none."""
    async with shop(server, *"abc") as (group, _):
        first, second, third = [delivery.entry.id for delivery in await dies_with(group)]
        assert await group.ack() == 0
        assert await group.ack(first) == 1
        assert await group.ack(first, second, third, "1-1") == 2
        assert await group.pending() == []


async def test_acknowledgements_of_one_loop_turn_leave_as_one_command(server):
    """2,500 of them in three: a thousand ids a command at most."""
    async with shop(server) as (group, stream):
        await asyncio.gather(*(stream.add(str(number)) for number in range(2_510)))
        async with Consumer(group, "c", batch_size=5_000, max_in_flight=5_000) as consumer:
            deliveries = await consumer.fetch(5_000)
            await asyncio.gather(*(consumer.ack(delivery) for delivery in deliveries[:10]))
            assert await times_run(server, "xack") == 1
            await asyncio.gather(*(consumer.ack(delivery) for delivery in deliveries[10:]))
            assert await times_run(server, "xack") == 4
        assert await group.pending() == []


async def test_an_acknowledgement_that_the_server_refuses_is_heard(server):
    """By whoever awaits it."""
    async with shop(server, "a") as (group, stream):
        (delivery,) = await dies_with(group)
        await group.context.connection.call("DEL", stream.key)
        await group.context.connection.call("SET", stream.key, "no stream")
        with pytest.raises(CommandRejected, match="WRONGTYPE"):
            await group.ack_coalesced(delivery, actor="c")


async def test_what_a_dead_consumer_had_is_claimed_once_it_is_idle_for_long_enough(server):
    """Not before: it may only be slow."""
    async with shop(server, *"ab") as (group, _):
        await dies_with(group)
        assert await group.claim("heir", idle_ms=AN_HOUR_MS) == []
        await asyncio.sleep(0.02)
        claimed = await group.claim("heir", idle_ms=20)
        assert (data(claimed), [delivery.deliveries for delivery in claimed]) == (
            ["a", "b"],
            [2, 2],
        )
        assert {line.consumer for line in await group.pending()} == {"heir"}


async def test_two_that_claim_at_once_never_get_the_same(server):
    """Claiming ends the idleness."""
    async with shop(server, *map(str, range(200))) as (group, _):
        await dies_with(group, batch_size=200)
        await asyncio.sleep(0.1)
        claimed = await asyncio.gather(
            *(group.claim(f"heir-{n}", idle_ms=100, count=200) for n in range(5))
        )
        assert sorted(int(number) for share in claimed for number in data(share)) == list(
            range(200)
        )


async def test_entries_that_were_deleted_meanwhile_are_not_claimed(server):
    """The server drops them from the pending list."""
    async with shop(server, *"ab") as (group, stream):
        first, _ = await dies_with(group)
        await stream.delete(first.entry.id)
        await asyncio.sleep(0.01)
        assert data(await group.claim("heir", idle_ms=1)) == ["b"]
        assert [line.consumer for line in await group.pending()] == ["heir"]


async def test_the_lag_counts_what_nobody_was_given_yet(server):
    """PendingEntry is not lag.

    Another group's lag is its own; a group that is not there has none.
    """
    async with shop(server, *"abc") as (group, stream):
        assert await group.lag() == 3
        await dies_with(group, batch_size=2)
        assert (await group.lag(), len(await group.pending())) == (1, 2)
        await group.context.connection.call("XGROUP", "DESTROY", stream.key, "billing")
        assert await group.lag() is None


async def test_what_was_trimmed_before_anybody_was_given_it_is_no_lag(server):
    """There is nothing to be given any more; what comes after it counts as ever."""
    async with shop(server, *"abcde") as (group, stream):
        await stream.trim(max_entries=0, exact=True)
        assert await group.lag() == 0
        await stream.add("f")
        await stream.add("g")
        assert await group.lag() == 2
