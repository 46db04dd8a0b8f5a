"""Lobby: who is connected to one gateway, by user, and the channels it listens on for them and for no one else.

| a session ...                                    | is taken out of every table        | its channels          |
|--------------------------------------------------|------------------------------------|-----------------------|
| leaves in good order, is reset, silent, replaced | at once, before anything is waited | are left, unless      |
| could not be taken in, or was cancelled then     | for: no cancellation can come      | somebody else needs   |
| is cancelled while it leaves                     | in between                         | them                  |
| leaves while the server is away                  |                                    | are left later        |

Channels: what a gateway listens on, kept in step with what somebody there needs.

Watching: clients of one gateway that want to know when users come and go; a promise that outlasts the server's absence.
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
        self._wanted: dict[str, MessageHandler] = {}
        self._subscribed: set[str] = set()  # subscribed, or perhaps: what is in doubt is ended once more
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def __len__(self) -> int:
        return len(self._subscribed)

    async def subscribe(self, channel: str, handler: MessageHandler) -> None:
        """Listen from now on; returns once the server has confirmed. Raises what `subscribe` raises."""
        self._wanted[channel] = handler
        if channel not in self._subscribed or channel in self._tasks:
            await self._wait_until_synced(channel)

    async def unsubscribe(self, *channels: str) -> None:
        """Listen no more. Raises what `unsubscribe` raises."""
        for channel in channels:
            self._wanted.pop(channel, None)
        here = [each for each in channels if each in self._subscribed or each in self._tasks]
        for error in await asyncio.gather(*map(self._wait_until_synced, here), return_exceptions=True):
            if isinstance(error, BaseException):
                raise error

    async def retry_pending(self) -> None:
        """What could not be ended: end it now. Raises the first error."""
        await self.unsubscribe(*(each for each in self._subscribed if each not in self._wanted))

    def abort(self) -> None:
        """Wait for nothing more: the gateway ends."""
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
    """Look at an error even if everybody who waited has gone: otherwise the loop reports it as lost."""
    if not task.cancelled():
        task.exception()


class SessionRegistry:
    """Sessions by user and watchers by user. A channel is subscribed while at least one session needs it."""

    def __init__(
        self, queue: MessageQueue, on_push: Callable[[Message], Any], on_status: Callable[[Message], Any]
    ) -> None:
        self.channels, self._on_push, self._on_status = ChannelSubscriptions(queue), on_push, on_status
        self._by_user: dict[str, list[Session]] = {}
        self._by_connection: dict[str, Session] = {}
        self._watched: dict[str, set[Session]] = {}
        self.status_versions: dict[str, int] = {}  # watched user → how often it was heard that she came or went
        self.last_status: dict[str, str] = {}  # watched user → the status told last

    def __iter__(self) -> Iterator[Session]:
        return (session for sessions in list(self._by_user.values()) for session in list(sessions))

    def __len__(self) -> int:
        return len(self._by_connection)

    def sessions_of(self, uid: str) -> list[Session]:
        """The sessions of one user."""
        return self._by_user.get(uid, [])

    def by_connection(self, connection: str) -> Session | None:
        """The session that was bound under this id, if it is still here."""
        return self._by_connection.get(connection)

    def watchers(self, uid: str) -> Iterable[Session]:
        """Who watches a user."""
        return tuple(self._watched.get(uid, ()))

    @property
    def watched(self) -> list[str]:
        """Every user who is watched by somebody here."""
        return list(self._watched)

    def pending_watches(self, session: Session) -> list[str]:
        """Whom a session wants to watch, and does not yet."""
        return [uid for uid in session.watched or () if session not in self._watched.get(uid, ())]

    def __contains__(self, session: Session) -> bool:
        return self._by_connection.get(session.route.connection) is session

    async def add(self, session: Session) -> None:
        """From now on pushes for its user come here. Raises what `subscribe` raises: then `leave`."""
        uid = session.route.uid
        self._by_user.setdefault(uid, []).append(session)
        self._by_connection[session.route.connection] = session
        await self.channels.subscribe(user_channel(uid), self._on_push)

    async def remove(self, session: Session) -> None:
        """Take a session out; the last one of a user ends the subscription. Raises what `unsubscribe` raises."""
        await self.channels.unsubscribe(*self.discard(session))

    def discard(self, session: Session) -> list[str]:
        """The same at once, but for the channels that nobody needs now: gives those, to be dropped."""
        uid, unneeded = session.route.uid, []
        self._by_connection.pop(session.route.connection, None)
        sessions = self._by_user.get(uid, [])
        if session in sessions:
            sessions.remove(session)
            if not sessions:
                del self._by_user[uid]
                unneeded.append(user_channel(uid))
        return unneeded + [channel for each in session.watched or () for channel in self._discard_watch(session, each)]

    async def watch(self, session: Session, uid: str) -> None:
        """From now on a session is told when a user comes or goes; nothing happens if it has left meanwhile."""
        if session in self:
            self._watched.setdefault(uid, set()).add(session)
            await self.channels.subscribe(status_channel(uid), self._on_status)

    async def unwatch(self, session: Session, uid: str) -> None:
        """Not any more."""
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
        """It was heard that a user came or went."""
        if uid in self._watched:
            self.status_versions[uid] = self.status_versions.get(uid, 0) + 1

    def record_status(self, uid: str, status: str) -> Iterable[Session]:
        """Note that this status is told; gives to whom."""
        watchers = self.watchers(uid)
        if watchers:
            self.last_status[uid] = status
        return watchers


class PresenceWatcher:
    """One for all sessions of a gateway."""

    def __init__(self, sessions: SessionRegistry, presence: Presence) -> None:
        self._sessions, self._presence = sessions, presence

    async def watch(self, session: Session, uids: Collection[str]) -> None:
        """Tell a session these users' statuses, now and whenever they change. Raises InvalidMessage above the limit.

        Raises what the server's absence raises; `again` will see to it.
        """
        watched = session.watched = session.watched if session.watched is not None else set()
        if len(watched.union(uids)) > MAX_WATCHED:
            raise InvalidMessage(f"a client watches at most {MAX_WATCHED} users")
        watched.update(uids)
        await self._start(session, uids)

    async def retry_pending(self) -> None:
        """What could not be begun: begin it now."""
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
            await asyncio.gather(*(sessions.unwatch(session, uid) for uid in uids), return_exceptions=True)
            raise
        for uid, status in statuses.items():
            is_news = (
                sessions.status_versions.get(uid) == versions[uid]
            )  # otherwise she came or went meanwhile, and that was told
            if is_news and session in sessions.watchers(uid):
                sessions.last_status.setdefault(uid, status)  # if others were told something else, the patrol will see
                session.enqueue(encode(PresenceChanged(uid, status)))
