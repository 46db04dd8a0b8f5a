"""Compression over real servers.

Old and new senders side by side, dictionaries in rotation, hostile neighbours.
"""

import asyncio

import pytest
import redis.asyncio

from mpim_lab.events import EventKind
from mpim_lab.lab.trace.trace import Trace
from mpim_lab.lab.workload.corpus import Corpus
from mpim_lab.mq.batching.decoder import FrameDecoder
from mpim_lab.mq.compression.codec import Algorithm, Codec
from mpim_lab.mq.compression.dictionary import train_dictionary
from mpim_lab.mq.compression.framing import FIRST_TYPE_BYTE, ZSTD, ZSTD_DICTIONARY, frame_type
from mpim_lab.mq.pubsub.queue import MessageQueue
from tests.support import wait_until

OLD, NEW = (
    train_dictionary(Corpus(seed).message_samples(3_000), size_bytes=8_192, id=number)
    for seed, number in ((1, 1), (2, 2))
)


async def listen(queue, codec, got):
    await queue.subscribe(
        "chat", lambda message: got.append(message.payload), decode=FrameDecoder(queue, codec)
    )


@pytest.mark.parametrize("receiver", list(Algorithm))
async def test_senders_of_every_kind_are_read_by_a_receiver_of_any_kind(server, receiver):
    """Each message once, in order, to the byte.

    Text, long text, and payloads that begin with every byte there is.
    """
    senders = [Codec(each, dictionaries=[OLD]) for each in Algorithm]
    payloads = [*Corpus(3).messages(60), b"see you at eight in the park. " * 50]
    payloads += [bytes([first]) + b"abc" * 60 for first in range(256)] + [b""]
    sent, got = [], []
    async with (
        MessageQueue(server.url, prefix="lab:") as alice,
        MessageQueue(server.unix_url, prefix="lab:") as bob,
    ):
        await listen(bob, Codec(receiver, dictionaries=[OLD]), got)
        for number, payload in enumerate(payloads):
            assert await alice.publish("chat", senders[number % len(senders)].encode(payload)) == 1
            sent.append(payload)
        await bob.drain()
    assert got == sent


async def test_a_plain_client_and_a_compressing_one_share_a_channel(server):
    """redis-py sends plain text to ours, and reads ours as long as it is short text.

    That is what the marks are for.
    """
    got, line = [], "你好, see you at eight".encode()
    async with MessageQueue(server.url) as ours, redis.asyncio.Redis.from_url(server.url) as theirs:
        await listen(ours, Codec(), got)
        async with theirs.pubsub(ignore_subscribe_messages=True) as pubsub:
            await pubsub.subscribe("chat")
            await wait_until(lambda: pubsub.subscribed)
            assert await theirs.publish("chat", line) >= 1
            await ours.publish("chat", Codec().encode(line))
            await ours.publish("chat", Codec().encode(line * 20))
            await ours.drain()
            read = [await next_payload(pubsub) for _ in range(3)]
    assert got == [line, line, line * 20]
    assert read[:2] == [line, line]
    assert frame_type(read[2]) == ZSTD


async def next_payload(pubsub):
    async with asyncio.timeout(5):
        async for message in pubsub.listen():
            return message["data"]


async def test_a_dictionary_is_replaced_while_everybody_goes_on_talking(server):
    """Receivers first, then senders, then the old one is let go: nothing is lost at any step."""
    lines, sent, trace = iter(Corpus(4).messages(300)), [], Trace()
    got = {"before": [], "both": [], "after": []}
    receivers = {"before": [OLD], "both": [NEW, OLD], "after": [NEW]}
    async with MessageQueue(server.url, prefix="lab:") as alice:

        async def talk(receiver, *dictionaries):
            async with MessageQueue(server.unix_url, prefix="lab:", observer=trace) as bob:
                await listen(bob, Codec(dictionaries=receivers[receiver]), got[receiver])
                for dictionary in dictionaries:
                    for _ in range(50):
                        line = next(lines)
                        packed = Codec(
                            "zstd-dictionary", threshold_bytes=0, dictionaries=[dictionary]
                        ).encode(line)
                        assert packed[0] == ZSTD_DICTIONARY
                        sent.append(line)
                        await alice.publish("chat", packed)
                await bob.drain()

        await talk("before", OLD)
        await talk("both", OLD, NEW)
        await talk("after", NEW)
    assert got["before"] + got["both"] + got["after"] == sent
    assert list(trace.by_kind(EventKind.FAILED)) == []


async def test_what_cannot_be_read_is_reported_and_its_neighbours_are_delivered(server):
    """A bomb, halves, unknown marks and dictionaries, noise; between any two an honest message."""
    packed = Codec("zlib").encode(b"see you at eight in the park. " * 20)
    hostile = {
        "OversizedPayload": [
            Codec(each, max_bytes=1 << 26).encode(bytes(1 << 25))
            for each in ("zlib", "lz4", "zstd")
        ],
        "CorruptPayload": [
            packed[:-1],
            packed + b"x",
            b"\xf9",
            b"\xfa",
            b"\xfb",
            b"\xfc",
            b"\xfd",
            b"\xfb" + bytes(99),
        ],
        "UnknownFormat": [
            b"\xfe",
            b"\xff" * 9,
            Codec("zstd-dictionary", dictionaries=[NEW]).encode(Corpus().messages(4)[3]),
        ],
    }
    got, sent, trace = [], [], Trace()
    async with (
        MessageQueue(server.url, prefix="lab:") as alice,
        MessageQueue(server.unix_url, prefix="lab:", observer=trace) as bob,
    ):
        await listen(bob, Codec(dictionaries=[OLD]), got)
        for payloads in hostile.values():
            for number, payload in enumerate(payloads):
                assert payload[0] >= FIRST_TYPE_BYTE
                await alice.publish("chat", payload)
                sent.append(b"honest %d " % number * 30)
                await alice.publish("chat", Codec("zstd").encode(sent[-1]))
        await bob.drain()
        assert bob.is_connected
    assert got == sent
    failed = [event.detail for event in trace.by_kind(EventKind.FAILED)]
    wanted = [name for name, payloads in hostile.items() for _ in payloads]
    assert len(failed) == len(wanted)
    assert all(name in detail for name, detail in zip(wanted, failed, strict=True)), failed


async def test_a_stream_keeps_packed_payloads_to_the_byte(server):
    """Entries are kept in memory: there the saved bytes count for as long as they are kept."""
    codec = Codec("zstd-dictionary", dictionaries=[OLD])
    messages = Corpus(5).messages(100)
    async with MessageQueue(server.url, prefix="lab:") as mq:
        stream = mq.stream("log")
        await stream.add_many([codec.encode(message) for message in messages])
        entries = await stream.read(count=100)
    assert [codec.decode(entry.data) for entry in entries] == messages
    assert sum(len(entry.data) for entry in entries) < sum(map(len, messages)) * 0.7
