"""The way of a message through the package.

How long it is, and that an observer does not change it.
"""

import asyncio

from mpim_lab import EmbeddedServer, MessageQueue, MpimSystem
from mpim_lab.lab.trace.trace import Trace
from tests.walks import Walk, walk


async def chat_walk(**options) -> Walk:
    """From alice's `send` to bob's `receive`, at two gateways."""
    async with (
        MpimSystem(gateways=2, **options) as mpim,
        mpim.client("alice", at="gw-1") as alice,
        mpim.client("bob", at="gw-2") as bob,
    ):

        async def chat():
            assert (await alice.send("bob", "hi")).status == "pushed"
            await bob.receive()

        return await walk(chat)


async def test_a_published_message_passes_few_functions():
    """The fast path stays one that can be read in one sitting."""
    async with EmbeddedServer() as server, MessageQueue(server.url) as mq:
        received = asyncio.Queue()
        await mq.subscribe("a", received.put_nowait)

        async def publish():
            await mq.publish("a", b"hi")
            await received.get()

        way = await walk(publish)
    assert way.calls <= 15 and len(way.files) <= 5, str(way)


async def test_a_chat_message_takes_the_same_way_with_a_trace():
    """What is seen is what runs: only the reporting is added."""
    trace = Trace()
    bare, traced = await chat_walk(), await chat_walk(observer=trace)
    assert len(bare.files) <= 20 and len(bare.functions) <= 60, str(bare)
    assert set(traced.files) - set(bare.files) <= {"events.py", "lab/trace/trace.py"}, str(traced)
    added = {
        function
        for file, function in set(traced.functions) - set(bare.functions)
        if file.startswith("im/")
    }
    assert added <= {"FrameHandler._trace", "Client._trace", "Client._trace_received"}, added
    assert "FastSender.try_send" in {function for _, function in traced.functions}
