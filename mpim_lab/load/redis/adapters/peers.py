"""Peers: other clients, and frameworks on streams, each set up as its own page advises for speed.

A framework's messages are JSON, so a payload of any bytes goes through it as base64.
"""

import asyncio
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any

from mpim_lab.load.redis.plan import BATCH_SIZE, GROUP, LoadPlan, OnPayload, Publish
from mpim_lab.mq.connection.address import Address

AT_ONCE = 100  # taskiq's own choice
CANCEL_EVERY_S = 0.5


@asynccontextmanager
async def coredis(plan: LoadPlan) -> AsyncIterator[Publish]:
    """Its defaults: the size of its pool makes no difference; no decoding."""
    import coredis

    async with coredis.Redis.from_url(plan.url, decode_responses=False) as client:
        yield client.publish


@asynccontextmanager
async def valkey_glide(plan: LoadPlan) -> AsyncIterator[Publish]:
    """One client shared by all tasks, RESP3, as its documentation asks; it multiplexes in Rust."""
    import glide

    address = Address.parse(plan.url)
    credentials = (
        glide.ServerCredentials(address.password, address.username) if address.password else None
    )
    configuration = glide.GlideClientConfiguration(
        [glide.NodeAddress(address.host, address.port)],
        use_tls=address.tls is not None,
        credentials=credentials,
        database_id=address.db,
        request_timeout=20_000,
        inflight_requests_limit=4_096,
    )
    client = await glide.GlideClient.create(configuration)

    def publish(channel: str, payload: bytes) -> Awaitable[int]:
        return client.publish(payload, channel)

    yield publish
    await client.close()


@asynccontextmanager
async def faststream(plan: LoadPlan) -> AsyncIterator[Publish]:
    """100 messages a Redis pipeline, as its page on pipelines shows.

    A pool of 16, as more connections make it slower.
    """
    broker = _faststream_broker(plan.url, max_connections=min(plan.tasks, 16))
    await broker.connect()
    free = asyncio.Semaphore(min(plan.tasks, 16))

    async def publish(channel: str, payloads: list[bytes]) -> list[int]:
        async with free, broker._connection.pipeline(transaction=False) as pipeline:
            for payload in payloads:
                await broker.publish(b64encode(payload).decode(), stream=channel, pipeline=pipeline)
            return [1] * len(await pipeline.execute())

    yield publish
    await broker.stop()


@asynccontextmanager
async def faststream_consuming(plan: LoadPlan, on_payload: OnPayload) -> AsyncIterator[None]:
    """A subscriber in a group that takes batches and acknowledges each as one.

    No pydantic and no log, as it advises.
    """
    from faststream.redis import StreamSub

    broker = _faststream_broker(plan.url)
    stream = StreamSub(
        plan.channel,
        group=GROUP,
        consumer="w",
        batch=True,
        max_records=BATCH_SIZE,
        polling_interval=200,
    )

    @broker.subscriber(stream=stream)  # type: ignore[untyped-decorator, unused-ignore]
    async def handle(batch: list[str]) -> None:
        for text in batch:
            on_payload(b64decode(text))

    await broker.start()
    yield
    await broker.stop()


def _faststream_broker(url: str, **options: Any) -> Any:
    from faststream.redis import RedisBroker

    return RedisBroker(url, **{"apply_types": False, "logger": None} | options)


@asynccontextmanager
async def taskiq(plan: LoadPlan) -> AsyncIterator[Publish]:
    """One `kiq` a message, a connection for each task: it has no call for many."""
    calls: dict[str, Any] = {}

    async def publish(channel: str, payload: bytes) -> int:
        if (call := calls.get(channel)) is None:
            call = calls[channel] = _taskiq_task(
                plan.url, channel, plan.tasks, lambda payload: None
            )
        await call.kiq(b64encode(payload).decode())
        return 1

    yield publish
    for call in calls.values():
        await call.broker.shutdown()


@asynccontextmanager
async def taskiq_consuming(plan: LoadPlan, on_payload: OnPayload) -> AsyncIterator[None]:
    """One worker that runs 100 tasks at once and has 100 more at hand; parameters unchecked."""
    from taskiq.api import run_receiver_task

    broker = _taskiq_task(plan.url, plan.channel, 2 * AT_ONCE, on_payload).broker
    await broker.startup()
    options: dict[str, Any] = {
        "max_async_tasks": AT_ONCE,
        "max_prefetch": AT_ONCE,
        "validate_params": False,
    }
    others = asyncio.all_tasks()
    working = asyncio.create_task(run_receiver_task(broker, **options))
    yield
    # Again and again: it waits without end for a read of its own, and redis-py loses a cancellation
    # now and then.
    while not working.done():
        for task in asyncio.all_tasks() - others:
            task.cancel()
        await asyncio.wait([working], timeout=CANCEL_EVERY_S)
    await broker.shutdown()


def _taskiq_task(url: str, channel: str, connections: int, on_payload: OnPayload) -> Any:
    from taskiq_redis import RedisStreamBroker

    broker = RedisStreamBroker(
        url,
        queue_name=channel,
        consumer_group_name=GROUP,
        consumer_id="0",
        max_connection_pool_size=connections,
    )

    @broker.task(task_name="take")
    async def handle(text: str) -> None:
        on_payload(b64decode(text))

    return handle
