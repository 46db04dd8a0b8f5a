"""Ours with one guarantee more at each step: what a message costs when it must have its effect once, and then in order."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from mpim_lab.load.redis.plan import LoadPlan
from mpim_lab.load.redis.stream_adapters import BATCH_SIZE, GROUP, OnPayload, Publish, working

BOOKED = "load:booked"


@asynccontextmanager
async def with_ids(plan: LoadPlan) -> AsyncIterator[Publish]:
    """`Stream.add` with an id that a repeat would keep."""
    from mpim_lab.mq.connection.encoding import new_message_id
    from mpim_lab.mq.pubsub.queue import MessageQueue

    async with MessageQueue(plan.url, prefix=plan.prefix) as mq:

        async def add(channel: str, payload: bytes) -> int:
            await mq.stream(channel).add({"id": new_message_id(), "data": payload})
            return 1

        yield add


@asynccontextmanager
async def idempotent(
    plan: LoadPlan, on_payload: OnPayload
) -> AsyncIterator["asyncio.Future[Exception]"]:
    """A Worker that claims each id, books it and marks it done in one step, and acknowledges."""
    from mpim_lab.mq.idempotency.store import IdempotencyStore
    from mpim_lab.mq.pubsub.queue import MessageQueue
    from mpim_lab.mq.streams.entries import Entry
    from mpim_lab.mq.streams.worker import Worker

    async with MessageQueue(plan.url, prefix=plan.prefix) as mq:
        once = IdempotencyStore(mq, "load", ttl_s=60)

        async def handle(entry: Entry) -> None:
            await once.run(entry.fields["id"].decode(), lambda effects: effects.add("INCR", BOOKED))
            on_payload(entry.data)

        group = await mq.stream(plan.channel).group(GROUP)
        worker = Worker(
            group,
            "w",
            handle,
            batch_size=BATCH_SIZE,
            max_in_flight=4 * BATCH_SIZE,
            concurrency=BATCH_SIZE,
        )
        async with working(worker) as failed:
            yield failed


@asynccontextmanager
async def numbered(plan: LoadPlan) -> AsyncIterator[Publish]:
    """`PartitionedStream.append`: a repeat is recognised, and each message numbered, at the server."""
    from mpim_lab.mq.ordering.partitioned_stream import PartitionedStream
    from mpim_lab.mq.pubsub.queue import MessageQueue

    async with MessageQueue(plan.url, prefix=plan.prefix) as mq:
        streams: dict[str, PartitionedStream] = {}

        async def append(channel: str, payload: bytes) -> int:
            if channel not in streams:
                streams[channel] = PartitionedStream(mq, channel, partitions=1, id_ttl_s=60)
            await streams[channel].append("one", payload)
            return 1

        yield append


@asynccontextmanager
async def ordered(
    plan: LoadPlan, on_payload: OnPayload
) -> AsyncIterator["asyncio.Future[Exception]"]:
    """An OrderedWorker: effects and offset of many messages in one fenced step."""
    from mpim_lab.mq.idempotency.effects import AtomicEffects
    from mpim_lab.mq.ordering.ordered_worker import OrderedWorker
    from mpim_lab.mq.ordering.partitioned_stream import PartitionedStream, PartitionEntry
    from mpim_lab.mq.pubsub.queue import MessageQueue

    async with MessageQueue(plan.url, prefix=plan.prefix) as mq:

        def handle(entry: PartitionEntry, effects: AtomicEffects) -> None:
            effects.add("INCR", BOOKED)
            on_payload(entry.data)

        stream = PartitionedStream(mq, plan.channel, partitions=1)
        async with working(
            OrderedWorker(stream, GROUP, "w", handle, batch_size=BATCH_SIZE)
        ) as failed:
            yield failed
