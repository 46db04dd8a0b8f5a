"""Channels: what a gateway listens on, kept in step with what somebody there needs."""

import asyncio
from collections.abc import Callable
from typing import Any

from mpim_lab.mq.connection.encoding import Message
from mpim_lab.mq.pubsub.queue import MessageQueue

Take = Callable[[Message], Any]


class Channels:
    """`need` and `drop` say at once what is wanted; one task a channel brings the server there, whoever waits for it.

    | while a channel's task is at it ...          | then                                                          |
    |----------------------------------------------|---------------------------------------------------------------|
    | somebody else needs the channel, or no more  | the same task goes on until the two agree                     |
    | whoever waits for it is cancelled            | the task goes on: nothing stays half done                     |
    | the server refuses, or is away               | everybody who waits is told; `again` tries again              |
    | the queue is closed                          | its subscriptions are gone with it                            |
    """

    def __init__(self, queue: MessageQueue) -> None:
        self._queue = queue
        self._needed: dict[str, Take] = {}
        self._heard: set[str] = set()  # subscribed, or perhaps: what is in doubt is ended once more
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def __len__(self) -> int:
        return len(self._heard)

    async def need(self, channel: str, take: Take) -> None:
        """Listen from now on; returns once the server has confirmed. Raises what `subscribe` raises."""
        self._needed[channel] = take
        if channel not in self._heard or channel in self._tasks:
            await self._settled(channel)

    async def drop(self, *channels: str) -> None:
        """Listen no more. Raises what `unsubscribe` raises."""
        for channel in channels:
            self._needed.pop(channel, None)
        here = [each for each in channels if each in self._heard or each in self._tasks]
        for error in await asyncio.gather(*map(self._settled, here), return_exceptions=True):
            if isinstance(error, BaseException):
                raise error

    async def again(self) -> None:
        """What could not be ended: end it now. Raises the first error."""
        await self.drop(*(each for each in self._heard if each not in self._needed))

    def cut_off(self) -> None:
        """Wait for nothing more: the gateway ends."""
        for task in self._tasks.values():
            task.cancel()

    async def _settled(self, channel: str) -> None:
        task = self._tasks.get(channel)
        if task is None or task.done():
            task = self._tasks[channel] = asyncio.create_task(self._settle(channel))
            task.add_done_callback(_retrieved)
        await asyncio.shield(task)

    async def _settle(self, channel: str) -> None:
        try:
            while (take := self._needed.get(channel)) is not None or channel in self._heard:
                if take is not None and channel in self._heard:
                    return
                if take is None:
                    await self._queue.unsubscribe(channel)
                    self._heard.discard(channel)
                else:
                    await self._queue.subscribe(channel, take)
                    self._heard.add(channel)
        finally:
            self._tasks.pop(channel, None)


def _retrieved(task: "asyncio.Task[None]") -> None:
    """Look at an error even if everybody who waited has gone: otherwise the loop reports it as lost."""
    if not task.cancelled():
        task.exception()
