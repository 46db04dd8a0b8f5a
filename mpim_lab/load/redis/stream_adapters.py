"""Stream candidates: add → consume → acknowledge, each set up as its own documentation advises for speed.

Unlike in Pub/Sub, each candidate has both ends: what a stream costs is mostly the consumer's
reading and acknowledging.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from mpim_lab.load.redis.plan import LoadPlan

GROUP = "load"
BATCH_SIZE = 500
OnPayload = Callable[[bytes], Any]
Publish = Callable[[str, Any], Awaitable[Any]]


@asynccontextmanager
async def mpim(plan: LoadPlan) -> AsyncIterator[Publish]:
    """`Stream.add` on the shared connection."""
    from mpim_lab.mq.pubsub.queue import MessageQueue

    async with MessageQueue(plan.url, prefix=plan.prefix) as mq:
        streams: dict[str, Any] = {}

        def add(channel: str, payload: bytes) -> Awaitable[str]:
            stream = streams.get(channel) or streams.setdefault(channel, mq.stream(channel))
            added: Awaitable[str] = stream.add(payload)
            return added

        yield add


@asynccontextmanager
async def mpim_many(plan: LoadPlan) -> AsyncIterator[Publish]:
    """`Stream.add_many` on the shared connection."""
    from mpim_lab.mq.pubsub.queue import MessageQueue

    async with MessageQueue(plan.url, prefix=plan.prefix) as mq:
        streams: dict[str, Any] = {}

        def add_many(channel: str, payloads: list[bytes]) -> Awaitable[list[str]]:
            stream = streams.get(channel) or streams.setdefault(channel, mq.stream(channel))
            added: Awaitable[list[str]] = stream.add_many(payloads)
            return added

        yield add_many


@asynccontextmanager
async def mpim_consuming(
    plan: LoadPlan, on_payload: OnPayload
) -> AsyncIterator["asyncio.Future[Exception]"]:
    """A Worker: acknowledged after the handler, many at a time."""
    from mpim_lab.mq.pubsub.queue import MessageQueue
    from mpim_lab.mq.streams.worker import Worker

    async with MessageQueue(plan.url, prefix=plan.prefix) as mq:
        group = await mq.stream(plan.channel).group(GROUP)
        worker = Worker(
            group,
            "w",
            lambda entry: on_payload(entry.data),
            batch_size=BATCH_SIZE,
            max_in_flight=4 * BATCH_SIZE,
            prefetch=True,
        )
        async with working(worker) as failed:
            yield failed


@asynccontextmanager
async def working(worker: Any) -> AsyncIterator["asyncio.Future[Exception]"]:
    """A worker at work; gives a future that is never done, for it reconnects by itself."""
    task = asyncio.create_task(worker.run())
    try:
        yield asyncio.get_running_loop().create_future()
    finally:
        await worker.stop()
        await task


@asynccontextmanager
async def mpim_reading(
    plan: LoadPlan, on_payload: OnPayload
) -> AsyncIterator["asyncio.Future[Exception]"]:
    """No group and no acknowledgement: a reader that remembers the last id it saw."""
    from mpim_lab.mq.pubsub.queue import MessageQueue

    async def read(stream: Any) -> None:
        last = "0"
        while True:
            entries = await stream.read(last, count=BATCH_SIZE)
            for entry in entries:
                on_payload(entry.data)
            last = entries[-1].id if entries else last
            await asyncio.sleep(0 if entries else 0.001)

    async with MessageQueue(plan.url, prefix=plan.prefix) as mq:
        reading = asyncio.create_task(read(mq.stream(plan.channel)))
        try:
            yield asyncio.get_running_loop().create_future()
        finally:
            reading.cancel()
            await asyncio.wait([reading])


@asynccontextmanager
async def redis_py(plan: LoadPlan) -> AsyncIterator[Publish]:
    """xadd, a connection for each task."""
    import redis.asyncio as redis

    pool: Any = redis.ConnectionPool.from_url(plan.url, max_connections=plan.tasks, protocol=3)
    client = redis.Redis.from_pool(pool)

    async def add(channel: str, payload: bytes) -> int:
        await client.xadd(channel, {"data": payload})
        return 1

    yield add
    await client.aclose()


@asynccontextmanager
async def redis_py_pipelined(plan: LoadPlan) -> AsyncIterator[Publish]:
    """100 xadd a pipeline; a pool of 16, as more connections make it slower."""
    import redis.asyncio as redis

    pool: Any = redis.BlockingConnectionPool.from_url(
        plan.url, max_connections=min(plan.tasks, 16), timeout=None, protocol=3
    )
    client = redis.Redis.from_pool(pool)

    async def add(channel: str, payloads: list[bytes]) -> list[int]:
        pipeline = client.pipeline(transaction=False)
        for payload in payloads:
            pipeline.xadd(channel, {"data": payload})
        await pipeline.execute()
        return [1] * len(payloads)

    yield add
    await client.aclose()


@asynccontextmanager
async def redis_py_consuming(
    plan: LoadPlan, on_payload: OnPayload
) -> AsyncIterator["asyncio.Future[Exception]"]:
    """xreadgroup of many, one xack for all of them: as fast as its user can make it."""
    async with _redis_py_loop(plan, on_payload, BATCH_SIZE) as failed:
        yield failed


@asynccontextmanager
async def redis_py_one_by_one(
    plan: LoadPlan, on_payload: OnPayload
) -> AsyncIterator["asyncio.Future[Exception]"]:
    """xreadgroup of one, xack of one: what a first naive version does."""
    async with _redis_py_loop(plan, on_payload, 1) as failed:
        yield failed


@asynccontextmanager
async def _redis_py_loop(
    plan: LoadPlan, on_payload: OnPayload, count: int
) -> AsyncIterator["asyncio.Future[Exception]"]:
    import redis.asyncio as redis

    async def consume(client: Any) -> None:
        while not stopping.is_set():
            reply: Any = await client.xreadgroup(GROUP, "w", {channel: ">"}, count=count, block=200)
            groups = (
                reply.values()
                if isinstance(reply, dict)
                else [entries for _, entries in reply or []]
            )
            for entries in groups:
                flat = [
                    each
                    for part in entries
                    for each in (part if isinstance(part, list) else [part])
                ]
                for _id, fields in flat:
                    on_payload(fields[b"data"])
                if flat:
                    await client.xack(channel, GROUP, *[entry_id for entry_id, _ in flat])

    channel, stopping = plan.channel, asyncio.Event()
    client = redis.Redis.from_url(plan.url, protocol=3)
    with contextlib.suppress(redis.ResponseError):
        await client.xgroup_create(channel, GROUP, id="0", mkstream=True)
    consuming = asyncio.create_task(consume(client))
    failed: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
    consuming.add_done_callback(
        lambda task: (
            None if task.cancelled() or failed.done() else failed.set_result(task.exception())  # type: ignore[arg-type]
        )
    )
    try:
        yield failed
    finally:
        stopping.set()  # and no cancellation: redis-py may swallow one that comes with an answer
        await asyncio.wait([consuming])
        await client.aclose()
