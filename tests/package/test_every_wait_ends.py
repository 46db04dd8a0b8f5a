"""No call of a queue waits for longer than its limits, nor leaves anything when cancelled."""

import asyncio
import contextlib
import socket
import time

import pytest

from mpim_lab import MessageQueue
from mpim_lab.errors import (
    CommandRejected,
    CommandTimeout,
    ConnectionLost,
    HandlerTimeout,
    InvalidParameter,
    LoginRejected,
    MpimError,
    NotConnected,
    QueueClosed,
    QueueFull,
)
from mpim_lab.mq.connection.config import ConnectionConfig
from tests.support import wait_until

SHORT = ConnectionConfig(timeout_s=0.4, close_timeout_s=0.4, connect_timeout_s=0.4)
SLACK_S = 5.0  # for a machine that is busy: far below "for ever", far above what is measured


async def ends(call, within_s=4 * SHORT.timeout_s):
    """What a call gives or raises, if it ends in time."""
    begun = time.monotonic()
    try:
        async with asyncio.timeout(within_s + SLACK_S):
            return await call
    except MpimError as error:
        return error
    except TimeoutError:
        raise AssertionError(f"did not end within {time.monotonic() - begun:.1f} s") from None


async def fill(mq, admin, channel, count=6):
    """Publish more than a buffer of two messages takes, and wait until nothing is read any more."""
    for number in range(count):
        await admin.publish(channel, str(number))
    await wait_until(lambda: not mq._subscriber_link.is_reading)


async def test_leaving_a_listen_whose_buffer_is_full_holds_up_nothing(server):
    """Its messages are nobody's any more, so the connection is read again, and other calls end."""
    async with MessageQueue(server.url) as admin, MessageQueue(server.url) as mq:
        got = []
        async with asyncio.timeout(SLACK_S):
            async with mq.listen("a", max_buffered=2) as messages:
                await fill(mq, admin, "a")
                await anext(messages)
            await mq.subscribe("b", got.append)
            await admin.publish("b", b"x")
            await mq.drain()
            await mq.unsubscribe("b")
        assert [message.payload for message in got] == [b"x"]
        assert await admin.subscriber_count("a") == 0
        async with asyncio.timeout(SLACK_S):
            await mq.close()


@pytest.mark.parametrize("how", ["handler", "listen"])
async def test_a_reader_that_does_nothing_holds_up_no_call_for_longer_than_its_limit(server, how):
    """While a full buffer keeps the connection from being read, each call ends with an error."""
    never = asyncio.Event()

    async def hangs(message):
        await never.wait()

    async with MessageQueue(server.url) as admin, contextlib.AsyncExitStack() as stack:
        mq = MessageQueue(server.url, config=SHORT)
        await mq.open()
        await mq.subscribe("other", lambda message: None)
        if how == "handler":
            await mq.subscribe("a", hangs, max_buffered=2)
        else:
            await stack.enter_async_context(mq.listen("a", max_buffered=2))
        await fill(mq, admin, "a")
        assert isinstance(await ends(mq.subscribe("b", hangs)), QueueFull)
        assert isinstance(await ends(mq.drain()), HandlerTimeout)
        assert await ends(mq.unsubscribe("other")) is None
        assert await ends(mq.publish("b", b"x")) == 0
        assert await ends(mq.close()) is None
        await wait_until_nobody_listens(admin, "a", "b", "other")


async def wait_until_nobody_listens(admin, *channels):
    async with asyncio.timeout(SLACK_S):
        while any([await admin.subscriber_count(channel) for channel in channels]):
            await asyncio.sleep(0.01)


async def test_a_handler_that_refuses_to_be_cancelled_does_not_hold_up_the_close(server):
    """It is cancelled when its time is over; whether it obeys is its own affair."""
    begun, is_over = asyncio.Event(), False

    async def stubborn(message):
        begun.set()
        while not is_over:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.01)

    mq = MessageQueue(server.url, config=SHORT)
    await mq.open()
    await mq.subscribe("a", stubborn)
    await mq.publish("a", b"x")
    await begun.wait()
    assert await ends(mq.close()) is None
    assert not mq.is_connected
    is_over = True


@pytest.mark.parametrize("fault", ["pause", "kill"])
async def test_every_call_ends_when_the_server_stands_still_or_is_gone(one_server, fault):
    """Reading, writing, subscribing, leaving and closing: an error of ours each, or done."""
    mq = MessageQueue(one_server.url, config=SHORT)
    await mq.open()
    await mq.subscribe("here", lambda message: None)
    stream = mq.stream("s")
    group = await stream.group("g")
    getattr(one_server, fault)()
    try:
        calls = [
            mq.publish("a", b"x"), mq.subscribe("a", print), mq.subscriber_count("a"),
            mq.drain(), mq.unsubscribe("here"), stream.add(b"x"), stream.add_many([b"x", b"y"]),
            stream.read(), stream.wait(timeout_ms=100), stream.length(),
            stream.trim(max_entries=1), stream.group("h"), group.pending(), group.ack("1-1"),
            group.lag(),
        ]  # fmt: skip
        outcomes = await asyncio.gather(*map(ends, calls))
        assert all(outcome is None or isinstance(outcome, MpimError) for outcome in outcomes)
        assert await ends(mq.close()) is None
    finally:
        if fault == "pause":
            one_server.resume()


@contextlib.asynccontextmanager
async def peer(answer):
    """Somebody who accepts connections and is no server."""
    listening = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield f"redis://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    finally:
        listening.close()


async def hangs_up(reader, writer):
    writer.close()


async def is_silent(reader, writer):
    with contextlib.suppress(ConnectionError):
        await reader.read()
    writer.close()


async def speaks_http(reader, writer):
    await reader.read(10)
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    writer.close()


async def speaks_nonsense(reader, writer):
    await reader.read(10)
    writer.write(b"+OK\r\n+OK\r\n+OK\r\n")
    await is_silent(reader, writer)


@pytest.mark.parametrize("answer", [hangs_up, is_silent, speaks_http, speaks_nonsense])
async def test_whoever_is_no_server_is_no_connection_and_certainly_nothing_was_done(answer):
    """Accepted and closed at once, silent, HTTP, a wrong answer.

    NotConnected, which is definite and may pass.
    """
    async with peer(answer) as url:
        error = await ends(MessageQueue(url, config=SHORT).open())
        assert type(error) is NotConnected
        assert error.definite and error.transient


async def test_a_port_where_nobody_is_and_a_server_without_room_are_no_connections(one_server):
    """Both may pass; a wrong password does not."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        error = await ends(
            MessageQueue(f"redis://127.0.0.1:{taken.getsockname()[1]}", config=SHORT).open()
        )
    assert type(error) is NotConnected
    async with MessageQueue(one_server.url) as admin:
        await admin._commands.call("CONFIG", "SET", "maxclients", "1")
        error = await ends(MessageQueue(one_server.url, config=SHORT).open())
        assert type(error) is NotConnected
        assert error.transient
        await admin._commands.call("CONFIG", "SET", "maxclients", "100")
        await admin._commands.call("CONFIG", "SET", "requirepass", "pw")
        error = await ends(MessageQueue(one_server.url, config=SHORT).open())
        assert type(error) is LoginRejected
        assert not error.transient


async def test_a_blocking_read_may_last_longer_than_the_time_out(server):
    """Its time-out begins when it should have ended by itself; to cancel it takes no time."""
    async with MessageQueue(server.url, config=ConnectionConfig(timeout_s=0.3)) as mq:
        stream = mq.stream("s")
        assert await stream.wait(timeout_ms=900) == []
        begun = time.monotonic()
        waiting = asyncio.create_task(stream.wait(timeout_ms=60_000))
        await asyncio.sleep(0.05)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert time.monotonic() - begun < SLACK_S


# Cancellation


async def cancelled_after(turns, call):
    """Begin a call and cancel it after so many turns of the loop; whether it had ended before."""
    task = asyncio.ensure_future(call)
    for _ in range(turns):
        await asyncio.sleep(0)
    if task.done():
        task.result()
        return False
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError, MpimError):
        await task
    return True


async def _listen_once(mq):
    async with mq.listen("a", "b") as messages:
        await anext(messages)


CALLS = {
    "open": lambda mq: mq.open(),
    "publish": lambda mq: mq.publish("a", b"x"),
    "subscribe": lambda mq: mq.subscribe("a", print),
    "unsubscribe": lambda mq: mq.unsubscribe("there"),
    "listen": _listen_once,
    "drain": lambda mq: mq.drain(),
    "subscriber_count": lambda mq: mq.subscriber_count("a"),
    "add": lambda mq: mq.stream("s").add(b"x"),
    "wait": lambda mq: mq.stream("s").wait(timeout_ms=10_000),
    "group": lambda mq: mq.stream("s").group("g"),
}


@pytest.mark.parametrize("name", CALLS)
async def test_a_call_that_is_cancelled_at_any_moment_leaves_the_queue_as_it_was(one_server, name):
    """The next caller is served, and the server knows of no subscription but the queue's."""
    async with MessageQueue(one_server.url) as admin:
        for turns in (*range(12), 20, 40, 80):
            mq = MessageQueue(
                one_server.url, name="cancelled", config=ConnectionConfig(timeout_s=2)
            )
            if name != "open":
                await mq.open()
                await mq.subscribe("there", lambda message: None)
            was_cancelled = await cancelled_after(turns, CALLS[name](mq))
            if name == "open":
                await mq.open()
            got = []
            if was_cancelled:
                await wait_until_nobody_listens(admin, "a", "b")
                await mq.subscribe("a", got.append)
                await admin.publish("a", b"after")
                await mq.drain()
                assert [message.payload for message in got] == [b"after"]
            async with asyncio.timeout(SLACK_S):
                await mq.close()
            await wait_until_nobody_listens(admin, "a", "b", "there")
            clients = (await admin._commands.call("CLIENT", "LIST")).decode()
            assert (
                clients.count("name=cancelled ") <= 1
            )  # the one whose end the server has not seen yet


async def test_a_close_that_is_cancelled_goes_on_and_can_be_waited_for_again(one_server):
    """Nothing is left open by whoever lost patience."""
    async with MessageQueue(one_server.url) as admin:
        for turns in range(8):
            mq = MessageQueue(one_server.url, name="closing")
            await mq.open()
            await mq.subscribe("a", lambda message: None)
            await cancelled_after(turns, mq.close())
            await mq.close()
            await wait_until_nobody_listens(admin, "a")
            with pytest.raises(QueueClosed):
                await mq.publish("a", b"x")


async def test_whoever_cancels_every_task_of_the_loop_has_not_stopped_the_queue(one_server):
    """Its own tasks are begun again by the next call."""
    async with MessageQueue(one_server.url, config=SHORT) as mq:
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await asyncio.sleep(0.01)
        assert await mq.publish("a", b"x") == 0
        one_server.pause()
        try:
            assert isinstance(await ends(mq.publish("a", b"x")), CommandTimeout | ConnectionLost)
        finally:
            one_server.resume()


async def test_many_who_open_at_once_share_one_attempt(one_server):
    """One connection; and if one of them gives up the others still get it."""
    mq = MessageQueue(one_server.url, name="shared")
    opening = [asyncio.create_task(mq.open()) for _ in range(5)]
    await asyncio.sleep(0)
    opening[0].cancel()
    await asyncio.gather(*opening, return_exceptions=True)
    await mq.open()
    clients = (await mq._commands.call("CLIENT", "LIST")).decode()
    assert clients.count("name=shared ") == 1
    await mq.close()


async def test_to_listen_to_nothing_is_refused(one_server):
    """Such a listen would have no end."""
    async with MessageQueue(one_server.url) as mq:
        with pytest.raises(InvalidParameter):
            async with mq.listen():
                pass


@pytest.mark.parametrize("when", ["before", "while it waits"])
async def test_a_wait_for_entries_ends_with_its_queue(server, when):
    """However long it was to wait; its own connection is closed."""
    async with (
        MessageQueue(server.url) as admin,
        MessageQueue(server.url, name="shop", config=SHORT) as mq,
    ):
        stream = mq.stream("orders")
        waiting = asyncio.create_task(ends(stream.wait(timeout_ms=60_000)))
        if when == "before":
            await mq.close()
        else:
            while b"orders-reader" not in await admin._commands.call("CLIENT", "LIST"):
                await asyncio.sleep(0.005)
            await mq.close()
        assert isinstance(await waiting, QueueClosed)
        async with asyncio.timeout(SLACK_S):
            while b"orders-reader" in await admin._commands.call("CLIENT", "LIST"):
                await asyncio.sleep(0.005)


async def test_a_channel_that_the_server_does_not_give_again_is_left_and_its_listener_told(server):
    """The right to it was taken away meanwhile.

    Whoever listens gets the refusal, the other channel goes on.
    """
    async with MessageQueue(server.url) as admin:
        call = admin._commands.call
        await call("ACL", "SETUSER", "bob", "on", ">pw", "~*", "+@all", "allchannels")
        async with MessageQueue(server.url.replace("://", "://bob:pw@")) as mq:
            got = []
            await mq.subscribe("b", got.append)
            async with mq.listen("a") as messages:
                waiting = asyncio.create_task(ends(anext(messages)))
                await call("ACL", "SETUSER", "bob", "resetchannels", "&b")
                assert (await waiting).code == "NOPERM"
            await wait_until(lambda: mq.is_connected)
            assert await call("PUBSUB", "CHANNELS", "*") == [b"b"]
            with pytest.raises(CommandRejected, match="NOPERM"):
                await mq.subscribe("a", print)
            await admin.publish("b", b"x")
            await mq.drain()
            assert [message.payload for message in got] == [b"x"]
