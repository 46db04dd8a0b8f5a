"""OfflineStore on SQLite and on MariaDB.

What is stored is stored once, in order, until it is acknowledged.
"""

import asyncio
import logging
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import event, insert, text, update

from mpim_lab.errors import InvalidMessage, InvalidParameter, StoreFailed
from mpim_lab.im.protocol.requests import ChatMessage
from mpim_lab.im.services.offline import OFFLINE, OfflineStore, StoreResult, database_url
from mpim_lab.im.services.schema import SCHEMA, VersionedTables
from mpim_lab.mq.idempotency.sql_database import SqlDatabase
from tests.support import statement_that_fails

pytest_plugins = ["tests.databases"]
TALK = "alice:bob"


def message(sequence, words="hello", conversation=TALK, **others):
    return ChatMessage(
        conversation, sequence, **{"id": f"m{sequence}", "sender": "alice", "text": words} | others
    )


def messages(first, last, **options):
    return [message(sequence, **options) for sequence in range(first, last + 1)]


def numbers(page):
    return [each.sequence for each in page]


class Clock:
    """Seconds since 1970, as a test says."""

    now = 1_000_000.0

    def __call__(self):
        return self.now


@pytest.fixture
async def store(database_url):
    async with SqlDatabase(database_url) as opened:
        yield opened


@pytest.fixture
async def offline(store):
    return OfflineStore(store)


# Storing


async def test_what_was_stored_comes_back_unchanged(offline):
    """Every part of a message."""
    kept = ChatMessage("#tea", 7, "018f-7a", "carol", "Tea?", at_ms=1_722_000_000_123)
    assert await offline.store_many(["bob"], [kept]) == StoreResult(1, 0)
    assert await offline.page("bob", "#tea", 0, 10) == [kept]


async def test_every_message_is_stored_for_every_user(offline):
    """Each has rows of their own."""
    users = [f"u{number}" for number in range(40)]
    assert await offline.store_many(users, messages(1, 30)) == StoreResult(1_200, 0)
    for uid in users:
        assert numbers(await offline.page(uid, TALK, 0, 100)) == list(range(1, 31))
    assert await offline.page("u40", TALK, 0, 100) == []


async def test_storing_again_is_no_error_and_changes_nothing(offline, caplog, capfd):
    """Also with other words: the first stay.

    What is new among it is counted, and no driver tells each row that is not.
    """
    await offline.store_many(["bob"], messages(1, 3, words="first"))
    assert await offline.store_many(["bob", "carol"], messages(2, 4, words="again")) == StoreResult(
        4, 0
    )
    assert [(each.sequence, each.text) for each in await offline.page("bob", TALK, 0, 10)] == [
        (1, "first"),
        (2, "first"),
        (3, "first"),
        (4, "again"),
    ]
    assert not caplog.text and capfd.readouterr().err == ""


async def test_users_and_messages_that_are_named_twice_are_stored_once(offline):
    """In one call, too."""
    assert await offline.store_many(
        ["bob", "bob"], [message(1), message(1, "again")]
    ) == StoreResult(1, 0)
    assert [each.text for each in await offline.page("bob", TALK, 0, 10)] == ["hello"]


async def test_nothing_to_store_is_no_error(offline):
    """No users, or no messages."""
    assert (
        await offline.store_many([], messages(1, 2))
        == await offline.store_many(["bob"], [])
        == StoreResult(0, 0)
    )


@pytest.mark.parametrize(
    "words",
    [
        "👩‍👩‍👧‍👦 🀄 订单 naïve שלום",
        "𠮷" * 4_000,
        "\\'\"%s %(a)s :b ? `--;",
        " \t\n ends with blanks  ",
        "a\0b",
        "\ufeff\u202e\uffff",
    ],
    ids=["emoji", "longest", "quotes", "blanks", "null", "odd"],
)
async def test_any_text_of_4000_characters_is_kept_as_it_is(offline, words):
    """Emoji, other scripts, what SQL or a driver reads as its own, characters of four bytes."""
    await offline.store_many(["bob", "carol"], [message(1, words), message(2, words)])
    assert [each.text for each in await offline.page("carol", TALK, 0, 10)] == [words, words]


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    words=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=200),
    number=st.integers(1, 2**53),
)
async def test_whatever_people_write_comes_back(offline, words, number):
    """Under any number that JSON holds exactly."""
    await offline.remove("bob", TALK, 2**53)
    await offline.store_many(["bob"], [message(number, words)])
    assert await offline.page("bob", TALK, number - 1, 10) == [message(number, words)]


async def test_names_are_compared_letter_by_letter(offline):
    """Bob is not bob, and #Tea is not #tea.

    Otherwise one's message would count as the other's repeat.
    """
    for uid, talk in [("bob", "#tea"), ("Bob", "#tea"), ("bob", "#Tea")]:
        assert await offline.store_many([uid], [message(1, uid + talk, talk)]) == StoreResult(1, 0)
    assert [each.text for each in await offline.page("Bob", "#tea", 0, 10)] == ["Bob#tea"]
    assert await offline.remove("bob", "#Tea", 1) == 1
    assert await offline.pending("bob") == await offline.pending("Bob") == {"#tea": 1}


@pytest.mark.parametrize(
    "bad",
    [
        message(1, "x" * 4_001),
        message(1, "half \ud83d"),
        message(-1),
        message(2**53 + 1),
        message(1, id="i" * 256),
        message(1, sender=""),
        message(1, conversation=" "),
        message(1, at_ms=-1),
    ],
    ids=["long", "surrogate", "negative", "large", "id", "sender", "conversation", "time"],
)
async def test_a_message_that_a_database_would_change_is_refused_whole(offline, bad):
    """Nothing of the call is stored: "insert or ignore" would have cut it off in silence."""
    with pytest.raises(InvalidMessage):
        await offline.store_many(["bob"], [message(3), bad])
    assert await offline.pending("bob") == {}


async def test_a_transaction_that_fails_keeps_nothing(offline, store):
    """Neither the rows of the statements before the one that failed."""
    await offline.store_many(["old"], messages(1, 2))
    users = [f"u{number}" for number in range(300)]
    with (
        statement_that_fails(store, "INSERT", after=2),
        pytest.raises(StoreFailed, match="cannot be stored") as raised,
    ):
        await offline.store_many(users, messages(1, 10))
    assert raised.value.definite
    assert [await offline.pending(uid) for uid in ("old", "u0", "u299")] == [{TALK: 2}, {}, {}]
    assert await offline.store_many(users, messages(1, 10)) == StoreResult(3_000, 0)


async def test_a_store_that_is_cancelled_anywhere_is_kept_whole_or_not_at_all(offline):
    """Between any two steps of the loop."""
    for steps in range(0, 60, 3):
        users = [f"{number}-{steps}" for number in range(10)]
        task = asyncio.create_task(offline.store_many(users, messages(1, 100)))
        for _ in range(steps):
            await asyncio.sleep(0.0002)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        found = {len(await offline.page(uid, TALK, 0, 1_000)) for uid in users}
        assert found in ({0}, {100})
        await offline.store_many(users, messages(1, 100))
        assert len(await offline.page(users[-1], TALK, 0, 1_000)) == 100


async def test_two_stores_that_store_the_same_rows_at_once_store_them_once(shared_database_url):
    """As two gateways do after a crash.

    The new ones add up, in whatever order each was given them.
    """
    users = [f"u{number}" for number in range(60)]
    async with SqlDatabase(shared_database_url) as one, SqlDatabase(shared_database_url) as other:
        stores = [OfflineStore(each) for each in (one, other)]
        for first in range(1, 101, 10):
            calls = []
            for offline in stores * 3:
                shuffled = random.sample(messages(first, first + 9), 10)
                calls.append(offline.store_many(random.sample(users, 60), shuffled))
            stored = await asyncio.gather(*calls)
            assert sum(each.new for each in stored) == 600
        assert numbers(await stores[0].page("u7", TALK, 0, 1_000)) == list(range(1, 101))


async def test_storing_dropping_removing_and_expiring_at_once_fail_nobody(shared_database_url):
    """Transactions that lock each other out are tried again."""
    users = [f"u{number}" for number in range(20)]
    clock = Clock()
    async with SqlDatabase(shared_database_url) as one, SqlDatabase(shared_database_url) as other:
        stores = [OfflineStore(each, max_per_user=50, clock=clock) for each in (one, other)]

        async def storing(offline):
            for first in range(1, 200, 10):
                await offline.store_many(users, messages(first, first + 9))

        async def removing(offline):
            for up_to in range(1, 100):
                await offline.remove(random.choice(users), TALK, up_to)
                await offline.expire()

        await asyncio.gather(*(work(offline) for work in (storing, removing) for offline in stores))
        for uid in users:
            page = numbers(await stores[0].page(uid, TALK, 0, 1_000))
            assert page == list(range(151, 201))[-len(page) :] and len(page) >= 50


# Reading


async def test_pages_follow_each_other_in_order_without_gap_or_repeat(offline):
    """However the rows were stored, and whatever the size of the page."""
    shuffled = messages(1, 50)
    random.Random(1).shuffle(shuffled)
    for each in shuffled[:5]:
        await offline.store_many(["bob"], [each])
    await offline.store_many(["bob"], shuffled)
    await offline.store_many(["bob"], messages(1, 9, conversation="#tea"))
    for limit in (1, 7, 50, 1_000):
        read, after = [], 0
        while page := await offline.page("bob", TALK, after, limit):
            assert len(page) <= limit
            read += numbers(page)
            after = page[-1].sequence
        assert read == list(range(1, 51))


@pytest.mark.parametrize("limit", [0, -1, 1_001])
async def test_a_page_has_a_limit(offline, limit):
    """No client can ask for everything at once."""
    with pytest.raises(InvalidParameter, match="limit"):
        await offline.page("bob", TALK, 0, limit)


async def test_waiting_names_each_conversation_and_its_last_number(offline):
    """Of this user only; nothing once it is removed."""
    await offline.store_many(["bob"], [*messages(1, 12), *messages(3, 4, conversation="#tea")])
    await offline.store_many(["carol"], messages(1, 20))
    assert await offline.pending("bob") == {TALK: 12, "#tea": 4}
    await offline.remove("bob", TALK, 12)
    assert await offline.pending("bob") == {"#tea": 4}
    assert await offline.pending("dave") == {}


async def test_two_thousand_users_who_ask_at_once_cost_a_few_queries(offline, store):
    """One per five hundred; each gets their own."""
    users = [f"u{number}" for number in range(2_000)]
    await offline.store_many(users[::2], messages(1, 2))
    queries = []
    engine = store._engine.sync_engine
    event.listen(engine, "before_cursor_execute", lambda *seen: queries.append(seen[2]))
    waiting = await asyncio.gather(*(offline.pending(uid) for uid in users))
    assert waiting == [{TALK: 2}, {}] * 1_000
    assert sum(query.startswith("SELECT mpim_offline") for query in queries) == 4


async def test_a_database_that_fails_is_told_to_everybody_who_asked(offline, store):
    """And the next question is answered again."""
    await offline.store_many(["bob"], messages(1, 2))
    with statement_that_fails(store, "SELECT"):
        ends = await asyncio.gather(
            *(offline.pending(uid) for uid in ("bob", "carol")), return_exceptions=True
        )
    assert [type(end) for end in ends] == [StoreFailed] * 2
    assert await offline.pending("bob") == {TALK: 2}


# Removing


async def test_what_was_acknowledged_is_removed_up_to_that_number(offline):
    """Of this user and conversation only; twice is harmless."""
    await offline.store_many(
        ["bob", "carol"], [*messages(1, 10), *messages(1, 10, conversation="#tea")]
    )
    assert await offline.remove("bob", TALK, 4) == 4
    assert await offline.remove("bob", TALK, 4) == 0
    assert numbers(await offline.page("bob", TALK, 0, 100)) == [5, 6, 7, 8, 9, 10]
    for uid, talk in [("bob", "#tea"), ("carol", TALK)]:
        assert len(await offline.page(uid, talk, 0, 100)) == 10


async def test_the_oldest_rows_beyond_the_limit_are_dropped_and_told(store, caplog):
    """By the time of the messages, whichever conversation they are in, whenever they were stored.

    Others keep theirs.
    """
    offline = OfflineStore(store, max_per_user=10)
    late = [message(sequence, at_ms=1_000 + sequence) for sequence in range(1, 9)]
    early = [message(sequence, conversation="#tea", at_ms=sequence) for sequence in range(1, 7)]
    assert await offline.store_many(["bob", "carol"], late) == StoreResult(16, 0)
    with caplog.at_level(logging.WARNING):
        assert await offline.store_many(["bob"], early) == StoreResult(6, 4)
    assert "bob has more than 10 messages waiting: the oldest 4 were dropped" in caplog.text
    assert numbers(await offline.page("bob", "#tea", 0, 100)) == [5, 6]
    assert numbers(await offline.page("bob", TALK, 0, 100)) == list(range(1, 9))
    assert len(await offline.page("carol", TALK, 0, 100)) == 8


async def test_more_than_the_limit_at_once_leaves_the_newest(store):
    """For each user who is over it."""
    offline = OfflineStore(store, max_per_user=10)
    assert await offline.store_many(["bob", "carol"], messages(1, 25)) == StoreResult(50, 30)
    assert numbers(await offline.page("carol", TALK, 0, 100)) == list(range(16, 26))


async def test_a_larger_limit_is_kept_nearly(store):
    """It is looked at from time to time, because counting costs.

    A few more than allowed, never many.
    """
    offline = OfflineStore(store, max_per_user=400)
    for sequence in range(1, 601):
        await offline.store_many(["bob"], [message(sequence)])
    kept = numbers(await offline.page("bob", TALK, 0, 1_000))
    assert 400 <= len(kept) < 500 and kept == list(range(601 - len(kept), 601))


async def test_rows_expire_when_they_have_waited_too_long(store):
    """Since they were stored, to the millisecond; thousands in several transactions."""
    clock = Clock()
    offline = OfflineStore(store, retention_s=100, clock=clock)
    for _ in range(5):
        await offline.store_many(
            [f"u{number}" for number in range(700)], [message(round(clock.now))]
        )
        clock.now += 1
    clock.now += 95
    assert await offline.expire() == 0
    clock.now += 2.001
    assert await offline.expire() == 3 * 700
    assert await offline.expire() == 0
    assert numbers(await offline.page("u699", TALK, 0, 10)) == [1_000_003, 1_000_004]
    clock.now += 1_000
    assert await offline.expire() == 2 * 700


@pytest.mark.parametrize("bad", [{"max_per_user": 0}, {"retention_s": 0}])
async def test_limits_that_are_none_are_refused(store, bad):
    """Nothing could be kept."""
    with pytest.raises(InvalidParameter):
        OfflineStore(store, **bad)


# Tables


async def test_tables_are_made_once_and_their_rows_outlive_the_store(shared_database_url):
    """Two stores that begin at the same time make them together."""
    async with SqlDatabase(shared_database_url) as one, SqlDatabase(shared_database_url) as other:
        await asyncio.gather(
            *(OfflineStore(each).store_many(["bob"], messages(1, 3)) for each in (one, other))
        )
    async with SqlDatabase(shared_database_url) as again:
        assert await OfflineStore(again).pending("bob") == {TALK: 3}
        async with again.transaction() as connection:
            found = (
                await connection.execute(text("select component, version from mpim_schema"))
            ).all()
        assert [tuple(row) for row in found] == [("offline", 1)]


@pytest.mark.parametrize(("version", "age"), [(2, "newer than this program"), (0, "older")])
async def test_tables_of_another_version_are_left_alone_and_named(store, version, age):
    """What a newer program wrote is neither misread nor written to."""
    await OfflineStore(store).store_many(["bob"], messages(1, 3))
    async with store.transaction() as connection:
        await connection.execute(update(SCHEMA).values(version=version))
    offline = OfflineStore(store)
    for call in (
        offline.pending("bob"),
        offline.store_many(["bob"], messages(4, 5)),
        offline.remove("bob", TALK, 3),
    ):
        with pytest.raises(
            StoreFailed, match=f"version {version} of the tables of 'offline', which is {age}"
        ):
            await call
    async with store.transaction() as connection:
        await connection.execute(update(SCHEMA).values(version=1))
    assert await offline.pending("bob") == {TALK: 3}


async def test_parts_have_versions_of_their_own(store):
    """A part that is new here finds another part's version and does not take it for its own."""
    async with store.transaction() as connection:
        await connection.run_sync(SCHEMA.create)
        await connection.execute(insert(SCHEMA).values(component="other", version=9))
    await VersionedTables(store, "offline", 1).ensure()
    with pytest.raises(StoreFailed, match="version 9"):
        await VersionedTables(store, "other", 1).ensure()


async def test_of_two_transactions_that_lock_each_other_out_both_are_done_in_the_end(mariadb):
    """The database ends one of them, which is tried again, from its beginning."""
    async with mariadb.database() as url, SqlDatabase(url) as one, SqlDatabase(url) as other:
        for each in (one, other):
            await OfflineStore(each).store_many(["bob", "carol"], [message(1)])
        has_locked, tries = {"bob": asyncio.Event(), "carol": asyncio.Event()}, []

        async def rename(store, first, second):
            async def work(connection):
                tries.append(first)
                for uid in (first, second):
                    await connection.execute(
                        update(OFFLINE).where(OFFLINE.c.uid == uid).values(sender=f"by {first}")
                    )
                    has_locked[uid].set()
                    await has_locked[second].wait()

            await VersionedTables(store, "offline", 1, OFFLINE).transaction("a test", work)

        await asyncio.gather(rename(one, "bob", "carol"), rename(other, "carol", "bob"))
        assert sorted(tries) in (["bob", "bob", "carol"], ["bob", "carol", "carol"])
        senders = [
            (await OfflineStore(one).page(uid, TALK, 0, 1))[0].sender for uid in ("bob", "carol")
        ]
        assert senders in (["by bob"] * 2, ["by carol"] * 2)


def test_the_database_is_named_by_the_environment(monkeypatch):
    """SQLite in memory otherwise."""
    monkeypatch.delenv("MPIM_DATABASE_URL", raising=False)
    assert database_url() == "sqlite+aiosqlite:///:memory:"
    monkeypatch.setenv("MPIM_DATABASE_URL", "mysql+asyncmy://chat@localhost/chat")
    assert database_url() == "mysql+asyncmy://chat@localhost/chat"
