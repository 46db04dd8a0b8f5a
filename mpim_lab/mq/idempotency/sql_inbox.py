"""SqlInbox: a message's effect and its record in one transaction of one SQL database.

| the message's record    | then `run(message_id, work)` ...                                  |
|-------------------------|-------------------------------------------------------------------|
| is not there            | records it, does the work, stores its result, commits all three   |
|                         | together                                                          |
| is there                | does nothing and returns the first result                         |
| is being made elsewhere | waits for that transaction: then as above, whichever way it ended |

A crash anywhere before the commit leaves neither record nor effect, so the message may be handled
again; after the commit both are there, so it need not be. At least once in delivery, exactly once
in effect.

What this covers: effects in the database that holds the records, made through the connection that
`work` is given.

What it cannot cover: an effect outside of it (an e-mail, another service, another database). If the
process dies after the e-mail and before the commit, a repeat sends it again; if the commit fails,
an e-mail has gone out for something that never happened. Write such an effect down with
`SqlOutbox.add` in the same `work`, and let a relay do it: then it happens only if the transaction
holds, and at least once. Only the other side can make that once, by an idempotency key.

Source: Helland, "Life beyond Distributed Transactions", 2007 (a receiver that remembers its
messages); https://microservices.io/patterns/communication-style/idempotent-consumer.html
"""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Index,
    LargeBinary,
    MetaData,
    Table,
    delete,
    insert,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from mpim_lab.errors import InvalidParameter, StoreFailed, StoreUncertain, WorkCancelled
from mpim_lab.mq.connection.bounds import MAX_WAIT_S, check_bounds
from mpim_lab.mq.connection.encoding import encode_payload
from mpim_lab.mq.connection.handler import TaskCancellation, check_handler
from mpim_lab.mq.idempotency.sql_database import NAME, SqlDatabase, checked_name

MAX_RACES = 3
MAX_RESULT_BYTES = 1024 * 1024
Work = Callable[[AsyncConnection], Awaitable[bytes | None]]
INBOX = Table(
    "mpim_inbox",
    MetaData(),
    Column("scope", NAME, primary_key=True),
    Column("message_id", NAME, primary_key=True),
    Column("result", LargeBinary(MAX_RESULT_BYTES), nullable=False),
    Column(
        "handled_at", BigInteger, nullable=False
    ),  # milliseconds since 1970, by the clock of whoever handled it
    Index("mpim_inbox_by_age", "scope", "handled_at"),
)


class SqlInbox:
    """The inbox (deduplication table) of one kind of work: `SqlInbox(database, "payments")`.

    Args:
        database: Where effects and records are kept.
        scope: The kind of work. Scopes know nothing of each other's ids.
        clock: Seconds since 1970; only `purge` reads what it returned.

    Raises:
        InvalidMessage: The scope is no name that every database keeps.
    """

    def __init__(
        self, database: SqlDatabase, scope: str, *, clock: Callable[[], float] = time.time
    ) -> None:
        self.scope, self._database, self._clock = checked_name("scope", scope), database, clock
        database.register_tables(INBOX)

    async def run(self, message_id: str, work: Work) -> bytes:
        """Do the work if nobody has; otherwise return the first result.

        Args:
            message_id: The message's id.
            work: `work(connection)` has its effect through that connection, which it neither
                commits nor rolls back, and may return a result of at most 1 MiB. An ORM session
                joins with `AsyncSession(bind=connection)`. What it raises is raised here, nothing
                is kept, and the message may be tried again.

        Returns:
            The result: this one's, or the first one's.

        Raises:
            InvalidMessage: The id or the result cannot be kept.
            InvalidParameter: The work cannot be awaited.
            StoreFailed: Nothing was kept.
            StoreUncertain: Run it again with the same id to know.
            WorkCancelled: The work, not the caller, was cancelled.
        """
        message_id = checked_name("message id", message_id)
        for _ in range(MAX_RACES):
            try:
                return await self._run_in_transaction(message_id, work)
            except _ConcurrentDuplicate:
                # what was begun is rolled back; the next look finds the other's record
                continue
        raise StoreFailed(
            f"{message_id!r} was marked and forgotten by others {MAX_RACES} times in a row; "
            "nothing was done"
        )

    async def _run_in_transaction(self, message_id: str, work: Work) -> bytes:
        async with self._database.transaction() as connection:
            first = await self._read_result(connection, message_id)
            if first is not None:
                return first
            await self._insert_record(connection, message_id)
            result = encode_payload(
                await _run_work(work, connection, message_id) or b"", MAX_RESULT_BYTES
            )
            await self._save_result(connection, message_id, result)
            return result

    async def _read_result(self, connection: AsyncConnection, message_id: str) -> bytes | None:
        async with self._database.translate_errors("the record cannot be read"):
            found = await connection.execute(
                select(INBOX.c.result).where(*self._matches(message_id))
            )
        row = found.first()
        return None if row is None else bytes(row.result)

    async def _insert_record(self, connection: AsyncConnection, message_id: str) -> None:
        """Record first, work afterwards.

        Who is second waits here and has not had its effect yet.
        """
        row = {
            "scope": self.scope,
            "message_id": message_id,
            "result": b"",
            "handled_at": self._now_ms(),
        }
        try:
            async with self._database.translate_errors("the record cannot be made"):
                await connection.execute(insert(INBOX).values(row))
        except StoreFailed as error:
            if isinstance(error.__cause__, IntegrityError):
                raise _ConcurrentDuplicate from error
            raise

    async def _save_result(
        self, connection: AsyncConnection, message_id: str, result: bytes
    ) -> None:
        async with self._database.translate_errors("the result cannot be kept"):
            kept = await connection.execute(
                update(INBOX).where(*self._matches(message_id)).values(result=result)
            )
        if (
            kept.rowcount != 1
        ):  # a work that swallowed the database's error, after which the record was undone
            raise StoreUncertain(
                f"the database undid the record of {message_id!r} while the work went on: what "
                "it did since may be kept"
            )

    async def result(self, message_id: str) -> bytes | None:
        """Return the first result of a message.

        Args:
            message_id: The message's id.

        Returns:
            The result; None if the message is not handled, or its record purged.

        Raises:
            InvalidMessage: The id is none.
            StoreFailed: The record cannot be read.
        """
        async with self._database.transaction() as connection:
            return await self._read_result(connection, checked_name("message id", message_id))

    async def purge(self, older_than_s: float) -> int:
        """Remove this scope's records of messages handled long ago.

        A repeat that comes after its record was purged is handled again, as if it were new. So keep
        records longer than any sender repeats, any stream is replayed or any dead letter waits.
        Without this the table grows for ever.

        Args:
            older_than_s: How long ago, in seconds.

        Returns:
            How many records were removed.
        """
        check_bounds(0.0, 100 * MAX_WAIT_S, older_than_s=older_than_s)
        oldest = self._now_ms() - int(older_than_s * 1e3)
        async with (
            self._database.transaction() as connection,
            self._database.translate_errors("records cannot be purged"),
        ):
            gone = await connection.execute(
                delete(INBOX).where(INBOX.c.scope == self.scope, INBOX.c.handled_at < oldest)
            )
        return gone.rowcount

    def _matches(self, message_id: str) -> tuple[ColumnElement[bool], ...]:
        return INBOX.c.scope == self.scope, INBOX.c.message_id == message_id

    def _now_ms(self) -> int:
        return int(self._clock() * 1e3)


async def _run_work(work: Work, connection: AsyncConnection, message_id: str) -> bytes | None:
    """Do the work and return its result.

    A CancelledError that is not the caller's is the work's own failure.
    """
    cancellations, begun = TaskCancellation(), work(connection)
    if not inspect.isawaitable(begun):
        check_handler(work)
        raise InvalidParameter(f"the work {work!r} gave nothing to await; write `async def`")
    try:
        return await begun
    except asyncio.CancelledError as error:
        if cancellations.was_requested:
            raise
        raise WorkCancelled(
            f"the work on {message_id!r} awaited what somebody else cancelled"
        ) from error


class _ConcurrentDuplicate(Exception):
    """Another worker's transaction inserted the record first."""
