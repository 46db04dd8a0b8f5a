"""VersionedTables: the SQL tables of one part of the system, and their version beside them.

| version in the database | then the first use ...                                                 |
|-------------------------|------------------------------------------------------------------------|
| none                    | makes the tables that are missing, then writes the version             |
| the one of this code    | goes on                                                                |
| another one             | fails with StoreFailed: rows are neither misread nor written by the    |
|                         | wrong columns                                                          |

The version is written after the tables: a crash in between leaves tables without one, and the next
use makes the rest.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from sqlalchemy import Column, Integer, MetaData, Table, insert, select
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from mpim_lab.errors import StoreFailed
from mpim_lab.mq.connection.resp import ignore_result
from mpim_lab.mq.idempotency.sql_database import NAME, SqlDatabase

Result = TypeVar("Result")
MAX_ATTEMPTS = 4
# MySQL and MariaDB; PostgreSQL: serialization failure, deadlock
_DEADLOCKS = (1213, "40001", "40P01")

SCHEMA = Table(
    "mpim_schema",
    MetaData(),
    Column("component", NAME, primary_key=True),
    Column("version", Integer, nullable=False),
)


class VersionedTables:
    """The tables of one component: `VersionedTables(store, "offline", 1, OFFLINE)`.

    They are created, and their version compared, on first use.
    """

    def __init__(self, store: SqlDatabase, component: str, version: int, *tables: Table) -> None:
        self.store, self.component, self.version = store, component, version
        self._tables, self._is_ensured = tables, False
        self._ensuring: asyncio.Task[None] | None = None
        store.register_tables(SCHEMA)

    async def transaction(
        self,
        what: str,
        work: Callable[[AsyncConnection], Awaitable[Result]],
        *,
        timeout_factor: int = 1,
    ) -> Result:
        """Run `work(connection)` in one transaction.

        After a deadlock with another one, a few times more.

        what: how an error begins that a statement of `work` ends in. timeout_factor: how many of
        the store's time-outs `work` may take. Raises StoreFailed (nothing was stored),
        StoreUncertain (perhaps all was), and unchanged whatever else `work` raises (nothing was
        stored).
        """
        await self.ensure()
        for tries_left in reversed(range(MAX_ATTEMPTS)):
            try:
                async with (
                    self.store.transaction() as connection,
                    self.store.translate_errors(what, timeouts=timeout_factor),
                ):
                    return await work(connection)
            except StoreFailed as error:
                if not tries_left or not _is_deadlock(error):
                    raise
        raise AssertionError("the last try returns or raises")

    async def ensure(self) -> None:
        """Make what is missing, and compare the versions, once. Raises StoreFailed.

        Concurrent callers wait for the same check: behind a lock, a hundred would wait a hundred
        times as long for a database that does not answer. A caller that is cancelled leaves it to
        the others.
        """
        if self._is_ensured:
            return
        if self._ensuring is None or self._ensuring.done():
            self._ensuring = asyncio.create_task(self._ensure())
            self._ensuring.add_done_callback(ignore_result)
        await asyncio.shield(self._ensuring)

    async def _ensure(self) -> None:
        found = await self._stored_version()
        if found is None:
            self.store.register_tables(*self._tables)
            await self.store.open()
            await self._write_version()
            found = await self._stored_version()
        if found != self.version:
            age = (
                "newer than this program"
                if (found or 0) > self.version
                else "older, and nothing brings it up"
            )
            raise StoreFailed(
                f"the database has version {found} of the tables of {self.component!r}, which is "
                f"{age}: this program knows version {self.version}; nothing was read or written"
            )
        self._is_ensured = True

    async def _stored_version(self) -> int | None:
        wanted = select(SCHEMA.c.version).where(SCHEMA.c.component == self.component)
        async with (
            self.store.transaction() as connection,
            self.store.translate_errors("the tables' version cannot be read"),
        ):
            row = (await connection.execute(wanted)).first()
        return None if row is None else int(row.version)

    async def _write_version(self) -> None:
        row = {"component": self.component, "version": self.version}
        try:
            async with (
                self.store.transaction() as connection,
                self.store.translate_errors("the version cannot be written"),
            ):
                await connection.execute(insert(SCHEMA).values(row))
        except StoreFailed as error:
            if not isinstance(error.__cause__, IntegrityError):
                raise  # otherwise another process wrote it just now


def _is_deadlock(error: StoreFailed) -> bool:
    cause = error.__cause__
    said = cause.orig if isinstance(cause, DBAPIError) else None
    code = getattr(said, "sqlstate", None) or next(iter(getattr(said, "args", ())), None)
    return code in _DEADLOCKS
