"""GroupMembersCache: a cache in Redis of who is in a group, which cannot stay stale.

| what goes wrong                                | why it cannot stay                              |
|------------------------------------------------|-------------------------------------------------|
| a reader reads the database, a change follows, | the change raised the version: the entry is set |
| and only then does the reader set its entry    | only if the version is what it was before the   |
|                                                | reading                                         |
| a crash after a change's commit, before the    | the entry expires `cache_ttl_s` after it was    |
| entry is deleted                               | set                                             |
| the server forgets the version                 | it begins again at the server's clock, above    |
|                                                | old ones                                        |
| the server is not there, or answers nonsense   | then there is no entry: the database answers    |

Source: Nishtala and others, "Scaling Memcache at Facebook", 2013, section 3.2.1 (leases against
stale sets).
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
CACHE_MEMBERS = LuaScript("im/services/lua/cache_members.lua")
INVALIDATE_MEMBERS = LuaScript("im/services/lua/invalidate_members.lua")
_decode = msgspec.json.Decoder(tuple[str, ...]).decode


class CacheEntry(NamedTuple):
    """A cached entry.

    The members (None: a miss), and the version now (None: the server is away, set nothing).
    """

    members: tuple[str, ...] | None
    version: bytes | None


class GroupMembersCache:
    """A cache-aside of groups' members in Redis, for `cache_ttl_s` seconds.

    No method raises if Redis fails.
    """

    def __init__(self, queue: MessageQueue, cache_ttl_s: float) -> None:
        check_bounds(0.001, A_DAY_S, cache_ttl_s=cache_ttl_s)
        self._queue, self._ttl_ms = queue, str(int(cache_ttl_s * 1e3))
        self._connection = queue.context("members").connection
        self._is_away = False

    async def get(self, group: str) -> CacheEntry:
        """Return the entry and the version, read in one step, before the database.

        Does not wait for a connection.
        """
        if not self._connection.is_connected:
            return CacheEntry(None, None)
        try:
            copy, version = await self._connection.call("MGET", *self._keys(group))
        except MpimError as error:
            self._warn_once(f"read: {error}")
            return CacheEntry(None, None)
        self._is_away = False
        return CacheEntry(_parse_members(group, copy), version or b"")

    async def set_if_unchanged(
        self, group: str, members: tuple[str, ...], version: bytes | None
    ) -> None:
        """Set what was read after `version`, unless the group was changed meanwhile."""
        if version is not None and self._connection.is_connected:
            try:
                await CACHE_MEMBERS.run(
                    self._connection,
                    self._keys(group),
                    version,
                    msgspec.json.encode(members),
                    self._ttl_ms,
                )
            except MpimError as error:
                self._warn_once(f"made: {error}")

    async def invalidate(self, group: str) -> None:
        """Delete the entry of a group that was changed.

        Waits for the connection as long as the queue's limits say.
        """
        try:
            await INVALIDATE_MEMBERS.run(self._connection, self._keys(group), str(A_DAY_S * 1_000))
        except MpimError as error:
            _log.warning(
                "the copy of %s's members may be old for %s ms: %s", group, self._ttl_ms, error
            )

    def _keys(self, group: str) -> list[bytes]:
        keys = self._queue.keys
        return [keys.cached_members(group), keys.members_version(group)]

    def _warn_once(self, what: str) -> None:
        if not self._is_away:  # once: whoever asks meanwhile would say it again
            _log.warning("copies of groups' members cannot be %s; the database answers", what)
        self._is_away = True


def _parse_members(group: str, copy: Any) -> tuple[str, ...] | None:
    try:
        return None if copy is None else _decode(copy)
    except (msgspec.DecodeError, UnicodeDecodeError, TypeError) as error:
        _log.warning(
            "the copy of %s's members cannot be read; the database answers: %s", group, error
        )
        return None
