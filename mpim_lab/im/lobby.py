"""Lobby: who is connected to one gateway, by user, and the channels it listens on for them and for no one else."""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from mpim_lab.im.session import Session
from mpim_lab.keys import status_channel, user_channel
from mpim_lab.mq.message import Message
from mpim_lab.mq.pubsub import MessageQueue

_STRIPES = 256  # users who come and go at the same time wait for each other only now and then


class Lobby:
    """Sessions by user and watchers by user. A channel is subscribed while at least one session needs it."""

    def __init__(
        self, queue: MessageQueue, on_push: Callable[[Message], Any], on_status: Callable[[Message], Any]
    ) -> None:
        self._queue, self._on_push, self._on_status = queue, on_push, on_status
        self._here: dict[str, list[Session]] = {}
        self._by_connection: dict[str, Session] = {}
        self._watched: dict[str, set[Session]] = {}
        self.notices: dict[str, int] = {}  # watched user → how often it was heard that she came or went
        self.told: dict[str, str] = {}  # watched user → the status told last
        self._turns = [asyncio.Lock() for _ in range(_STRIPES)]

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

    async def enter(self, session: Session) -> None:
        """From now on pushes for its user come here. Raises what `subscribe` raises."""
        uid = session.route.uid
        async with self._turn(uid):
            if uid not in self._here:
                await self._queue.subscribe(user_channel(uid), self._on_push)
            self._here.setdefault(uid, []).append(session)
            self._by_connection[session.route.connection] = session

    async def leave(self, session: Session) -> None:
        """Take a session out; the last one of a user ends the subscription."""
        uid = session.route.uid
        try:
            async with self._turn(uid):
                self._by_connection.pop(session.route.connection, None)
                sessions = self._here.get(uid, [])
                if session in sessions:
                    sessions.remove(session)
                if not sessions and self._here.pop(uid, None) is not None:
                    await self._queue.unsubscribe(user_channel(uid))
        finally:
            for each in session.watching or ():
                await self.unwatch(session, each)

    async def watch(self, session: Session, uid: str) -> None:
        """From now on a session is told when a user comes or goes."""
        async with self._turn(uid):
            if uid not in self._watched:
                await self._queue.subscribe(status_channel(uid), self._on_status)
            self._watched.setdefault(uid, set()).add(session)

    async def unwatch(self, session: Session, uid: str) -> None:
        """Not any more."""
        async with self._turn(uid):
            watchers = self._watched.get(uid, set())
            watchers.discard(session)
            if not watchers and self._watched.pop(uid, None) is not None:
                self.told.pop(uid, None)
                self.notices.pop(uid, None)
                await self._queue.unsubscribe(status_channel(uid))

    def _turn(self, uid: str) -> asyncio.Lock:
        return self._turns[hash(uid) % _STRIPES]
