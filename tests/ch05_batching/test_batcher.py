"""Batches on real servers: frames to channels, entries to streams.

Through cuts, kills, cancellations and slow receivers.
"""

import asyncio

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mpim_lab.errors import (
    CommandRejected,
    ConnectionLost,
    InvalidMessage,
    InvalidParameter,
    MpimError,
    NotConnected,
    PartlyAdded,
    QueueClosed,
)
from mpim_lab.events import EventKind
from mpim_lab.lab.faults.server_admin import cut_connections
from mpim_lab.lab.server.embedded import EmbeddedServer
from mpim_lab.lab.trace.trace import Trace
from mpim_lab.mq.batching.batcher import Batcher
from mpim_lab.mq.batching.decoder import FrameDecoder
from mpim_lab.mq.batching.flow_control import CreditWindow
from mpim_lab.mq.batching.policies import Adaptive, FixedWindow, SizeOnly
from mpim_lab.mq.compression.codec import Codec
from mpim_lab.mq.compression.framing import BATCH, frame_type
from mpim_lab.mq.connection.config import ConnectionConfig
from mpim_lab.mq.connection.retry import Backoff
from mpim_lab.mq.pubsub.queue import MessageQueue
from tests.support import wait_until

QUICK = ConnectionConfig(
    timeout_s=0.5, connect_timeout_s=0.5, backoff=Backoff(initial_s=0.005, max_s=0.02)
)
LAST_ID = "18446744073709551615-18446744073709551615"


async def listen(queue, channel, got, **options):
    await queue.subscribe(
        channel, lambda message: got.append(message.text), decode=FrameDecoder(queue), **options
    )


@pytest.mark.parametrize(
    "policy", [Adaptive(), Adaptive(max_messages=7), FixedWindow(10, 1_000, 1.0), SizeOnly()]
)
async def test_every_message_reaches_the_handler_once_and_in_order(server, policy):
    """One by one and many at a time; each has the number of subscribers as its outcome."""
    got = []
    async with (
        MessageQueue(server.url, prefix="lab:") as alice,
        MessageQueue(server.unix_url, prefix="lab:") as bob,
    ):
        await listen(bob, "chat", got)
        async with Batcher.to_channel(alice, "chat", policy=policy) as batcher:
            calls = [asyncio.create_task(batcher.publish(f"m{number}")) for number in range(100)]
            await asyncio.sleep(0)
            many = asyncio.create_task(
                batcher.publish_many(f"m{number}" for number in range(100, 1_000))
            )
            await asyncio.sleep(0)
            await batcher.flush()
            assert await asyncio.gather(*calls) == [1] * 100
            assert await many == [1] * 900
            assert batcher.batches < 150
        await bob.drain()
    assert got == [f"m{number}" for number in range(1_000)]


async def test_compressed_batches_are_read_by_the_same_subscriber(server):
    """Beside plain ones and single messages; a plain client sees a plain message as it is."""
    got, plain = [], []
    async with (
        MessageQueue(server.url) as alice,
        MessageQueue(server.url) as bob,
        MessageQueue(server.url) as other,
    ):
        await listen(bob, "chat", got)
        await other.subscribe("chat", lambda message: plain.append(message.payload))
        for codec in (None, Codec("zlib"), Codec("zstd"), Codec("lz4")):
            async with Batcher.to_channel(alice, "chat", codec=codec) as batcher:
                await batcher.publish_many(["see you at eight"] * 50)
        await alice.publish("chat", "hello")
        await bob.drain()
        await other.drain()
    assert got == ["see you at eight"] * 200 + ["hello"]
    assert [frame_type(payload) for payload in plain] == [BATCH, 0xF9, 0xFB, 0xFA, None]
    assert all(len(payload) < len(plain[0]) / 4 for payload in plain[1:])


async def test_a_batch_to_a_stream_is_so_many_entries(server):
    """Consumers see no difference; each message has its entry's id, in order."""
    async with MessageQueue(server.url) as mq:
        stream = mq.stream("orders")
        async with Batcher.to_stream(
            stream, policy=FixedWindow(max_messages=8, window_ms=1)
        ) as batcher:
            ids = await asyncio.gather(*(batcher.publish(f"o{number}") for number in range(20)))
            ids += await batcher.publish_many(["o20", b"o21"])
        entries = await stream.range()
    assert [entry.id for entry in entries] == ids
    assert [entry.data for entry in entries] == [b"o%d" % number for number in range(22)]


async def test_what_the_server_refuses_fails_alone_and_is_told_to_its_sender(server):
    """A stream that takes no more ids: each message has the server's error.

    A channel is not affected.
    """
    async with MessageQueue(server.url) as mq:
        stream = mq.stream("full")
        await stream.add(b"last", id=LAST_ID)
        async with Batcher.to_stream(stream) as full, Batcher.to_channel(mq, "chat") as chat:
            with pytest.raises(CommandRejected):
                await full.publish(b"one more")
            with pytest.raises(PartlyAdded) as told:
                await full.publish_many([b"a", b"b"])
            assert told.value.definite and told.value.ids == [None, None]
            assert await chat.publish(b"hi") == 0


async def test_a_failed_flush_is_repeated_when_the_line_is_back(server):
    """Everything that was not written waits, in order, while the server is away.

    And is there afterwards.
    """
    async with MessageQueue(server.url, config=QUICK) as mq:
        async with Batcher.to_stream(
            mq.stream("orders"), policy=Adaptive(max_messages=5)
        ) as batcher:
            await batcher.publish(b"before")
            server.kill()
            await wait_until(lambda: not mq.is_connected)
            calls = [asyncio.create_task(batcher.publish(b"m%d" % number)) for number in range(23)]
            await asyncio.sleep(
                0.7
            )  # longer than the queue's own time-out: its error is not the end
            assert not any(call.done() for call in calls)
            await server.start()
            await asyncio.gather(*calls)
        entries = await mq.stream("orders").range()
    assert [entry.data for entry in entries][-23:] == [b"m%d" % number for number in range(23)]


async def test_while_the_server_stays_away_everybody_is_told_in_time(server):
    """`delivery_timeout_s`: a definite error for each, also for those behind.

    Closing does not take longer.
    """
    async with MessageQueue(server.url, config=QUICK) as mq, asyncio.timeout(10):
        batcher = Batcher.to_channel(
            mq, "chat", policy=Adaptive(max_messages=1), delivery_timeout_s=0.2
        )
        await batcher.open()
        server.kill()
        await wait_until(lambda: not mq.is_connected)
        receipts = [batcher.add(b"m%d" % number) for number in range(5)]
        await batcher.close()
        outcomes = [receipt.result()[0] for receipt in receipts]
        assert all(isinstance(outcome, NotConnected) and outcome.definite for outcome in outcomes)
        await server.start()


async def test_a_closed_queue_ends_what_waits(server):
    """The batcher outlived its queue: each message has QueueClosed."""
    mq = MessageQueue(server.url)
    await mq.open()
    batcher = Batcher.to_stream(mq.stream("orders"), policy=SizeOnly())
    await batcher.open()
    receipt = batcher.add(b"a")
    await mq.close()
    await batcher.close()
    assert isinstance(receipt.result()[0], QueueClosed)


async def test_a_sender_is_held_back_by_a_slow_receiver_and_not_cut_off(server):
    """Its inbox is full, so it confirms nothing.

    The sender waits instead of filling the server's buffer. Nothing is lost.
    """
    handled, door = [], asyncio.Event()

    async def handle(message):
        await door.wait()
        handled.append(message.payload[:4])

    credit = CreditWindow(max_bytes=50_000, stall_timeout_s=30.0)
    async with MessageQueue(server.url) as alice, MessageQueue(server.url) as bob:
        await bob.subscribe("chat", handle, max_buffered=10, decode=FrameDecoder(bob))
        async with Batcher.to_channel(
            alice, "chat", policy=Adaptive(4, 10_000), credit=credit
        ) as batcher:
            await batcher.publish(b"0000")  # bob is known from here on
            calls = [
                asyncio.create_task(batcher.publish(b"%04d" % n + b"x" * 2_000))
                for n in range(1, 400)
            ]
            await wait_until(lambda: credit.unacked_bytes >= 50_000)
            await asyncio.sleep(0.1)
            assert sum(call.done() for call in calls) < 60
            door.set()
            await asyncio.gather(*calls)
        await bob.drain()
    assert handled == [b"%04d" % number for number in range(400)]


async def test_receivers_that_never_confirm_do_not_hold_a_sender_up_for_ever(server):
    """A plain client counts as a subscriber; after one patience nobody waits for it any more."""
    async with (
        MessageQueue(server.url) as alice,
        MessageQueue(server.url) as plain,
        asyncio.timeout(10),
    ):
        await plain.subscribe("chat", lambda message: None)
        credit = CreditWindow(max_bytes=1_000, stall_timeout_s=0.05)
        async with Batcher.to_channel(alice, "chat", credit=credit) as batcher:
            for _ in range(50):
                assert await batcher.publish(b"x" * 900) == 1


async def test_garbage_on_the_channel_is_reported_and_the_next_message_comes(server):
    """Frames that are cut off, of unknown marks, too large; the subscription lives on."""
    got, trace = [], Trace()
    async with (
        MessageQueue(server.url) as alice,
        MessageQueue(server.url, name="bob", observer=trace) as bob,
    ):
        await listen(bob, "chat", got)
        bomb = Codec("zlib", max_bytes=10**8).encode(bytes(10**7))
        for garbage in (b"\xfd", b"\xfd\x00\x00", b"\xff?", b"\xfb\x01\x02", bomb):
            await alice.publish("chat", garbage)
        await alice.publish("chat", "hello")
        await bob.drain()
    assert got == ["hello"]
    assert [event.error for event in trace.by_kind(EventKind.FAILED)] == [
        "CorruptPayload", "CorruptPayload", "UnknownFormat", "CorruptPayload", "OversizedPayload",
    ]  # fmt: skip


async def test_a_handler_that_raises_does_not_take_its_neighbours_with_it(server):
    """The others of the same frame are handled; async iterators get them one by one, too."""
    got, trace = [], Trace()

    def handle(message):
        if message.text == "m1":
            raise ValueError("no")
        got.append(message.text)

    async with (
        MessageQueue(server.url) as alice,
        MessageQueue(server.url, name="bob", observer=trace) as bob,
    ):
        await bob.subscribe("chat", handle, decode=FrameDecoder(bob))
        async with bob.listen("talk", decode=FrameDecoder(bob)) as messages:
            for channel in ("chat", "talk"):
                async with Batcher.to_channel(alice, channel) as batcher:
                    await batcher.publish_many(["m0", "m1", "m2"])
            assert [(await anext(messages)).text for _ in range(3)] == ["m0", "m1", "m2"]
        await bob.drain()
    assert got == ["m0", "m2"]
    received = [
        event.message_id for event in trace.by_kind(EventKind.RECEIVED) if event.channel == "chat"
    ]
    assert received == ["m0", "m1", "m2"]


async def test_a_rule_whose_frames_the_queue_would_not_take_is_refused(server):
    """When the batcher is made."""
    async with MessageQueue(server.url, max_payload_bytes=10_000) as mq:
        with pytest.raises(InvalidParameter, match="10,000"):
            Batcher.to_channel(mq, "chat")


async def test_a_codec_that_would_refuse_a_whole_batch_is_refused_itself(server):
    """Small messages must not fail for the company they are in.

    One that is too large for the codec fails alone, at once.
    """
    async with MessageQueue(server.url) as mq:
        with pytest.raises(InvalidParameter, match="than the codec's 65,536 bytes"):
            Batcher.to_channel(
                mq, "chat", policy=Adaptive(), codec=Codec("zstd", max_bytes=64 * 1024)
            )
        codec, policy = Codec("zstd", max_bytes=5_000), Adaptive(max_messages=100, max_bytes=4_000)
        async with Batcher.to_channel(mq, "chat", policy=policy, codec=codec) as batcher:
            assert await batcher.publish_many([b"x" * 500] * 100) == [0] * 100
            with pytest.raises(InvalidMessage):
                await batcher.publish(b"x" * 5_000)


@pytest.mark.parametrize("one", ["hello", b"hello", bytearray(b"hello"), {"text": "hello"}])
async def test_one_payload_where_many_are_taken_is_refused(server, one):
    """It would be five messages of a letter each."""
    async with MessageQueue(server.url) as mq, Batcher.to_channel(mq, "chat") as batcher:
        with pytest.raises(InvalidMessage, match="many payloads, not one"):
            await batcher.publish_many(one)
        with pytest.raises(InvalidMessage, match="many payloads, not one"):
            await mq.stream("log").add_many(one)


async def test_a_batcher_is_opened_once(server):
    """Twice, or again after it was closed, is named when it is tried."""
    async with MessageQueue(server.url) as mq:
        async with Batcher.to_channel(mq, "chat") as batcher:
            with pytest.raises(InvalidParameter, match="open already"):
                await batcher.open()
            assert await batcher.publish("hello") == 0
        with pytest.raises(QueueClosed):
            await batcher.open()


@pytest.mark.parametrize("bad", [0, -1, float("nan")])
@pytest.mark.parametrize("name", ["max_pending_bytes", "enqueue_timeout_s", "delivery_timeout_s"])
async def test_limits_that_make_no_sense_are_refused(server, name, bad):
    """NaN is neither above nor below anything."""
    async with MessageQueue(server.url) as mq:
        with pytest.raises(InvalidParameter):
            Batcher.to_channel(mq, "chat", **{name: bad})


FAULTS = st.lists(
    st.tuples(
        st.sampled_from(["cut", "cancel", "many", "one", "flush", "turn"]), st.integers(1, 5)
    ),
    max_size=15,
)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.sampled_from([Adaptive(max_messages=3), FixedWindow(4, 100, 0.5), SizeOnly(max_messages=5)]),
    FAULTS,
)
def test_nothing_is_lost_or_reordered_on_a_real_server(policy, steps):
    """Connections are cut, callers cancelled, batches flushed, at any point.

    What was acknowledged is there; what was certainly refused is not; the entries are in the order
    of the calls, each once.
    """
    asyncio.run(_play(policy, steps))


async def _play(policy, steps):
    names, calls, flushes = iter(range(10_000)), [], []
    async with (
        EmbeddedServer() as server,
        MessageQueue(server.url, name="alice", config=QUICK) as mq,
    ):
        stream = mq.stream("orders")
        async with Batcher.to_stream(stream, policy=policy) as batcher:
            for step, count in steps:
                if step == "cut":
                    await cut_connections(server.url, "alice")
                elif step == "cancel" and calls:
                    calls[-1][1].cancel()
                elif step == "flush":
                    flushes.append(asyncio.create_task(batcher.flush()))
                elif step in ("one", "many"):
                    each = [b"%04d" % next(names) for _ in range(count)]
                    if step == "many":
                        calls.append((each, asyncio.create_task(batcher.publish_many(each))))
                    else:
                        calls += [([n], asyncio.create_task(batcher.publish(n))) for n in each]
                for _ in range(count):
                    await asyncio.sleep(0)
            await asyncio.gather(batcher.flush(), *flushes)
        there = [entry.data for entry in await stream.range()]
    assert there == sorted(set(there))
    for each, call in calls:
        assert call.done()
        if not call.cancelled():
            _judge(each, call, there)


def _judge(each, call, there):
    error = call.exception()
    errors = (
        [error] * len(each) if error is None or not isinstance(error, PartlyAdded) else error.errors
    )
    for name, problem in zip(each, errors, strict=True):
        if problem is None:
            assert name in there
        else:
            assert isinstance(problem, MpimError)
            assert name not in there or not problem.definite
            assert not isinstance(problem, ConnectionLost) or not problem.definite


async def test_a_prefix_too_long_for_a_batch_is_refused_by_name(one_server):
    """The channel for acknowledgements has at most 255 bytes in a frame.

    Nothing that is published would ever be sent.
    """
    async with MessageQueue(one_server.url, prefix="p" * 250) as mq:
        with pytest.raises(InvalidParameter, match="acknowledgements"):
            Batcher.to_channel(mq, "c")


@pytest.mark.parametrize(
    "channel", [None, 7, "", b"", "half \ud800", ["chat"]], ids=lambda channel: repr(channel)[:7]
)
async def test_a_batcher_to_what_is_no_channel_is_refused_by_name(one_server, channel):
    """When it is made, and by an error of ours."""
    async with MessageQueue(one_server.url) as mq:
        with pytest.raises(InvalidMessage, match="channel"):
            Batcher.to_channel(mq, channel)
