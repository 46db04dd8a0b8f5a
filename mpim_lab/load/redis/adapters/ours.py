"""Ours: Pub/Sub, streams, and one guarantee more at each step.

What does it cost that a message has its effect once, and then in order?

Unlike in Pub/Sub, each candidate of the streams has both ends: what a stream costs is mostly the
consumer's reading and acknowledging.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any

from mpim_lab.load.redis.plan import BATCH_SIZE, GROUP, LoadPlan, OnPayload, Publish

BOOKED = "load:booked"


@asynccontextmanager
async def connected(plan: LoadPlan) -> AsyncIterator[Any]:
    """A `MessageQueue`; it reconnects by itself, so no load is ever lost with it."""
    from mpim_lab.mq.pubsub.queue import MessageQueue

    async with MessageQueue(plan.url, prefix=plan.prefix) as mq:
        yield mq


@asynccontextmanager
async def publishing(plan: LoadPlan) -> AsyncIterator[Publish]:
    """`MessageQueue.publish`."""
    async with connected(plan) as mq:
        yield mq.publish


@asynccontextmanager
async def subscribing(
    plan: LoadPlan, on_payload: OnPayload, decode: Any = None
) -> AsyncIterator[None]:
    """A subscription to payloads as they are, or as `decode(mq)` unpacks them."""
    async with connected(plan) as mq:
        options = {} if decode is None else {"decode": decode(mq)}
        await mq.subscribe(plan.channel, lambda message: on_payload(message.payload), **options)
        yield


@asynccontextmanager
async def adding(plan: LoadPlan, method: str = "add") -> AsyncIterator[Publish]:
    """`Stream.add` on the shared connection, or `add_many`."""
    async with connected(plan) as mq:
        calls: dict[str, Any] = {}

        def add(channel: str, payload: Any) -> Awaitable[Any]:
            call = calls.get(channel)
            if call is None:
                call = calls[channel] = getattr(mq.stream(channel), method)
            added: Awaitable[Any] = call(payload)
            return added

        yield add


def adding_many(plan: LoadPlan) -> Any:
    """`Stream.add_many` on the shared connection."""
    return adding(plan, "add_many")


@asynccontextmanager
async def consuming(plan: LoadPlan, on_payload: OnPayload) -> AsyncIterator[None]:
    """A Worker: acknowledged after the handler, many at a time."""
    from mpim_lab.mq.streams.worker import Worker

    async with connected(plan) as mq:
        worker = Worker(
            await mq.stream(plan.channel).group(GROUP),
            "w",
            lambda entry: on_payload(entry.data),
            batch_size=BATCH_SIZE,
            max_in_flight=4 * BATCH_SIZE,
            prefetch=True,
        )
        async with _working(worker):
            yield


@asynccontextmanager
async def _working(worker: Any) -> AsyncIterator[None]:
    task = asyncio.create_task(worker.run())
    try:
        yield
    finally:
        await worker.stop()
        await task


@asynccontextmanager
async def reading(plan: LoadPlan, on_payload: OnPayload) -> AsyncIterator[None]:
    """No group and no acknowledgement: a reader that remembers the last id it saw."""

    async def read(stream: Any) -> None:
        last = "0"
        while True:
            entries = await stream.read(last, count=BATCH_SIZE)
            for entry in entries:
                on_payload(entry.data)
            last = entries[-1].id if entries else last
            await asyncio.sleep(0 if entries else 0.001)

    async with connected(plan) as mq:
        reading = asyncio.create_task(read(mq.stream(plan.channel)))
        try:
            yield
        finally:
            reading.cancel()
            await asyncio.wait([reading])


@asynccontextmanager
async def adding_with_ids(plan: LoadPlan) -> AsyncIterator[Publish]:
    """`Stream.add` with an id that a repeat would keep."""
    from mpim_lab.mq.connection.encoding import new_message_id

    async with connected(plan) as mq:

        async def add(channel: str, payload: bytes) -> int:
            await mq.stream(channel).add({"id": new_message_id(), "data": payload})
            return 1

        yield add


@asynccontextmanager
async def consuming_idempotently(plan: LoadPlan, on_payload: OnPayload) -> AsyncIterator[None]:
    """A Worker that claims each id, books it and marks it done in one step, and acknowledges."""
    from mpim_lab.mq.idempotency.store import IdempotencyStore
    from mpim_lab.mq.streams.entries import Entry
    from mpim_lab.mq.streams.worker import Worker

    async with connected(plan) as mq:
        once = IdempotencyStore(mq, "load", ttl_s=60)

        async def handle(entry: Entry) -> None:
            await once.run(entry.fields["id"].decode(), lambda effects: effects.add("INCR", BOOKED))
            on_payload(entry.data)

        worker = Worker(
            await mq.stream(plan.channel).group(GROUP),
            "w",
            handle,
            batch_size=BATCH_SIZE,
            max_in_flight=4 * BATCH_SIZE,
            concurrency=BATCH_SIZE,
        )
        async with _working(worker):
            yield


@asynccontextmanager
async def appending(plan: LoadPlan) -> AsyncIterator[Publish]:
    """`PartitionedStream.append`: the server knows a repeat, and numbers each message."""
    from mpim_lab.mq.ordering.partitioned_stream import PartitionedStream

    async with connected(plan) as mq:
        streams: dict[str, PartitionedStream] = {}

        async def append(channel: str, payload: bytes) -> int:
            if channel not in streams:
                streams[channel] = PartitionedStream(mq, channel, partitions=1, id_ttl_s=60)
            await streams[channel].append("one", payload)
            return 1

        yield append


@asynccontextmanager
async def consuming_in_order(plan: LoadPlan, on_payload: OnPayload) -> AsyncIterator[None]:
    """An OrderedWorker: effects and offset of many messages in one fenced step."""
    from mpim_lab.mq.idempotency.effects import AtomicEffects
    from mpim_lab.mq.ordering.ordered_worker import OrderedWorker
    from mpim_lab.mq.ordering.partitioned_stream import PartitionedStream, PartitionEntry

    async with connected(plan) as mq:

        def handle(entry: PartitionEntry, effects: AtomicEffects) -> None:
            effects.add("INCR", BOOKED)
            on_payload(entry.data)

        stream = PartitionedStream(mq, plan.channel, partitions=1)
        async with _working(OrderedWorker(stream, GROUP, "w", handle, batch_size=BATCH_SIZE)):
            yield
