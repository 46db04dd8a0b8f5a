"""A database that is locked, stopped or gone, callers that are cancelled.

Every wait ends, by name, and nothing is kept.
"""

import asyncio
import contextlib
import signal
import threading

import pytest
from sqlalchemy import Column, MetaData, String, Table, insert, select
from sqlalchemy.exc import IntegrityError

from mpim_lab.errors import InvalidParameter, StoreFailed, StoreUncertain, WorkCancelled, WrongLoop
from mpim_lab.mq.idempotency.sql_database import SqlDatabase
from mpim_lab.mq.idempotency.sql_inbox import SqlInbox

pytest_plugins = ["tests.databases"]

IN_TIME_S = 20
LINES = Table("lines", MetaData(), Column("what", String(20), primary_key=True))


async def write(store, what):
    async with store.transaction() as connection:
        await connection.execute(insert(LINES).values(what=what))


async def read(store):
    async with store.transaction() as connection:
        return {row.what for row in await connection.execute(select(LINES))}


def store_at(url, **options):
    store = SqlDatabase(url, **{"timeout_s": 5.0, "max_connections": 1, **options})
    store.register_tables(LINES)
    return store


@pytest.mark.parametrize("turn", [*range(0, 60, 4)])
async def test_a_caller_that_is_cancelled_at_any_moment_gives_its_connection_back(
    database_url, turn
):
    """The store has one connection.

    The next caller is served, and sees all of the transaction or nothing.
    """
    async with asyncio.timeout(IN_TIME_S), store_at(database_url) as store:
        victim = asyncio.create_task(write(store, "victim"))
        waits = asyncio.create_task(write(store, "waits"))
        for _ in range(turn):
            await asyncio.sleep(0)
        victim.cancel()
        await asyncio.wait([victim])
        await waits
        assert await read(store) - {"victim"} == {"waits"}
        if not victim.cancelled():
            assert "victim" in await read(store)


async def test_a_lock_that_is_held_for_too_long_is_named(tmp_path):
    """StoreFailed after `timeout_s`: nothing was kept; afterwards the next one is served."""
    url = f"sqlite+aiosqlite:///{tmp_path / 'a.db'}"
    async with (
        asyncio.timeout(IN_TIME_S),
        store_at(url) as one,
        store_at(url, timeout_s=0.2) as other,
    ):
        async with one.transaction():
            with pytest.raises(StoreFailed):
                await write(other, "late")
        await write(other, "now")
        assert await read(one) == {"now"}


async def test_a_transaction_inside_another_one_is_named_and_does_not_wait_for_ever(tmp_path):
    """The one connection is out: StoreFailed after `timeout_s`."""
    async with (
        asyncio.timeout(IN_TIME_S),
        store_at(f"sqlite+aiosqlite:///{tmp_path / 'a.db'}", timeout_s=0.2) as store,
    ):
        async with store.transaction():
            with pytest.raises(StoreFailed):
                await write(store, "inner")
        await write(store, "next")


async def test_a_transaction_that_runs_while_the_store_is_closed_leaves_no_connection(tmp_path):
    """It ends as it would have; later ones are refused for good."""
    store = store_at(f"sqlite+aiosqlite:///{tmp_path / 'a.db'}")
    async with asyncio.timeout(IN_TIME_S):
        async with store.transaction() as connection:
            await connection.execute(insert(LINES).values(what="a"))
            await store.close()
        with pytest.raises(StoreFailed) as error:
            await write(store, "b")
        assert not error.value.transient
        assert store._engine.pool.checkedout() == 0 and store._engine.pool.checkedin() == 0


@contextlib.contextmanager
def stopped(mariadb):
    """The database does nothing: connections stay open, and silent."""
    mariadb._guard.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        mariadb._guard.signal(signal.SIGCONT)


async def test_a_stopped_database_ends_every_call_by_name_and_the_store_goes_on(mariadb):
    """Beginning, a commit, somebody who is cancelled in the midst of a transaction, and closing."""
    async with mariadb.database() as url, asyncio.timeout(60):
        store = store_at(url, timeout_s=0.3)
        await write(store, "before")
        with stopped(mariadb), pytest.raises(StoreFailed):
            await read(store)
        with pytest.raises((StoreFailed, StoreUncertain)):
            async with contextlib.AsyncExitStack() as going_on, store.transaction() as connection:
                await connection.execute(insert(LINES).values(what="during"))
                going_on.enter_context(stopped(mariadb))
        assert "before" in await read(store)
        running = asyncio.create_task(hold(store, begun := asyncio.Event()))
        await begun.wait()
        with stopped(mariadb):
            running.cancel()
            await asyncio.wait([running])
        assert running.cancelled() and "held" not in await read(store)
        with stopped(mariadb):
            await store.close()


async def hold(store, begun):
    """Be in the midst of a transaction."""
    async with store.transaction() as connection:
        await connection.execute(insert(LINES).values(what="held"))
        begun.set()
        await asyncio.Event().wait()


async def test_a_database_that_is_not_there_is_named():
    """Whatever the driver raises about it."""
    for url in (
        "mysql+asyncmy://root@127.0.0.1:1/x",
        "mysql+asyncmy://root@no.such.host.invalid/x",
        "sqlite+aiosqlite:////no/x",
    ):
        async with asyncio.timeout(IN_TIME_S):
            store = store_at(url, timeout_s=2)
            with pytest.raises(StoreFailed):
                await write(store, "x")
            await store.close()


def test_another_event_loop_is_refused_at_once(tmp_path):
    """Transactions, opening and closing."""
    store = store_at(f"sqlite+aiosqlite:///{tmp_path / 'a.db'}")
    with asyncio.Runner() as first, asyncio.Runner() as second:
        first.run(write(store, "a"))
        for call in (lambda: write(store, "b"), store.open, store.close):
            with pytest.raises(WrongLoop):
                second.run(call())
        assert first.run(read(store)) == {"a"}
        first.run(store.close())


async def test_a_work_that_meets_somebody_elses_cancellation_has_failed(tmp_path):
    """By name, so that whoever called does not look cancelled.

    Nothing was kept, and the id may be tried again.
    """
    elsewhere = asyncio.get_running_loop().create_future()
    elsewhere.cancel()

    async def work(connection):
        await connection.execute(insert(LINES).values(what="half"))
        await elsewhere

    async with (
        asyncio.timeout(IN_TIME_S),
        store_at(f"sqlite+aiosqlite:///{tmp_path / 'a.db'}") as store,
    ):
        inbox = SqlInbox(store, "orders")
        with pytest.raises(WorkCancelled):
            await inbox.run("m1", work)
        assert await read(store) == set()
        assert await inbox.result("m1") is None


async def test_a_work_that_cannot_be_awaited_is_refused(tmp_path):
    """A stray `yield`, or no `async`: it would run nothing of it, or not be waited for."""

    def generator(connection):
        yield b"x"

    async def asynchronous(connection):
        yield b"x"

    async with (
        asyncio.timeout(IN_TIME_S),
        store_at(f"sqlite+aiosqlite:///{tmp_path / 'a.db'}") as store,
    ):
        inbox = SqlInbox(store, "orders")
        for work in (generator, asynchronous, lambda connection: b"x"):
            with pytest.raises(InvalidParameter):
                await inbox.run("m1", work)
            assert await inbox.result("m1") is None


async def test_a_database_that_cannot_be_opened_leaves_no_thread_behind():
    """The driver's thread reports to the event loop.

    One that comes too late writes a traceback to the terminal.
    """
    before = set(threading.enumerate())
    for _ in range(20):
        with pytest.raises(StoreFailed):
            async with (
                SqlDatabase("sqlite+aiosqlite:////nowhere/x.db") as store,
                store.transaction(),
            ):
                pass
        assert set(threading.enumerate()) <= before


async def loses_its_transaction(connection):
    """SQLite rolls back by itself, as it does when the disk is full.

    The work passes the error over, and goes on.
    """
    await connection.execute(insert(LINES).values(what="before"))
    with contextlib.suppress(IntegrityError):
        await connection.exec_driver_sql("insert or rollback into lines values ('there')")
    await connection.execute(insert(LINES).values(what="after"))
    return b"done"


async def test_a_transaction_that_sqlite_ended_by_itself_is_not_taken_for_committed(tmp_path):
    """What the block did before is gone, what it did afterwards is kept.

    StoreUncertain, and nothing else would be true.
    """
    async with (
        asyncio.timeout(IN_TIME_S),
        store_at(f"sqlite+aiosqlite:///{tmp_path / 'a.db'}") as store,
    ):
        await write(store, "there")
        with pytest.raises(StoreUncertain, match="ended the transaction"):
            async with store.transaction() as connection:
                await loses_its_transaction(connection)
        assert await read(store) == {"there", "after"}
        await write(store, "next")


async def test_a_work_whose_transaction_sqlite_ended_is_not_told_that_nothing_was_kept(tmp_path):
    """Something was: whoever asks is told that this is not certain, and may run it again."""
    async with (
        asyncio.timeout(IN_TIME_S),
        store_at(f"sqlite+aiosqlite:///{tmp_path / 'a.db'}") as store,
    ):
        await write(store, "there")
        with pytest.raises(StoreUncertain, match="undid the record") as raised:
            await SqlInbox(store, "work").run("m1", loses_its_transaction)
        assert raised.value.definite is False
        assert await read(store) == {"there", "after"}


@pytest.mark.parametrize("older_than_s", [-1, float("nan"), float("inf"), 10**30, True, "5", None])
async def test_an_age_that_makes_no_sense_is_refused_and_nothing_is_forgotten(
    tmp_path, older_than_s
):
    """By name, and not by what a database or a conversion makes of it."""
    async with (
        asyncio.timeout(IN_TIME_S),
        store_at(f"sqlite+aiosqlite:///{tmp_path / 'a.db'}") as store,
    ):
        inbox = SqlInbox(store, "work")

        async def work(connection):
            return b"done"

        await inbox.run("m1", work)
        with pytest.raises(InvalidParameter, match="older_than_s="):
            await inbox.purge(older_than_s)
        assert await inbox.result("m1") == b"done"
