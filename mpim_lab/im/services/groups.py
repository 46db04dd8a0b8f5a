"""GroupService: who is in which group.

The database is the source of truth; a cache in Redis answers (`GroupMembersCache`).

A change locks its group's row, so that changes of one group come one after the other, and the cache
is filled afterwards from what was committed. What a change returns is what it committed; who reads
the members after it has returned sees it, or something later. Only if the cache cannot be
invalidated may others read the old list, for at most `cache_ttl_s` seconds.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Literal

from sqlalchemy import BigInteger, Column, Index, MetaData, Table, delete, insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from mpim_lab.errors import GroupExists, InvalidParameter, NoSuchGroup, StoreUncertain
from mpim_lab.im.protocol.requests import checked_name
from mpim_lab.im.services.batch_loader import BatchLoader
from mpim_lab.im.services.group_cache import GroupMembersCache
from mpim_lab.im.services.schema import VersionedTables
from mpim_lab.mq.connection.bounds import MAX_INT, check_bounds
from mpim_lab.mq.idempotency.sql_database import NAME, SqlDatabase
from mpim_lab.mq.pubsub.queue import MessageQueue

VERSION = 1
MAX_BATCH = 500  # users in one query
_Work = Callable[[AsyncConnection], Awaitable[tuple[str, ...]]]

GROUPS = Table(
    "mpim_groups",
    MetaData(),
    Column("name", NAME, primary_key=True),
    Column("owner", NAME, nullable=False),
    Column("made_at", BigInteger, nullable=False),  # milliseconds since 1970
)
MEMBERS = Table(
    "mpim_members",
    MetaData(),
    Column("group_name", NAME, primary_key=True),
    Column("uid", NAME, primary_key=True),
    Index("mpim_members_by_user", "uid"),
)


class GroupService:
    """The group service, over an SQL database and a Redis that need not be there.

    All methods raise InvalidParameter (a name that is none), StoreFailed and StoreUncertain.

    Args:
        store: The database.
        queue: Whose server has the cache.
        cache_ttl_s: Seconds for which a cached list of members is used.
        max_members: Members of one group.

    Raises:
        InvalidParameter: A number makes no sense.
    """

    def __init__(
        self,
        store: SqlDatabase,
        queue: MessageQueue,
        *,
        cache_ttl_s: float = 60.0,
        max_members: int = 5_000,
    ) -> None:
        check_bounds(1, MAX_INT, max_members=max_members)
        self._cache, self._max_members = GroupMembersCache(queue, cache_ttl_s), max_members
        self._tables = VersionedTables(store, "groups", VERSION, GROUPS, MEMBERS)
        self._invalidations: set[asyncio.Task[None]] = set()
        self._groups_loader = BatchLoader(self._load_groups_of, max_batch=MAX_BATCH)

    # Changes

    async def create(self, group: str, owner: str, members: Sequence[str] = ()) -> tuple[str, ...]:
        """Create a group.

        Args:
            group: Its name.
            owner: The user who makes it, and is a member.
            members: The other members.

        Returns:
            All members, sorted.

        Raises:
            GroupExists: There is one of this name.
            InvalidParameter: There are too many members.
        """
        checked_name("group", group)
        everybody = tuple(sorted({checked_name("uid", uid) for uid in (owner, *members)}))
        if len(everybody) > self._max_members:
            raise InvalidParameter(
                f"a group has at most {self._max_members:,} members, not {len(everybody):,}"
            )
        row = {"name": group, "owner": owner, "made_at": int(time.time() * 1e3)}

        async def work(connection: AsyncConnection) -> tuple[str, ...]:
            try:
                await connection.execute(insert(GROUPS).values(row))
            except IntegrityError as error:
                raise GroupExists(f"there is a group {group!r} already") from error
            await connection.execute(
                insert(MEMBERS), [{"group_name": group, "uid": uid} for uid in everybody]
            )
            return everybody

        return await self._commit_and_invalidate(group, work)

    async def join(self, group: str, uid: str) -> tuple[str, ...]:
        """Add a user to a group. Idempotent.

        Args:
            group: The group.
            uid: The user.

        Returns:
            All members, sorted.

        Raises:
            NoSuchGroup: There is none of this name.
            InvalidParameter: The group is full.
        """
        return await self._update_membership("join", group, uid)

    async def leave(self, group: str, uid: str) -> tuple[str, ...]:
        """Remove a user from a group. Idempotent.

        Args:
            group: The group.
            uid: The user.

        Returns:
            The members that are left, sorted.

        Raises:
            NoSuchGroup: There is none of this name.
        """
        return await self._update_membership("leave", group, uid)

    async def _update_membership(
        self, action: Literal["join", "leave"], group: str, uid: str
    ) -> tuple[str, ...]:
        checked_name("group", group)
        checked_name("uid", uid)

        async def work(connection: AsyncConnection) -> tuple[str, ...]:
            lock = select(GROUPS.c.name).where(GROUPS.c.name == group).with_for_update()
            if (await connection.execute(lock)).first() is None:
                raise _not_found(group)
            members = set(
                (
                    await connection.execute(
                        select(MEMBERS.c.uid).where(MEMBERS.c.group_name == group)
                    )
                ).scalars()
            )
            if action == "join" and uid not in members:
                if len(members) >= self._max_members:
                    raise InvalidParameter(
                        f"group {group!r} is full: it has {len(members):,} members"
                    )
                await connection.execute(insert(MEMBERS).values(group_name=group, uid=uid))
                members.add(uid)
            elif action == "leave" and uid in members:
                await connection.execute(
                    delete(MEMBERS).where(MEMBERS.c.group_name == group, MEMBERS.c.uid == uid)
                )
                members.remove(uid)
            return tuple(sorted(members))

        return await self._commit_and_invalidate(group, work)

    async def _commit_and_invalidate(self, group: str, work: _Work) -> tuple[str, ...]:
        """Commit, then invalidate the cache.

        Also when nothing changed: an earlier attempt may have died in between.
        """
        try:
            members = await self._tables.transaction(f"group {group!r} cannot be changed", work)
        except (StoreUncertain, asyncio.CancelledError):  # it may be committed
            await self._invalidate(group)
            raise
        await self._invalidate(group)
        return members

    async def _invalidate(self, group: str) -> None:
        """Invalidate in a task of its own.

        A caller that is cancelled now has changed the group all the same.
        """
        task = asyncio.create_task(self._cache.invalidate(group))
        self._invalidations.add(task)
        task.add_done_callback(self._invalidations.discard)
        await asyncio.shield(task)

    # Questions

    async def members(self, group: str) -> tuple[str, ...]:
        """Return who is in a group, from the cache or from the database.

        Args:
            group: The group.

        Returns:
            All members, sorted.

        Raises:
            NoSuchGroup: There is none of this name.
        """
        cached = await self._cache.get(checked_name("group", group))
        if cached.members is not None:
            return cached.members
        members = await self._read(group)
        await self._cache.set_if_unchanged(group, members, cached.version)
        return members

    async def _read(self, group: str) -> tuple[str, ...]:
        both = GROUPS.outerjoin(MEMBERS, GROUPS.c.name == MEMBERS.c.group_name)
        wanted = select(MEMBERS.c.uid).select_from(both).where(GROUPS.c.name == group)

        async def work(connection: AsyncConnection) -> list[str | None]:
            return list((await connection.execute(wanted)).scalars())

        rows = await self._tables.transaction(
            f"the members of group {group!r} cannot be read", work
        )
        if not rows:
            raise _not_found(group)
        # a group that all have left has one row, without one
        return tuple(sorted(uid for uid in rows if uid is not None))

    async def groups_of(self, uid: str) -> tuple[str, ...]:
        """Return the groups a user is in, from the database.

        Concurrent calls share a query: 10,000 clients that connect at once cost 20 queries.

        Args:
            uid: The user.

        Returns:
            The groups' names, sorted.
        """
        return tuple(sorted(await self._groups_loader.load(checked_name("uid", uid)) or ()))

    async def _load_groups_of(self, uids: Sequence[str]) -> dict[str, list[str]]:
        wanted = select(MEMBERS.c.uid, MEMBERS.c.group_name).where(MEMBERS.c.uid.in_(uids))

        async def work(connection: AsyncConnection) -> dict[str, list[str]]:
            groups: dict[str, list[str]] = {}
            for uid, group in await connection.execute(wanted):
                groups.setdefault(uid, []).append(group)
            return groups

        return await self._tables.transaction("the groups of users cannot be read", work)


def _not_found(group: str) -> NoSuchGroup:
    return NoSuchGroup(f"there is no group {group!r}")
