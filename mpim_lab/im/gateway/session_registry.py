"""SessionRegistry: the sessions of one gateway, by user.

It subscribes to their channels, and to nobody else's. A session that ends is removed from every
table at once, before anything is waited for: no cancellation can come in between.

| a session ...                                | its channels                                      |
|----------------------------------------------|---------------------------------------------------|
| ends in good order, is reset, idle, replaced | are unsubscribed, unless another session needs    |
|                                              | them                                              |
| could not be added, or was cancelled then    | the same                                          |
| is cancelled while it ends                   | the same                                          |
| ends while the server is away                | are unsubscribed later                            |

ChannelSubscriptions: the channels of a gateway, kept in step with what its sessions need.
"""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

from mpim_lab.im.gateway.session import Session
from mpim_lab.keys import user_channel
from mpim_lab.mq.connection.encoding import Message
from mpim_lab.mq.connection.resp import ignore_result
from mpim_lab.mq.pubsub.queue import MessageQueue

MessageHandler = Callable[[Message], Any]


class ChannelSubscriptions:
    """The wanted and the actual subscriptions of a gateway.

    One task a channel brings the server to what is wanted.

    | while a channel's task is running ...   | then                                               |
    |-----------------------------------------|----------------------------------------------------|
    | it is wanted again, or no more          | the same task goes on until the two agree          |
    | a caller that waits for it is cancelled | the task goes on: nothing stays half done          |
    | the server refuses, or is away          | every caller gets the error; `retry_pending` tries |
    |                                         | again                                              |
    | the queue is closed                     | its subscriptions are gone with it                 |
    """

    def __init__(self, queue: MessageQueue) -> None:
        self._queue = queue
        self._wanted: dict[str, MessageHandler] = {}
        # or perhaps subscribed: what is in doubt is unsubscribed once more
        self._subscribed: set[str] = set()
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def __len__(self) -> int:
        return len(self._subscribed)

    async def subscribe(self, channel: str, handler: MessageHandler) -> None:
        """Subscribe; return once the server has confirmed.

        Raises what the queue's `subscribe` raises.
        """
        self._wanted[channel] = handler
        if channel not in self._subscribed or channel in self._tasks:
            await self._wait_until_synced(channel)

    async def unsubscribe(self, *channels: str) -> None:
        """Unsubscribe. Raises what the queue's `unsubscribe` raises."""
        for channel in channels:
            self._wanted.pop(channel, None)
        here = [each for each in channels if each in self._subscribed or each in self._tasks]
        for error in await asyncio.gather(
            *map(self._wait_until_synced, here), return_exceptions=True
        ):
            if isinstance(error, BaseException):
                raise error

    async def retry_pending(self) -> None:
        """Retry what could not be unsubscribed. Raises the first error."""
        await self.unsubscribe(*(each for each in self._subscribed if each not in self._wanted))

    def abort(self) -> None:
        """Cancel all tasks: the gateway ends."""
        for task in self._tasks.values():
            task.cancel()

    async def _wait_until_synced(self, channel: str) -> None:
        task = self._tasks.get(channel)
        if task is None or task.done():
            task = self._tasks[channel] = asyncio.create_task(self._sync(channel))
            task.add_done_callback(ignore_result)
        await asyncio.shield(task)

    async def _sync(self, channel: str) -> None:
        try:
            while (handler := self._wanted.get(channel)) is not None or channel in self._subscribed:
                if handler is not None and channel in self._subscribed:
                    return
                if handler is None:
                    await self._queue.unsubscribe(channel)
                    self._subscribed.discard(channel)
                else:
                    await self._queue.subscribe(channel, handler)
                    self._subscribed.add(channel)
        finally:
            self._tasks.pop(channel, None)


class SessionRegistry:
    """The sessions by user; a user's channel is subscribed while one of them is here."""

    def __init__(self, queue: MessageQueue, on_push: MessageHandler) -> None:
        self.channels, self._on_push = ChannelSubscriptions(queue), on_push
        self.by_user: dict[str, list[Session]] = {}
        self.by_connection: dict[str, Session] = {}

    def __iter__(self) -> Iterator[Session]:
        return iter([session for sessions in self.by_user.values() for session in sessions])

    def __len__(self) -> int:
        return len(self.by_connection)

    def __contains__(self, session: Session) -> bool:
        return self.by_connection.get(session.route.connection) is session

    async def add(self, session: Session) -> None:
        """Add a session: pushes for its user come here.

        Raises what `subscribe` raises: then `discard`.
        """
        uid = session.route.uid
        self.by_user.setdefault(uid, []).append(session)
        self.by_connection[session.route.connection] = session
        await self.channels.subscribe(user_channel(uid), self._on_push)

    def discard(self, session: Session) -> list[str]:
        """Remove a session at once.

        Return its user's channel if no session needs it now, to be unsubscribed.
        """
        uid = session.route.uid
        self.by_connection.pop(session.route.connection, None)
        sessions = self.by_user.get(uid, [])
        if session not in sessions:
            return []
        sessions.remove(session)
        if sessions:
            return []
        del self.by_user[uid]
        return [user_channel(uid)]
