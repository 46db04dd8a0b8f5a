"""Watching: clients of one gateway that want to know when users come and go; a promise that outlasts the server's absence."""

import asyncio
from collections.abc import Collection

from mpim_lab.errors import InvalidMessage, MpimError
from mpim_lab.im.gateway.session import Session
from mpim_lab.im.gateway.session_registry import Lobby
from mpim_lab.im.protocol.frames import MOST_WATCHED, Status, encode
from mpim_lab.im.services.presence import Presence


class Watching:
    """One for all sessions of a gateway."""

    def __init__(self, lobby: Lobby, presence: Presence) -> None:
        self._lobby, self._presence = lobby, presence

    async def watch(self, session: Session, uids: Collection[str]) -> None:
        """Tell a session these users' statuses, now and whenever they change. Raises InvalidMessage above the limit.

        Raises what the server's absence raises; `again` will see to it.
        """
        watching = session.watching = session.watching if session.watching is not None else set()
        if len(watching.union(uids)) > MOST_WATCHED:
            raise InvalidMessage(f"a client watches at most {MOST_WATCHED} users")
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
                session.say(encode(Status(uid, status)))
