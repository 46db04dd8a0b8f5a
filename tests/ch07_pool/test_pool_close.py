"""The end of a pool, and what is refused."""

import asyncio
import contextlib

import pytest

from mpim_lab.errors import ConnectionLost, InvalidParameter, NotConnected, QueueClosed
from mpim_lab.mq.pool.pool import Pool
from tests.pools import QUICK, borrow, connections, kept
from tests.support import wait_until


async def test_closing_sends_waiters_away_and_lets_those_finish_who_have_a_connection(server):
    """QueueClosed for the one, its reply for the other; nothing is open after it."""
    async with Pool(server.url, max_connections=1, **QUICK) as pool:
        done, order = asyncio.Event(), []
        holder, waiter = (asyncio.create_task(borrow(pool, order, name, done)) for name in "ab")
        await wait_until(lambda: order and pool.stats().waiting)
        closing = asyncio.create_task(pool.close())
        with pytest.raises(QueueClosed):
            await waiter
        assert not holder.done() and not closing.done()
        done.set()
        assert await holder == b"a"
        await closing
    assert kept(pool.stats()) and pool.stats().idle == 0
    assert await connections(server.url) == 0


async def test_closing_cuts_who_does_not_finish_in_time(server):
    """It is told so by its own call: ConnectionLost, which may have been run."""
    async with Pool(server.url, close_timeout_s=0.05, **QUICK) as pool:

        async def wait_for_ever():
            async with pool.connection() as connection:
                await connection.call("BLPOP", "never", 0, timeout_s=60)

        task = asyncio.create_task(wait_for_ever())
        await wait_until(lambda: pool.stats().opened)
        await pool.close()
        with pytest.raises(ConnectionLost):
            await task
        assert kept(pool.stats())
    assert await connections(server.url) == 0


async def test_closing_twice_is_harmless_and_everything_after_it_is_refused(server):
    """By name; the figures can still be read."""
    async with Pool(server.url) as pool:
        async with pool.connection():
            pass
        await asyncio.gather(pool.close(), pool.close())
        with pytest.raises(QueueClosed):
            async with pool.connection():
                pass
    with pytest.raises(QueueClosed):
        await pool.__aenter__()
    assert pool.stats().closed == {"pool closed": 1}


async def test_a_pool_closed_while_somebody_connects_keeps_nothing_open(server):
    """Whoever was about to have a connection hears QueueClosed."""
    async with Pool(server.url, **QUICK) as pool:
        server.pause()
        task = asyncio.create_task(borrow(pool, [], "a", asyncio.Event()))
        await wait_until(lambda: pool.stats().in_use)
        closing = asyncio.create_task(pool.close())
        await asyncio.sleep(0.02)
        server.resume()
        with pytest.raises(QueueClosed):
            await task
        await closing
    assert kept(pool.stats())
    assert await connections(server.url) == 0


async def test_closing_that_is_cancelled_closes_all_the_same(server):
    """It does not wait any longer, and cuts."""
    async with Pool(server.url, **QUICK) as pool:
        order = []
        holder = asyncio.create_task(borrow(pool, order, "a", asyncio.Event()))
        await wait_until(lambda: order)
        closing = asyncio.create_task(pool.close())
        await asyncio.sleep(0.02)
        closing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await closing
        holder.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await holder
    assert kept(pool.stats())


async def test_a_pool_that_was_not_opened_says_how(server):
    """NotConnected, with the line to write."""
    with pytest.raises(NotConnected, match="async with Pool"):
        async with Pool(server.url).connection():
            pass


@pytest.mark.parametrize(
    "options",
    [
        {"urls": []},
        {"urls": ["redis://127.0.0.1:1", "redis://127.0.0.1:1/0"]},
        {"urls": "http://127.0.0.1"},
        {"max_connections": 0},
        {"max_waiting": -1},
        {"acquire_timeout_s": 0},
        {"max_idle_s": 0},
        {"check_idle_after_s": -1},
    ],
)
def test_bounds_are_refused_by_name(options):
    """InvalidParameter, before anything is opened."""
    with pytest.raises(InvalidParameter):
        Pool(**{"urls": "redis://127.0.0.1:1", **options})
