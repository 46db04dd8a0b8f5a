"""Batch contestants: many messages in one frame, from a publisher's process to the handler in a receiver's."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

from mpim_lab.mq.batch_rules import BatchRule

Publish = Callable[[str, Any], Awaitable[Any]]
Take = Callable[[bytes], Any]


def with_rule(rule: BatchRule, *, many: bool = False) -> Callable[[str, int], AbstractAsyncContextManager[Publish]]:
    """A `Batcher` with this rule; `many`: each call hands it many messages."""

    @asynccontextmanager
    async def connect(url: str, tasks: int) -> AsyncIterator[Publish]:
        from mpim_lab.mq.batching import Batcher
        from mpim_lab.mq.pubsub import MessageQueue

        async with MessageQueue(url) as mq, AsyncExitStack() as opened:
            begun: dict[str, asyncio.Task[Any]] = {}
            calls: dict[str, Any] = {}

            async def begin(channel: str) -> None:
                batcher = await opened.enter_async_context(Batcher.to_channel(mq, channel, rule=rule))
                calls[channel] = batcher.publish_many if many else batcher.publish

            async def publish(channel: str, payload: Any) -> Any:
                if channel not in calls:  # all who wait go on in one turn, in their order
                    await (begun.get(channel) or begun.setdefault(channel, asyncio.create_task(begin(channel))))
                return await calls[channel](payload)

            yield publish

    return connect


@asynccontextmanager
async def unpacking(url: str, channel: str, take: Take) -> AsyncIterator["asyncio.Future[Exception]"]:
    """A subscription that unpacks: its handler is called once for each message."""
    from mpim_lab.mq.pubsub import MessageQueue
    from mpim_lab.mq.unpacker import Unpacker

    async with MessageQueue(url) as mq:
        await mq.subscribe(channel, lambda message: take(message.payload), unpack=Unpacker(mq))
        yield asyncio.get_running_loop().create_future()  # never done: it reconnects by itself


@asynccontextmanager
async def subscribing(url: str, channel: str, take: Take) -> AsyncIterator["asyncio.Future[Exception]"]:
    """A subscription to payloads as they are."""
    from mpim_lab.mq.pubsub import MessageQueue

    async with MessageQueue(url) as mq:
        await mq.subscribe(channel, lambda message: take(message.payload))
        yield asyncio.get_running_loop().create_future()  # likewise
