"""The pool on a real server.

Who gets a connection and when, what is cancelled, what is closed, what the figures say.
"""

import asyncio
import contextlib
import logging

import pytest

from mpim_lab.errors import (
    NotConnected,
    PoolTimeout,
    QueueFull,
)
from mpim_lab.lab.faults.proxy import FaultProxy, Match
from mpim_lab.lab.faults.server_admin import cut_connections
from mpim_lab.mq.pool.pool import Pool
from tests.pools import QUICK, borrow, connections, kept
from tests.support import wait_until


async def test_a_connection_is_opened_when_needed_and_used_again(server):
    """One after the other: one connection. Three at once: three. The server agrees."""
    async with Pool(server.url, max_connections=5) as pool:
        assert pool.stats().opened == 0
        for number in range(4):
            async with pool.connection() as connection:
                assert await connection.call("ECHO", number) == str(number).encode()
        assert (pool.stats().opened, pool.stats().idle) == (1, 1)
        done, order = asyncio.Event(), []
        tasks = [asyncio.create_task(borrow(pool, order, name, done)) for name in ("a", "b", "c")]
        await wait_until(lambda: len(order) == 3)
        assert (pool.stats().in_use, pool.stats().idle) == (3, 0)
        assert await connections(server.url) == 3
        done.set()
        assert await asyncio.gather(*tasks) == [b"a", b"b", b"c"]
        assert kept(pool.stats())
    assert await connections(server.url) == 0
    assert pool.stats().closed == {"pool closed": 3}


async def test_never_more_are_open_than_allowed_and_the_rest_wait_their_turn(server):
    """First come, first served."""
    async with Pool(server.url, max_connections=2, **QUICK) as pool:
        order, go_on = [], asyncio.Event()
        first = [asyncio.create_task(borrow(pool, order, name, go_on)) for name in ("a", "b")]
        await wait_until(lambda: len(order) == 2)
        rest = [
            asyncio.create_task(borrow(pool, order, str(number), go_on)) for number in range(20)
        ]
        await wait_until(lambda: pool.stats().waiting == 20)
        go_on.set()
        await asyncio.gather(*first, *rest)
        assert order[2:] == [str(number) for number in range(20)]
        assert pool.stats().opened == 2
        assert pool.stats().waits == 22


async def test_a_newcomer_does_not_overtake_whoever_waits(server):
    """Not even the one that gives its connection back and asks again in the same breath."""
    async with Pool(server.url, max_connections=1, **QUICK) as pool:
        order = []

        async def again_and_again(name):
            for _ in range(5):
                async with pool.connection():
                    order.append(name)
                    await asyncio.sleep(0)

        await asyncio.gather(again_and_again("a"), again_and_again("b"))
        assert order == ["a", "b"] * 5


async def test_waiting_ends_with_an_error_that_names_who_has_it(server):
    """Definite: nothing was sent. The line is as if this caller had not been there."""
    async with Pool(server.url, max_connections=1, acquire_timeout_s=0.1) as pool:
        done, order = asyncio.Event(), []
        hog = asyncio.create_task(borrow(pool, order, "hog", done), name="the hog")
        await wait_until(lambda: order)
        with pytest.raises(
            PoolTimeout,
            match=r"waited 0.1 s; 1 of 1 connections are in use; longest out: 'the hog' for 0.",
        ) as caught:
            async with pool.connection():
                pass
        assert caught.value.definite
        assert (pool.stats().waiting, pool.stats().timed_out) == (0, 1)
        done.set()
        await hog


async def test_the_line_itself_is_bounded(server):
    """One more is refused at once, by name."""
    async with Pool(server.url, max_connections=1, max_waiting=2, **QUICK) as pool:
        done, order = asyncio.Event(), []
        tasks = [asyncio.create_task(borrow(pool, order, str(number), done)) for number in range(3)]
        await wait_until(lambda: order and pool.stats().waiting == 2)
        with pytest.raises(QueueFull, match="2 callers wait already"):
            async with pool.connection():
                pass
        assert pool.stats().refused == 1
        done.set()
        await asyncio.gather(*tasks)


async def test_a_waiter_cancelled_as_it_is_given_a_connection_passes_it_on(server):
    """In the same turn of the loop, before it has heard of it."""
    async with Pool(server.url, max_connections=1, **QUICK) as pool:
        done, order = asyncio.Event(), []
        holder, second, third = (
            asyncio.create_task(borrow(pool, order, name, done)) for name in "abc"
        )
        await wait_until(lambda: order and pool.stats().waiting == 2)
        holder.cancel()
        while pool.stats().in_use:
            await asyncio.sleep(0)  # the holder has just given it back, and the second one is woken
        assert not second.cancelled() and order == ["a"]
        second.cancel()
        done.set()
        assert await third == b"c"
        assert order == ["a", "c"] and second.cancelled()
        assert kept(pool.stats())


async def test_a_user_cancelled_in_the_middle_of_a_reply_does_not_leave_it_to_the_next(server):
    """The connection is closed, on the server as well.

    The next user gets a new one and its own reply.
    """
    async with Pool(server.url, max_connections=1, **QUICK) as pool:

        async def wait_for_ever():
            async with pool.connection() as connection:
                await connection.call("BLPOP", "never", 0, timeout_s=60)

        task = asyncio.create_task(wait_for_ever())
        await wait_until(lambda: pool.stats().opened)
        await asyncio.sleep(0.05)
        task.cancel()
        async with pool.connection() as connection:
            assert await connection.call("ECHO", "mine") == b"mine"
        assert task.cancelled() and pool.stats().closed == {"in the middle of a reply": 1}
        assert kept(pool.stats()) and await connections(server.url) == 1


@pytest.mark.parametrize("when", ["connecting", "checking"])
async def test_a_user_cancelled_before_it_has_its_connection_leaves_nothing_behind(server, when):
    """While it connects, or while an idle connection is asked for a sign of life."""
    async with (
        FaultProxy(server.url) as proxy,
        Pool(proxy.url, max_connections=1, check_idle_after_s=0, **QUICK) as pool,
    ):
        if when == "checking":
            async with pool.connection():
                pass
        proxy.partition()
        task = asyncio.create_task(borrow(pool, [], "a", asyncio.Event()))
        await wait_until(lambda: pool.stats().in_use)
        await asyncio.sleep(0.05)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert kept(pool.stats()) and pool.stats().idle == 0
        proxy.heal()
        async with pool.connection() as connection:
            assert await connection.call("ECHO", "mine") == b"mine"


async def test_an_idle_connection_that_the_server_has_ended_is_replaced_unseen(server):
    """Its end can be seen without asking, so it is looked for each time."""
    async with Pool(server.url, **QUICK) as pool:
        async with pool.connection():
            pass
        assert await cut_connections(server.url, "pool") == 1
        await asyncio.sleep(0.02)
        async with pool.connection() as connection:
            assert await connection.call("ECHO", "mine") == b"mine"
        assert pool.stats().closed == {"ended by the server": 1}
        assert pool.stats().replaced == 1


async def test_an_idle_connection_is_asked_for_a_sign_of_life_after_a_while(server):
    """A line on which nothing arrives looks like one on which nothing happens.

    The question tells them apart.
    """
    async with (
        FaultProxy(server.url) as proxy,
        Pool(proxy.url, check_idle_after_s=0, **QUICK) as pool,
    ):
        async with pool.connection():
            pass
        proxy.delay_reply(Match("PING"))
        with pytest.raises(NotConnected, match="gives no sign of life"):
            async with pool.connection():
                pass
        assert pool.stats().closed == {"no sign of life": 1}
        proxy.release()
        await asyncio.sleep(0.05)
        async with pool.connection() as connection:
            assert await connection.call("ECHO", "mine") == b"mine"
        assert kept(pool.stats())


async def test_idle_connections_take_turns(server):
    """The one that was idle for longest is next, so that none lies there unseen."""
    async with Pool(server.url, **QUICK) as pool:
        done, order = asyncio.Event(), []
        tasks = [asyncio.create_task(borrow(pool, order, str(number), done)) for number in range(3)]
        await wait_until(lambda: len(order) == 3)
        done.set()
        await asyncio.gather(*tasks)
        used = []
        for _ in range(6):
            async with pool.connection() as connection:
                used.append(await connection.call("CLIENT", "ID"))
        assert len(set(used)) == 3 and used[:3] == used[3:]


@pytest.mark.parametrize(
    ("limit", "why"), [("max_idle_s", "idle too long"), ("max_lifetime_s", "too old")]
)
async def test_idle_connections_are_retired_though_nobody_comes(server, limit, why):
    """The pool's own task does it; on the server they are gone."""
    async with Pool(server.url, **{limit: 0.1}, **QUICK) as pool:
        done, order = asyncio.Event(), []
        tasks = [asyncio.create_task(borrow(pool, order, str(number), done)) for number in range(3)]
        await wait_until(lambda: len(order) == 3)
        done.set()
        await asyncio.gather(*tasks)
        await wait_until(lambda: pool.stats().idle == 0)
        assert pool.stats().closed == {why: 3}
        assert await connections(server.url) == 0


async def test_a_connection_past_its_lifetime_is_not_lent_again(server):
    """It is let finish, and closed as it comes back."""
    async with Pool(server.url, max_lifetime_s=0.05, **QUICK) as pool:
        async with pool.connection() as connection:
            await asyncio.sleep(0.1)
            assert await connection.call("ECHO", "late") == b"late"
        assert pool.stats().closed == {"too old": 1} and kept(pool.stats())


async def test_who_keeps_a_connection_for_too_long_is_named(server, caplog):
    """In the figures while it lasts, and once in the log: this is how a leak is found."""
    async with Pool(server.url, leak_warning_s=0.05, **QUICK) as pool:
        done = asyncio.Event()
        task = asyncio.create_task(borrow(pool, [], "a", done), name="forgets to give back")
        with caplog.at_level(logging.WARNING, "mpim_lab.mq.pool.pool"):
            await wait_until(lambda: caplog.records)
        (out,) = pool.stats().overdue
        assert (out.task, out.server) == ("forgets to give back", next(iter(pool.stats().servers)))
        await asyncio.sleep(0.05)
        done.set()
        await task
        assert pool.stats().overdue == () and len(caplog.records) == 1
