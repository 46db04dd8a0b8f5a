"""Names are told apart whatever they hold, and come back as they were given."""

import asyncio
import contextlib

import pytest

from mpim_lab.errors import InvalidMessage, InvalidParameter
from mpim_lab.im.gateway.gateway import Gateway
from mpim_lab.im.protocol.requests import BindRouteRequest, DeliverRequest
from mpim_lab.im.services.presence import Presence
from mpim_lab.mq.batching.batcher import Batcher
from mpim_lab.mq.batching.decoder import FrameDecoder
from mpim_lab.mq.idempotency.store import IdempotencyStore
from mpim_lab.mq.ordering.ordered_worker import OrderedWorker
from mpim_lab.mq.ordering.partitioned_stream import PartitionedStream
from mpim_lab.mq.ordering.sequenced_log import SequencedLog
from mpim_lab.mq.pubsub.queue import MessageQueue
from mpim_lab.mq.streams.consumer import Consumer
from tests.support import wait_until

NASTY = [
    " ", ":", "a:b", "{a}", "}{", "%3A", "100%", "a b\nc\r\n", "🍵茶", "*", "[a-z]?", "\\", "$", ">",
    "-", "0", "MKSTREAM", "COUNT", "confirm:1", "batches:x", "system:broadcast", "mpim:layout",
    "route:bob", b"\xff\x00\xfe", "x" * 1_000_000,
]  # fmt: skip
NO_NAMES = ["", b"", "\ud800", None, 7]


@pytest.fixture
async def queues(one_server):
    """A queue for each nasty prefix, on one server."""
    async with contextlib.AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(MessageQueue(one_server.url, prefix=prefix))
            for prefix in NASTY
        ]


@pytest.fixture
async def mq(one_server):
    """A queue with a prefix that looks like much else."""
    async with MessageQueue(one_server.url, prefix="*[a]{%}:") as queue:
        yield queue


async def test_a_message_comes_back_with_a_channel_that_can_be_published_to(mq):
    """Each channel gets its own message alone, and answers reach whoever published."""
    got = []
    for name in NASTY:
        await mq.subscribe(name, got.append)
    for number, name in enumerate(NASTY):
        assert await mq.publish(name, b"%d" % number) == 1
    await wait_until(lambda: len(got) == len(NASTY))
    assert [(each.channel, int(each.payload)) for each in got] == [
        (name, at) for at, name in enumerate(NASTY)
    ]
    assert [await mq.publish(message.channel, b"again") for message in list(got)] == [1] * len(
        NASTY
    )


async def test_a_channel_given_as_bytes_is_the_same_as_its_text(mq):
    """Text comes back where UTF-8 allows it."""
    got = []
    await mq.subscribe(b"user:1", got.append)
    assert await mq.publish("user:1", b"hi") == 1 == await mq.publish(b"user:1", b"hi")
    await wait_until(lambda: len(got) == 2)
    assert {each.channel for each in got} == {"user:1"}


async def test_a_prefix_matches_itself_alone(queues):
    """Whatever patterns are subscribed to: a star in a prefix is a star."""
    got = {number: [] for number in range(len(queues))}
    for number, queue in enumerate(queues):
        await queue.subscribe("told:*", got[number].append, pattern=True)
    for number, queue in enumerate(queues):
        assert await queue.publish("told:bob", b"%d" % number) == 1
    await wait_until(lambda: all(got.values()))
    for number, messages in got.items():
        assert [(each.channel, each.pattern, each.payload) for each in messages] == [
            ("told:bob", "told:*", b"%d" % number)
        ]


async def test_streams_groups_and_consumers_of_any_name(mq):
    """Each has its own entries, its own consumers and its own dead letters."""
    for number, name in enumerate(NASTY):
        stream = mq.stream(name)
        await stream.add(b"%d" % number)
        group = await stream.group(name)
        async with Consumer(group, name) as consumer:
            (delivery,) = await consumer.fetch(5_000)
            assert delivery.entry.data == b"%d" % number
            (line,) = await group.pending()
            assert line.consumer == name and await group.lag() == 0
            assert await group.dead_letter(delivery, reason="a test")
        (letter,) = await group.dead_letters.list()
        assert letter.fields["data"] == b"%d" % number


async def test_work_is_done_once_for_each_scope_and_id(mq):
    """And its result comes back to whoever gives the same two names."""
    for scope in NASTY:
        once = IdempotencyStore(mq, scope)
        for message in (scope, "a:b", b"\xff"):
            result = f"{NASTY.index(scope)} {message!r:.20}".encode()
            assert await once.run(message, lambda effects, result=result: result) == result
            assert await once.run(message, lambda effects: b"again") == result


@pytest.mark.parametrize(("scope", "message"), [("payments", "eu:42"), ("payments:eu", "42")])
async def test_work_in_another_scope_is_other_work(mq, scope, message):
    """Although scope and id, one after the other, read the same."""
    for other in [("payments", "eu:42"), ("payments:eu", "42")]:
        if other != (scope, message):
            await IdempotencyStore(mq, other[0]).run(other[1], lambda effects: b"other")
    assert await IdempotencyStore(mq, scope).run(message, lambda effects: b"own") == b"own"


async def test_conversations_and_message_ids_of_any_name(mq):
    """Each conversation begins at 1, an id is known again in its own conversation only."""
    talks = SequencedLog(mq, "a:b")
    for conversation in NASTY:
        for number, message in enumerate(("m1", conversation, b"\xfe"), 1):
            appended = [await talks.append(conversation, b"hi", message) for _ in range(2)]
            assert appended == [(number, True), (number, False)]
        assert {each.conversation for each in await talks.read_range(conversation, 1)} == {
            conversation
        }


async def test_an_ordered_stream_gives_conversations_and_ids_back_as_they_were(mq):
    """Through the partition's entry, where they are fields."""
    stream, seen = PartitionedStream(mq, "a:{b}", partitions=3), []
    for name in NASTY:
        assert await stream.append(name, b"hi", id=name) == (1, True)
    worker = OrderedWorker(
        stream,
        "g:{h}",
        "w w",
        lambda ordered, effects: seen.append((ordered.conversation, ordered.id)),
    )
    running = asyncio.create_task(worker.run())
    await wait_until(lambda: len(seen) == len(NASTY))
    await worker.stop()
    await running
    assert set(seen) == {(name, name) for name in NASTY} and await stream.lag("g:{h}") == 0


def test_a_conversation_is_in_one_partition_however_it_is_given():
    """Text and its UTF-8 bytes."""
    stream = PartitionedStream(MessageQueue("redis://127.0.0.1:1"), "orders", partitions=64)
    for name in NASTY:
        raw = name if isinstance(name, bytes) else name.encode()  # type: ignore[attr-defined]
        assert stream.partition_of(name) == stream.partition_of(raw)


async def test_batches_reach_a_channel_of_any_name(mq):
    """And are confirmed to whoever sent them."""
    for name in NASTY:
        got = []
        await mq.subscribe(name, got.append, decode=FrameDecoder(mq))
        async with Batcher.to_channel(mq, name) as batcher:
            assert await batcher.publish_many([b"1", b"2"]) == [1, 1]
        await wait_until(lambda got=got: len(got) == 2)
        assert {each.channel for each in got} == {name}


@pytest.mark.parametrize("no_name", NO_NAMES)
async def test_what_is_no_name_is_refused_before_anything_is_sent(mq, no_name):
    """By name: InvalidMessage; InvalidParameter for what a constructor is given."""
    talks, stream = SequencedLog(mq, "chat"), PartitionedStream(mq, "orders")
    for call in (
        lambda: mq.publish(no_name, b"hi"),
        lambda: mq.subscribe(no_name, print),
        lambda: mq.stream("s").group(no_name),
        lambda: IdempotencyStore(mq, "s").run(no_name, lambda effects: None),
        lambda: talks.append(no_name, b"hi"),
        lambda: stream.append(no_name, b"hi"),
    ):
        with pytest.raises(InvalidMessage):
            await call()
    with pytest.raises(InvalidMessage):
        mq.stream(no_name)
    for make in (IdempotencyStore, SequencedLog, PartitionedStream):
        with pytest.raises(InvalidParameter):
            make(mq, no_name)
    if no_name is not None:
        with pytest.raises(InvalidMessage):
            await talks.append("bob", b"hi", no_name)
    assert await mq.connection.call("DBSIZE") == 0


async def test_users_devices_gateways_and_connections_have_narrow_names(mq):
    """What would be read as two words, or as another channel, is refused by name."""
    presence = Presence(mq)
    for wrong in ("a b", "status:bob", "é", "", "x" * 65, "a\n"):
        with pytest.raises(InvalidParameter):
            Gateway(wrong, None)
        for place in range(4):
            words = ["bob", "main", "gw-1", "c1"]
            words[place] = wrong
            with pytest.raises(InvalidParameter):
                await presence.bind_route(BindRouteRequest(*words))
        with pytest.raises(InvalidParameter):
            await presence.deliver(DeliverRequest(wrong, b"hi"))
    assert await mq.connection.call("DBSIZE") == 0
