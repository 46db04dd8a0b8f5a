"""OfflineStore: what waits for users who are away, in a SQL database.

It waits until their client says that it has it.

A row is one message for one user: unique by user, conversation and number, so storing it again
changes nothing, whoever does it and how often. Rows are deleted when the client has acknowledged
them (`remove`), when they are older than `retention_s` (`expire`), and when their user has more
than `max_per_user`: then the oldest go, and that is logged. It is the only loss here, and the price
for a disk that no user can fill.

The limit is checked after a store, not for every user each time, because that means to count the
user's rows: a user is checked once in a hundredth of the limit, on average, and so may be about a
hundredth over it for a while.

Text is kept as it is, in any script, of at most 4,000 characters; names are compared letter by
letter, case and all.

The rows of the offline store: their table, a message as a row, and the statements that databases
have in dialects.
"""

import contextlib
import logging
import os
import random
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Index,
    Insert,
    MetaData,
    Table,
    Text,
    delete,
    func,
    select,
    text,
)
from sqlalchemy import tuple_ as row_of
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from mpim_lab.errors import InvalidMessage
from mpim_lab.im.protocol.requests import MAX_TEXT_CHARS, ChatMessage
from mpim_lab.im.services.batch_loader import BatchLoader
from mpim_lab.im.services.schema import VersionedTables
from mpim_lab.mq.connection.bounds import MAX_INT, MAX_WAIT_S, check_bounds, check_times
from mpim_lab.mq.idempotency.sql_database import NAME, SqlDatabase, checked_name

Each = TypeVar("Each")
VERSION = 1
MAX_ROWS = 500  # rows, or users, that one statement is about
_MAX_NUMBER = 2**53

OFFLINE = Table(
    "mpim_offline",
    MetaData(),
    Column("uid", NAME, primary_key=True),
    Column("conversation", NAME, primary_key=True),
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("id", NAME, nullable=False),
    Column("sender", NAME, nullable=False),
    Column(
        "text",
        Text().with_variant(
            mysql.TEXT(charset="utf8mb4", collation="utf8mb4_bin"), "mysql", "mariadb"
        ),
        nullable=False,
    ),
    Column("at_ms", BigInteger, nullable=False),  # the message's own time
    # milliseconds since 1970, by the clock of whoever stored it
    Column("stored_at", BigInteger, nullable=False),
    Index("mpim_offline_by_age", "stored_at"),
)
ROW = OFFLINE.c


def owned_by(uid: str, conversation: str) -> tuple[ColumnElement[bool], ...]:
    """Return the conditions that a row waits for this user in this conversation."""
    return ROW.uid == uid, ROW.conversation == conversation


def row_values(message: ChatMessage) -> dict[str, Any]:
    """Return a message as column values. Raises InvalidMessage.

    Checked here, because MySQL's "insert or ignore" would cut off what is too long, and say
    nothing.
    """
    if not 0 <= message.sequence <= _MAX_NUMBER or not 0 <= message.at_ms <= _MAX_NUMBER:
        raise InvalidMessage(f"number {message.sequence} and time {message.at_ms}: 0 to 2**53")
    if len(message.text) > MAX_TEXT_CHARS:
        raise InvalidMessage(
            f"a text has at most {MAX_TEXT_CHARS:,} characters, not {len(message.text):,}"
        )
    try:
        message.text.encode()
    except UnicodeEncodeError as error:
        raise InvalidMessage(f"the text holds half a character: {error.reason}") from error
    return {
        "conversation": checked_name("conversation", message.conversation),
        "sequence": message.sequence,
        "id": checked_name("message id", message.id),
        "sender": checked_name("sender", message.sender),
        "text": message.text,
        "at_ms": message.at_ms,
    }


def insert_or_ignore(dialect: str) -> Insert:
    """Return the statement that skips rows which are there.

    Drivers run it for many rows at once.
    """
    if dialect == "sqlite":
        return sqlite.insert(OFFLINE).on_conflict_do_nothing()
    if dialect == "postgresql":  # not every driver counts the rows of many at once: have them named
        return postgresql.insert(OFFLINE).on_conflict_do_nothing().returning(ROW.sequence)
    return mysql.insert(OFFLINE).prefix_with("IGNORE")


@contextlib.asynccontextmanager
async def ignore_duplicate_warnings(connection: AsyncConnection) -> AsyncIterator[None]:
    """Keep MySQL and MariaDB from warning of each row that is skipped.

    Drivers fetch and log that, row by row.
    """
    is_talkative = connection.dialect.name in ("mysql", "mariadb")
    if is_talkative:
        await connection.execute(text("SET SESSION max_error_count = 0"))
    yield
    if is_talkative:
        await connection.execute(text("SET SESSION max_error_count = DEFAULT"))


def chunks(rows: Iterable[Each]) -> Iterator[list[Each]]:
    """Cut into lists for one statement each; no more than one of them is in memory.

    >>> [len(chunk) for chunk in chunks(range(1_200))]
    [500, 500, 200]
    """
    rest = iter(rows)
    while chunk := list(islice(rest, MAX_ROWS)):
        yield chunk


async def drop_oldest(connection: AsyncConnection, uid: str, count: int) -> int:
    """Delete a user's oldest rows, so many.

    By the time of the messages, so that a conversation keeps its end.
    """
    age = (ROW.at_ms, ROW.conversation, ROW.sequence)
    last = select(*age).where(ROW.uid == uid).order_by(*age).limit(1).offset(count - 1)
    cut = (await connection.execute(last)).one()
    return (
        await connection.execute(
            delete(OFFLINE).where(ROW.uid == uid, row_of(*age) <= row_of(*cut))
        )
    ).rowcount


_log = logging.getLogger(__name__)
MAX_PAGE = 1_000
_EXPIRE_BATCH = 1_000  # rows a transaction, about: a long one would keep everybody else waiting
_ROWS_PER_TIMEOUT = 10_000  # the store's time-out is for so many rows
_QUOTA_SAMPLES = 100  # checks of each user, while as many messages come as the limit allows


def database_url() -> str:
    """Return the database of this system.

    MPIM_DATABASE_URL, or SQLite in memory, which ends with its store.
    """
    return os.environ.get("MPIM_DATABASE_URL", "").strip() or "sqlite+aiosqlite:///:memory:"


class StoreResult(NamedTuple):
    """The result of a store.

    How many rows were new, and how many rows of users over their limit were dropped.
    """

    new: int
    dropped: int


class OfflineStore:
    """The store of messages for users who are away: `OfflineStore(SqlDatabase(database_url()))`.

    Its tables are created on first use. All methods raise StoreFailed (nothing was stored) and
    StoreUncertain (retry to know).

    Args:
        store: The database.
        max_per_user: Rows of one user, in all conversations.
        retention_s: Seconds that a row may wait, from when it was stored.
        clock: Seconds since 1970.

    Raises:
        InvalidParameter: A number makes no sense.
    """

    def __init__(
        self,
        store: SqlDatabase,
        *,
        max_per_user: int = 10_000,
        retention_s: float = 30 * 86_400,
        clock: Callable[[], float] = time.time,
    ) -> None:
        check_bounds(1, MAX_INT, max_per_user=max_per_user)
        check_times(100 * MAX_WAIT_S, retention_s=retention_s)
        self._max_per_user, self._retention_s, self._clock = max_per_user, retention_s, clock
        self._tables = VersionedTables(store, "offline", VERSION, OFFLINE)
        self._pending_loader = BatchLoader(self._load_pending, max_batch=MAX_ROWS)

    # Storing

    async def store_many(self, uids: Sequence[str], messages: Sequence[ChatMessage]) -> StoreResult:
        """Store every message for every user, in one transaction: all or nothing.

        What is there already stays as it is. Rows are written in the order of their keys, so that
        two who store the same ones wait for each other instead of locking each other out.

        Args:
            uids: The users.
            messages: The messages, with their numbers.

        Returns:
            How many rows were new, and how many old ones were dropped.

        Raises:
            InvalidMessage: A message cannot be kept as it is.
        """
        users = sorted({checked_name("uid", uid) for uid in uids})
        rows = [
            row_values(message)
            for message in sorted(messages, key=lambda each: (each.conversation, each.sequence))
        ]
        if not users or not rows:
            return StoreResult(0, 0)
        sampled = self._sample_for_quota(users, len(rows))

        async def work(connection: AsyncConnection) -> tuple[int, dict[str, int]]:
            new = await self._insert(connection, users, rows)
            return new, await self._enforce_quota(connection, sampled)

        timeout_factor = 1 + len(users) * len(rows) // _ROWS_PER_TIMEOUT
        new, dropped = await self._tables.transaction(
            "messages cannot be stored", work, timeout_factor=timeout_factor
        )
        for uid, count in dropped.items():
            _log.warning(
                "%s has more than %d messages waiting: the oldest %d were dropped",
                uid,
                self._max_per_user,
                count,
            )
        return StoreResult(new, sum(dropped.values()))

    async def _insert(
        self, connection: AsyncConnection, users: list[str], messages: list[dict[str, Any]]
    ) -> int:
        stored_at = self._now_ms()
        statement, new = insert_or_ignore(connection.dialect.name), 0
        rows = (
            {"uid": uid, "stored_at": stored_at} | message for uid in users for message in messages
        )
        async with ignore_duplicate_warnings(connection):
            for chunk in chunks(rows):
                done = await connection.execute(statement, chunk)
                new += len(done.all()) if done.returns_rows else done.rowcount
        return new

    def _sample_for_quota(self, users: list[str], count: int) -> list[str]:
        """Draw those whose rows are counted now; each stored row has the same probability."""
        every = max(1, self._max_per_user // _QUOTA_SAMPLES)
        probability = 1 - (1 - 1 / every) ** count
        return [uid for uid in users if random.random() < probability]

    async def _enforce_quota(self, connection: AsyncConnection, users: list[str]) -> dict[str, int]:
        """Delete the oldest rows of those who have too many. Return how many of whom."""
        dropped: dict[str, int] = {}
        for chunk in chunks(users):
            size = func.count()
            wanted = (
                select(ROW.uid, size)
                .where(ROW.uid.in_(chunk))
                .group_by(ROW.uid)
                .having(size > self._max_per_user)
            )
            for uid, count in (await connection.execute(wanted)).all():
                dropped[uid] = await drop_oldest(connection, uid, count - self._max_per_user)
        return dropped

    # Reading

    async def page(self, uid: str, conversation: str, after: int, limit: int) -> list[ChatMessage]:
        """Return what waits for a user in a conversation.

        Args:
            uid: The user.
            conversation: The conversation.
            after: The number after which it begins.
            limit: At most so many messages, 1 to 1,000.

        Returns:
            The messages, in order.

        Raises:
            InvalidParameter: `limit` makes no sense.
        """
        check_bounds(1, MAX_PAGE, limit=limit)
        columns = (ROW.conversation, ROW.sequence, ROW.id, ROW.sender, ROW.text, ROW.at_ms)
        wanted = select(*columns).where(*owned_by(uid, conversation), ROW.sequence > after)

        async def work(connection: AsyncConnection) -> list[ChatMessage]:
            found = await connection.execute(wanted.order_by(ROW.sequence).limit(limit))
            return [ChatMessage(*row) for row in found]

        return await self._tables.transaction("what waits cannot be read", work)

    async def pending(self, uid: str) -> dict[str, int]:
        """Return in which conversations messages wait for a user, and the last number of each.

        Concurrent calls share a query: 10,000 clients that connect at once cost 20 queries.

        Args:
            uid: The user.

        Returns:
            The last number that waits, by conversation.
        """
        return await self._pending_loader.load(uid) or {}

    async def _load_pending(self, uids: Sequence[str]) -> dict[str, dict[str, int]]:
        last = func.max(ROW.sequence)
        wanted = select(ROW.uid, ROW.conversation, last).where(ROW.uid.in_(uids))

        async def work(connection: AsyncConnection) -> dict[str, dict[str, int]]:
            waiting: dict[str, dict[str, int]] = {}
            for uid, conversation, number in await connection.execute(
                wanted.group_by(ROW.uid, ROW.conversation)
            ):
                waiting.setdefault(uid, {})[conversation] = number
            return waiting

        return await self._tables.transaction("what waits cannot be read", work)

    # Removing

    async def remove(self, uid: str, conversation: str, up_to: int) -> int:
        """Delete what a user's client has acknowledged. Idempotent.

        Args:
            uid: The user.
            conversation: The conversation.
            up_to: The last number to delete.

        Returns:
            How many rows were deleted.
        """

        async def work(connection: AsyncConnection) -> int:
            gone = await connection.execute(
                delete(OFFLINE).where(*owned_by(uid, conversation), ROW.sequence <= up_to)
            )
            return gone.rowcount

        return await self._tables.transaction("what was acknowledged cannot be deleted", work)

    async def expire(self) -> int:
        """Delete what was stored longer ago than `retention_s`, about 1,000 rows a transaction.

        Returns:
            How many rows were deleted.
        """
        oldest, total = self._now_ms() - int(self._retention_s * 1e3), 0
        is_old = ROW.stored_at < oldest
        end = (
            select(ROW.stored_at)
            .where(is_old)
            .order_by(ROW.stored_at)
            .limit(1)
            .offset(_EXPIRE_BATCH - 1)
        )

        async def work(connection: AsyncConnection) -> tuple[int, bool]:
            cut = (await connection.execute(end)).scalar_one_or_none()
            gone = await connection.execute(
                delete(OFFLINE).where(is_old if cut is None else ROW.stored_at <= cut)
            )
            return gone.rowcount, cut is None

        is_last = False
        while not is_last:
            count, is_last = await self._tables.transaction("old messages cannot be deleted", work)
            total += count
        return total

    def _now_ms(self) -> int:
        return int(self._clock() * 1e3)
