"""The layout of the keys: a queue looks at it first, and touches nothing that it does not know."""

import asyncio

import pytest

from mpim_lab.errors import CommandRejected, MpimError, NotConnected, QueueClosed, WrongLayout
from mpim_lab.keys import LAYOUT
from mpim_lab.lab.faults.proxy import FaultProxy, Match
from mpim_lab.mq.batching.batcher import Batcher
from mpim_lab.mq.batching.decoder import FrameDecoder
from mpim_lab.mq.connection.config import ConnectionConfig
from mpim_lab.mq.idempotency.store import IdempotencyStore
from mpim_lab.mq.ordering.assignments import PartitionAssignments
from mpim_lab.mq.ordering.partitioned_stream import PartitionedStream
from mpim_lab.mq.ordering.sequenced_log import SequencedLog
from mpim_lab.mq.pubsub.queue import MessageQueue
from mpim_lab.mq.streams.consumer import Consumer
from mpim_lab.mq.streams.group import ConsumerGroup

KEY = "p:mpim:layout"


@pytest.fixture
async def raw(server):
    """Somebody else on the same server."""
    async with MessageQueue(server.url) as queue:
        yield queue.connection.call


async def test_the_first_command_that_uses_keys_names_the_layout(server, raw):
    """Pub/Sub alone, batches and confirmations included, leaves no key behind."""
    async with MessageQueue(server.url, prefix="p:") as mq:
        await mq.subscribe("a", lambda message: None, decode=FrameDecoder(mq))
        async with Batcher.to_channel(mq, "a") as batcher:
            await batcher.publish(b"hi")
        assert await mq.publish("a", b"hi") == 1 == await mq.subscriber_count("a")
        assert await raw("DBSIZE") == 0
        await mq.stream("orders").add(b"tea")
        assert await raw("GET", KEY) == LAYOUT.encode() and await raw("PTTL", KEY) == -1


@pytest.mark.parametrize("other", ["1", "3", "", "x" * 100, None])
async def test_another_layout_is_not_touched(server, raw, other):
    """Every part that uses keys says so, nothing is read or written, and Pub/Sub goes on."""
    await (raw("SET", KEY, other) if other is not None else raw("RPUSH", KEY, "no text"))
    async with MessageQueue(server.url, prefix="p:") as mq:
        stream, orders = mq.stream("orders"), PartitionedStream(mq, "orders", partitions=1)
        group = ConsumerGroup(mq.context("orders"), "g")
        for call in (
            lambda: stream.add(b"tea"),
            lambda: stream.add_many([b"tea"]),
            lambda: stream.wait(timeout_ms=1),
            lambda: stream.group("g"),
            lambda: IdempotencyStore(mq, "s").run("1", lambda effects: None),
            lambda: SequencedLog(mq, "chat").append("bob", b"hi"),
            lambda: orders.append("bob", b"hi"),
            Consumer(group, "c").__aenter__,
            PartitionAssignments(orders, "g", "m", lease_ms=1_000, batch_size=1).__aenter__,
        ):
            with pytest.raises(WrongLayout, match="another prefix") as refused:
                await call()
            assert refused.value.definite
        assert await mq.publish("a", b"hi") == 0
    assert await raw("KEYS", "*") == [KEY.encode()]


async def test_many_first_commands_share_one_look(server):
    """They leave together when it is answered, in their order."""
    async with FaultProxy(server.url) as proxy, MessageQueue(proxy.url) as mq:
        stream = mq.stream("orders")
        ids = await asyncio.gather(*(stream.add(b"%d" % number) for number in range(200)))
        assert [entry.data for entry in await stream.range()] == [
            b"%d" % number for number in range(200)
        ]
        assert len(set(ids)) == 200
        stats = await mq.connection.call("INFO", "commandstats")
    text = stats.decode() if isinstance(stats, bytes) else str(stats)
    assert "cmdstat_get:calls=1," in text and "cmdstat_set:calls=1," in text


async def test_whoever_is_cancelled_while_it_is_looked_leaves_the_others_served(server):
    """The look is nobody's own."""
    async with MessageQueue(server.url) as mq:
        stream = mq.stream("orders")
        first, second = (asyncio.create_task(stream.add(payload)) for payload in (b"1", b"2"))
        await asyncio.sleep(0)
        first.cancel()
        await second
        assert first.cancelled() and [entry.data for entry in await stream.range()] == [b"2"]


async def test_a_look_without_an_answer_is_definite(server):
    """Nothing else was sent; once the line is well again the next command looks again."""
    limits = ConnectionConfig(timeout_s=0.5)
    async with FaultProxy(server.url) as proxy, MessageQueue(proxy.url, config=limits) as mq:
        proxy.drop_reply(Match("GET", b"mpim:layout"))
        with pytest.raises(NotConnected, match="nothing else was sent"):
            await mq.stream("orders").add(b"tea")
        async with asyncio.timeout(10):
            while True:
                try:
                    await mq.stream("orders").add(b"tea")
                    break
                except MpimError:
                    await asyncio.sleep(0.01)
        assert await mq.stream("orders").length() == 1


async def test_a_queue_that_is_closed_or_not_open_says_so(server):
    """As without a look."""
    mq = MessageQueue(server.url)
    with pytest.raises(NotConnected, match="not opened yet"):
        await mq.stream("orders").add(b"tea")
    async with mq:
        pass
    with pytest.raises(QueueClosed):
        await mq.stream("orders").add(b"tea")


@pytest.mark.parametrize("rights", [("~p:orders",), ("%R~p:mpim:layout", "~p:orders")])
async def test_a_user_without_the_right_to_that_key_goes_on_without(server, raw, rights):
    """It may be allowed its own keys alone."""
    await raw("ACL", "SETUSER", "alice", "on", ">secret", "+@all", "&*", *rights)
    url = server.url.replace("://", "://alice:secret@")
    async with MessageQueue(url, prefix="p:") as mq:
        for _ in range(2):
            await mq.stream("orders").add(b"tea")
        assert await mq.stream("orders").length() == 2
    assert await raw("EXISTS", KEY) == 0


async def test_a_server_that_takes_no_writes_now_is_looked_at_again(server, raw, monkeypatch):
    """Reads go on meanwhile; a refused write is refused by the server itself."""
    monkeypatch.setattr("mpim_lab.mq.connection.context._RECHECK_S", 0.0)
    async with MessageQueue(server.url, prefix="p:") as mq:
        await raw("REPLICAOF", "127.0.0.1", "1")
        assert await mq.stream("orders").length() == 0
        with pytest.raises(CommandRejected, match="READONLY"):
            await mq.stream("orders").add(b"tea")
        await raw("REPLICAOF", "NO", "ONE")
        await mq.stream("orders").add(b"tea")
        assert await raw("GET", KEY) == LAYOUT.encode()
