"""MessageQueue on a real server.

What is published is handed over, and what goes wrong has a name.
"""

import asyncio
import logging

import pytest

from mpim_lab.errors import (
    AlreadySubscribed,
    CommandRejected,
    InvalidMessage,
    InvalidParameter,
    NotConnected,
    QueueClosed,
    SlowSubscriber,
)
from mpim_lab.events import EventKind
from mpim_lab.lab.trace.trace import Trace
from mpim_lab.mq.connection.encoding import Message
from mpim_lab.mq.pubsub.queue import MessageQueue
from tests.support import wait_until


async def test_a_published_message_reaches_its_handler(server):
    """publish gives the number of receivers; the handler gets channel and payload."""
    got = []
    async with MessageQueue(server.url) as mq:
        await mq.subscribe("user:1001", got.append)
        assert await mq.publish("user:1001", b"hi") == 1
        await mq.drain()
    assert got == [Message("user:1001", b"hi")]


async def test_nobody_listening_means_zero_receivers(server):
    """publish succeeds all the same: it says 0, and that is all it says."""
    async with MessageQueue(server.url) as mq:
        assert await mq.publish("user:1001", b"hi") == 0


async def test_text_travels_as_utf8(server):
    """A payload may be text; it arrives as bytes, and `text` gives it back."""
    got = []
    async with MessageQueue(server.url) as mq:
        await mq.subscribe("user:1001", got.append)
        await mq.publish("user:1001", "晚上好")
        await mq.drain()
    assert got[0].text == "晚上好"


@pytest.mark.parametrize(
    "payload", [b"", b"\x00\r\n\xff", b"x" * 100_000, bytearray(b"ba"), memoryview(b"mv")]
)
async def test_any_bytes_arrive_unchanged(server, payload):
    """Payloads are bytes, whatever is in them."""
    got = []
    async with MessageQueue(server.url) as mq:
        await mq.subscribe("user:1001", got.append)
        await mq.publish("user:1001", payload)
        await mq.drain()
    assert [message.payload for message in got] == [bytes(payload)]


async def test_messages_of_one_channel_arrive_in_order(server):
    """One publisher, one channel.

    The server keeps the order, and so do we, from tasks that do not wait for each other.
    """
    got = []
    async with MessageQueue(server.url) as mq:
        await mq.subscribe("user:1001", lambda message: got.append(int(message.payload)))
        await asyncio.gather(*(mq.publish("user:1001", str(number)) for number in range(5_000)))
        await mq.drain()
    assert got == list(range(5_000))


async def test_an_async_handler_gets_one_message_after_the_other(server):
    """An async handler is never called for two messages of a channel at once."""
    running, most, got = 0, 0, []

    async def handler(message):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        got.append(message.payload)
        running -= 1

    async with MessageQueue(server.url) as mq:
        await mq.subscribe("user:1001", handler)
        await asyncio.gather(*(mq.publish("user:1001", str(number)) for number in range(100)))
        await mq.drain()
    assert most == 1
    assert got == [str(number).encode() for number in range(100)]


async def test_a_pattern_gets_what_matches_it_and_says_which_channel_it_was(server):
    """subscribe(pattern=True) takes a glob, as PSUBSCRIBE does."""
    got = []
    async with MessageQueue(server.url) as mq:
        await mq.subscribe("user:*", got.append, pattern=True)
        assert await mq.publish("user:1001", b"a") == 1
        assert await mq.publish("group:1", b"b") == 0
        await mq.drain()
    assert got == [Message("user:1001", b"a", "user:*")]


async def test_listen_gives_several_channels_as_one_iterator(server):
    """listen subscribes, yields, and unsubscribes at the end of its block."""
    async with MessageQueue(server.url) as mq:
        async with mq.listen("a", "b", patterns=["c*"]) as messages:
            for channel in ("a", "b", "c1"):
                assert await mq.publish(channel, channel) == 1
            assert [(await anext(messages)).channel for _ in range(3)] == ["a", "b", "c1"]
        assert await mq.publish("a", b"late") == 0


async def test_listen_ends_when_the_queue_is_closed(server):
    """Closing the queue ends the iterator instead of leaving its reader waiting for ever."""
    mq = MessageQueue(server.url)
    await mq.open()

    async def read():
        async with mq.listen("a") as messages:
            return [message async for message in messages]

    reader = asyncio.create_task(read())
    await wait_until(lambda: mq.open_connections == 2)
    await mq.publish("a", b"1")
    await mq.close()
    assert [message.payload for message in await reader] == [b"1"]


async def test_after_unsubscribe_nothing_arrives(server):
    """unsubscribe is confirmed by the server; what had arrived is handled first."""
    got = []

    async def slowly(message):
        await asyncio.sleep(0.01)
        got.append(message.payload)

    async with MessageQueue(server.url) as mq:
        await mq.subscribe("user:1001", slowly)
        await mq.publish("user:1001", b"before")
        await mq.unsubscribe("user:1001")
        assert await mq.publish("user:1001", b"after") == 0
    assert got == [b"before"]


async def test_unsubscribing_from_nothing_is_harmless(server):
    """A channel without a handler is no error, nor is a second time."""
    async with MessageQueue(server.url) as mq:
        await mq.unsubscribe("never")
        await mq.subscribe("once", lambda message: None)
        await mq.unsubscribe("once")
        await mq.unsubscribe("once")


async def test_a_handler_may_unsubscribe_itself(server):
    """No deadlock: the handler that is running does not wait for itself."""
    got = []
    async with MessageQueue(server.url) as mq:

        async def once(message):
            got.append(message.payload)
            await mq.unsubscribe("user:1001")

        await mq.subscribe("user:1001", once)
        await mq.publish("user:1001", b"1")
        await wait_until(lambda: got)
        await asyncio.sleep(0)
        assert await mq.subscriber_count("user:1001") == 0
        assert got == [b"1"]


async def test_subscribing_twice_is_refused(server):
    """One handler a channel and queue: the second gets AlreadySubscribed and the first goes on."""
    got = []
    async with MessageQueue(server.url) as mq:
        await mq.subscribe("user:1001", got.append)
        with pytest.raises(AlreadySubscribed):
            await mq.subscribe("user:1001", lambda message: None)
        await mq.publish("user:1001", b"1")
        await mq.drain()
    assert len(got) == 1


@pytest.mark.parametrize("channel", ["", b"", None, 7, ["list"], "\ud800"])
async def test_a_bad_channel_is_refused_before_anything_is_sent(server, channel):
    """A channel is a non-empty text or bytes.

    The error is InvalidMessage and certainly nothing happened.
    """
    async with MessageQueue(server.url) as mq:
        for attempt in (
            mq.publish(channel, b"x"),
            mq.subscribe(channel, print),
            mq.subscriber_count(channel),
        ):
            with pytest.raises(InvalidMessage) as caught:
                await attempt
            assert caught.value.definite


@pytest.mark.parametrize(
    "payload", [None, 7, 1.5, ["x"], {"a": 1}, "\ud800", b"x" * 1_001, "é" * 501]
)
async def test_a_bad_payload_is_refused_before_anything_is_sent(server, payload):
    """Payloads are bytes or text of at most max_payload_bytes, counted in bytes."""
    async with MessageQueue(server.url, max_payload_bytes=1_000) as mq:
        with pytest.raises(InvalidMessage):
            await mq.publish("user:1001", payload)
        assert await mq.publish("user:1001", b"x" * 1_000) == 0


async def test_a_handler_must_be_callable(server):
    """Said at once, not when the first message comes."""
    async with MessageQueue(server.url) as mq:
        with pytest.raises(InvalidParameter):
            await mq.subscribe("user:1001", "not a function")


@pytest.mark.parametrize("options", [{"max_buffered": 0}, {"overflow_policy": "explode"}])
async def test_a_bad_inbox_is_refused(server, options):
    """max_buffered is at least 1, overflow_policy is one of three words."""

    async def handler(message):
        pass

    async with MessageQueue(server.url) as mq:
        with pytest.raises(InvalidParameter):
            await mq.subscribe("user:1001", handler, **options)


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_handler_that_raises_stops_nobody(server, caplog, is_async):
    """The error goes to the log and to the observer.

    The next message and the other handlers are not touched.
    """
    trace, got = Trace(), []

    def fail(message):
        raise RuntimeError("boom")

    async def fail_later(message):
        raise RuntimeError("boom")

    with caplog.at_level(logging.ERROR):
        async with MessageQueue(server.url, name="bob", observer=trace) as mq:
            await mq.subscribe("bad", fail_later if is_async else fail)
            await mq.subscribe("good", got.append)
            for channel in ("bad", "good", "bad"):
                await mq.publish(channel, b"m1")
            await mq.drain()
    assert [event.detail for event in trace.by_kind(EventKind.FAILED)] == ["RuntimeError: boom"] * 2
    assert caplog.text.count("RuntimeError: boom") == 2
    assert len(got) == 1


async def test_a_plain_handler_that_returns_something_to_await_is_reported(server):
    """A coroutine that nobody awaits would be a message silently not handled."""
    trace = Trace()

    async def work():
        pass

    async with MessageQueue(server.url, observer=trace) as mq:
        unawaited = []
        await mq.subscribe("a", lambda message: unawaited.append(work()) or unawaited[-1])
        await mq.publish("a", b"m1")
        await mq.drain()
        unawaited[0].close()
    assert "async def" in next(trace.by_kind(EventKind.FAILED)).detail


async def test_waiting_for_a_slow_handler_loses_nothing(server):
    """Policy "wait": at most `limit` messages are held here, the rest stays with the server."""
    got, go = [], asyncio.Event()

    async def handler(message):
        await go.wait()
        got.append(int(message.payload))

    async with MessageQueue(server.url) as slow, MessageQueue(server.url) as publisher:
        await slow.subscribe("a", handler, max_buffered=5)
        await asyncio.gather(*(publisher.publish("a", str(number)) for number in range(2_000)))
        go.set()
        await wait_until(lambda: len(got) == 2_000)
    assert got == list(range(2_000))


async def test_a_slow_handler_does_not_hold_up_publishing_on_its_own_queue(server):
    """Messages and commands have a connection each.

    A full buffer stops reading the one, not the other.
    """
    go = asyncio.Event()

    async def handler(message):
        await go.wait()

    async with MessageQueue(server.url) as mq:
        await mq.subscribe("a", handler, max_buffered=1)
        for _ in range(50):
            assert await mq.publish("a", b"x") == 1
        go.set()


async def test_dropping_the_oldest_keeps_the_newest(server):
    """Policy "drop oldest": the observer is told of each message thrown away."""
    trace, got, go = Trace(), [], asyncio.Event()

    async def handler(message):
        await go.wait()
        got.append(message.text)

    async with MessageQueue(server.url, name="bob", observer=trace) as mq:
        await mq.subscribe("a", handler, max_buffered=3, overflow_policy="drop oldest")
        for number in range(10):
            await mq.publish("a", f"m{number}")
            await wait_until(
                lambda seen=number + 1: sum(1 for _ in trace.by_kind(EventKind.RECEIVED)) == seen
            )
        go.set()
        await mq.drain()
    assert got == ["m0", "m7", "m8", "m9"]  # m0 was with the handler already
    assert [event.message_id for event in trace.by_kind(EventKind.DROPPED)] == [
        "m1",
        "m2",
        "m3",
        "m4",
        "m5",
        "m6",
    ]


async def test_disconnecting_a_slow_reader_ends_its_subscription_with_an_error(server):
    """Policy "disconnect": the iterator gives what it held, then raises SlowSubscriber.

    The server sends nothing more.
    """
    async with (
        MessageQueue(server.url) as mq,
        mq.listen("a", max_buffered=2, overflow_policy="disconnect") as messages,
    ):
        for number in range(3):
            await mq.publish("a", str(number))
        await mq.drain()
        assert [(await anext(messages)).payload for _ in range(2)] == [b"0", b"1"]
        with pytest.raises(SlowSubscriber):
            await anext(messages)
        assert await mq.subscriber_count("a") == 0


async def test_a_closed_queue_refuses_with_a_named_error(server):
    """QueueClosed, at once; closing twice is harmless."""
    mq = MessageQueue(server.url)
    await mq.open()
    await mq.close()
    await mq.close()
    for attempt in (
        mq.publish("a", b"x"),
        mq.subscribe("a", print),
        mq.subscriber_count("a"),
        mq.open(),
    ):
        with pytest.raises(QueueClosed):
            await attempt
    assert not mq.is_connected


async def test_a_queue_that_was_never_opened_says_how_to_open_it(server):
    """NotConnected with the words to write, not an AttributeError."""
    with pytest.raises(NotConnected, match="async with"):
        await MessageQueue(server.url).publish("a", b"x")


async def test_closing_finishes_what_was_begun(server):
    """close lets handlers finish what has arrived."""
    got = []

    async def slowly(message):
        await asyncio.sleep(0.02)
        got.append(message.payload)

    async with MessageQueue(server.url) as mq:
        await mq.subscribe("a", slowly)
        for number in range(5):
            await mq.publish("a", str(number))
    assert len(got) == 5


async def test_a_prefix_keeps_two_labs_on_one_server_apart(server):
    """The prefix is on the server's side only: channels look the same to handlers."""
    got = []
    async with (
        MessageQueue(server.url, prefix="lab-1:") as one,
        MessageQueue(server.url, prefix="lab-2:") as two,
    ):
        await one.subscribe("a", got.append)
        await one.subscribe("b*", got.append, pattern=True)
        assert await two.publish("a", b"x") == 0
        assert await one.publish("a", b"x") == 1
        assert await one.publish("b1", b"y") == 1
        await one.drain()
    assert got == [Message("a", b"x"), Message("b1", b"y", "b*")]


async def test_a_server_that_refuses_a_channel_is_heard(server):
    """An ACL that forbids the channel gives CommandRejected.

    And later replies still meet their commands.
    """
    async with MessageQueue(server.url) as admin:
        await admin._commands.call(
            "ACL", "SETUSER", "guest", "on", "nopass", "+@all", "resetchannels", "&open:*"
        )
    async with MessageQueue(server.url.replace("redis://", "redis://guest:x@")) as mq:
        with pytest.raises(CommandRejected, match="NOPERM"):
            await mq.subscribe("closed", lambda message: None)
        await mq.subscribe("open:1", lambda message: None)
        assert await mq.publish("open:1", b"x") == 1


async def test_the_observer_sees_a_message_from_hand_to_hand(server):
    """accepted → published → received → handled, with the receivers counted."""
    trace = Trace()
    async with (
        MessageQueue(server.url, name="alice", observer=trace) as alice,
        MessageQueue(server.url, name="bob", observer=trace) as bob,
    ):
        await bob.subscribe("user:1001", lambda message: None)
        await alice.publish("user:1001", b"m1 hi")
        await bob.drain()
    life = {(event.kind, event.actor) for event in trace.by_message()["m1"]}
    assert life == {
        (EventKind.ACCEPTED, "alice"),
        (EventKind.PUBLISHED, "alice"),
        (EventKind.RECEIVED, "bob"),
        (EventKind.HANDLED, "bob"),
    }
    assert next(trace.by_kind(EventKind.PUBLISHED)).count == 1
