"""Groups: who is in which group. The database says so; a copy in Redis answers, and `MembersCopy` says why it may.

A change locks its group's row, so that changes of one group come one after the other, and a copy is made afterwards from
what was committed. What a change returns is what it committed; who asks for the members after it has returned sees it, or
something later. Only if Redis cannot be told of the change may others read the old list, for at most `cache_s` seconds.
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
from mpim_lab.im.services.batch_loader import Gathered
from mpim_lab.im.services.group_cache import MembersCopy
from mpim_lab.im.services.schema import Tables
from mpim_lab.mq.connection.bounds import MAX_INT, check_bounds
from mpim_lab.mq.idempotency.sql_database import NAME, SqlStore
from mpim_lab.mq.pubsub.queue import MessageQueue

VERSION = 1
MOST_ASKED = 500  # users a query is about
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


class Groups:
    """Who is in which group: `Groups(store, queue)`, over an SQL database and a Redis that need not be there.

    cache_s: for how long a copy of a group's members answers. most_members: of one group.
    All methods raise InvalidParameter (a name that is none), StoreFailed and StoreUncertain.
    """

    def __init__(
        self, store: SqlStore, queue: MessageQueue, *, cache_s: float = 60.0, most_members: int = 5_000
    ) -> None:
        check_bounds(1, MAX_INT, most_members=most_members)
        self._copy, self._most = MembersCopy(queue, cache_s), most_members
        self._tables = Tables(store, "groups", VERSION, GROUPS, MEMBERS)
        self._forgetting: set[asyncio.Task[None]] = set()
        self._groups_of = Gathered(self._groups_of_many, most=MOST_ASKED)

    # Changes

    async def create(self, group: str, owner: str, members: Sequence[str] = ()) -> tuple[str, ...]:
        """Make a group of its owner and `members`; gives all of them, sorted. Raises GroupExists, InvalidParameter."""
        checked_name("group", group)
        everybody = tuple(sorted({checked_name("uid", uid) for uid in (owner, *members)}))
        if len(everybody) > self._most:
            raise InvalidParameter(f"a group has at most {self._most:,} members, not {len(everybody):,}")
        line = {"name": group, "owner": owner, "made_at": int(time.time() * 1e3)}

        async def work(connection: AsyncConnection) -> tuple[str, ...]:
            try:
                await connection.execute(insert(GROUPS).values(line))
            except IntegrityError as error:
                raise GroupExists(f"there is a group {group!r} already") from error
            await connection.execute(insert(MEMBERS), [{"group_name": group, "uid": uid} for uid in everybody])
            return everybody

        return await self._change(group, work)

    async def join(self, group: str, uid: str) -> tuple[str, ...]:
        """Put a user into a group; gives its members. Joining twice is harmless. Raises NoSuchGroup.

        InvalidParameter: the group is full.
        """
        return await self._move("join", group, uid)

    async def leave(self, group: str, uid: str) -> tuple[str, ...]:
        """Take a user out of a group; gives its members. Leaving when not in is harmless. Raises NoSuchGroup."""
        return await self._move("leave", group, uid)

    async def _move(self, action: Literal["join", "leave"], group: str, uid: str) -> tuple[str, ...]:
        checked_name("group", group)
        checked_name("uid", uid)

        async def work(connection: AsyncConnection) -> tuple[str, ...]:
            lock = select(GROUPS.c.name).where(GROUPS.c.name == group).with_for_update()
            if (await connection.execute(lock)).first() is None:
                raise _no(group)
            members = set(
                (await connection.execute(select(MEMBERS.c.uid).where(MEMBERS.c.group_name == group))).scalars()
            )
            if action == "join" and uid not in members:
                if len(members) >= self._most:
                    raise InvalidParameter(f"group {group!r} is full: it has {len(members):,} members")
                await connection.execute(insert(MEMBERS).values(group_name=group, uid=uid))
                members.add(uid)
            elif action == "leave" and uid in members:
                await connection.execute(delete(MEMBERS).where(MEMBERS.c.group_name == group, MEMBERS.c.uid == uid))
                members.remove(uid)
            return tuple(sorted(members))

        return await self._change(group, work)

    async def _change(self, group: str, work: _Work) -> tuple[str, ...]:
        """Commit, then tell Redis; also when nothing changed, because whoever tried before may have died in between."""
        try:
            members = await self._tables.run(f"group {group!r} cannot be changed", work)
        except (StoreUncertain, asyncio.CancelledError):  # it may be committed
            await self._forget(group)
            raise
        await self._forget(group)
        return members

    async def _forget(self, group: str) -> None:
        """In a task of its own: whoever changed the group and is cancelled now has changed it."""
        task = asyncio.create_task(self._copy.forget(group))
        self._forgetting.add(task)
        task.add_done_callback(self._forgetting.discard)
        await asyncio.shield(task)

    # Questions

    async def members(self, group: str) -> tuple[str, ...]:
        """Who is in a group, sorted: from the copy, or from the database, of which a copy is made. Raises NoSuchGroup."""
        seen = await self._copy.look(checked_name("group", group))
        if seen.members is not None:
            return seen.members
        members = await self._read(group)
        await self._copy.keep(group, members, seen.version)
        return members

    async def _read(self, group: str) -> tuple[str, ...]:
        both = GROUPS.outerjoin(MEMBERS, GROUPS.c.name == MEMBERS.c.group_name)
        wanted = select(MEMBERS.c.uid).select_from(both).where(GROUPS.c.name == group)

        async def work(connection: AsyncConnection) -> list[str | None]:
            return list((await connection.execute(wanted)).scalars())

        rows = await self._tables.run(f"the members of group {group!r} cannot be read", work)
        if not rows:
            raise _no(group)
        return tuple(
            sorted(uid for uid in rows if uid is not None)
        )  # a group that all have left has one row, without one

    async def groups_of(self, uid: str) -> tuple[str, ...]:
        """The groups a user is in, sorted, from the database.

        Those who ask at the same time are asked for together: 10,000 clients that connect at once cost 20 queries.
        """
        return tuple(sorted(await self._groups_of.ask(checked_name("uid", uid)) or ()))

    async def _groups_of_many(self, uids: Sequence[str]) -> dict[str, list[str]]:
        wanted = select(MEMBERS.c.uid, MEMBERS.c.group_name).where(MEMBERS.c.uid.in_(uids))

        async def work(connection: AsyncConnection) -> dict[str, list[str]]:
            groups: dict[str, list[str]] = {}
            for uid, group in await connection.execute(wanted):
                groups.setdefault(uid, []).append(group)
            return groups

        return await self._tables.run("the groups of users cannot be read", work)


def _no(group: str) -> NoSuchGroup:
    return NoSuchGroup(f"there is no group {group!r}")
