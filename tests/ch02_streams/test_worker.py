"""Worker on a real server: acknowledged after the work, retried, buried, given back."""

import asyncio

import pytest

from mpim_lab.errors import InvalidParameter
from mpim_lab.events import EventKind
from mpim_lab.lab.trace.trace import Trace
from mpim_lab.mq.connection.retry import Backoff, RetryPolicy
from mpim_lab.mq.streams.worker import Worker
from tests.streams import AN_HOUR_MS, everything_done, letters, pending, shop, working
from tests.support import wait_until


@pytest.mark.parametrize("kind", ["plain", "async"])
async def test_what_was_handled_is_acknowledged(server, kind):
    """In order, once each."""
    got = []

    def plain(entry):
        got.append(entry.data)

    async def later(entry):
        await asyncio.sleep(0)
        got.append(entry.data)

    async with shop(server, "a", "b", "c") as (group, _):
        async with working(group, later if kind == "async" else plain):
            await everything_done(group)
        assert await group.dead_letters.count() == 0
    assert got == [b"a", b"b", b"c"]


async def test_a_handler_that_raises_is_retried_up_to_the_limit_and_then_buried(server):
    """Each try counts as a delivery.

    The dead letter says where it came from, why, and what was in it.
    """
    trace, tried = Trace(), []

    def refuse(entry):
        tried.append(entry.id)
        raise ValueError("no price for tea")

    async with shop(server, observer=trace) as (group, stream):
        added = await stream.add({"order": "m17", "item": "tea"})
        async with working(group, refuse):
            (letter,) = await letters(group)
        assert await group.pending() == []
    assert tried == [added] * 3
    assert (letter.stream, letter.group, letter.origin_id) == ("orders", "billing", added)
    assert (letter.reason, letter.error, letter.deliveries) == (
        "tries used up",
        "ValueError: no price for tea",
        3,
    )
    assert letter.fields == {"order": b"m17", "item": b"tea"}
    assert [event.count for event in trace.by_kind(EventKind.RETRIED)] == [2, 3]
    assert [event.detail for event in trace.by_kind(EventKind.FAILED)] == [
        "ValueError: no price for tea"
    ] * 3


async def test_a_handler_that_works_the_second_time_leaves_no_letter(server):
    """Between the tries it is pending, with its deliveries counted."""
    tried = []

    async def shaky(entry):
        tried.append(entry.data)
        if len(tried) == 1:
            raise OSError("try again")

    async with shop(server, "a") as (group, _):
        async with working(group, shaky):
            await wait_until(lambda: len(tried) == 2)
            await everything_done(group)
        assert await group.dead_letters.count() == 0
    assert tried == [b"a", b"a"]


async def test_what_failed_does_not_hold_up_the_others(server):
    """They are done while it waits for its next try."""
    got = []

    def handle(entry):
        got.append(entry.data)
        if entry.data == b"bad":
            raise ValueError

    slow = RetryPolicy(max_attempts=2, backoff=Backoff(initial_s=0.2, max_s=0.2))
    async with shop(server, "bad", "b", "c") as (group, _), working(group, handle, retry=slow):
        await letters(group)
    assert got == [b"bad", b"b", b"c", b"bad"]


async def test_parallel_handlers_run_at_once_and_no_more_than_asked(server):
    """`concurrency` bounds how many."""
    running, most, go = 0, 0, asyncio.Event()

    async def handle(entry):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await go.wait()
        running -= 1

    async with shop(server, *"abcdefgh") as (group, _), working(group, handle, concurrency=3):
        await wait_until(lambda: running == 3)
        go.set()
        await everything_done(group)
    assert most == 3


async def test_stopping_finishes_the_handler_that_runs_and_gives_back_the_rest(server):
    """Another worker takes the rest at once, though what it had to be idle for is an hour."""
    got, go = [], asyncio.Event()

    async def handle(entry):
        await go.wait()
        got.append(entry.data)

    async with shop(server, "a", "b", "c") as (group, _):
        worker = Worker(group, "first", handle)
        task = asyncio.create_task(worker.run())
        await pending(group, 3)
        stopping = asyncio.create_task(worker.stop())
        await asyncio.sleep(0)
        go.set()
        await asyncio.gather(stopping, task)
        assert got == [b"a"]
        async with working(group, handle, "second", claim_idle_ms=AN_HOUR_MS):
            await everything_done(group)
    assert got == [b"a", b"b", b"c"]


async def test_stopping_a_worker_that_never_ran_returns(server):
    """There is nothing to wait for."""
    async with shop(server) as (group, _), asyncio.timeout(5):
        await Worker(group, "w", print).stop()


async def test_options_out_of_their_bounds_are_refused(server):
    """At least 1, each."""
    async with shop(server) as (group, _):
        for option in ("concurrency", "batch_size", "max_in_flight", "claim_idle_ms"):
            with pytest.raises(InvalidParameter, match=f"{option}=0"):
                Worker(group, "w", print, **{option: 0})
