"""SqlInbox on real SQLite databases.

Record and effect are kept together or not at all, whatever dies when.
"""

import asyncio
import contextlib
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Column, Integer, MetaData, String, Table, func, insert, select, text
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.ext.asyncio import AsyncSession

from mpim_lab.errors import (
    InvalidMessage,
    InvalidParameter,
    StoreFailed,
    StoreUncertain,
    WorkCancelled,
)
from mpim_lab.mq.idempotency.sql_database import SqlDatabase
from mpim_lab.mq.idempotency.sql_inbox import INBOX, SqlInbox

LEDGER = Table(
    "ledger",
    MetaData(),
    Column("line", Integer, primary_key=True),
    Column("message_id", String(255), nullable=False),
)


def url_of(path):
    return f"sqlite+aiosqlite:///{path}"


@contextlib.asynccontextmanager
async def opened(path, scope="payments", **options):
    """An inbox of one database, with a ledger in which the work has its effects."""
    async with SqlDatabase(path if "://" in str(path) else url_of(path), **options) as store:
        store.register_tables(LEDGER)
        yield SqlInbox(store, scope), store


@pytest.fixture(params=["file", "memory"])
async def database(request, tmp_path):
    """An inbox and its store."""
    url = (
        url_of(tmp_path / "shop.db") if request.param == "file" else "sqlite+aiosqlite:///:memory:"
    )
    async with opened(url) as pair:
        yield pair


def paying(message_id, result=b"paid", then=None):
    """A work whose effect is a line in the ledger; `then`: raised after the effect."""

    async def work(connection):
        await connection.execute(insert(LEDGER).values(message_id=message_id))
        if then is not None:
            raise then
        return result

    return work


async def lines(store):
    """How often each message had its effect."""
    async with store.transaction() as connection:
        found = await connection.execute(select(LEDGER.c.message_id))
        return Counter(found.scalars())


async def records(store):
    async with store.transaction() as connection:
        return (await connection.execute(select(func.count()).select_from(INBOX))).scalar_one()


class Crash(BaseException):
    """The process goes down: nobody handles this."""


@contextlib.contextmanager
def commit_that(store, how):
    """The next commits end with an error of the driver.

    "refused" before, "unanswered" after they happened.
    """
    dialect = store._engine.sync_engine.dialect
    really = dialect.do_commit

    def do_commit(connection):
        if how == "unanswered":
            really(connection)
        raise sqlite3.OperationalError("disk I/O error")

    dialect.do_commit = do_commit
    try:
        yield
    finally:
        dialect.do_commit = really


# Once


async def test_the_first_result_is_given_to_every_repeat_and_the_effect_happens_once(database):
    """Whatever the repeat's own work would have given."""
    inbox, store = database
    assert await inbox.run("m1", paying("m1", b"first")) == b"first"
    for _ in range(3):
        assert await inbox.run("m1", paying("m1", b"again")) == b"first"
    assert await lines(store) == {"m1": 1}
    assert await inbox.result("m1") == b"first" and await inbox.result("m2") is None


async def test_a_repeat_does_not_call_the_work(database):
    """What it does outside of the database happens no second time once the first is committed."""
    inbox, _ = database
    called = []

    async def work(connection):
        called.append(connection)

    assert [await inbox.run("m1", work), await inbox.run("m1", work)] == [b"", b""]
    assert len(called) == 1


@pytest.mark.parametrize("result", [None, b"", b"\x00\xff", b"x" * 1024 * 1024])
async def test_results_are_kept_unchanged(database, result):
    """None counts as empty."""
    inbox, _ = database
    expected = result or b""
    assert await inbox.run("m1", paying("m1", result)) == expected
    assert await inbox.run("m1", paying("m1", b"other")) == expected


async def test_scopes_know_nothing_of_each_other(database):
    """The same message is handled once by each kind of work."""
    inbox, store = database
    parcels = SqlInbox(store, "parcels")
    assert await inbox.run("m1", paying("m1", b"paid")) == b"paid"
    assert await parcels.run("m1", paying("m1", b"sent")) == b"sent"
    assert await lines(store) == {"m1": 2}


async def test_ids_that_look_alike_are_different_messages(database):
    """Case, accents, other scripts."""
    inbox, store = database
    ids = ["a", "A", "á", "订单", "a b", "%", "_"]
    for each in ids:
        await inbox.run(each, paying(each))
    assert await lines(store) == dict.fromkeys(ids, 1)


async def test_twenty_at_once_have_one_effect(database):
    """All get the same result."""
    inbox, store = database
    results = await asyncio.gather(
        *(inbox.run("m1", paying("m1", b"by %d" % number)) for number in range(20))
    )
    assert len(set(results)) == 1
    assert await lines(store) == {"m1": 1}


async def test_who_is_second_in_a_race_gets_the_first_result(database, monkeypatch):
    """As on a database where both look before either has inserted.

    The uniqueness of the record decides.
    """
    inbox, store = database
    await inbox.run("m1", paying("m1", b"first"))
    look, looks = SqlInbox._read_result, []

    async def too_early(self, connection, message_id):
        looks.append(message_id)
        return None if len(looks) == 1 else await look(self, connection, message_id)

    monkeypatch.setattr(SqlInbox, "_read_result", too_early)
    assert await inbox.run("m1", paying("m1", b"second")) == b"first"
    assert len(looks) == 2 and await lines(store) == {"m1": 1}


async def test_an_orm_session_joins_the_transaction(database):
    """Also one that commits by itself: the outer transaction decides."""
    inbox, store = database

    async def work(connection):
        async with AsyncSession(bind=connection) as session:
            await session.execute(insert(LEDGER).values(message_id="m1"))
            await session.commit()
        raise OSError("afterwards")

    with pytest.raises(OSError, match="afterwards"):
        await inbox.run("m1", work)
    assert not await lines(store) and not await records(store)


# What goes wrong


async def test_an_error_in_the_work_undoes_effect_and_mark(database):
    """It is raised unchanged, and the message may be tried again."""
    inbox, store = database
    error = ValueError("card declined")
    with pytest.raises(ValueError, match="card declined") as raised:
        await inbox.run("m1", paying("m1", then=error))
    assert raised.value is error
    assert not await lines(store) and not await records(store)
    assert await inbox.run("m1", paying("m1")) == b"paid"
    assert await lines(store) == {"m1": 1}


async def test_a_databases_refusal_of_the_effect_undoes_the_mark(database):
    """The work's own statements raise what SQLAlchemy raises."""
    inbox, store = database

    async def work(connection):
        await connection.execute(insert(LEDGER).values(message_id="m1"))
        await connection.execute(text("insert into ledger (message_id) values (null)"))

    with pytest.raises(IntegrityError):
        await inbox.run("m1", work)
    assert not await lines(store) and not await records(store)


async def test_a_crash_before_the_commit_leaves_neither(database):
    """Something that nobody catches passes through."""
    inbox, store = database
    with pytest.raises(Crash):
        await inbox.run("m1", paying("m1", then=Crash()))
    assert not await lines(store) and not await records(store)
    assert await inbox.run("m1", paying("m1")) == b"paid"


async def test_a_cancelled_run_leaves_neither_and_gives_the_database_free(database):
    """In the midst of the work, or while it waits for its turn."""
    inbox, store = database
    begun = asyncio.Event()

    async def work(connection):
        await connection.execute(insert(LEDGER).values(message_id="m1"))
        begun.set()
        await asyncio.sleep(60)

    first = asyncio.create_task(inbox.run("m1", work))
    await begun.wait()
    second = asyncio.create_task(inbox.run("m1", work))
    await asyncio.sleep(0)
    second.cancel()
    first.cancel()
    assert all(
        isinstance(end, asyncio.CancelledError)
        for end in await asyncio.gather(first, second, return_exceptions=True)
    )
    assert not await lines(store) and not await records(store)
    assert await inbox.run("m1", paying("m1")) == b"paid"


async def test_a_run_that_is_cancelled_anywhere_is_kept_whole_or_not_at_all(database):
    """Between any two steps of the event loop; what was there before stays, in memory, too."""
    inbox, store = database
    await inbox.run("old", paying("old"))
    for steps in range(60):
        name = f"m{steps}"
        task = asyncio.create_task(inbox.run(name, paying(name)))
        for _ in range(steps):
            await asyncio.sleep(0 if steps % 2 else 0.0002)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        kept = (await lines(store))[name]
        assert kept == (await inbox.result(name) is not None)
        assert await inbox.run(name, paying(name)) == b"paid"
    assert await lines(store) == {"old": 1} | {f"m{steps}": 1 for steps in range(60)}


@pytest.mark.parametrize(("how", "kept"), [("refused", False), ("unanswered", True)])
async def test_a_commit_without_an_answer_is_uncertain_and_running_again_tells(database, how, kept):
    """The error says that it may have happened.

    The same id finds out, and the effect happens once either way.
    """
    inbox, store = database
    await store.open()
    with commit_that(store, how), pytest.raises(StoreUncertain, match="disk I/O error") as raised:
        await inbox.run("m1", paying("m1", b"first"))
    assert raised.value.definite is False and isinstance(raised.value.__cause__, OperationalError)
    assert await lines(store) == ({"m1": 1} if kept else {})
    assert await inbox.run("m1", paying("m1", b"second")) == (b"first" if kept else b"second")
    assert await lines(store) == {"m1": 1}


async def test_a_work_that_ends_the_transaction_by_itself_is_told(database):
    """Its record and its effects may have parted: silence would be worse."""
    inbox, _ = database

    async def commits(connection):
        await connection.commit()

    async def rolls_back(connection):
        await connection.rollback()

    with pytest.raises(StoreUncertain, match="ended the transaction"):
        await inbox.run("m1", commits)
    with pytest.raises(StoreUncertain, match="ended the transaction"):
        await inbox.run("m2", rolls_back)
    assert await inbox.run("m2", paying("m2")) == b"paid"


async def test_a_work_that_commits_and_then_fails_is_not_taken_for_undone(database):
    """Its record is kept, with what it did.

    To say that nothing was, and that it may be tried again, would not be true.
    """
    inbox, _ = database

    async def commits_and_fails(connection):
        await connection.commit()
        raise KeyError("afterwards")

    with pytest.raises(StoreUncertain, match="ended the transaction") as raised:
        await inbox.run("m1", commits_and_fails)
    assert isinstance(raised.value.__cause__, KeyError)
    assert await inbox.run("m2", paying("m2")) == b"paid"


async def test_a_result_that_cannot_be_kept_undoes_the_work(database):
    """Too large, or no bytes."""
    inbox, store = database
    for result in (b"x" * (1024 * 1024 + 1), 17):
        with pytest.raises(InvalidMessage):
            await inbox.run("m1", paying("m1", result))
    assert not await lines(store) and not await records(store)


@pytest.mark.parametrize("id", ["", " ", "a ", "a\n", "a\0", "x" * 256, b"a", None, 7])
async def test_an_id_that_databases_keep_differently_is_refused(database, id):
    """Empty, blank at its ends, unprintable, too long, no text."""
    inbox, store = database
    with pytest.raises(InvalidMessage):
        await inbox.run(id, paying("m1"))
    assert not await lines(store)


async def test_a_locked_database_fails_in_time_and_nothing_was_done(tmp_path):
    """The lock is another program's; once it is gone the message is handled."""
    async with opened(tmp_path / "shop.db", timeout_s=0.2) as (inbox, store):
        await store.open()
        other = sqlite3.connect(tmp_path / "shop.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreFailed, match="locked") as raised:
            await inbox.run("m1", paying("m1"))
        assert raised.value.definite is True
        other.execute("ROLLBACK")
        other.close()
        assert await inbox.run("m1", paying("m1")) == b"paid"
        assert await lines(store) == {"m1": 1}


async def test_waiting_for_ones_turn_ends_in_time(tmp_path):
    """A work that takes too long holds the others up, and they are told.

    A transaction in a transaction, too.
    """
    async with opened(tmp_path / "shop.db", timeout_s=0.1) as (inbox, _):

        async def nested(connection):
            await inbox.run("m2", paying("m2"))

        with pytest.raises(StoreFailed, match="no transaction can be begun"):
            await inbox.run("m1", nested)
        assert await inbox.run("m1", paying("m1")) == b"paid"


async def test_a_database_that_is_not_there_has_a_name(tmp_path):
    """Nothing was done: a directory that is missing, a file that is no database."""
    (tmp_path / "picture.db").write_bytes(b"no database at all" * 1_000)
    for path in (tmp_path / "missing" / "shop.db", tmp_path / "picture.db"):
        async with opened(path, timeout_s=0.2) as (inbox, _):
            with pytest.raises(StoreFailed, match=r"unable to open|not a database") as raised:
                await inbox.run("m1", paying("m1"))
            assert raised.value.definite is True


@pytest.mark.parametrize(
    "url", ["nonsense", "sqlite:///plain.db", "oracle9://x", "postgresql+nosuch://u:secret@h/d"]
)
def test_a_url_that_cannot_be_used_is_refused_without_repeating_it(url):
    """A driver that is missing, one that is not async; the password stays out of the message."""
    with pytest.raises(InvalidParameter) as raised:
        SqlDatabase(url)
    assert "secret" not in str(raised.value)


async def test_a_closed_store_refuses(tmp_path):
    """Closing twice is harmless."""
    async with opened(tmp_path / "shop.db") as (inbox, store):
        await inbox.run("m1", paying("m1"))
    await store.close()
    with pytest.raises(StoreFailed, match="closed"):
        await inbox.run("m1", paying("m1"))


# Forgetting


async def test_a_forgotten_message_is_handled_again(database):
    """A record's lifetime is for how long a repeat is recognised; other scopes keep theirs."""
    _, store = database
    clock = [1_000.0]
    inbox, other = (
        SqlInbox(store, scope, clock=lambda: clock[0]) for scope in ("payments", "parcels")
    )
    await inbox.run("old", paying("old"))
    await other.run("old", paying("other"))
    clock[0] += 100
    await inbox.run("new", paying("new"))
    assert await inbox.purge(100) == 0
    assert await inbox.purge(99) == 1
    assert await inbox.run("new", paying("new", b"again")) == b"paid"
    assert await inbox.run("old", paying("old", b"again")) == b"again"
    assert await lines(store) == {"old": 2, "new": 1, "other": 1}
    with pytest.raises(InvalidParameter):
        await inbox.purge(-1)


# Processes

SCRIPT = """
import asyncio, os, signal, sys
sys.path[:0] = {path!r}
from test_sql_inbox import opened, paying, insert, LEDGER

async def main(file, step, *ids):
    async with opened(file, timeout_s=30) as (inbox, _):
        async def work(connection):
            await connection.execute(insert(LEDGER).values(message_id="m1"))
            print("done, not committed", flush=True)
            await asyncio.sleep(60)
        if step == "before":
            await inbox.run("m1", work)
        for id in ids:
            await inbox.run(id, paying(id, str(os.getpid()).encode()))
        if step == "after":
            os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main(*sys.argv[1:]))
"""


def process(path, *words):
    """Another process that works on the same file."""
    script = SCRIPT.format(path=[str(Path(__file__).parent)])
    return subprocess.Popen(
        [sys.executable, "-c", script, path, *words], stdout=subprocess.PIPE, text=True
    )


async def test_a_process_that_is_killed_between_effect_and_commit_leaves_neither(tmp_path):
    """SIGKILL; the message is then handled by another one, at once."""
    path = tmp_path / "shop.db"
    with process(path, "before") as killed:
        assert await asyncio.to_thread(killed.stdout.readline) == "done, not committed\n"
        killed.kill()
    assert killed.returncode == -signal.SIGKILL
    async with opened(path) as (inbox, store):
        assert not await lines(store) and not await records(store)
        assert await inbox.run("m1", paying("m1")) == b"paid"
        assert await lines(store) == {"m1": 1}


async def test_mark_and_effect_outlive_a_process_that_is_killed_after_the_commit(tmp_path):
    """It closed nothing; who comes next gets its result."""
    path = tmp_path / "shop.db"
    with process(path, "after", "m1") as killed:
        pass
    assert killed.returncode == -signal.SIGKILL
    for _ in range(2):  # and outlive being closed and opened again
        async with opened(path) as (inbox, store):
            assert await inbox.run("m1", paying("m1")) == str(killed.pid).encode()
            assert await lines(store) == {"m1": 1}


async def test_processes_that_race_have_each_effect_once(tmp_path):
    """Four open a new file at the same time and handle the same messages."""
    path, ids = tmp_path / "shop.db", [f"m{number}" for number in range(25)]
    racing = [process(path, "never", *ids) for _ in range(4)]
    assert [await asyncio.to_thread(each.wait) for each in racing] == [0] * 4
    for each in racing:
        each.stdout.close()
    async with opened(path) as (_, store):
        assert await lines(store) == dict.fromkeys(ids, 1)


# Any sequence

CRASHES = ("none", "before the effect", "after the effect", "cancelled", "refused", "unanswered")


async def attempt(inbox, store, id, crash, result):
    """One attempt, which may die somewhere; gives its result if it lives."""
    failing = {"after the effect": Crash(), "cancelled": asyncio.CancelledError()}.get(crash)
    work = paying(id, result, failing)
    if crash == "before the effect":

        async def work(connection):
            raise Crash

    faulty = (
        commit_that(store, crash)
        if crash in ("refused", "unanswered")
        else contextlib.nullcontext()
    )
    with contextlib.suppress(Crash, WorkCancelled, StoreUncertain), faulty:
        return await inbox.run(id, work)
    return None


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(CRASHES)), max_size=12))
def test_whatever_dies_when_each_message_has_its_effect_once_when_repeated_until_it_returns(
    attempts,
):
    """And all who are told a result are told the same one."""

    async def story(path):
        told = {}
        async with opened(path) as (inbox, store):
            await store.open()
            for number, (name, crash) in enumerate(
                [*attempts, *((name, "none") for name, _ in attempts)]
            ):
                result = await attempt(inbox, store, name, crash, b"attempt %d" % number)
                assert (await lines(store))[name] <= 1
                told.setdefault(name, set()).update({result} - {None})
        async with opened(path) as (_, store):
            assert await lines(store) == dict.fromkeys({name for name, _ in attempts}, 1)
        assert all(len(results) == 1 for results in told.values())

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(story(Path(folder) / "shop.db"))
