"""Streams for tests: a group on a stream of orders, a worker that runs for a block, and waiting for what they do."""

import asyncio
import contextlib

from mpim_lab.errors import MpimError
from mpim_lab.mq.connection.retry import Backoff, RetryPolicy
from mpim_lab.mq.pubsub.queue import MessageQueue
from mpim_lab.mq.streams.consumer import Consumer
from mpim_lab.mq.streams.worker import Worker

FAST = RetryPolicy(max_attempts=3, backoff=Backoff(initial_s=0.005, max_s=0.02))
AN_HOUR_MS = 3_600_000


@contextlib.asynccontextmanager
async def shop(server, *orders, **options):
    """The group "billing" on the stream "orders", which holds `orders`."""
    async with MessageQueue(server.url, **options) as mq:
        stream = mq.stream("orders")
        for order in orders:
            await stream.add(order)
        yield await stream.group("billing"), stream


@contextlib.asynccontextmanager
async def working(group, handler, name="w", **options):
    """A worker that runs until the end of the block."""
    worker = Worker(group, name, handler, **{"retry": FAST} | options)
    task = asyncio.create_task(worker.run())
    yield worker
    await worker.stop()
    await task


async def dies_with(group, consumer="dead", **options):
    """What a consumer has in hand that dies: it stays pending."""
    reader = Consumer(group, consumer, **options)
    await reader._link.open()
    deliveries = await reader.fetch(5_000)
    await reader._link.close()
    return deliveries


async def everything_done(group):
    """Wait until nothing is new and then nothing pending.

    In this order: what is read meanwhile would be neither.
    """
    async with asyncio.timeout(10):
        while await group.lag() or await group.pending():
            await asyncio.sleep(0.005)


async def pending(group, count):
    """Wait until so many are pending."""
    async with asyncio.timeout(10):
        while len(lines := await group.pending()) < count:
            await asyncio.sleep(0.005)
    return lines


async def letters(group, count=1):
    """Wait for so many dead letters."""
    async with asyncio.timeout(10):
        while len(found := await group.dead_letters.list()) < count:
            await asyncio.sleep(0.005)
    return found


async def fetched(consumer, count):
    """Fetch until so many have come; lines that break are waited for."""
    found = []
    async with asyncio.timeout(10):
        while len(found) < count:
            try:
                found += await consumer.fetch()
            except MpimError:
                await asyncio.sleep(0.005)
    return found


def data(deliveries):
    """The payloads, as text."""
    return [delivery.entry.data.decode() for delivery in deliveries]
