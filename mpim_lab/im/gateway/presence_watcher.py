"""PresenceWatcher: the clients of one gateway that watch users.

A watch outlasts the server's absence.
"""

import asyncio
import contextlib
from collections.abc import Collection

from mpim_lab.errors import InvalidMessage, MpimError
from mpim_lab.im.gateway.session import Session
from mpim_lab.im.gateway.session_registry import SessionRegistry
from mpim_lab.im.protocol.frames import MAX_WATCHED, PresenceChanged, encode
from mpim_lab.im.services.presence import Presence
from mpim_lab.keys import status_channel
from mpim_lab.mq.connection.encoding import Message


class PresenceWatcher:
    """The watches of one gateway's sessions, and what was sent to them last."""

    def __init__(self, sessions: SessionRegistry, presence: Presence) -> None:
        self._sessions, self._presence = sessions, presence
        self.watched: dict[str, set[Session]] = {}
        # watched user → how many status changes were received; → the status sent last
        self._versions: dict[str, int] = {}
        self._last_status: dict[str, str] = {}

    async def watch(self, session: Session, uids: Collection[str]) -> None:
        """Send a session these users' statuses, now and whenever they change.

        Raises InvalidMessage above the limit, and what the connection raises while the server is
        away; `refresh` tries again.
        """
        watched = session.watched = session.watched if session.watched is not None else set()
        if len(watched.union(uids)) > MAX_WATCHED:
            raise InvalidMessage(f"a client watches at most {MAX_WATCHED} users")
        watched.update(uids)
        await self._start(session, uids)

    def discard(self, session: Session) -> list[str]:
        """Remove the watches of a session at once.

        Return the channels that no session needs now, to be unsubscribed.
        """
        watched = session.watched or ()
        return [channel for uid in watched for channel in self._discard(session, uid)]

    def on_status(self, message: Message) -> None:
        """Send a user's new status to all who watch."""
        uid = str(message.channel).removeprefix("user:status:")
        if uid in self.watched:
            self._versions[uid] = self._versions.get(uid, 0) + 1
            self._broadcast(uid, message.text.partition(":")[0])

    async def retry_pending(self) -> None:
        """Retry the watches that could not be started."""
        for session in self._sessions:
            watched = session.watched or ()
            if pending := [uid for uid in watched if session not in self.watched.get(uid, ())]:
                try:
                    await self._start(session, pending)
                except MpimError as error:
                    if error.transient:  # the server is away, for the others, too
                        raise

    async def refresh(self) -> None:
        """Find statuses that changed without a notification, because a gateway died."""
        for uid, status in (await self._presence.statuses(list(self.watched))).items():
            if self._last_status.get(uid) not in (None, status):
                self._broadcast(uid, status)

    def _broadcast(self, uid: str, status: str) -> None:
        if watchers := self.watched.get(uid):
            self._last_status[uid] = status
            for session in watchers:
                session.enqueue(encode(PresenceChanged(uid, status)))

    async def _start(self, session: Session, uids: Collection[str]) -> None:
        try:
            await asyncio.gather(*(self._subscribe(session, uid) for uid in uids))
            versions = {uid: self._versions.get(uid) for uid in uids}
            statuses = await self._presence.statuses(list(uids))
        except MpimError:
            unneeded = [channel for uid in uids for channel in self._discard(session, uid)]
            with contextlib.suppress(MpimError):
                await self._sessions.channels.unsubscribe(*unneeded)
            raise
        for uid, status in statuses.items():
            # otherwise the status changed meanwhile, and that was sent
            is_news = self._versions.get(uid) == versions[uid]
            if is_news and session in self.watched.get(uid, ()):
                # if others were sent another one, `refresh` finds it
                self._last_status.setdefault(uid, status)
                session.enqueue(encode(PresenceChanged(uid, status)))

    async def _subscribe(self, session: Session, uid: str) -> None:
        if session in self._sessions:  # otherwise it was removed meanwhile
            self.watched.setdefault(uid, set()).add(session)
            await self._sessions.channels.subscribe(status_channel(uid), self.on_status)

    def _discard(self, session: Session, uid: str) -> list[str]:
        watchers = self.watched.get(uid)
        if watchers is None or session not in watchers:
            return []
        watchers.remove(session)
        if watchers:
            return []
        del self.watched[uid]
        self._last_status.pop(uid, None)
        self._versions.pop(uid, None)
        return [status_channel(uid)]
