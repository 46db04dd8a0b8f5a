"""redis-py: publish, add and consume, one by one and in pipelines."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from mpim_lab.load.redis.plan import BATCH_SIZE, GROUP, LoadPlan, OnPayload, Publish


@asynccontextmanager
async def one_by_one(plan: LoadPlan) -> AsyncIterator[Any]:
    """hiredis parser, RESP3, a plain pool with a connection for each task.

    Faster than fewer and a waiting pool.
    """
    import redis.asyncio as redis

    pool: Any = redis.ConnectionPool.from_url(plan.url, max_connections=plan.tasks, protocol=3)
    client = redis.Redis.from_pool(pool)
    yield client
    await client.aclose()


@asynccontextmanager
async def publishing(plan: LoadPlan) -> AsyncIterator[Publish]:
    """publish, a connection for each task."""
    async with one_by_one(plan) as client:
        yield client.publish


@asynccontextmanager
async def adding(plan: LoadPlan) -> AsyncIterator[Publish]:
    """xadd, a connection for each task."""
    async with one_by_one(plan) as client:

        async def add(channel: str, payload: bytes) -> int:
            await client.xadd(channel, {"data": payload})
            return 1

        yield add


@asynccontextmanager
async def pipelined(
    plan: LoadPlan, queue_one: Callable[[Any, str, bytes], Any]
) -> AsyncIterator[Publish]:
    """100 commands a pipeline and no MULTI around them.

    A pool of 16, as more connections make it slower.
    """
    import redis.asyncio as redis

    pool: Any = redis.BlockingConnectionPool.from_url(
        plan.url, max_connections=min(plan.tasks, 16), timeout=None, protocol=3
    )
    client = redis.Redis.from_pool(pool)

    async def publish(channel: str, payloads: list[bytes]) -> list[Any]:
        pipeline = client.pipeline(transaction=False)
        for payload in payloads:
            queue_one(pipeline, channel, payload)
        return await pipeline.execute()

    yield publish
    await client.aclose()


def publishing_pipelined(plan: LoadPlan) -> contextlib.AbstractAsyncContextManager[Publish]:
    """100 publish a pipeline."""
    return pipelined(plan, lambda pipeline, channel, data: pipeline.publish(channel, data))


def adding_pipelined(plan: LoadPlan) -> contextlib.AbstractAsyncContextManager[Publish]:
    """100 xadd a pipeline; the replies are ids, which are no numbers of receivers."""
    return pipelined(plan, lambda pipeline, channel, data: pipeline.xadd(channel, {"data": data}))


def consuming(plan: LoadPlan, on_payload: OnPayload) -> Any:
    """xreadgroup of many, one xack for all of them: as fast as its user can make it."""
    return _loop(plan, on_payload, BATCH_SIZE)


def consuming_one_by_one(plan: LoadPlan, on_payload: OnPayload) -> Any:
    """xreadgroup of one, xack of one: what a first naive version does."""
    return _loop(plan, on_payload, 1)


@asynccontextmanager
async def _loop(
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
    failed: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()

    def end(task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            failed.set_result(error)  # type: ignore[arg-type]

    consuming = asyncio.create_task(consume(client))
    consuming.add_done_callback(end)
    try:
        yield failed
    finally:
        stopping.set()  # and no cancellation: redis-py may swallow one that comes with an answer
        await asyncio.wait([consuming])
        await client.aclose()
