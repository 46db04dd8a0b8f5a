"""What the user's own code may do when it is called.

Raise, be cancelled, close the queue, be no handler at all.
"""

import asyncio
import functools
import logging

import pytest

from mpim_lab import MessageQueue
from mpim_lab.errors import InvalidParameter, MpimError, QueueClosed
from mpim_lab.events import EventKind
from mpim_lab.mq.connection.config import ConnectionConfig
from tests.support import wait_until


class NoException(BaseException):
    """As those of pytest.fail and pytest.skip."""


SHORT = ConnectionConfig(timeout_s=0.5, close_timeout_s=0.5)


async def cancelled_elsewhere():
    """Await something that somebody else has cancelled."""
    other = asyncio.ensure_future(asyncio.sleep(10))
    asyncio.get_running_loop().call_soon(other.cancel)
    await other


def reads_a_cancelled_future():
    """Read the result of a future that was cancelled: a CancelledError without any await."""
    future = asyncio.get_running_loop().create_future()
    future.cancel()
    future.result()


async def test_an_async_handler_that_meets_anothers_cancellation_has_failed(
    server,
):
    """The subscription lives on, whatever else listens goes on.

    And the failure is reported as any other.
    """
    events, got, other = [], [], []

    async def handler(message):
        if message.payload == b"1":
            await cancelled_elsewhere()
        got.append(message.payload)

    async with MessageQueue(server.url, observer=events.append) as mq:
        await mq.subscribe("a", handler, max_buffered=4)
        await mq.subscribe("b", lambda message: other.append(message.payload))
        for number in range(8):
            await mq.publish("a", str(number))
        await mq.publish("b", b"x")
        await mq.drain()
    assert got == [b"0", b"2", b"3", b"4", b"5", b"6", b"7"]
    assert other == [b"x"]
    assert [event.message_id for event in events if event.kind is EventKind.FAILED] == ["1"]


@pytest.mark.parametrize("where", ["handler", "unpack"])
async def test_plain_code_that_meets_anothers_cancellation_does_not_break_the_connection(
    server, where
):
    """A CancelledError out of plain code is an error like any other."""
    gaps, got = [], []

    def may_fail(what):
        payload = what if isinstance(what, bytes) else what.payload
        if payload == b"1":
            reads_a_cancelled_future()
        return [payload]

    def handler(message):
        if where == "handler":
            may_fail(message)
        got.append(message.payload)

    async with MessageQueue(server.url, on_gap=gaps.append) as mq:
        await mq.subscribe("a", handler, decode=may_fail if where == "unpack" else None)
        for number in range(4):
            await mq.publish("a", str(number))
        await mq.drain()
    assert got == [b"0", b"2", b"3"]
    assert gaps == []


async def _generator(message):
    yield message


def _plain_generator(message):
    yield message


class _CallsAGenerator:
    async def __call__(self, message):
        yield message


@pytest.mark.parametrize(
    "handler",
    [
        _generator,
        _plain_generator,
        functools.partial(_generator),
        _CallsAGenerator(),
        None,
        "print",
        7,
    ],
    ids=lambda handler: type(handler).__name__,
)
async def test_what_can_never_be_a_handler_is_refused(one_server, handler):
    """A stray `yield` makes a handler of which nothing would ever run."""
    async with MessageQueue(one_server.url) as mq:
        with pytest.raises(InvalidParameter):
            await mq.subscribe("a", handler)
        assert await mq.subscriber_count("a") == 0


@pytest.mark.parametrize("result", ["a text", 7, [], iter(())])
async def test_a_plain_handler_that_returns_something_has_failed(one_server, result):
    """Its author meant something that does not happen here: an `await`, a `yield`, an answer."""
    events = []
    async with MessageQueue(one_server.url, observer=events.append) as mq:
        await mq.subscribe("a", lambda message: result)
        await mq.publish("a", b"m1")
        await mq.drain()
    kinds = [
        event.kind for event in events if event.message_id == "m1"
    ]  # two connections: either is heard first
    assert EventKind.FAILED in kinds and EventKind.HANDLED not in kinds


async def test_a_plain_handler_that_returns_a_coroutine_has_failed_by_name(one_server, caplog):
    """`lambda message: handle(message)` with an async `handle`: nothing of it would run."""

    async def handle(message):
        pass

    async with MessageQueue(one_server.url) as mq:
        await mq.subscribe("a", lambda message: handle(message))
        await mq.publish("a", b"m1")
        await mq.drain()
    assert "write `async def`" in caplog.text


@pytest.mark.parametrize("through", ["itself", "a task of its own"])
async def test_a_handler_may_close_its_queue(server, through):
    """It does not wait for itself, and no connection stays open."""
    done = asyncio.get_running_loop().create_future()
    mq = MessageQueue(server.url, name="closes", config=ConnectionConfig(close_timeout_s=30))
    await mq.open()

    async def handler(message):
        await (mq.close() if through == "itself" else asyncio.create_task(mq.close()))
        done.set_result(None)

    async with MessageQueue(server.url) as admin:
        await mq.subscribe("a", handler)
        await admin.publish("a", b"quit")
        async with asyncio.timeout(10):
            await done
            await mq.close()
        with pytest.raises(QueueClosed):
            await mq.publish("a", b"x")
        assert await admin.subscriber_count("a") == 0


async def test_two_handlers_may_close_the_same_queue(server):
    """Neither waits for the other."""
    done = []
    mq = MessageQueue(server.url, config=ConnectionConfig(close_timeout_s=30))
    await mq.open()

    async def handler(message):
        await mq.close()
        done.append(message.channel)

    async with MessageQueue(server.url) as admin:
        await mq.subscribe("a", handler)
        await mq.subscribe("b", handler)
        await asyncio.gather(admin.publish("a", b"quit"), admin.publish("b", b"quit"))
        await wait_until(lambda: len(done) == 2)
        await mq.close()


async def test_a_handler_may_drain_and_end_its_own_subscription_and_begin_it_again(server):
    """Nothing of it waits for the handler that asks."""
    got = []
    async with MessageQueue(server.url) as mq:

        async def first(message):
            await mq.drain()
            await mq.unsubscribe("a")
            await mq.subscribe("a", second)
            got.append(("first", message.payload))

        async def second(message):
            got.append(("second", message.payload))

        await mq.subscribe("a", first)
        await mq.publish("a", b"1")
        await wait_until(lambda: got)
        await mq.publish("a", b"2")
        await mq.drain()
    assert got == [("first", b"1"), ("second", b"2")]


async def test_after_an_unsubscribe_nothing_reaches_its_handler_also_when_the_channel_is_used_again(
    server,
):
    """The same name at the same moment is another subscription."""
    async with MessageQueue(server.url) as mq, MessageQueue(server.url) as other:
        for _ in range(20):
            old, new = [], []
            await mq.subscribe("a", old.append)
            ending = asyncio.create_task(mq.unsubscribe("a"))
            await asyncio.sleep(0)
            await mq.subscribe("a", new.append)
            await ending
            seen = len(old)
            await other.publish("a", b"x")
            await mq.drain()
            assert (len(old), len(new)) == (seen, 1)
            await mq.unsubscribe("a")
            assert await other.subscriber_count("a") == 0


@pytest.mark.parametrize("first", ["its handler", "a caller that is cancelled"])
async def test_whoever_unsubscribes_waits_for_the_handler_also_when_another_has_begun_to(
    server, first
):
    """Once it has returned the handler is called no more, whoever asked before."""
    got, goes_on = [], asyncio.Event()
    async with MessageQueue(server.url) as mq:

        async def handler(message):
            got.append(message.text)
            if message.text == "0" and first == "its handler":
                await mq.unsubscribe("a")
            await goes_on.wait()

        await mq.subscribe("a", handler)
        for number in range(5):
            await mq.publish("a", str(number))
        await wait_until(lambda: got)
        if first != "its handler":
            ending = asyncio.create_task(mq.unsubscribe("a"))
            await asyncio.sleep(0.05)
            ending.cancel()
        asyncio.get_running_loop().call_later(0.1, goes_on.set)
        await mq.unsubscribe("a")
        seen = list(got)
        await asyncio.sleep(0.05)
        assert got == seen
        assert len(mq._subscriptions._finishing) == 0


async def test_whoever_unsubscribes_waits_for_an_earlier_handler_too_that_fell_behind(server):
    """A subscription that was ended for its slowness finishes what it has.

    While the channel has another handler.
    """
    got, goes_on, has_ended = [], asyncio.Event(), asyncio.Event()

    def ends(event):
        if event.kind is EventKind.DROPPED:
            has_ended.set()

    async with MessageQueue(server.url, observer=ends) as mq, MessageQueue(server.url) as other:

        async def slow(message):
            await goes_on.wait()
            got.append(message.text)

        await mq.subscribe("a", slow, max_buffered=2, overflow_policy="disconnect")
        for number in range(5):
            await other.publish("a", str(number))
        await asyncio.wait_for(has_ended.wait(), 10)
        await mq.subscribe("a", lambda message: None)
        asyncio.get_running_loop().call_later(0.1, goes_on.set)
        await mq.unsubscribe("a")
        seen = list(got)
        await asyncio.sleep(0.05)
        assert seen == got == ["0", "1", "2"]


async def test_a_subscribe_that_is_cancelled_handles_nothing_more_also_when_it_fell_behind(
    server, monkeypatch
):
    """Messages may follow the server's answer at once, and be too many.

    Before its caller is told.
    """
    got, goes_on = [], asyncio.Event()
    async with MessageQueue(server.url) as mq:
        await mq.subscribe("b", lambda message: None)  # the connection is there
        subscriptions = mq._subscriptions
        call = subscriptions.link.call

        async def answered_and_overrun(command, name):
            await call(command, name)
            for number in range(4):
                subscriptions.on_push([b"message", name, b"%d" % number])
            subscribing.cancel()
            await asyncio.sleep(0)

        async def handler(message):
            await goes_on.wait()
            got.append(message.text)

        monkeypatch.setattr(subscriptions.link, "call", answered_and_overrun)
        subscribing = asyncio.create_task(
            mq.subscribe("a", handler, max_buffered=2, overflow_policy="disconnect")
        )
        with pytest.raises(asyncio.CancelledError):
            await subscribing
        monkeypatch.undo()
        goes_on.set()
        await asyncio.sleep(0.05)
        await mq.subscribe("a", handler)
        await mq.publish("a", b"new")
        await mq.drain()
        assert got == ["new"]


async def test_to_leave_one_of_two_channels_leaves_the_other(server):
    """A listen ends with the last of its channels."""
    async with MessageQueue(server.url) as mq, mq.listen("a", "b") as messages:
        await mq.unsubscribe("a")
        await mq.publish("b", b"1")
        assert (await anext(messages)).payload == b"1"
        await mq.unsubscribe("b")
        with pytest.raises(StopAsyncIteration):
            await anext(messages)


async def test_a_time_out_around_a_listen_takes_nothing(server):
    """The iterator can be asked again, and gives the next message."""
    async with MessageQueue(server.url) as mq, mq.listen("a") as messages:
        for number in range(3):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await anext(messages)
            await mq.publish("a", str(number))
            assert (await anext(messages)).text == str(number)


async def test_several_tasks_may_listen_together(server):
    """Each message goes to one of them, also when some give up waiting."""
    got = []

    async def listen(messages):
        async for message in messages:
            got.append(message.text)  # noqa: PERF401 - what was got before a cancellation counts

    async with MessageQueue(server.url) as mq:
        async with mq.listen("a") as messages:
            tasks = [asyncio.create_task(listen(messages)) for _ in range(4)]
            await asyncio.sleep(0)
            tasks[0].cancel()
            for number in range(20):
                await mq.publish("a", str(number))
            await wait_until(lambda: len(got) == 20)
        await asyncio.gather(*tasks[1:])
    assert sorted(got, key=int) == [str(number) for number in range(20)]


# Observers and other callbacks


@pytest.mark.parametrize(
    "error", [RuntimeError("away"), asyncio.CancelledError(), NoException()], ids=repr
)
async def test_an_observer_that_raises_at_everything_changes_nothing(server, error, caplog):
    """It is logged; messages are handled, lines that break come back."""
    caplog.set_level(logging.CRITICAL)
    got, seen = [], []

    def observer(event):
        seen.append(event.kind)
        raise error

    def on_gap(seconds):
        seen.append("gap")
        raise error

    async with (
        MessageQueue(server.url, observer=observer, on_gap=on_gap) as mq,
        MessageQueue(server.url, name="admin") as admin,
    ):
        await mq.subscribe("a", lambda message: got.append(message.payload))
        for number in range(3):
            await mq.publish("a", str(number))
            await mq.drain()
            await admin._commands.call("CLIENT", "KILL", "TYPE", "pubsub")
            await admin._commands.call("CLIENT", "KILL", "ID", str(mq._commands.client_id))
            await wait_until(lambda number=number: seen.count("gap") == number + 1)
        await wait_until(lambda: mq.is_connected)
        assert await mq.publish("a", b"3") == 1
        await mq.drain()
    assert got == [b"0", b"1", b"2", b"3"]


def test_only_errors_of_the_package_reach_a_user():
    """Every one says whether the call may succeed later, and a refusal says so by its code."""
    from mpim_lab import errors

    assert errors.CommandRejected("READONLY you cannot write").transient
    assert not errors.CommandRejected("WRONGTYPE no stream").transient
    assert not errors.CommandRejected("BUSYGROUP it is there").transient
    assert errors.CommandRejected("an effect was refused", code="OOM").transient
    assert all(isinstance(kind.transient, bool | property) for kind in MpimError.__subclasses__())


@pytest.mark.parametrize(
    "given",
    [None, 7, b"12", "12", [1, 2], ["1"], {b"1": 2}, object()],
    ids=lambda given: repr(given)[:12],
)
async def test_an_unpack_that_gives_no_list_of_payloads_fails_for_its_message_only(server, given):
    """It is reported as a handler's error is.

    The line stays, and the next message comes, to its neighbours, too.
    """
    gaps, got, neighbour = [], [], []
    async with MessageQueue(server.url, on_gap=gaps.append) as mq:

        def unpack(payload):
            return given if payload == b"odd" else iter([payload, payload])

        await mq.subscribe("a", lambda message: got.append(message.payload), decode=unpack)
        await mq.subscribe("b", lambda message: neighbour.append(message.payload))
        for payload in ("odd", "even"):
            await mq.publish("a", payload)
            await mq.publish("b", payload)
        await mq.drain()
    assert got == [b"even", b"even"]
    assert neighbour == [b"odd", b"even"]
    assert gaps == []


async def _async_unpack(payload):
    return [payload]


@pytest.mark.parametrize(
    "unpack", [7, "json", _async_unpack], ids=lambda unpack: type(unpack).__name__
)
async def test_what_can_never_unpack_is_refused(one_server, unpack):
    """Before the server hears of it: the channel may be subscribed afterwards."""
    async with MessageQueue(one_server.url) as mq:
        with pytest.raises(InvalidParameter, match="decode"):
            await mq.subscribe("a", print, decode=unpack)
        with pytest.raises(InvalidParameter, match="decode"):
            async with mq.listen("a", decode=unpack):
                pass
        await mq.subscribe("a", print)


@pytest.mark.parametrize("error", [NoException, GeneratorExit, asyncio.InvalidStateError])
@pytest.mark.parametrize("where", ["plain", "async", "unpack"])
async def test_whatever_a_handler_raises_the_next_message_comes(server, error, where):
    """Also what is no Exception.

    The subscription does not die without a word, nor does the line break.
    """
    gaps, got, events = [], [], []

    def plain(message):
        payload = message if isinstance(message, bytes) else message.payload
        if payload == b"1":
            raise error("x")
        if where != "unpack":
            got.append(payload)
        return [payload] if where == "unpack" else None

    async def on_message(message):
        plain(message)

    async with MessageQueue(server.url, on_gap=gaps.append, observer=events.append) as mq:
        if where == "unpack":
            await mq.subscribe("a", lambda message: got.append(message.payload), decode=plain)
        else:
            await mq.subscribe("a", plain if where == "plain" else on_message)
        for number in range(4):
            await mq.publish("a", str(number))
        await mq.drain()
    assert got == [b"0", b"2", b"3"]
    assert [event.message_id for event in events if event.kind is EventKind.FAILED] == ["1"]
    assert gaps == []


async def test_an_unsubscribe_that_is_cancelled_keeps_nothing_of_a_handler_that_has_ended(server):
    """It is remembered as long as the handler runs, so that `close` can wait for it.

    And no longer.
    """
    go_on = asyncio.Event()

    async def handler(message):
        await go_on.wait()

    async with MessageQueue(server.url) as mq:
        for _ in range(3):
            await mq.subscribe("a", handler)
            await mq.publish("a", b"x")
            leaving = asyncio.create_task(mq.unsubscribe("a"))
            await wait_until(
                lambda: mq._subscriptions._finishing and not mq._subscriptions._channels
            )
            leaving.cancel()
            await asyncio.wait([leaving])
        assert len(mq._subscriptions._finishing) == 3
        go_on.set()
        await wait_until(lambda: not mq._subscriptions._finishing)


@pytest.mark.parametrize("iterations", range(6))
async def test_a_listen_that_is_cancelled_as_it_leaves_is_subscribed_to_nothing(server, iterations):
    """What the server must hear is written before anything can be cancelled."""
    async with MessageQueue(server.url) as mq, MessageQueue(server.url) as other:
        leaves, is_leaving = asyncio.Event(), asyncio.Event()

        async def listen():
            async with mq.listen("a", "b"):
                await leaves.wait()
                is_leaving.set()

        listening = asyncio.create_task(listen())
        await wait_until(lambda: mq._subscriptions._channels)
        leaves.set()
        await is_leaving.wait()
        for _ in range(iterations):
            await asyncio.sleep(0)
        listening.cancel()
        await asyncio.wait([listening])
        for name in ("a", "b"):
            await mq.subscribe(name, lambda message: None)
            assert await other.subscriber_count(name) == 1
            await mq.unsubscribe(name)
            assert await other.subscriber_count(name) == 0
