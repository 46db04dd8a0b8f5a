"""SqlOutbox: the transactional outbox.

What a transaction wants to send is a row in it; a relay sends it after the commit.

To change a database and then send a message is two steps in two places: a crash between them leaves
an order nobody hears of, and the other way round an announced order that does not exist. So the
sender writes the message as a row, in the transaction of the business change: both or neither. A
relay reads rows, sends each, and deletes it after the stream's answer.

| the relay dies ...                   | then the row is ...       | and the stream has it   |
|--------------------------------------|---------------------------|-------------------------|
| before it sends                      | still there: sent later   | once                    |
| after sending, before deleting       | still there: sent again   | twice, with the SAME id |
| after deleting                       | gone                      | once                    |

At least once, then: the receiver recognises repeats by the id, with `SqlInbox` or
`IdempotencyStore`.

| a row fails because ...                   | then                                               |
|-------------------------------------------|----------------------------------------------------|
| the server cannot take anything for now   | all rows stay, and all are tried again, with a     |
|                                           | growing pause                                      |
| the server refuses it (WRONGTYPE, NOPERM) | it and the later ones of its stream stay; those of |
|                                           | other streams go on; each refusal is logged, the   |
|                                           | pause of that stream grows                         |
| the queue or the store was closed         | the relay ends, with that error                    |

Order: each relay sends by ascending row id, and a stream's rows stop at the first that fails, so
the first copies of a stream's rows arrive in that order, also with several relays. SQLite commits
in the order of the ids. PostgreSQL and MySQL number rows when they are written: of two transactions
at the same time the one numbered first may be committed, and sent, last. No row is skipped by that:
a relay asks for the rows that are there, not for those above the last it saw.

Source: https://microservices.io/patterns/data/transactional-outbox.html and /polling-publisher.html
"""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Collection
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import NamedTuple

from sqlalchemy import (
    BigInteger,
    Column,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    delete,
    func,
    insert,
    select,
)
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from mpim_lab.errors import CommandRejected, InvalidMessage, MpimError
from mpim_lab.events import now
from mpim_lab.mq.connection.bounds import MAX_INT, check_bounds, check_times
from mpim_lab.mq.connection.config import ConnectionConfig
from mpim_lab.mq.connection.encoding import encode_payload
from mpim_lab.mq.connection.handler import StoppableLoop
from mpim_lab.mq.connection.retry import Backoff
from mpim_lab.mq.idempotency.sql_database import NAME, SqlDatabase, checked_name
from mpim_lab.mq.pubsub.queue import MessageQueue
from mpim_lab.mq.streams.entries import DATA

_log = logging.getLogger(__name__)
# the field that carries the message id; the payload is in "data", as `Stream.add` writes it
ID = "id"
MAX_PAYLOAD_BYTES = 1024 * 1024
MAX_ROWS = 1_000

OUTBOX = Table(
    "mpim_outbox",
    MetaData(),
    Column(
        "id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True
    ),
    Column("stream_name", NAME, nullable=False),
    Column("message_id", NAME, nullable=False),
    Column("payload", LargeBinary(MAX_PAYLOAD_BYTES), nullable=False),
    Column(
        "added_at", BigInteger, nullable=False
    ),  # milliseconds since 1970: how long has the oldest been waiting?
    # otherwise SQLite gives the highest id again once its row is deleted
    sqlite_autoincrement=True,
)


class OutboxMessage(NamedTuple):
    """One pending message of the outbox. `id` ascends in the order of writing."""

    id: int
    stream_name: str
    message_id: str
    payload: bytes


class SqlOutbox:
    """A transactional outbox, whose messages a relay sends: `SqlOutbox(database)`.

    Make it before the transaction that uses it: it needs its table.

    Args:
        database: Where the messages wait.
    """

    def __init__(self, database: SqlDatabase) -> None:
        self._database, self.added = database, asyncio.Event()
        database.register_tables(OUTBOX)

    async def add(
        self,
        connection: AsyncConnection | AsyncSession,
        stream_name: str,
        message_id: str,
        payload: bytes | str,
    ) -> None:
        """Write a message in the caller's own transaction.

        It is sent if, and only if, that is committed.

        After an error, let the transaction roll back.

        Args:
            connection: The transaction's.
            stream_name: Where to it is sent.
            message_id: Made once (`new_message_id()`), before the first attempt at the transaction,
                and kept if that is repeated.
            payload: Bytes, or text, which is kept as UTF-8.

        Raises:
            InvalidMessage: It cannot be kept as it is.
            StoreFailed: It cannot be written.
        """
        row = {
            "stream_name": checked_name("stream name", stream_name),
            "message_id": checked_name("message id", message_id),
            "payload": encode_payload(payload, MAX_PAYLOAD_BYTES),
            "added_at": int(time.time() * 1e3),
        }
        async with self._database.translate_errors("the message cannot be written"):
            await connection.execute(insert(OUTBOX).values(row))
        self._database.after_commit(connection, self.added.set)

    async def pending(
        self, *, count: int = 100, excluding: Collection[str] = ()
    ) -> list[OutboxMessage]:
        """Return the oldest rows not known to be sent.

        Args:
            count: At most so many.
            excluding: The streams whose rows are left out.

        Returns:
            The rows, oldest first.

        Raises:
            StoreFailed: They cannot be read.
        """
        check_bounds(1, MAX_INT, count=count)
        columns = (OUTBOX.c.id, OUTBOX.c.stream_name, OUTBOX.c.message_id, OUTBOX.c.payload)
        async with (
            self._database.transaction() as connection,
            self._database.translate_errors("the outbox cannot be read"),
        ):
            wanted = (
                select(*columns)
                .where(OUTBOX.c.stream_name.not_in(list(excluding)))
                .order_by(OUTBOX.c.id)
                .limit(count)
            )
            found = await connection.execute(wanted)
            return [
                OutboxMessage(row.id, row.stream_name, row.message_id, bytes(row.payload))
                for row in found
            ]

    async def count(self) -> int:
        """Count the pending rows.

        Returns:
            How many there are.

        Raises:
            StoreFailed: They cannot be read.
        """
        async with (
            self._database.transaction() as connection,
            self._database.translate_errors("the outbox cannot be read"),
        ):
            return int(
                (await connection.execute(select(func.count()).select_from(OUTBOX))).scalar_one()
            )

    async def delete(self, *ids: int) -> int:
        """Delete rows: those that were sent, or one that a person gives up.

        Args:
            *ids: Their numbers.

        Returns:
            How many of them there were.
        """
        if not ids:
            return 0
        async with (
            self._database.transaction() as connection,
            self._database.translate_errors("rows cannot be deleted"),
        ):
            return (await connection.execute(delete(OUTBOX).where(OUTBOX.c.id.in_(ids)))).rowcount

    def relay(
        self, queue: MessageQueue, *, batch_size: int = 100, poll_interval_s: float = 0.5
    ) -> "OutboxRelay":
        """Make a relay that sends this outbox's rows.

        Args:
            queue: The queue with the streams.
            batch_size: See OutboxRelay.
            poll_interval_s: See OutboxRelay.

        Returns:
            The relay.
        """
        return OutboxRelay(self, queue, batch_size=batch_size, poll_interval_s=poll_interval_s)


class OutboxRelay:
    """The sender of an outbox's rows to their streams, as the fields "id" and "data".

    `await relay.run()`, and `await relay.stop()` from elsewhere. Several relays lose nothing and
    may send the same row each: duplicates, which the id makes harmless.

    Args:
        outbox: Where the rows are.
        queue: The queue with the streams.
        batch_size: How many rows are read at once.
        poll_interval_s: How often to look for what other processes wrote; what this process commits
            is noticed at once.
    """

    def __init__(
        self,
        outbox: SqlOutbox,
        queue: MessageQueue,
        *,
        batch_size: int = 100,
        poll_interval_s: float = 0.5,
    ) -> None:
        check_bounds(1, MAX_ROWS, batch_size=batch_size)
        check_times(poll_interval_s=poll_interval_s)
        self._outbox = outbox
        self._queue = queue
        self._batch_size = batch_size
        self._poll_interval_s = poll_interval_s
        self._backoff, self._close_timeout_s = Backoff(), ConnectionConfig().close_timeout_s
        self._refusals: dict[str, _Refusal] = {}
        self._loop = StoppableLoop()

    async def relay_once(self, limit: int | None = None) -> int:
        """Send the oldest rows, one after the other.

        A row that fails and the later rows of its stream stay.

        Args:
            limit: At most so many; None: a batch.

        Returns:
            How many were sent.

        Raises:
            MpimError: What `Stream.add` raises for the first row that fails, after the rows of
                other streams were sent, if it was refused for itself.
            StoreFailed: The rows that were sent could not be deleted: they will be sent again.
            StoreUncertain: The same, perhaps.
        """
        check_bounds(1, MAX_INT, limit=self._batch_size if limit is None else limit)
        done = _Round(self._batch_size if limit is None else limit)
        await self._relay(done)
        if done.refused:
            raise next(iter(done.refused.values()))
        return done.sent

    async def _relay(self, done: "_Round") -> None:
        """Page by page, until as many are sent as may be, or no more can be sent now."""
        page_is_full = True
        while page_is_full and done.sent < done.limit:
            wanted = done.limit - done.sent
            rows = await self._outbox.pending(
                count=wanted, excluding=done.paused | done.refused.keys()
            )
            page_is_full = len(rows) == wanted
            await self._relay_page(rows, done)

    async def _relay_page(self, rows: list[OutboxMessage], done: "_Round") -> None:
        sent: list[int] = []
        try:
            for row in rows:
                if row.stream_name in done.refused:
                    continue
                try:
                    await self._queue.stream(row.stream_name).add(
                        {ID: row.message_id, DATA: row.payload}
                    )
                except (CommandRejected, InvalidMessage) as error:
                    if error.transient:
                        raise
                    done.refused[row.stream_name] = error
                else:
                    sent.append(row.id)
        except (Exception, asyncio.CancelledError):
            # not when the process goes down: then nothing more is done
            await self._outbox.delete(*sent)
            raise
        await self._outbox.delete(*sent)
        done.sent += len(sent)

    async def run(self) -> None:
        """Send until `stop`.

        A server or database that is away is waited for; rows stay where they are meanwhile.

        Raises QueueClosed or StoreFailed once queue or store are closed, and whatever else no
        repeat can change.
        """
        with self._loop:
            await self._loop.run(self._poll_once, self._backoff, self._on_error)

    async def _poll_once(self) -> None:
        self._outbox.added.clear()  # before reading: what is committed while we read sets it again
        done = _Round(
            self._batch_size,
            {name for name, refusal in self._refusals.items() if now() < refusal.until},
        )
        await self._relay(done)
        self._record_refusals(done)
        if done.sent < self._batch_size and not self._loop.is_stopping:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._poll_interval_s):
                    await self._outbox.added.wait()

    def _on_error(self, error: MpimError) -> None:
        if not error.transient:
            raise error
        _log.warning("outbox: %s: %s", type(error).__name__, error)

    def _record_refusals(self, done: "_Round") -> None:
        """A stream's rows are tried again later and later, until one of them is taken."""
        for name, error in done.refused.items():
            times = self._refusals[name].times + 1 if name in self._refusals else 1
            delay_s = self._backoff.delay_s(times, random.random())
            self._refusals[name] = _Refusal(times, now() + delay_s)
            _log.warning(
                "outbox: to %r: %s: %s; tried again in %.1f s",
                name,
                type(error).__name__,
                error,
                delay_s,
            )
        for name in self._refusals.keys() - done.refused.keys() - done.paused:
            del self._refusals[name]

    async def stop(self) -> None:
        """Finish the rows that were read, and wait until `run` has returned.

        After `close_timeout_s` it is cancelled.

        It may be run again then. A relay that has never run ends as soon as it begins.
        """
        await self._loop.request_stop()
        self._outbox.added.set()
        await self._loop.join(self._close_timeout_s)


@dataclass
class _Round:
    """One look at the outbox: how many rows were sent, and which streams' rows were refused."""

    limit: int
    paused: AbstractSet[str] = frozenset()
    refused: dict[str, MpimError] = field(default_factory=dict)
    sent: int = 0


class _Refusal(NamedTuple):
    times: int
    until: float
