"""The pool over several servers.

The least busy one that is there, and never more connections than allowed in all.
"""

import asyncio
import contextlib

import pytest

from mpim_lab.errors import ConnectionLost, InvalidParameter, LoginRejected, NotConnected
from mpim_lab.lab.faults.proxy import FaultProxy
from mpim_lab.lab.server.embedded import EmbeddedServer
from mpim_lab.mq.connection.retry import Backoff
from mpim_lab.mq.pool.pool import Pool
from tests.pools import QUICK, borrow, connections, kept
from tests.support import wait_until

LONG = {**QUICK, "backoff": Backoff(initial_s=60, max_s=60)}


@pytest.fixture
async def other(server):
    """A second server of the same kind."""
    async with EmbeddedServer(server.binary) as running:
        yield running


async def hold(pool, count, **where):
    """Have so many connections at once.

    Gives their servers, by order, and lets go when the context ends.
    """
    stack = contextlib.AsyncExitStack()
    taken = [await stack.enter_async_context(pool.connection(**where)) for _ in range(count)]
    return stack, [connection.server for connection in taken]


async def test_connections_are_spread_evenly(server, other):
    """The least busy server is the next one; with nobody busy they take turns."""
    async with Pool([server.url, other.url], max_connections=6, **QUICK) as pool:
        stack, servers = await hold(pool, 6)
        async with stack:
            assert [figures.in_use for figures in pool.stats().servers.values()] == [3, 3]
        assert len(set(servers)) == 2
        one_by_one = []
        for _ in range(6):
            async with pool.connection() as connection:
                one_by_one.append(connection.server)
        assert sorted(one_by_one) == sorted(servers)
        assert pool.stats().opened == 6
        assert await connections(server.url) == await connections(other.url) == 3


async def test_connections_do_not_move_about_among_servers_that_are_equally_busy(server, other):
    """Five over two servers, all in use all the time: five are opened, and that is all."""
    async with Pool([server.url, other.url], max_connections=5, **QUICK) as pool:

        async def work(number):
            async with pool.connection() as connection:
                return await connection.call("ECHO", number)

        assert await asyncio.gather(*map(work, range(300))) == [
            str(number).encode() for number in range(300)
        ]
        assert (pool.stats().opened, pool.stats().closed) == (5, {})


async def test_a_caller_may_name_the_server(server, other):
    """Idle connections to others make room.

    Never more are open than allowed, as the servers see it.
    """
    async with Pool([server.url, other.url], max_connections=4, **QUICK) as pool:
        stack, _ = await hold(pool, 4)
        await stack.aclose()
        stack, servers = await hold(pool, 4, server=other.url)
        async with stack:
            assert len(set(servers)) == 1
            await wait_until(
                lambda: not any(shelf.closing for shelf in pool._servers.pools.values())
            )
            assert (await connections(server.url), await connections(other.url)) == (0, 4)
        assert pool.stats().closed == {"room for another server": 2}
        with pytest.raises(InvalidParameter, match="must be one of"):
            await hold(pool, 1, server="redis://127.0.0.1:1")
        assert kept(pool.stats())


async def test_a_dead_server_is_passed_over_and_comes_back(server, other):
    """Its callers get the other one; when it is there again, it gets its share again."""
    async with Pool([server.url, other.url], max_connections=4, **QUICK) as pool:
        name = next(name for name in pool.stats().servers if name in server.url)
        server.kill()
        stack, servers = await hold(pool, 4)
        async with stack:
            assert name not in servers
        figures = pool.stats().servers[name]
        assert figures.failed and not figures.opened and kept(pool.stats())
        await server.start()

        async def is_back():
            async with pool.connection() as connection:
                return connection.server == name

        while not await is_back():
            await asyncio.sleep(0.005)
        assert not pool.stats().servers[name].is_circuit_open


async def test_when_no_server_is_there_every_caller_hears_it_and_no_place_is_lost(server, other):
    """NotConnected names each server and its cause.

    Those who waited are next, one after the other.
    """
    async with Pool([server.url, other.url], max_connections=2, **LONG) as pool:
        server.kill(), other.kill()
        asking = [borrow(pool, [], str(number), asyncio.Event()) for number in range(50)]
        outcomes = await asyncio.gather(*asking, return_exceptions=True)
        assert all(isinstance(outcome, NotConnected) and outcome.definite for outcome in outcomes)
        assert all(name in str(outcomes[-1]) for name in pool.stats().servers)
        assert "tried again in" in str(outcomes[-1])
        assert kept(pool.stats()) and pool.stats().waiting == 0
        assert (
            sum(figures.failed for figures in pool.stats().servers.values()) <= 4
        )  # not fifty times


async def test_a_silent_server_costs_its_time_out_once(server, other):
    """Paused: the line is taken, nothing is answered.

    After one attempt the others are sent elsewhere at once.
    """
    async with Pool([server.url, other.url], max_connections=4, **LONG) as pool:
        other.pause()
        for _ in range(10):
            async with pool.connection() as connection:
                assert await connection.call("ECHO", "there") == b"there"
        name = next(name for name in pool.stats().servers if name in other.url)
        assert (pool.stats().servers[name].failed, pool.stats().servers[name].is_circuit_open) == (
            1,
            True,
        )


async def test_connections_to_a_server_that_was_restarted_are_replaced(server):
    """Those in use hear ConnectionLost, the idle ones are found out before anybody has them."""
    async with Pool(server.url, max_connections=4, **QUICK) as pool:
        stack, _ = await hold(pool, 4)
        await stack.aclose()

        async def wait_for_ever():
            async with pool.connection() as connection:
                await connection.call("BLPOP", "never", 0, timeout_s=60)

        task = asyncio.create_task(wait_for_ever())
        await wait_until(lambda: pool.stats().in_use)
        await asyncio.sleep(0.05)
        server.kill()
        with pytest.raises(ConnectionLost):
            await task
        await server.start()
        async with pool.connection() as connection:
            assert await connection.call("ECHO", "mine") == b"mine"
        assert pool.stats().closed == {"broken in use": 1, "ended by the server": 3}
        assert pool.stats().replaced == 3 and kept(pool.stats())


async def test_while_a_server_is_in_doubt_no_connection_to_it_is_lent_unasked(server):
    """One could not be opened.

    Then the idle ones are asked first, though they were used a moment ago.
    """
    async with (
        FaultProxy(server.url) as proxy,
        Pool(proxy.url, check_idle_after_s=60, **QUICK) as pool,
    ):
        async with pool.connection():
            proxy.partition()
            with pytest.raises(NotConnected, match="did not answer within"):
                async with pool.connection():
                    pass
        await wait_until(
            lambda: not any(server.is_circuit_open for server in pool.stats().servers.values())
        )
        with pytest.raises(NotConnected, match="gives no sign of life"):
            async with pool.connection():
                pass
        assert kept(pool.stats()) and pool.stats().idle == 0


async def test_connecting_holds_up_nobody_else(server, other):
    """While one caller is busy connecting to a silent server, idle connections go on being lent."""
    async with (
        FaultProxy(other.url) as proxy,
        Pool([server.url, proxy.url], max_connections=2, **LONG) as pool,
    ):
        async with pool.connection(server=server.url):
            pass
        proxy.partition()
        slow = asyncio.create_task(borrow(pool, [], "slow", asyncio.Event()))
        await wait_until(lambda: pool.stats().in_use)
        for _ in range(20):
            async with pool.connection(server=server.url) as connection:
                assert await connection.call("ECHO", "quick") == b"quick"
        assert not slow.done()
        slow.cancel()


async def test_a_refused_login_is_named(server):
    """User, password or database; on one server of two the other is taken."""
    async with EmbeddedServer(server.binary, config={"requirepass": "secret"}) as guarded:
        async with Pool(guarded.url, **QUICK) as pool:
            with pytest.raises(LoginRejected, match="refused the login"):
                await hold(pool, 1)
            assert kept(pool.stats())
        async with Pool([guarded.url, server.url], **QUICK) as pool:
            stack, servers = await hold(pool, 3)
            async with stack:
                assert len(set(servers)) == 1
        async with Pool(guarded.url.replace("//", "//default:secret@"), **QUICK) as pool:
            async with pool.connection() as connection:
                assert await connection.call("ECHO", "in") == b"in"
            assert "secret" not in str(pool.stats())
    async with Pool(server.url.replace("/0", "/99"), **QUICK) as pool:
        with pytest.raises(LoginRejected, match="out of range"):
            await hold(pool, 1)


async def test_a_unix_socket_and_a_database_work(server):
    """As redis-py reads URLs."""
    async with Pool([server.unix_url, server.url.replace("/0", "/3")], **QUICK) as pool:
        async with pool.connection(server=server.unix_url) as connection:
            await connection.call("SET", "k", "in 0")
        async with pool.connection(server=server.url.replace("/0", "/3")) as connection:
            assert await connection.call("GET", "k") is None
            await connection.call("SET", "k", "in 3")
        async with pool.connection(server=server.unix_url) as connection:
            assert await connection.call("GET", "k") == b"in 0"
