"""OfflineStore: what waits for users who are away, in a SQL database, until their client says that it has it.

A row is one message for one user: unique by user, conversation and number, so storing it again changes nothing, whoever
does it and how often. Rows leave when the client acknowledged them (`remove`), when they have waited for `keep_s`
(`expire`), and when their user has more than `most_per_user`: then the oldest go, and that is told. It is the only loss
here, and the price for a disk that no user can fill.

The limit is looked at after a store, not for every user each time, because that means to count the user's rows: a user is
looked at once in a hundredth of the limit, on average, and so may be about a hundredth over it for a while.

Text is kept as it is, in any script, of at most 4,000 characters; names are compared letter by letter, case and all.

The rows of the offline store: their table, a message as a row, and the statements that databases have in dialects.
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
from mpim_lab.im.protocol.requests import MOST_TEXT, ChatMessage
from mpim_lab.im.services.batch_loader import Gathered
from mpim_lab.im.services.schema import Tables
from mpim_lab.mq.connection.bounds import MAX_INT, MAX_WAIT_S, check_bounds, check_times
from mpim_lab.mq.idempotency.sql_database import NAME, SqlStore, checked_name

Each = TypeVar("Each")
VERSION = 1
MOST_ROWS = 500  # rows, or users, that one statement is about
_MOST_NUMBER = 2**53

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
        Text().with_variant(mysql.TEXT(charset="utf8mb4", collation="utf8mb4_bin"), "mysql", "mariadb"),
        nullable=False,
    ),
    Column("at_ms", BigInteger, nullable=False),  # the message's own time
    Column("stored_at", BigInteger, nullable=False),  # milliseconds since 1970, by the clock of whoever stored it
    Index("mpim_offline_by_age", "stored_at"),
)
ROW = OFFLINE.c


def is_of(uid: str, conversation: str) -> tuple[ColumnElement[bool], ...]:
    """That a row waits for this user in this conversation."""
    return ROW.uid == uid, ROW.conversation == conversation


def line_of(message: ChatMessage) -> dict[str, Any]:
    """A message as columns. Raises InvalidMessage.

    Checked here, because MySQL's "insert or ignore" would cut off what is too long, and say nothing.
    """
    if not 0 <= message.sequence <= _MOST_NUMBER or not 0 <= message.at_ms <= _MOST_NUMBER:
        raise InvalidMessage(f"number {message.sequence} and time {message.at_ms}: 0 to 2**53")
    if len(message.text) > MOST_TEXT:
        raise InvalidMessage(f"a text has at most {MOST_TEXT:,} characters, not {len(message.text):,}")
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
    """The statement that passes over rows which are there; drivers run it for many rows at once."""
    if dialect == "sqlite":
        return sqlite.insert(OFFLINE).on_conflict_do_nothing()
    if dialect == "postgresql":  # not every driver counts the rows of many at once: have them named
        return postgresql.insert(OFFLINE).on_conflict_do_nothing().returning(ROW.sequence)
    return mysql.insert(OFFLINE).prefix_with("IGNORE")


@contextlib.asynccontextmanager
async def quiet_repeats(connection: AsyncConnection) -> AsyncIterator[None]:
    """Have MySQL and MariaDB say nothing of the rows that are passed over: drivers fetch and log that, row by row."""
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
    while chunk := list(islice(rest, MOST_ROWS)):
        yield chunk


async def drop_oldest(connection: AsyncConnection, uid: str, count: int) -> int:
    """Delete a user's oldest rows, so many; by the time of the messages, so that a conversation keeps its end."""
    age = (ROW.at_ms, ROW.conversation, ROW.sequence)
    last = select(*age).where(ROW.uid == uid).order_by(*age).limit(1).offset(count - 1)
    cut = (await connection.execute(last)).one()
    return (await connection.execute(delete(OFFLINE).where(ROW.uid == uid, row_of(*age) <= row_of(*cut)))).rowcount


_log = logging.getLogger(__name__)
MOST_PAGE = 1_000
_EXPIRING = 1_000  # rows a transaction, about: a long one would keep everybody else waiting
_PATIENT_ROWS = 10_000  # the store's time-out is for so many rows
_LOOKS = 100  # at each user, while as many messages come as the limit allows


def database_url() -> str:
    """The database of this system: MPIM_DATABASE_URL, or SQLite in memory, which ends with the store that opened it."""
    return os.environ.get("MPIM_DATABASE_URL", "").strip() or "sqlite+aiosqlite:///:memory:"


class Stored(NamedTuple):
    """How many rows were new, and how many of the oldest rows of users over their limit were dropped."""

    new: int
    dropped: int


class OfflineStore:
    """What waits for users who are away: `OfflineStore(SqlStore(database_url()))`. Its tables are made on first use.

    most_per_user: rows of one user, in all conversations. keep_s: for how long a row may wait, from when it was stored.
    clock: seconds since 1970. All methods raise StoreFailed (nothing was kept) and StoreUncertain (do it again to know).
    """

    def __init__(
        self,
        store: SqlStore,
        *,
        most_per_user: int = 10_000,
        keep_s: float = 30 * 86_400,
        clock: Callable[[], float] = time.time,
    ) -> None:
        check_bounds(1, MAX_INT, most_per_user=most_per_user)
        check_times(100 * MAX_WAIT_S, keep_s=keep_s)
        self._most, self._keep_s, self._clock = most_per_user, keep_s, clock
        self._tables = Tables(store, "offline", VERSION, OFFLINE)
        self._waiting = Gathered(self._waiting_of, most=MOST_ROWS)

    # Storing

    async def store_many(self, uids: Sequence[str], messages: Sequence[ChatMessage]) -> Stored:
        """Store every message for every user, in one transaction: all or nothing. What is there already stays as it is.

        Rows are written in the order of their keys, so that two who store the same ones wait for each other instead of
        locking each other out. Raises InvalidMessage, too.
        """
        users = sorted({checked_name("uid", uid) for uid in uids})
        lines = [line_of(message) for message in sorted(messages, key=lambda each: (each.conversation, each.sequence))]
        if not users or not lines:
            return Stored(0, 0)
        looked_at = self._to_look_at(users, len(lines))

        async def work(connection: AsyncConnection) -> tuple[int, dict[str, int]]:
            new = await self._insert(connection, users, lines)
            return new, await self._drop(connection, looked_at)

        patience = 1 + len(users) * len(lines) // _PATIENT_ROWS
        new, dropped = await self._tables.run("messages cannot be stored", work, patience=patience)
        for uid, count in dropped.items():
            _log.warning("%s has more than %d messages waiting: the oldest %d were dropped", uid, self._most, count)
        return Stored(new, sum(dropped.values()))

    async def _insert(self, connection: AsyncConnection, users: list[str], lines: list[dict[str, Any]]) -> int:
        stored_at = self._now_ms()
        statement, new = insert_or_ignore(connection.dialect.name), 0
        rows = ({"uid": uid, "stored_at": stored_at} | line for uid in users for line in lines)
        async with quiet_repeats(connection):
            for chunk in chunks(rows):
                done = await connection.execute(statement, chunk)
                new += len(done.all()) if done.returns_rows else done.rowcount
        return new

    def _to_look_at(self, users: list[str], count: int) -> list[str]:
        """Those whose rows are counted this time, drawn so that each stored row has the same chance to bring it about."""
        rarely = max(1, self._most // _LOOKS)
        chance = 1 - (1 - 1 / rarely) ** count
        return [uid for uid in users if random.random() < chance]

    async def _drop(self, connection: AsyncConnection, users: list[str]) -> dict[str, int]:
        """Delete the oldest rows of those who have too many; gives how many of whom."""
        dropped: dict[str, int] = {}
        for chunk in chunks(users):
            size = func.count()
            wanted = select(ROW.uid, size).where(ROW.uid.in_(chunk)).group_by(ROW.uid).having(size > self._most)
            for uid, count in (await connection.execute(wanted)).all():
                dropped[uid] = await drop_oldest(connection, uid, count - self._most)
        return dropped

    # Reading

    async def page(self, uid: str, conversation: str, after: int, limit: int) -> list[ChatMessage]:
        """What waits for a user in a conversation after number `after`, in order, at most `limit` (1 to 1,000)."""
        check_bounds(1, MOST_PAGE, limit=limit)
        columns = (ROW.conversation, ROW.sequence, ROW.id, ROW.sender, ROW.text, ROW.at_ms)
        wanted = select(*columns).where(*is_of(uid, conversation), ROW.sequence > after)

        async def work(connection: AsyncConnection) -> list[ChatMessage]:
            found = await connection.execute(wanted.order_by(ROW.sequence).limit(limit))
            return [ChatMessage(*row) for row in found]

        return await self._tables.run("what waits cannot be read", work)

    async def waiting(self, uid: str) -> dict[str, int]:
        """In which conversations something waits for a user, and the last number of each.

        Those who ask at the same time are asked for together: 10,000 clients that connect at once cost 20 queries.
        """
        return await self._waiting.ask(uid) or {}

    async def _waiting_of(self, uids: Sequence[str]) -> dict[str, dict[str, int]]:
        last = func.max(ROW.sequence)
        wanted = select(ROW.uid, ROW.conversation, last).where(ROW.uid.in_(uids))

        async def work(connection: AsyncConnection) -> dict[str, dict[str, int]]:
            waiting: dict[str, dict[str, int]] = {}
            for uid, conversation, number in await connection.execute(wanted.group_by(ROW.uid, ROW.conversation)):
                waiting.setdefault(uid, {})[conversation] = number
            return waiting

        return await self._tables.run("what waits cannot be read", work)

    # Removing

    async def remove(self, uid: str, conversation: str, up_to: int) -> int:
        """Delete what a user's client has acknowledged, up to this number; gives how many rows. Twice is harmless."""

        async def work(connection: AsyncConnection) -> int:
            gone = await connection.execute(delete(OFFLINE).where(*is_of(uid, conversation), ROW.sequence <= up_to))
            return gone.rowcount

        return await self._tables.run("what was acknowledged cannot be deleted", work)

    async def expire(self) -> int:
        """Delete what was stored longer ago than `keep_s`, about a thousand rows a transaction; gives how many."""
        oldest, total = self._now_ms() - int(self._keep_s * 1e3), 0
        is_old = ROW.stored_at < oldest
        end = select(ROW.stored_at).where(is_old).order_by(ROW.stored_at).limit(1).offset(_EXPIRING - 1)

        async def work(connection: AsyncConnection) -> tuple[int, bool]:
            cut = (await connection.execute(end)).scalar_one_or_none()
            gone = await connection.execute(delete(OFFLINE).where(is_old if cut is None else ROW.stored_at <= cut))
            return gone.rowcount, cut is None

        is_last = False
        while not is_last:
            count, is_last = await self._tables.run("old messages cannot be deleted", work)
            total += count
        return total

    def _now_ms(self) -> int:
        return int(self._clock() * 1e3)
