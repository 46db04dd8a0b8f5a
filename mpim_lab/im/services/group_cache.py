"""MembersCopy: a copy in Redis of who is in a group, which cannot stay wrong.

| what goes wrong                                               | why it cannot stay                                     |
|---------------------------------------------------------------|--------------------------------------------------------|
| a reader reads the database, a change follows, and only then  | the change raised the version: the copy is kept only   |
| does the reader put its copy down                             | if the version is what it was before the reading       |
| a crash after a change's commit, before the copy is deleted   | the copy ends by itself, `cache_s` after it was made   |
| the server forgets the version                                | it begins again at the server's clock, above old ones  |
| the server is not there, or answers nonsense                  | then there is no copy: the database answers            |

Source: Nishtala and others, "Scaling Memcache at Facebook", 2013, section 3.2.1 (leases against stale sets).
"""

import logging
from typing import Any, NamedTuple

import msgspec

from mpim_lab.errors import MpimError
from mpim_lab.mq.connection.bounds import check_bounds
from mpim_lab.mq.connection.lua_script import LuaScript
from mpim_lab.mq.pubsub.queue import MessageQueue

_log = logging.getLogger(__name__)
A_DAY_S = 86_400
_KEEP, _FORGET = LuaScript("im/services/lua/keep_members.lua"), LuaScript("im/services/lua/forget_members.lua")
_decode = msgspec.json.Decoder(tuple[str, ...]).decode


class Look(NamedTuple):
    """What there is: the members, if there is a copy; the version now (None: the server is away, keep nothing)."""

    members: tuple[str, ...] | None
    version: bytes | None


class MembersCopy:
    """Copies of groups' members in Redis, each for `cache_s` seconds. No method raises because Redis fails."""

    def __init__(self, queue: MessageQueue, cache_s: float) -> None:
        check_bounds(0.001, A_DAY_S, cache_s=cache_s)
        self._queue, self._lifetime_ms = queue, str(int(cache_s * 1e3))
        self._link = queue.context("members").connection
        self._is_away = False

    async def look(self, group: str) -> Look:
        """The copy and the version, read in one step, before the database is. A line that is down is not waited for."""
        if not self._link.is_connected:
            return Look(None, None)
        try:
            copy, version = await self._link.call("MGET", *self._keys(group))
        except MpimError as error:
            self._tell(f"read: {error}")
            return Look(None, None)
        self._is_away = False
        return Look(_read(group, copy), version or b"")

    async def keep(self, group: str, members: tuple[str, ...], version: bytes | None) -> None:
        """Put down what the database said after `version` was read; not if the group was changed meanwhile."""
        if version is not None and self._link.is_connected:
            try:
                await _KEEP.run(self._link, self._keys(group), version, msgspec.json.encode(members), self._lifetime_ms)
            except MpimError as error:
                self._tell(f"made: {error}")

    async def forget(self, group: str) -> None:
        """The group was changed. A line that is down is waited for, as long as the queue's limits say."""
        try:
            await _FORGET.run(self._link, self._keys(group), str(A_DAY_S * 1_000))
        except MpimError as error:
            _log.warning("the copy of %s's members may be old for %s ms: %s", group, self._lifetime_ms, error)

    def _keys(self, group: str) -> list[bytes]:
        keys = self._queue.keys
        return [keys.cached_members(group), keys.members_version(group)]

    def _tell(self, what: str) -> None:
        if not self._is_away:  # once: whoever asks meanwhile would say it again
            _log.warning("copies of groups' members cannot be %s; the database answers", what)
        self._is_away = True


def _read(group: str, copy: Any) -> tuple[str, ...] | None:
    try:
        return None if copy is None else _decode(copy)
    except (msgspec.DecodeError, UnicodeDecodeError, TypeError) as error:
        _log.warning("the copy of %s's members cannot be read; the database answers: %s", group, error)
        return None
