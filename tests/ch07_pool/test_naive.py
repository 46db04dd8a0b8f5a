"""The naive version of chapter 7.

Each flaw shows on every run, and the pool under the same treatment does not have it.
"""

import asyncio
import contextlib

import pytest

from mpim_lab.chapters.ch07_pool.naive import NaivePool
from mpim_lab.errors import CommandTimeout, ConnectionLost, NotConnected, PoolTimeout
from mpim_lab.lab.faults.server_admin import controlling, cut_connections
from mpim_lab.mq.pool.pool import Pool
from tests.pools import QUICK, connections
from tests.support import wait_until

DESIGNS = ["naive", "pool"]


def made(design, server, **options):
    """One of each, with one connection unless said otherwise."""
    count = options.pop("connections", 1)
    if design == "naive":
        return NaivePool(server.url, connections=count, name="pool", call_timeout_s=2.0)
    return Pool(server.url, max_connections=count, call_timeout_s=2.0, **{**QUICK, **options})


async def echo(pool, word):
    """Borrow, ask, give back."""
    async with pool.connection() as connection:
        return await connection.call("ECHO", word)


async def settled(task, within_s=0.3):
    """Whether a task ends in time, whatever its end."""
    done, _ = await asyncio.wait([task], timeout=within_s)
    return bool(done)


@pytest.mark.parametrize("design", DESIGNS)
async def test_both_work_as_long_as_nothing_happens(server, design):
    """So that what follows is due to what happens."""
    async with made(design, server, connections=3) as pool:
        words = [f"w{number}" for number in range(100)]
        assert await asyncio.gather(*(echo(pool, word) for word in words)) == [
            word.encode() for word in words
        ]
        assert (pool.stats().in_use, pool.stats().idle, pool.stats().waits) == (0, 3, 100)
        assert await connections(server.url) == 3
    assert await connections(server.url) == 0


@pytest.mark.parametrize("design", DESIGNS)
async def test_one_caller_that_raises_and_the_naive_version_is_empty_for_ever(server, design):
    """The flaw: what is not put back is gone. The pool takes it back whatever happens."""
    async with made(design, server) as pool:
        with pytest.raises(ZeroDivisionError):
            async with pool.connection():
                raise ZeroDivisionError
        task = asyncio.create_task(echo(pool, "next"))
        assert await settled(task) == (design == "pool")
        assert (pool.stats().in_use, pool.stats().waiting) == (
            (0, 0) if design == "pool" else (1, 1)
        )
        task.cancel()


@pytest.mark.parametrize("design", DESIGNS)
async def test_one_caller_that_is_cancelled_and_the_naive_version_is_empty_for_ever(server, design):
    """A time-out around the call is enough."""
    async with made(design, server) as pool:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05), pool.connection() as connection:
                await connection.call("BLPOP", "never", 1)
        task = asyncio.create_task(echo(pool, "next"))
        assert await settled(task) == (design == "pool")
        task.cancel()


@pytest.mark.parametrize("design", DESIGNS)
async def test_the_naive_version_waits_without_a_limit(server, design):
    """The flaw: no time limit, no limit on the line.

    The pool says after `acquire_timeout_s` who has it.
    """
    async with (
        made(design, server, acquire_timeout_s=0.05, max_waiting=20) as pool,
        pool.connection(),
    ):
        tasks = [asyncio.create_task(echo(pool, str(number))) for number in range(50)]
        _, waiting = await asyncio.wait(tasks, timeout=0.3)
        assert len(waiting) == (50 if design == "naive" else 0)
        if design == "pool":
            kinds = [type(task.exception()).__name__ for task in tasks]
            assert kinds == ["PoolTimeout"] * 20 + ["QueueFull"] * 30
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


@pytest.mark.parametrize("design", DESIGNS)
async def test_the_naive_version_hands_on_a_connection_in_the_middle_of_a_reply(server, design):
    """The flaw: the next user reads what the one before asked for, and so on for ever.

    Each gets its predecessor's.
    """
    async with made(design, server) as pool:
        async with pool.connection() as connection:
            with pytest.raises(CommandTimeout):
                await connection.call("BLPOP", "late", 0, timeout_s=0.05)
        async with controlling(server.url) as link:
            await link.call("RPUSH", "late", "somebody else's")
        got = [await echo(pool, word) for word in ("one", "two", "three")]
        if design == "pool":
            assert got == [b"one", b"two", b"three"]
        else:
            assert got == [[b"late", b"somebody else's"], b"one", b"two"]


@pytest.mark.parametrize("design", DESIGNS)
async def test_the_naive_version_takes_a_broken_connection_back(server, design):
    """The flaw: nobody looks, nobody replaces.

    Each caller that gets it fails, though the server is well.
    """
    async with made(design, server) as pool:
        await echo(pool, "warm")
        await cut_connections(server.url, "pool")
        await asyncio.sleep(0.02)
        outcomes = []
        for _ in range(5):
            # the naive version's own context would lose the connection with the first error, too
            try:
                if design == "pool":
                    outcomes.append(await echo(pool, "x"))
                else:
                    connection = await pool.get()
                    try:
                        outcomes.append(await connection.call("ECHO", "x"))
                    finally:
                        await pool.put(connection)
            except (ConnectionLost, NotConnected) as error:
                outcomes.append(type(error))
        assert outcomes == (
            [b"x"] * 5 if design == "pool" else [ConnectionLost] + [NotConnected] * 4
        )


@pytest.mark.parametrize("design", DESIGNS)
async def test_the_naive_version_lets_idle_connections_rot(server, design):
    """The flaw: last in, first out.

    Under a light load one is used, the server ends the others, and a rush gets them all.
    """
    async with controlling(server.url) as link:
        await link.call("CONFIG", "SET", "timeout", "1")
    async with made(design, server, connections=4) as pool:
        async with contextlib.AsyncExitStack() as stack:  # a first rush: four connections are open
            for _ in range(4):
                await stack.enter_async_context(pool.connection())

        async def light_load(seconds=2.6):
            for number in range(int(seconds / 0.1)):
                assert await echo(pool, number) == str(number).encode()
                await asyncio.sleep(0.1)

        await light_load()
        rush = await asyncio.gather(*(echo(pool, "rush") for _ in range(4)), return_exceptions=True)
        if design == "pool":
            assert rush == [b"rush"] * 4
        else:
            assert sorted(type(outcome).__name__ for outcome in rush) == ["ConnectionLost"] * 3 + [
                "bytes"
            ]


@pytest.mark.parametrize("design", DESIGNS)
async def test_in_the_naive_version_a_newcomer_overtakes_whoever_waits(server, design):
    """The flaw: the connection lies in the list until the woken one runs.

    One that puts and gets at once keeps it.
    """
    async with made(design, server) as pool:
        order, waiting = [], asyncio.Event()

        async def greedy():
            for number in range(5):
                async with pool.connection():
                    order.append("greedy")
                    await waiting.wait()
                    if number == 0:
                        await asyncio.sleep(0.05)

        async def patient():
            waiting.set()
            async with pool.connection():
                order.append("patient")

        first = asyncio.create_task(greedy())
        await wait_until(lambda: order)
        await asyncio.gather(first, patient())
        expected = ["greedy", "patient"] + ["greedy"] * 4
        assert order == (expected if design == "pool" else ["greedy"] * 5 + ["patient"])


@pytest.mark.parametrize("design", DESIGNS)
async def test_the_naive_version_hands_on_what_the_one_before_left(server, design):
    """The flaw: another database, and the next user does not find its key."""
    async with made(design, server) as pool:
        async with pool.connection() as connection:
            await connection.call("SET", "k", "v")
            await connection.call("SELECT", 3)
        async with pool.connection() as connection:
            assert await connection.call("GET", "k") == (b"v" if design == "pool" else None)


async def test_the_error_of_the_pool_says_what_the_naive_version_keeps_to_itself(server):
    """Who has the connection, and for how long: the leak has a name."""
    async with made("pool", server, acquire_timeout_s=0.05) as pool:

        async def forgetful():
            context = pool.connection()
            await context.__aenter__()
            await asyncio.Event().wait()
            await context.__aexit__(None, None, None)

        task = asyncio.create_task(forgetful(), name="forgetful")
        await wait_until(lambda: pool.stats().in_use)
        with pytest.raises(PoolTimeout, match="longest out: 'forgetful'"):
            await echo(pool, "x")
        task.cancel()
