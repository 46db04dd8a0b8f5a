"""Lobby: who is connected to one gateway, by user, and the channels it listens on for them and for no one else.

| a session ...                                    | is taken out of every table        | its channels          |
|--------------------------------------------------|------------------------------------|-----------------------|
| leaves in good order, is reset, silent, replaced | at once, before anything is waited | are left, unless      |
| could not be taken in, or was cancelled then     | for: no cancellation can come      | somebody else needs   |
| is cancelled while it leaves                     | in between                         | them                  |
| leaves while the server is away                  |                                    | are left later        |
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from mpim_lab.im.gateway.channels import Channels
from mpim_lab.im.gateway.session import Session
from mpim_lab.keys import status_channel, user_channel
from mpim_lab.mq.connection.encoding import Message
from mpim_lab.mq.pubsub.queue import MessageQueue


class Lobby:
    """Sessions by user and watchers by user. A channel is subscribed while at least one session needs it."""

    def __init__(
        self, queue: MessageQueue, on_push: Callable[[Message], Any], on_status: Callable[[Message], Any]
    ) -> None:
        self.channels, self._on_push, self._on_status = Channels(queue), on_push, on_status
        self._here: dict[str, list[Session]] = {}
        self._by_connection: dict[str, Session] = {}
        self._watched: dict[str, set[Session]] = {}
        self.notices: dict[str, int] = {}  # watched user → how often it was heard that she came or went
        self.told: dict[str, str] = {}  # watched user → the status told last

    def __iter__(self) -> Iterator[Session]:
        return (session for sessions in list(self._here.values()) for session in list(sessions))

    def __len__(self) -> int:
        return len(self._by_connection)

    def of(self, uid: str) -> list[Session]:
        """The sessions of one user."""
        return self._here.get(uid, [])

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

    def unheard(self, session: Session) -> list[str]:
        """Whom a session wants to watch, and does not yet."""
        return [uid for uid in session.watching or () if session not in self._watched.get(uid, ())]

    def __contains__(self, session: Session) -> bool:
        return self._by_connection.get(session.route.connection) is session

    async def enter(self, session: Session) -> None:
        """From now on pushes for its user come here. Raises what `subscribe` raises: then `leave`."""
        uid = session.route.uid
        self._here.setdefault(uid, []).append(session)
        self._by_connection[session.route.connection] = session
        await self.channels.need(user_channel(uid), self._on_push)

    async def leave(self, session: Session) -> None:
        """Take a session out; the last one of a user ends the subscription. Raises what `unsubscribe` raises."""
        await self.channels.drop(*self.take_out(session))

    def take_out(self, session: Session) -> list[str]:
        """The same at once, but for the channels that nobody needs now: gives those, to be dropped."""
        uid, unneeded = session.route.uid, []
        self._by_connection.pop(session.route.connection, None)
        sessions = self._here.get(uid, [])
        if session in sessions:
            sessions.remove(session)
            if not sessions:
                del self._here[uid]
                unneeded.append(user_channel(uid))
        return unneeded + [channel for each in session.watching or () for channel in self._overlook(session, each)]

    async def watch(self, session: Session, uid: str) -> None:
        """From now on a session is told when a user comes or goes; nothing happens if it has left meanwhile."""
        if session in self:
            self._watched.setdefault(uid, set()).add(session)
            await self.channels.need(status_channel(uid), self._on_status)

    async def unwatch(self, session: Session, uid: str) -> None:
        """Not any more."""
        await self.channels.drop(*self._overlook(session, uid))

    def _overlook(self, session: Session, uid: str) -> list[str]:
        watchers = self._watched.get(uid)
        if watchers is None or session not in watchers:
            return []
        watchers.remove(session)
        if watchers:
            return []
        del self._watched[uid]
        self.told.pop(uid, None)
        self.notices.pop(uid, None)
        return [status_channel(uid)]

    def note_status(self, uid: str) -> None:
        """It was heard that a user came or went."""
        if uid in self._watched:
            self.notices[uid] = self.notices.get(uid, 0) + 1

    def tell(self, uid: str, status: str) -> Iterable[Session]:
        """Note that this status is told; gives to whom."""
        watchers = self.watchers(uid)
        if watchers:
            self.told[uid] = status
        return watchers
