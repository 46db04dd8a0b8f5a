"""SqlDatabase: one SQL database, shared by inbox and outbox.

Tables on first use, transactions with named errors.

SQLite in a file or in memory, PostgreSQL, MySQL and MariaDB by URL; the driver of the last three is
yours to install. SQLite has one writer at a time: here writers queue, in this process for the one
connection, among processes for the lock that BEGIN IMMEDIATE takes. Begun as readers, two of them
would each wait for the other to finish: "database is locked".

| what is acquired           | is released when                                                    |
|----------------------------|---------------------------------------------------------------------|
| a connection of the engine | its transaction ends, whichever way, or cannot be begun; one that   |
|                            | does not take its rollback within `timeout_s`, and any once the     |
|                            | store is closed, is closed                                          |
| a transaction              | it is committed, or rolled back, also when the caller is cancelled; |
|                            | if its client is gone or silent, the database rolls back by itself  |
| a memory database          | the store is closed                                                 |

Source: https://docs.sqlalchemy.org/en/21/dialects/sqlite.html (transactions with SQLite and the
sqlite3 driver); https://www.sqlite.org/wal.html, https://www.sqlite.org/lang_transaction.html
"""

import asyncio
import contextlib
import sqlite3
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any, Self

from sqlalchemy import AsyncAdaptedQueuePool, Connection, String, Table, event, select
from sqlalchemy.dialects.mysql import VARCHAR
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import IntegrityError, OperationalError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from mpim_lab.errors import InvalidMessage, InvalidParameter, MpimError, StoreFailed, StoreUncertain
from mpim_lab.mq.connection.bounds import check_bounds, check_times
from mpim_lab.mq.connection.handler import LoopAffinity

LOCK_POLL_S = 0.02
MAX_CHARACTERS = 255
MAX_CONNECTIONS = 100_000  # more than any database takes

# MySQL's usual comparison holds "a" and "A" for the same: the second message would count as a
# repeat, and be lost
NAME = String(MAX_CHARACTERS).with_variant(
    VARCHAR(MAX_CHARACTERS, charset="utf8mb4", collation="utf8mb4_bin"), "mysql", "mariadb"
)


class SqlDatabase:
    """An SQL database, for one event loop.

    `async with SqlDatabase("sqlite+aiosqlite:///shop.db") as database: ...`

    Args:
        url: As SQLAlchemy reads it.
        timeout_s: How long to wait for a free connection, for a lock, for an answer to one of our
            own statements or to a commit.
        max_connections: At most so many; SQLite has one.

    Raises:
        InvalidParameter: There is no such database, or a number is out of bounds.
    """

    def __init__(
        self, url: str | URL, *, timeout_s: float = 5.0, max_connections: int = 10
    ) -> None:
        check_times(timeout_s=timeout_s)
        check_bounds(1, MAX_CONNECTIONS, max_connections=max_connections)
        self._threads: set[threading.Thread] = set()  # of SQLite's connections
        try:
            self._url = make_url(url)
            self.is_sqlite = self._url.get_backend_name() == "sqlite"
            self._memory = (
                f"mpim-{uuid.uuid4().hex}" if self.is_sqlite and _is_in_memory(self._url) else ""
            )
            self._engine = self._create_engine(timeout_s, max_connections)
        except (SQLAlchemyError, ImportError, ValueError, TypeError) as error:
            # the URL itself is not repeated: it may hold a password
            raise InvalidParameter(f"no database that can be used here: {error}") from error
        self._timeout_s = timeout_s
        self._missing_tables = list[Table]()
        self._creation_lock = asyncio.Lock()
        self._loop, self._ending = LoopAffinity("this store"), set[asyncio.Task[None]]()
        self._running: dict[AsyncConnection, list[Callable[[], object]]] = {}
        # a memory database lasts as long as a connection to it
        self._memory_keeper: sqlite3.Connection | None = None
        self._is_closed = False

    def _create_engine(self, timeout_s: float, max_connections: int) -> AsyncEngine:
        limits: dict[str, Any] = {
            "pool_timeout": timeout_s,
            "max_overflow": 0,
            "hide_parameters": True,
        }
        if not self.is_sqlite:
            return create_async_engine(
                self._url, pool_size=max_connections, pool_pre_ping=True, **limits
            )
        url = self._url
        if self._memory:
            url = url.set(
                database=f"file:{self._memory}",
                query={"mode": "memory", "cache": "shared", "uri": "true"},
            )
        engine = create_async_engine(url, poolclass=AsyncAdaptedQueuePool, pool_size=1, **limits)
        event.listen(engine.sync_engine, "connect", _prepare_sqlite(timeout_s))
        event.listen(engine.sync_engine, "do_connect", self._use_known_threads)
        event.listen(engine.sync_engine, "begin", _begin_immediate)
        # a cancelled statement's cursor keeps the closed connection, and its lock, until it is
        # collected
        event.listen(
            engine.sync_engine,
            "invalidate",
            lambda connection, record, error: connection.rollback(),
        )
        return engine

    def _use_known_threads(self, dialect: Any, _: object, __: object, options: Any) -> None:
        """Note the thread of each connection as it is made: it lives on if connecting fails."""

        def connect(*words: Any, **options: Any) -> Any:
            connection = dialect.dbapi.aiosqlite.connect(*words, **options)
            connection._thread.daemon = True
            self._threads = {thread for thread in self._threads if thread.is_alive()}
            self._threads.add(connection._thread)
            return connection

        options["async_creator_fn"] = connect

    # Life

    def register_tables(self, *tables: Table) -> None:
        """Create these tables before the next transaction, where they are missing."""
        self._missing_tables += tables

    async def open(self) -> None:
        """Make the tables that are missing. Not needed: the first transaction does it.

        Raises:
            StoreFailed: They cannot be made, or the database was closed.
            WrongLoop: It belongs to another event loop.
        """
        self._loop.check()
        if self._is_closed:
            raise _closed()
        if self._memory and self._memory_keeper is None:
            self._memory_keeper = sqlite3.connect(
                f"file:{self._memory}?mode=memory&cache=shared", uri=True
            )
        if self._missing_tables:
            async with self._creation_lock:
                while self._missing_tables:
                    await self._create_table(self._missing_tables[0])
                    del self._missing_tables[0]

    async def _create_table(self, table: Table) -> None:
        for is_last in (False, True):
            try:
                async with (
                    self._transaction() as connection,
                    self.translate_errors(f"table {table.name} cannot be made"),
                ):
                    await connection.run_sync(table.create, checkfirst=True)
            except StoreFailed:
                if is_last:  # otherwise another process may have made it just now
                    raise
            else:
                return

    async def close(self) -> None:
        """Close all connections, those of transactions that run when these end. Idempotent.

        It takes at most `timeout_s`. A memory database is gone.
        """
        self._loop.check()
        self._is_closed = True
        try:
            with contextlib.suppress(
                SQLAlchemyError, OSError, TimeoutError
            ):  # a connection that does not answer
                async with asyncio.timeout(self._timeout_s):
                    await self._engine.dispose()
            if not self._running:
                await _join_threads(self._threads)
        finally:
            if self._memory_keeper is not None:
                self._memory_keeper.close()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    # Transactions

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        """Run a block in one transaction: committed at its end.

        What it raises rolls back and is passed on unchanged. The block neither commits nor rolls
        back by itself. A transaction inside another one of the same task would wait for it in vain.

        Yields:
            The connection.

        Raises:
            StoreFailed: Nothing was kept.
            StoreUncertain: Perhaps everything was.
        """
        await self.open()
        async with self._transaction() as connection:
            yield connection

    @contextlib.asynccontextmanager
    async def _transaction(self) -> AsyncIterator[AsyncConnection]:
        connection = await self._begin()
        waiting = self._running[connection] = []
        try:
            begun = connection.get_transaction()
            try:
                yield connection
            except Exception as error:
                if begun is not None and not (
                    begun.is_active or connection.invalidated or connection.closed
                ):
                    raise _ended_by_the_block() from error
                raise
            if begun is None or not begun.is_active or await self._was_ended(connection):
                raise _ended_by_the_block()
            await self._commit(connection)
        finally:
            del self._running[connection]
            await self._release(connection)
        for call in waiting:
            call()

    async def _was_ended(self, connection: AsyncConnection) -> bool:
        """SQLite may roll back by itself (the disk is full), and then commits each statement."""
        if not self.is_sqlite:
            return False
        raw: Any = await connection.get_raw_connection()
        return not raw.driver_connection.in_transaction

    async def _release(self, connection: AsyncConnection) -> None:
        """Roll back what is not committed, and return the connection.

        Whoever is cancelled here does not stop that.
        """
        ending = asyncio.create_task(self._end(connection))
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)
        await asyncio.shield(ending)

    async def _end(self, connection: AsyncConnection) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                await connection.rollback()
                if self._is_closed:
                    await connection.invalidate()
                await connection.close()
        except Exception:
            # a connection that broke, or is silent: the database rolls back by itself
            with contextlib.suppress(Exception):
                async with asyncio.timeout(self._timeout_s):
                    await connection.invalidate()
                    await connection.close()

    async def _begin(self) -> AsyncConnection:
        deadline = time.monotonic() + self._timeout_s
        while True:
            connection, before = self._engine.connect(), self._threads
            try:
                async with self.translate_errors("no transaction can be begun", timeouts=2):
                    await connection.start()
                    await connection.begin()
                if self._is_closed:
                    raise _closed()
                return connection
            except BaseException as error:
                await self._release(connection)
                # SQLite's own waiting for locks leaves out some: a memory database's, and that for
                # the change to WAL
                if not (
                    isinstance(error, StoreFailed)
                    and _is_locked(error)
                    and time.monotonic() < deadline
                ):
                    await _join_threads(self._threads - before)
                    raise
            await asyncio.sleep(LOCK_POLL_S)

    async def _commit(self, connection: AsyncConnection) -> None:
        # PostgreSQL answers the commit of a block that swallowed an error with a silent rollback
        if not self.is_sqlite:
            async with self.translate_errors("the transaction cannot be committed"):
                await connection.execute(select(1))
        try:
            async with asyncio.timeout(self._timeout_s):
                await connection.commit()
        except IntegrityError as error:
            # a constraint that is checked at the end: certainly refused
            raise StoreFailed(f"the commit was refused: {_error_text(error)}") from error
        except Exception as error:
            raise StoreUncertain(f"the commit was not confirmed: {_error_text(error)}") from error

    def after_commit(self, connection: object, call: Callable[[], object]) -> None:
        """Call something once the transaction is committed.

        Args:
            connection: The transaction's. At once if it is not one of `transaction()`'s.
            call: A plain function without arguments.
        """
        waiting = self._running.get(connection) if isinstance(connection, AsyncConnection) else None
        if waiting is None:
            call()
        else:
            waiting.append(call)

    @contextlib.asynccontextmanager
    async def translate_errors(self, what: str, *, timeouts: int = 1) -> AsyncIterator[None]:
        """Bound our own statements in time and translate what they raise.

        StoreFailed, for what is uncommitted is undone.

        timeouts: how many of the `timeout_s` they may take together.
        """
        try:
            async with asyncio.timeout(timeouts * self._timeout_s):
                yield
        except TimeoutError as error:
            raise StoreFailed(f"{what}: no answer in time") from error
        except MpimError:
            raise
        except Exception as error:  # the database layer's, or what a driver lets through
            raise StoreFailed(f"{what}: {_error_text(error)}") from error


def _closed() -> StoreFailed:
    error = StoreFailed("this store was closed by its owner")
    error.transient = False
    return error


def _ended_by_the_block() -> StoreUncertain:
    return StoreUncertain(
        "the block ended the transaction by itself: what it did may be kept in part"
    )


def checked_name(what: str, name: str) -> str:
    """Return a name that every database keeps and compares as it is.

    Printable, no blanks at its ends.

    Raise InvalidMessage for any other.

    >>> checked_name("message id", "018f-7a")
    '018f-7a'
    """
    is_kept = isinstance(name, str) and name.isprintable() and name == name.strip()
    if not is_kept or not 0 < len(name) <= MAX_CHARACTERS:
        raise InvalidMessage(
            f"a {what} is 1 to {MAX_CHARACTERS} printable characters, not {name!r:.300}"
        )
    return str.__str__(name)  # not a text of a class of its own: drivers look at the class


async def _join_threads(threads: set[threading.Thread]) -> None:
    """Wait for the end of aiosqlite's threads.

    They report to the loop, which may be closed next.
    """
    until = time.monotonic() + 1.0
    while any(thread.is_alive() for thread in threads) and time.monotonic() < until:
        await asyncio.sleep(0.001)


def _is_in_memory(url: URL) -> bool:
    return url.database in (None, "", ":memory:")


def _error_text(error: Exception) -> str:
    """Return the driver's error text, without the statement."""
    return f"{type(error).__name__}: {getattr(error, 'orig', None) or error}"


def _is_locked(error: StoreFailed) -> bool:
    return isinstance(error.__cause__, OperationalError) and "locked" in str(error.__cause__)


def _prepare_sqlite(timeout_s: float) -> Callable[[Any, object], None]:
    def prepare(connection: Any, _: object) -> None:
        connection.isolation_level = None  # the driver would begin too late, and as a reader
        cursor = connection.cursor()
        # FULL: a commit survives a power failure. Otherwise an acknowledged message could lose its
        # effect afterwards.
        for pragma in (
            f"busy_timeout={int(timeout_s * 1e3)}",
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
        ):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    return prepare


def _begin_immediate(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")
