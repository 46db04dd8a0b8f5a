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


class Watching:
    """One for all sessions of a gateway."""

    def __init__(self, lobby: Lobby, presence: Presence) -> None:
        self._lobby, self._presence = lobby, presence

    async def watch(self, session: Session, uids: Collection[str]) -> None:
        """Tell a session these users' statuses, now and whenever they change. Raises InvalidMessage above the limit.

        Raises what the server's absence raises; `again` will see to it.
        """
        watching = session.watching = session.watching if session.watching is not None else set()
        if len(watching.union(uids)) > MAX_WATCHED:
            raise InvalidMessage(f"a client watches at most {MAX_WATCHED} users")
        watching.update(uids)
        await self._begin(session, uids)

    async def again(self) -> None:
        """What could not be begun: begin it now."""
        for session in list(self._lobby):
            if session.watching and (unheard := self._lobby.unheard(session)):
                try:
                    await self._begin(session, unheard)
                except MpimError as error:
                    if error.transient:  # the server is away, for the others, too
                        raise

    async def _begin(self, session: Session, uids: Collection[str]) -> None:
        lobby = self._lobby
        try:
            await asyncio.gather(*(lobby.watch(session, uid) for uid in uids))
            heard = {uid: lobby.notices.get(uid) for uid in uids}
            statuses = await self._presence.statuses(list(uids))
        except MpimError:
            await asyncio.gather(*(lobby.unwatch(session, uid) for uid in uids), return_exceptions=True)
            raise
        for uid, status in statuses.items():
            is_news = lobby.notices.get(uid) == heard[uid]  # otherwise she came or went meanwhile, and that was told
            if is_news and session in lobby.watchers(uid):
                lobby.told.setdefault(uid, status)  # if others were told something else, the patrol will see
                session.say(encode(PresenceChanged(uid, status)))
