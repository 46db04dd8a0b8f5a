"""Names of groups and consumers on a real server: any name, and one life at a time has it."""

import asyncio
from collections import Counter

import pytest

from mpim_lab.errors import InvalidMessage, InvalidParameter, LeaseLost
from mpim_lab.keys import name_bytes, name_text
from mpim_lab.mq.streams.consumer import Consumer
from mpim_lab.mq.streams.group import ConsumerGroup
from mpim_lab.mq.streams.worker import Worker
from tests.streams import data, everything_done, fetched, shop, working
from tests.support import wait_until


class Power(BaseException):
    """A power cut: no handler of exceptions sees it."""


class Text(str):
    """A text of a class of its own."""


NAMES = [
    "billing",
    Text("a text"),
    "with spaces\nand lines",
    "a:b",
    "{a}",
    "50%",
    "%s",
    "größe",
    b"raw",
    b"\xff\x00",
]


@pytest.mark.parametrize("name", NAMES, ids=repr)
async def test_a_name_is_a_name_whatever_it_is_made_of(one_server, name):
    """For groups and consumers.

    Read, claimed, given back, acknowledged, and gone without a trace.
    """
    async with shop(one_server, *"ab") as (_, stream):
        group = await stream.group(name)
        async with Consumer(group, name) as consumer:
            first, second = await fetched(consumer, 2)
            await consumer.ack(first)
            assert [line.consumer for line in await group.pending(consumer=name)] == [
                name_text(name_bytes(name))
            ]
        async with Consumer(group, "heir", claim_idle_ms=1) as heir:
            (again,) = await fetched(heir, 1)
            assert (again.id, await group.lag()) == (second.id, 0)
            await heir.ack_all([again])
        assert (
            await group.context.connection.call(
                "XINFO", "CONSUMERS", group.context.key, group.raw_name
            )
            == []
        )


@pytest.mark.parametrize("name", ["", b"", "\ud800"])
async def test_what_is_no_name_is_refused(one_server, name):
    """By a named error, before anything is sent."""
    async with shop(one_server) as (group, stream):
        with pytest.raises(InvalidMessage):
            await stream.group(name)
        with pytest.raises(InvalidMessage):
            Consumer(group, name)


async def test_of_two_workers_of_one_name_the_later_goes_on_and_the_earlier_is_told(server):
    """Each entry is handled once; what the earlier one has in hand it finishes first."""
    seen = Counter()

    async def handler(entry):
        seen[entry.data] += 1
        await asyncio.sleep(0.02)

    async with shop(server, *map(str, range(60))) as (group, stream):
        earlier = asyncio.create_task(Worker(group, "worker-1", handler, batch_size=50).run())
        await wait_until(lambda: seen)
        async with working(group, handler, "worker-1"):
            with pytest.raises(LeaseLost, match="worker-1"):
                await earlier
            await stream.add_many([b"%d" % number for number in range(60, 80)])
            await everything_done(group)
    assert len(seen) == 80 and set(seen.values()) == {1}


@pytest.mark.parametrize("claim_idle_ms", [None, 30_000])
async def test_a_worker_that_crashed_is_followed_by_one_of_its_name_at_once(server, claim_idle_ms):
    """Its connection is gone, so nobody waits for the end of its lease."""
    got = []

    async def dies(entry):
        raise Power

    async with shop(server, *"abc") as (group, _):
        with pytest.raises(Power):
            await Worker(group, "w", dies, claim_idle_ms=claim_idle_ms).run()
        async with asyncio.timeout(5):
            async with working(
                group, lambda entry: got.append(entry.data), "w", claim_idle_ms=claim_idle_ms
            ):
                await everything_done(group)
    assert got == [b"a", b"b", b"c"]


async def test_the_later_life_does_not_take_what_the_earlier_is_still_at(server):
    """It cannot know whether that one is dead: what is kept alive is not abandoned."""
    async with (
        shop(server, *"abc") as (group, stream),
        Consumer(group, "c", claim_idle_ms=90) as earlier,
    ):
        held = await fetched(earlier, 3)
        async with Consumer(group, "c", claim_idle_ms=90) as later:
            await stream.add("d")
            assert data(await fetched(later, 1)) == ["d"]
            await asyncio.sleep(0.3)
            assert await later.fetch(50) == []
            await wait_until(lambda: earlier._error)
            with pytest.raises(LeaseLost):
                await earlier.fetch()
            await earlier.ack(held[0])
            await earlier.release_all()
            assert data(await fetched(later, 2)) == ["b", "c"]


async def test_the_name_stays_the_later_ones_when_the_earlier_has_left(server):
    """Who leaves takes back its own and nobody else's."""
    async with shop(server) as (group, stream):
        earlier = Consumer(group, "c")
        await earlier.__aenter__()
        async with Consumer(group, "c") as later:
            await earlier.__aexit__(None, None, None)
            await stream.add("a")
            assert data(await fetched(later, 1)) == ["a"]
            await later._send_heartbeat(later._membership)


async def test_a_consumer_may_be_opened_again_but_not_twice_at_once(server):
    """Nothing of the first time is left."""
    async with shop(server, "a") as (group, _):
        consumer = Consumer(group, "c", claim_idle_ms=None)
        async with consumer:
            assert data(await fetched(consumer, 1)) == ["a"]
            with pytest.raises(InvalidParameter, match="open already"):
                async with consumer:
                    pass
        async with consumer:
            (again,) = await fetched(consumer, 1)
            await consumer.ack(again)


async def test_two_groups_whose_joined_names_are_alike_have_nothing_in_common(one_server):
    """Group "a:b" with consumer "c", and group "a" with consumer "b:c"."""
    async with shop(one_server) as (group, _):
        one, two = ConsumerGroup(group.context, "a:b"), ConsumerGroup(group.context, "a")
        await one.create()
        await two.create()
        async with Consumer(one, "c") as first, Consumer(two, "b:c") as second:
            await first._send_heartbeat(first._membership)
            await second._send_heartbeat(second._membership)
