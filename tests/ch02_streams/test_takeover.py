"""Taking over on a real server.

What is abandoned is found to its end, what is alive is left alone, no slot is lost.
"""

import asyncio
import contextlib

import pytest

from mpim_lab.errors import InvalidParameter
from mpim_lab.mq.connection.retry import Backoff, RetryPolicy
from mpim_lab.mq.streams.consumer import Consumer
from mpim_lab.mq.streams.worker import Worker
from tests.streams import (
    AN_HOUR_MS,
    data,
    dies_with,
    everything_done,
    fetched,
    pending,
    shop,
    working,
)
from tests.support import wait_until

IN_A_MINUTE = RetryPolicy(max_attempts=5, backoff=Backoff(initial_s=60, max_s=600))
SOON = RetryPolicy(max_attempts=9, backoff=Backoff(initial_s=0.3, max_s=0.3))


async def many(stream, count, first=0):
    """Add so many, numbered."""
    await stream.add_many([b"%d" % number for number in range(first, first + count)])


async def owners(group):
    """Who has what is pending."""
    return {line.consumer for line in await group.pending(count=10_000)}


async def consumers(group):
    """The names that the server keeps for the group."""
    found = await group.context.connection.call(
        "XINFO", "CONSUMERS", group.context.key, group.raw_name
    )
    return {raw[b"name"].decode() for raw in found}


def refuses_bad(got):
    """A handler that fails for what begins with "bad"."""

    def handle(entry):
        if entry.data.startswith(b"bad"):
            raise ValueError("not now")
        got.append(entry.data)

    return handle


async def test_two_thousand_abandoned_entries_are_taken_over_page_after_page(server):
    """A full page is followed by the next at once, and not half an idle time later."""
    got = []
    async with shop(server) as (group, stream):
        await many(stream, 2_000)
        await dies_with(group, batch_size=2_000, max_in_flight=2_000)
        await asyncio.sleep(1.0)
        async with working(group, lambda entry: got.append(int(entry.data)), claim_idle_ms=1_000):
            async with asyncio.timeout(8):  # one page each half a second would take ten
                await wait_until(lambda: len(got) == 2_000)
            await everything_done(group)
    assert got == list(range(2_000))


async def test_taking_over_is_bounded_by_what_may_be_in_hand(server):
    """What there is no room for is found by a later fetch."""
    async with shop(server) as (group, stream):
        await many(stream, 250)
        await dies_with(group, batch_size=250)
        async with Consumer(group, "heir", claim_idle_ms=1, max_in_flight=120) as heir:
            held = await fetched(heir, 120)
            assert len(held) == 120 and await heir.fetch(20) == []
            await heir.ack_all(held)
            held = await fetched(heir, 120)
            await heir.ack_all(held)
            assert len(await fetched(heir, 10)) == 10


async def test_leftovers_of_an_earlier_life_are_found_to_the_last_one(server):
    """More of them than may be in hand, and nobody claims."""
    got = []
    async with shop(server) as (group, stream):
        await many(stream, 450)
        await dies_with(group, "w", batch_size=450, max_in_flight=450)
        options = {"max_in_flight": 7, "batch_size": 7, "claim_idle_ms": None}
        async with working(group, lambda entry: got.append(int(entry.data)), "w", **options):
            await everything_done(group)
    assert got == list(range(450))


async def test_a_dead_members_entries_do_not_wait_behind_ones_own_retries(server):
    """However many of one's own come first in the list."""
    got = []
    async with shop(server) as (group, stream):
        await stream.add_many([b"bad%d" % number for number in range(130)])
        options = {"claim_idle_ms": 300, "retry": IN_A_MINUTE, "batch_size": 10}
        async with working(group, refuses_bad(got), "alive", **options) as worker:
            await wait_until(lambda: len(worker._retry_heap) == 130)
            async with Consumer(group, "dead", claim_idle_ms=None) as dead:
                await worker.stop()  # or it would read them first
                await stream.add_many([b"good"] * 5)
                assert len(await fetched(dead, 5)) == 5
                await dead._close()
        async with working(group, refuses_bad(got), "alive", **options):
            await wait_until(lambda: len(got) == 5)


@pytest.mark.parametrize("claim_idle_ms", [40, 200])
async def test_what_waits_for_its_retry_is_not_abandoned(server, claim_idle_ms):
    """A delay far above claim_idle_ms: nobody else takes it, and it counts no delivery."""
    tried = []

    def handler(name):
        def handle(entry):
            tried.append(name)
            raise ValueError("downstream is away for a minute")

        return handle

    async with shop(server, "x") as (group, _), contextlib.AsyncExitStack() as stack:
        for name in "ab":
            options = {"claim_idle_ms": claim_idle_ms, "retry": IN_A_MINUTE}
            await stack.enter_async_context(working(group, handler(name), name, **options))
        await wait_until(lambda: tried)
        await asyncio.sleep(claim_idle_ms * 5e-3)
        (line,) = await group.pending()
        assert (tried, line.consumer, line.deliveries) == (tried[:1], tried[0], 1)


async def test_a_slow_handler_keeps_what_it_has_and_what_waits_behind_it(server):
    """Slow is not dead: each is handled once, though the whole takes many times claim_idle_ms."""
    got = []

    async def slow(entry):
        await asyncio.sleep(0.05)
        got.append(entry.data)

    async with (
        shop(server, *"abcdefgh") as (group, _),
        working(group, slow, "slow", claim_idle_ms=60),
    ):
        await pending(group, 8)
        async with working(group, lambda entry: got.append(b"twice"), "quick", claim_idle_ms=60):
            await everything_done(group)
    assert got == [bytes([letter]) for letter in b"abcdefgh"]


async def test_without_a_heartbeat_what_is_slow_passes_on_and_long_delays_are_refused(server):
    """As by the server's idle time alone."""
    go, got = asyncio.Event(), []
    async with shop(server, "a") as (group, _):
        with pytest.raises(InvalidParameter, match="claim_idle_ms=500"):
            Worker(group, "w", print, heartbeat=False, claim_idle_ms=500, retry=IN_A_MINUTE)
        Worker(
            group, "w", print, heartbeat=False, claim_idle_ms=500, retry=RetryPolicy(max_attempts=1)
        )

        async def frozen(entry):
            await go.wait()

        async with working(group, frozen, "frozen", heartbeat=False, claim_idle_ms=60):
            await pending(group, 1)
            async with working(
                group, lambda entry: got.append(entry.data), "awake", claim_idle_ms=60
            ):
                await wait_until(lambda: got == [b"a"])
            go.set()


@pytest.mark.parametrize("claim_idle_ms", [50, None])
async def test_what_is_trimmed_while_it_waits_for_its_retry_gives_its_slot_back(
    server, claim_idle_ms
):
    """Be it the heartbeat that notices, or the retry."""
    got = []
    async with shop(server) as (group, stream):
        options = {
            "max_in_flight": 5,
            "batch_size": 5,
            "claim_idle_ms": claim_idle_ms,
            "retry": SOON,
        }
        async with working(group, refuses_bad(got), **options) as worker:
            await stream.add_many([b"bad"] * 5)
            await wait_until(lambda: len(worker._retry_heap) == 5)
            await stream.trim(max_entries=0, exact=True)
            await stream.add_many([b"good"] * 12)
            await wait_until(lambda: len(got) == 12)
            await everything_done(group)
            await wait_until(lambda: not worker.consumer._in_flight)


async def test_what_another_has_taken_is_not_handled_by_the_first_nor_taken_back(server):
    """It waits for a retry, somebody claims it by hand.

    Its slot is free, and its new owner keeps it.
    """
    tried = []

    def handle(entry):
        tried.append(entry.data)
        raise ValueError

    async with (
        shop(server, "a") as (group, _),
        working(group, handle, retry=SOON, claim_idle_ms=None) as worker,
    ):
        await wait_until(lambda: worker._retry_heap)
        assert data(await group.claim("by hand", idle_ms=0)) == ["a"]
        await wait_until(lambda: not (worker._retry_heap or worker.consumer._in_flight))
        assert (tried, await owners(group)) == ([b"a"], {"by hand"})


async def test_giving_back_leaves_alone_what_others_have_claimed_meanwhile(server):
    """Also what a later life of the same name was given."""
    async with shop(server, *"abc") as (group, _):
        async with Consumer(group, "first", claim_idle_ms=None) as first:
            held = await fetched(first, 3)
            await group.claim("other", idle_ms=0, count=1)
            await group.context.connection.call(
                "XCLAIM", "orders", "billing", "first", "0", held[1].id
            )
        lines = await group.pending()
        assert [line.consumer for line in lines] == ["other", "first", "first"]
        assert [line.idle_ms > AN_HOUR_MS for line in lines] == [False, False, True]


async def test_who_leaves_with_nothing_pending_leaves_no_name_behind(server):
    """Fifty starts under new names, and not one of them stays."""
    async with shop(server) as (group, stream):
        for number in range(50):
            async with Consumer(group, f"host-{number}") as consumer:
                await stream.add("x")
                await consumer.ack_all(await fetched(consumer, 1))
        assert await consumers(group) == set()
        assert await group.context.connection.call("KEYS", "*life*") == []


async def test_a_name_with_something_pending_stays_until_others_have_taken_all_of_it(server):
    """Nothing that is pending is ever thrown away with its name."""
    async with shop(server, *"abc") as (group, _):
        async with Consumer(group, "first") as first:
            assert len(await fetched(first, 3)) == 3
        assert await consumers(group) == {"first"}
        async with Consumer(group, "second", claim_idle_ms=AN_HOUR_MS) as second:
            held = await fetched(second, 3)
            assert await consumers(group) == {"second"}
            await second.ack_all(held)
        assert await consumers(group) == set()


async def test_an_entry_of_a_living_member_is_taken_and_its_name_stays(server):
    """It has a lease: it is alive, though it had nothing else."""
    async with (
        shop(server, "a") as (group, _),
        Consumer(group, "slow", heartbeat=False) as slow,
        Consumer(group, "quick", claim_idle_ms=1) as quick,
    ):
        assert len(await slow.fetch()) == 1
        assert data(await fetched(quick, 1)) == ["a"]
        assert await consumers(group) == {"slow", "quick"}
