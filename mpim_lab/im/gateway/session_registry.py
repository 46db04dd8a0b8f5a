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

PresenceWatcher: the clients of one gateway that watch users; a watch outlasts the server's absence.
"""

import asyncio
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

from mpim_lab.errors import InvalidMessage, MpimError
from mpim_lab.im.gateway.session import Session
from mpim_lab.im.protocol.frames import MAX_WATCHED, PresenceChanged, encode
from mpim_lab.im.services.presence import Presence
from mpim_lab.keys import status_channel, user_channel
from mpim_lab.mq.connection.encoding import Message
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
            task.add_done_callback(_retrieved)
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


def _retrieved(task: "asyncio.Task[None]") -> None:
    """Retrieve an error even if every caller has gone: otherwise the loop reports it as lost."""
    if not task.cancelled():
        task.exception()


class SessionRegistry:
    """The sessions by user, and the watchers by user.

    A channel is subscribed while at least one session needs it.
    """

    def __init__(
        self,
        queue: MessageQueue,
        on_push: Callable[[Message], Any],
        on_status: Callable[[Message], Any],
    ) -> None:
        self.channels = ChannelSubscriptions(queue)
        self._on_push, self._on_status = on_push, on_status
        self.by_user: dict[str, list[Session]] = {}
        self._by_connection: dict[str, Session] = {}
        self._watched: dict[str, set[Session]] = {}
        # watched user → how many status changes were received; → the status sent last
        self.status_versions: dict[str, int] = {}
        self.last_status: dict[str, str] = {}

    def __iter__(self) -> Iterator[Session]:
        return (session for sessions in list(self.by_user.values()) for session in list(sessions))

    def __len__(self) -> int:
        return len(self._by_connection)

    def by_connection(self, connection: str) -> Session | None:
        """Return the session that was bound under this id, if it is still here."""
        return self._by_connection.get(connection)

    def watchers(self, uid: str) -> Iterable[Session]:
        """Return the sessions that watch a user."""
        return tuple(self._watched.get(uid, ()))

    @property
    def watched(self) -> list[str]:
        """Every user who is watched by a session here."""
        return list(self._watched)

    def pending_watches(self, session: Session) -> list[str]:
        """Return the users whom a session is to watch, and does not yet."""
        return [uid for uid in session.watched or () if session not in self._watched.get(uid, ())]

    def __contains__(self, session: Session) -> bool:
        return self._by_connection.get(session.route.connection) is session

    async def add(self, session: Session) -> None:
        """Add a session: pushes for its user come here.

        Raises what `subscribe` raises: then `remove`.
        """
        uid = session.route.uid
        self.by_user.setdefault(uid, []).append(session)
        self._by_connection[session.route.connection] = session
        await self.channels.subscribe(user_channel(uid), self._on_push)

    async def remove(self, session: Session) -> None:
        """Remove a session; the last one of a user ends the subscription.

        Raises what `unsubscribe` raises.
        """
        await self.channels.unsubscribe(*self.discard(session))

    def discard(self, session: Session) -> list[str]:
        """Remove a session at once.

        Return the channels that no session needs now, to be unsubscribed.
        """
        uid, unneeded = session.route.uid, []
        self._by_connection.pop(session.route.connection, None)
        sessions = self.by_user.get(uid, [])
        if session in sessions:
            sessions.remove(session)
            if not sessions:
                del self.by_user[uid]
                unneeded.append(user_channel(uid))
        return unneeded + [
            channel
            for each in session.watched or ()
            for channel in self._discard_watch(session, each)
        ]

    async def watch(self, session: Session, uid: str) -> None:
        """Have a session watch a user; nothing happens if it was removed meanwhile."""
        if session in self:
            self._watched.setdefault(uid, set()).add(session)
            await self.channels.subscribe(status_channel(uid), self._on_status)

    async def unwatch(self, session: Session, uid: str) -> None:
        """Have a session watch a user no more."""
        await self.channels.unsubscribe(*self._discard_watch(session, uid))

    def _discard_watch(self, session: Session, uid: str) -> list[str]:
        watchers = self._watched.get(uid)
        if watchers is None or session not in watchers:
            return []
        watchers.remove(session)
        if watchers:
            return []
        del self._watched[uid]
        self.last_status.pop(uid, None)
        self.status_versions.pop(uid, None)
        return [status_channel(uid)]

    def note_status(self, uid: str) -> None:
        """Count a status change of a user."""
        if uid in self._watched:
            self.status_versions[uid] = self.status_versions.get(uid, 0) + 1

    def record_status(self, uid: str, status: str) -> Iterable[Session]:
        """Record the status sent last. Return the sessions to send it to."""
        watchers = self.watchers(uid)
        if watchers:
            self.last_status[uid] = status
        return watchers


class PresenceWatcher:
    """The watches of one gateway's sessions."""

    def __init__(self, sessions: SessionRegistry, presence: Presence) -> None:
        self._sessions, self._presence = sessions, presence

    async def watch(self, session: Session, uids: Collection[str]) -> None:
        """Send a session these users' statuses, now and whenever they change.

        Raises InvalidMessage above the limit.

        Raises what the connection raises while the server is away; `retry_pending` tries again.
        """
        watched = session.watched = session.watched if session.watched is not None else set()
        if len(watched.union(uids)) > MAX_WATCHED:
            raise InvalidMessage(f"a client watches at most {MAX_WATCHED} users")
        watched.update(uids)
        await self._start(session, uids)

    async def retry_pending(self) -> None:
        """Retry the watches that could not be started."""
        for session in list(self._sessions):
            if session.watched and (pending := self._sessions.pending_watches(session)):
                try:
                    await self._start(session, pending)
                except MpimError as error:
                    if error.transient:  # the server is away, for the others, too
                        raise

    async def _start(self, session: Session, uids: Collection[str]) -> None:
        sessions = self._sessions
        try:
            await asyncio.gather(*(sessions.watch(session, uid) for uid in uids))
            versions = {uid: sessions.status_versions.get(uid) for uid in uids}
            statuses = await self._presence.statuses(list(uids))
        except MpimError:
            await asyncio.gather(
                *(sessions.unwatch(session, uid) for uid in uids), return_exceptions=True
            )
            raise
        for uid, status in statuses.items():
            # otherwise the status changed meanwhile, and that was sent
            is_news = sessions.status_versions.get(uid) == versions[uid]
            if is_news and session in sessions.watchers(uid):
                # if others were sent another one, maintenance finds it
                sessions.last_status.setdefault(uid, status)
                session.enqueue(encode(PresenceChanged(uid, status)))
