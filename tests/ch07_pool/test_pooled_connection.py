"""A borrowed connection: replies, errors, transactions, and what it must not be handed on with."""

import asyncio

import pytest

from mpim_lab.errors import (
    CommandRejected,
    CommandTimeout,
    ConnectionLost,
    InvalidMessage,
    InvalidParameter,
    NotConnected,
    PartlyAdded,
    WatchFailed,
)
from mpim_lab.lab.faults.proxy import FaultProxy, Match
from mpim_lab.mq.pool.pool import Pool
from tests.pools import QUICK, kept


@pytest.fixture
async def pool(server):
    """One connection, so that the next user would have what the one before left."""
    async with Pool(server.url, max_connections=1, **QUICK) as opened:
        yield opened


async def test_replies_are_resp3_in_bytes(pool):
    """Maps are dicts, nothing is None, a float is a float."""
    async with pool.connection() as connection:
        await connection.call("HSET", "h", "a", 1, b"b", 2.5)
        assert await connection.call("HGETALL", "h") == {b"a": b"1", b"b": b"2.5"}
        assert await connection.call("GET", "nothing") is None
        await connection.call("ZADD", "z", 1.5, "m")
        assert await connection.call("ZSCORE", "z", "m") == 1.5
        assert await connection.call("ECHO", b"\r\n\x00" * 20_000) == b"\r\n\x00" * 20_000


async def test_a_rejected_command_leaves_the_connection_usable(pool):
    """CommandRejected with the server's own words.

    What is no command is refused before it is written.
    """
    async with pool.connection() as connection:
        with pytest.raises(CommandRejected, match="unknown command"):
            await connection.call("NOSUCH")
        await connection.call("SET", "s", "x")
        with pytest.raises(CommandRejected, match="WRONGTYPE"):
            await connection.call("LPUSH", "s", "x")
        for words in ([], ["SET", "k", None], ["SUBSCRIBE", "c"], ["CLIENT", "REPLY", "OFF"]):
            with pytest.raises(InvalidMessage):
                await connection.call(*words)
        assert await connection.call("ECHO", "still") == b"still"
    assert pool.stats().closed == {} and kept(pool.stats())


async def test_an_error_reply_that_the_library_takes_for_a_broken_line_is_an_error_reply(pool):
    """WRONGPASS, NOAUTH and LOADING are connection errors in redis-py.

    The line is well and the answer is definite.
    """
    async with pool.connection() as connection:
        with pytest.raises(CommandRejected, match="WRONGPASS"):
            await connection.call("AUTH", "nobody", "wrong")
        assert await connection.call("ECHO", "still") == b"still"


async def test_a_blocking_read_may_take_the_time_it_asks_for(server):
    """The pool's time-out for calls comes on top of it, so BLPOP's own end arrives first."""
    async with (
        Pool(server.url, call_timeout_s=0.2, **QUICK) as pool,
        pool.connection() as connection,
    ):
        assert await connection.call("BLPOP", "nothing", 0.5) is None
        assert await connection.call("XREAD", "BLOCK", 400, "STREAMS", "nothing", "$") is None
        with pytest.raises(InvalidParameter, match="give a timeout_s"):
            await connection.call("BLPOP", "nothing", 0)
        assert await connection.call("ECHO", "still") == b"still"


@pytest.mark.parametrize("bad", [0, -1, float("inf"), float("nan")])
async def test_a_time_out_that_makes_no_sense_is_refused_before_anything_is_sent(pool, bad):
    """For a command and for a transaction; the connection stays as good as it was."""
    async with pool.connection() as connection:
        with pytest.raises(InvalidParameter, match="'GET' may block"):
            await connection.call("GET", "a", timeout_s=bad)
        with pytest.raises(InvalidParameter, match="'MULTI' may block"):
            await connection.transaction([("GET", "a")], timeout_s=bad)
        assert await connection.transaction([("SET", "a", "1"), ("GET", "a")]) == [b"OK", b"1"]


@pytest.mark.parametrize(
    "times",
    [
        {name: bad}
        for name in ("acquire_timeout_s", "call_timeout_s", "max_idle_s", "leak_warning_s")
        for bad in (0, float("nan"))
    ]
    + [
        {"close_timeout_s": float("nan")},
        {"close_timeout_s": -1},
        {"call_timeout_s": float("inf")},
    ],
)
def test_a_pools_times_that_make_no_sense_are_refused(times):
    """Not a number, not above 0, or for ever where a silent server would hold it for ever."""
    with pytest.raises(InvalidParameter):
        Pool("redis://127.0.0.1:1", **times)


async def test_after_a_time_out_a_connection_is_of_no_use_to_anybody(pool):
    """Its reply is still to come: the user cannot send on it, and nobody else gets it."""
    async with pool.connection() as connection:
        with pytest.raises(CommandTimeout, match=r"no answer within 0.05 s") as caught:
            await connection.call("BLPOP", "late", 0, timeout_s=0.05)
        assert not caught.value.definite
        with pytest.raises(NotConnected, match="in the middle of a reply"):
            await connection.call("ECHO", "mine")
    async with pool.connection() as connection:
        await connection.call("RPUSH", "late", "for the one before")
        assert await connection.call("ECHO", "mine") == b"mine"
    assert pool.stats().closed == {"in the middle of a reply": 1} and kept(pool.stats())


async def test_two_tasks_on_one_connection_do_not_mix_their_replies(pool):
    """The second is refused while the first waits: a dedicated connection serves one task."""
    async with pool.connection() as connection:
        first = asyncio.create_task(connection.call("BLPOP", "nothing", 0.2))
        await asyncio.sleep(0.02)
        with pytest.raises(NotConnected, match="in the middle of a reply"):
            await connection.call("ECHO", "second")
        assert await first is None
        assert await connection.call("ECHO", "then") == b"then"


async def test_a_connection_that_was_given_back_is_dead_to_its_user(pool):
    """Even if the line lives on: somebody else has it by now."""
    async with pool.connection() as old:
        pass
    async with pool.connection():
        with pytest.raises(NotConnected, match="was given back"):
            await old.call("ECHO", "late")
        with pytest.raises(NotConnected, match="was given back"):
            await old.transaction([("PING",)])


@pytest.mark.parametrize("fault", ["drop_request", "drop_reply", "cut"])
async def test_a_line_that_breaks_in_use_says_so_and_is_replaced(server, fault):
    """ConnectionLost, definite=False: whether the command was run cannot be known from here."""
    async with FaultProxy(server.url) as proxy, Pool(proxy.url, max_connections=1, **QUICK) as pool:
        if fault == "cut":
            proxy.cut_at_byte(450)
        else:
            getattr(proxy, fault)(Match("ECHO"))
        async with pool.connection() as connection:
            with pytest.raises(ConnectionLost) as caught:
                await connection.call("ECHO", "x" * 1000)
            assert not caught.value.definite and connection.is_broken
            with pytest.raises(NotConnected):
                await connection.call("ECHO", "again")
        async with pool.connection() as connection:
            assert await connection.call("ECHO", "mine") == b"mine"
        assert proxy.triggered == 1 and pool.stats().opened == 2 and kept(pool.stats())


async def test_a_transaction_is_run_as_one(pool):
    """The replies of its commands; with a watched key that was changed, nothing."""
    async with pool.connection() as connection:
        assert await connection.transaction([("INCR", "a"), ("INCR", "b"), ("INCR", "a")]) == [
            1,
            1,
            2,
        ]
        await connection.call("WATCH", "a")
        await connection.call("SET", "a", 7)
        with pytest.raises(WatchFailed) as caught:
            await connection.transaction([("INCR", "a")])
        assert caught.value.definite
        assert await connection.call("GET", "a") == b"7"
        assert await connection.transaction([("LRANGE", "none", 0, -1)]) == [[]]
        assert await connection.transaction([]) == []
    assert pool.stats().closed == {}


async def test_a_transaction_that_is_refused_or_fails_in_part_says_which(pool):
    """Refused as it is queued: nothing is done.

    Failing as it is run: the rest is done, that is how Redis has it.
    """
    async with pool.connection() as connection:
        with pytest.raises(
            CommandRejected, match=r"wrong number.*nothing of the transaction was done"
        ):
            await connection.transaction([("SET", "a", 1), ("GET",)])
        assert await connection.call("EXISTS", "a") == 0
        with pytest.raises(PartlyAdded) as caught:
            await connection.transaction([("SET", "a", "x"), ("INCR", "a"), ("APPEND", "a", "y")])
        assert caught.value.ids == [b"OK", None, 2]
        assert [type(error) for error in caught.value.errors] == [
            type(None),
            CommandRejected,
            type(None),
        ]
        assert await connection.call("GET", "a") == b"xy"
    assert pool.stats().closed == {} and kept(pool.stats())


@pytest.mark.parametrize(
    ("commands", "why"),
    [
        ([("MULTI",), ("SET", "k", "1")], "MULTI without EXEC"),
        ([("WATCH", "k")], "WATCH without EXEC"),
        ([("SELECT", 3)], "SELECT"),
        ([("CLIENT", "SETNAME", "somebody")], "CLIENT SETNAME"),
        ([("CLIENT TRACKING", "ON"), ("GET", "k")], "CLIENT TRACKING"),
        ([("HELLO", 2)], "HELLO"),
    ],
)
async def test_what_a_user_left_on_the_connection_does_not_reach_the_next_one(pool, commands, why):
    """The connection is closed instead; the figures say why."""
    async with pool.connection() as connection:
        for words in commands:
            await connection.call(*words)
    assert pool.stats().closed == {why: 1}
    async with pool.connection() as connection:
        assert b" db=0 " in bytes(
            info := await connection.call("CLIENT", "INFO")
        ) and b" name=pool " in bytes(info)
        assert await connection.call("SET", "k", "1") == b"OK"
        assert await connection.call("HGETALL", "none") == {}
    assert kept(pool.stats())


@pytest.mark.parametrize("words", [("ECHO", "nobody's"), ("NOSUCH",)])
async def test_a_reply_that_nobody_asked_for_is_found_before_the_connection_is_lent(pool, words):
    """Whatever its cause, the next user would take it for its own."""
    async with pool.connection() as connection:
        await connection.raw._redis.send_command(*words)
    await asyncio.sleep(0.05)
    async with pool.connection() as connection:
        assert await connection.call("ECHO", "mine") == b"mine"
    assert pool.stats().closed == {"unasked reply": 1} and pool.stats().replaced == 1
