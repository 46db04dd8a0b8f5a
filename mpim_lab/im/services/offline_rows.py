"""The rows of the offline store: their table, a message as a row, and the statements that databases have in dialects."""

import contextlib
from collections.abc import AsyncIterator, Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

from sqlalchemy import BigInteger, Column, ColumnElement, Index, Insert, MetaData, Table, Text, delete, select, text
from sqlalchemy import tuple_ as row_of
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from mpim_lab.errors import InvalidMessage
from mpim_lab.im.protocol.requests import MOST_TEXT, ChatMessage
from mpim_lab.mq.idempotency.sql_database import NAME, checked_name

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
