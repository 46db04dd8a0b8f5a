"""GroupService on databases and servers.

The database says who is in a group, and no copy says otherwise for long.
"""

import asyncio
import contextlib
import logging
import random
import time

import pytest
from sqlalchemy import event

from mpim_lab.errors import GroupExists, InvalidParameter, NoSuchGroup, StoreFailed, StoreUncertain
from mpim_lab.im.services.group_cache import GroupMembersCache
from mpim_lab.im.services.groups import GroupService
from mpim_lab.mq.connection.config import ConnectionConfig
from mpim_lab.mq.idempotency.sql_database import SqlDatabase
from mpim_lab.mq.pubsub.queue import MessageQueue
from tests.support import wait_until

pytest_plugins = ["tests.databases"]
HASTY = ConnectionConfig(timeout_s=0.3, connect_timeout_s=0.3)


@pytest.fixture
async def store(database_url):
    async with SqlDatabase(database_url) as opened:
        yield opened


@pytest.fixture
async def queue(one_server):
    async with MessageQueue(one_server.url, config=HASTY) as opened:
        yield opened


@pytest.fixture
async def groups(store, queue):
    return GroupService(store, queue)


@contextlib.asynccontextmanager
async def two(url, server, **options):
    """Groups as two processes have them: each with its own store and queue."""
    async with (
        SqlDatabase(url) as one,
        SqlDatabase(url) as other,
        MessageQueue(server.url) as first,
        MessageQueue(server.url) as second,
    ):
        yield GroupService(one, first, **options), GroupService(other, second, **options)


@contextlib.contextmanager
def queries(store, word="SELECT mpim_members"):
    """The statements that begin like this, as they are run."""
    seen = []

    def note(connection, cursor, statement, *_):
        if statement.startswith(word):
            seen.append(statement)

    event.listen(store._engine.sync_engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(store._engine.sync_engine, "before_cursor_execute", note)


class Reading:
    """Hold a group's reader between its look at the database and what it does with it."""

    def __init__(self, groups):
        self.has_read, self.may_go_on = asyncio.Event(), asyncio.Event()
        self._read = groups._read
        groups._read = self

    async def __call__(self, group):
        members = await self._read(group)
        self.has_read.set()
        await self.may_go_on.wait()
        return members


async def call(queue, word, key):
    return await queue.context("groups").connection.call(word, key)


# Who is in a group


async def test_a_group_has_its_owner_and_the_members_it_was_made_with(groups):
    """Sorted, each once."""
    assert await groups.create("tea", "carol", ["bob", "alice", "bob"]) == ("alice", "bob", "carol")
    assert await groups.members("tea") == ("alice", "bob", "carol")
    assert await groups.create("solo", "dave") == await groups.members("solo") == ("dave",)


async def test_members_come_and_go(groups):
    """Each change gives who is in the group now, and so does the next question."""
    await groups.create("tea", "carol")
    assert await groups.members("tea") == ("carol",)
    assert await groups.join("tea", "bob") == await groups.members("tea") == ("bob", "carol")
    assert await groups.leave("tea", "carol") == await groups.members("tea") == ("bob",)
    assert (
        await groups.leave("tea", "bob")
        == await groups.members("tea")
        == await groups.members("tea")
        == ()
    )
    assert await groups.join("tea", "alice") == await groups.members("tea") == ("alice",)


async def test_joining_twice_and_leaving_when_not_in_are_harmless(groups):
    """A client that asks again gets the same answer."""
    await groups.create("tea", "carol")
    for _ in range(3):
        assert await groups.join("tea", "bob") == ("bob", "carol")
    for _ in range(3):
        assert await groups.leave("tea", "bob") == ("carol",)


async def test_a_group_that_is_not_there_has_a_name(groups):
    """For all who ask; and asking makes none, in the copy either."""
    for _ in range(2):
        for ask in (groups.members("tea"), groups.join("tea", "bob"), groups.leave("tea", "bob")):
            with pytest.raises(NoSuchGroup, match="tea") as raised:
                await ask
            assert raised.value.definite
    assert await groups.groups_of("bob") == ()


async def test_a_group_is_made_once(groups):
    """The first one stays as it is."""
    await groups.create("tea", "carol")
    with pytest.raises(GroupExists, match="tea"):
        await groups.create("tea", "bob", ["alice"])
    assert await groups.members("tea") == ("carol",)
    assert await groups.groups_of("alice") == ()


async def test_names_are_compared_letter_by_letter(groups):
    """Tea is not tea, Bob is not bob."""
    await groups.create("tea", "bob", ["Bob"])
    await groups.create("Tea", "alice")
    assert [await groups.members(group) for group in ("tea", "Tea")] == [("Bob", "bob"), ("alice",)]
    assert [await groups.groups_of(uid) for uid in ("bob", "Alice")] == [("tea",), ()]


@pytest.mark.parametrize("bad", ["", "a b", "x" * 65, "#tea", "a:b", "茶"])
async def test_names_that_are_none_are_refused(groups, bad):
    """They would not be one conversation's name or one key."""
    await groups.create("tea", "carol")
    for ask in (
        groups.create(bad, "carol"),
        groups.create("new", bad),
        groups.create("new", "carol", [bad]),
        groups.join(bad, "bob"),
        groups.join("tea", bad),
        groups.leave("tea", bad),
        groups.members(bad),
        groups.groups_of(bad),
    ):
        with pytest.raises(InvalidParameter):
            await ask
    with pytest.raises(NoSuchGroup):
        await groups.members("new")


async def test_a_group_has_a_limit(store, queue):
    """Whoever is in may join again; a place that becomes free is free."""
    groups = GroupService(store, queue, max_members=3)
    with pytest.raises(InvalidParameter, match="at most 3"):
        await groups.create("tea", "a", ["b", "c", "d"])
    await groups.create("tea", "a", ["b", "c"])
    with pytest.raises(InvalidParameter, match="full"):
        await groups.join("tea", "d")
    assert await groups.join("tea", "a") == ("a", "b", "c")
    await groups.leave("tea", "a")
    assert await groups.join("tea", "d") == ("b", "c", "d")


@pytest.mark.parametrize("bad", [{"max_members": 0}, {"cache_ttl_s": 0}, {"cache_ttl_s": 86_401}])
async def test_limits_that_are_none_are_refused(store, queue, bad):
    """Also a copy that could outlive the version it depends on."""
    with pytest.raises(InvalidParameter):
        GroupService(store, queue, **bad)


# Many at once


async def test_all_who_join_at_once_are_in(shared_database_url, one_server):
    """From two processes; and each process says so."""
    async with two(shared_database_url, one_server) as (here, there):
        await here.create("tea", "carol")
        users = [f"u{number}" for number in range(40)]
        await asyncio.gather(*(random.choice((here, there)).join("tea", uid) for uid in users))
        assert (
            await here.members("tea")
            == await there.members("tea")
            == tuple(sorted([*users, "carol"]))
        )


async def test_the_limit_holds_for_many_at_once(shared_database_url, one_server):
    """The last place is given away once."""
    async with two(shared_database_url, one_server, max_members=10) as (here, there):
        await here.create("tea", "carol")
        joins = [
            groups.join("tea", f"u{number}") for number in range(15) for groups in (here, there)
        ]
        ends = await asyncio.gather(*joins, return_exceptions=True)
        assert {type(end) for end in ends} == {tuple, InvalidParameter}
        assert len(await here.members("tea")) == 10


async def test_of_two_who_make_a_group_one_is_first(shared_database_url, one_server):
    """The other one is told, and its members are not in."""
    async with two(shared_database_url, one_server) as (here, there):
        makes = [groups.create("tea", uid) for groups in (here, there) for uid in ("a", "b", "c")]
        ends = await asyncio.gather(*makes, return_exceptions=True)
        assert sorted(type(end).__name__ for end in ends) == ["GroupExists"] * 5 + ["tuple"]
        assert await here.members("tea") in ends


async def test_two_thousand_users_who_ask_for_their_groups_at_once_cost_four_queries(groups, store):
    """Each gets their own, sorted."""
    users = [f"u{number}" for number in range(2_000)]
    await groups.create("tea", "carol", users[::2])
    await groups.create("all", "carol", users)
    with queries(store) as seen:
        found = await asyncio.gather(*(groups.groups_of(uid) for uid in users))
    assert found == [("all", "tea"), ("all",)] * 1_000 and len(seen) == 4


async def test_whoever_asks_during_a_query_sees_what_was_committed_before_they_asked(groups):
    """They are not given the answer to an older question."""
    await groups.create("tea", "carol")
    asked = asyncio.create_task(groups.groups_of("bob"))
    await asyncio.sleep(0)
    await groups.join("tea", "bob")
    assert await groups.groups_of("bob") == ("tea",)
    assert await asked in ((), ("tea",))


async def test_one_who_stops_asking_does_not_disturb_the_others(groups):
    """Also if both asked for the same user."""
    await groups.create("tea", "bob")
    asked = [asyncio.create_task(groups.groups_of("bob")) for _ in range(3)]
    await asyncio.sleep(0)
    asked[0].cancel()
    ends = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(end) for end in ends] == [asyncio.CancelledError, tuple, tuple] and ends[2] == (
        "tea",
    )


# The copy


async def test_the_copy_answers_once_it_is_made(store, server):
    """The database is asked once, by whoever asks first; the copy has an end."""
    async with MessageQueue(server.url, prefix="run-1:") as queue:
        groups = GroupService(store, queue, cache_ttl_s=60)
        await groups.create("tea", "carol", ["bob"])
        with queries(store) as seen:
            for _ in range(5):
                assert await groups.members("tea") == ("bob", "carol")
        assert len(seen) == 1
        assert 0 < await call(queue, "PTTL", queue.keys.cached_members("tea")) <= 60_000
        assert 0 < await call(queue, "PTTL", queue.keys.members_version("tea")) <= 86_400_000


async def test_a_change_is_seen_by_every_process_at_once(shared_database_url, server):
    """The copy is deleted before the change returns."""
    async with two(shared_database_url, server) as (here, there):
        await here.create("tea", "carol")
        for number in range(20):
            before = await there.members("tea")
            after = await here.join("tea", f"u{number}")
            assert len(after) == len(before) + 1
            assert await there.members("tea") == await here.members("tea") == after


async def test_a_slow_reader_does_not_put_back_the_old_list(store, server):
    """It read the database before the change: it may say what it read, and nobody else hears it."""
    async with MessageQueue(server.url) as queue:
        slow, groups = GroupService(store, queue), GroupService(store, queue)
        await groups.create("tea", "carol")
        reading = Reading(slow)
        reader = asyncio.create_task(slow.members("tea"))
        await reading.has_read.wait()
        await groups.join("tea", "bob")
        reading.may_go_on.set()
        assert await reader == ("carol",)
        assert await call(queue, "EXISTS", queue.keys.cached_members("tea")) == 0
        assert await groups.members("tea") == await slow.members("tea") == ("bob", "carol")


async def test_a_slow_reader_is_found_out_after_the_server_lost_the_version(groups, queue, store):
    """A counter that began at nought again would come back to the number that the reader has."""
    slow = GroupService(store, queue)
    await groups.create("tea", "carol")
    reading = Reading(slow)
    reader = asyncio.create_task(slow.members("tea"))
    await reading.has_read.wait()
    await queue.context("any").connection.call("FLUSHALL")
    await groups.join("tea", "bob")
    reading.may_go_on.set()
    await reader
    assert await groups.members("tea") == ("bob", "carol")


async def test_a_reader_who_finds_no_version_does_not_overwrite_a_first_change(
    groups, queue, store
):
    """None is a version, too."""
    slow = GroupService(store, queue)
    await groups.create("tea", "carol")
    await queue.context("any").connection.call("FLUSHALL")
    reading = Reading(slow)
    reader = asyncio.create_task(slow.members("tea"))
    await reading.has_read.wait()
    await groups.join("tea", "bob")
    reading.may_go_on.set()
    await reader
    assert await groups.members("tea") == ("bob", "carol")


async def test_a_copy_whose_deletion_was_lost_is_right_after_its_lifetime(
    store, queue, monkeypatch
):
    """As after a crash between the commit and the word to Redis.

    The old list answers, and not for long.
    """
    groups = GroupService(store, queue, cache_ttl_s=0.4)
    await groups.create("tea", "carol")
    await groups.members("tea")
    made = time.monotonic()
    with monkeypatch.context() as broken:
        broken.setattr(GroupMembersCache, "invalidate", lambda self, group: asyncio.sleep(0))
        await groups.join("tea", "bob")
    assert await groups.members("tea") == ("carol",) or time.monotonic() > made + 0.4
    while await groups.members("tea") != ("bob", "carol"):
        assert time.monotonic() < made + 0.8
        await asyncio.sleep(0.01)


async def test_who_tries_again_after_a_crash_heals_the_copy(groups, monkeypatch):
    """The second join changes nothing in the database, and deletes the copy all the same."""
    await groups.create("tea", "carol")
    await groups.members("tea")
    with monkeypatch.context() as broken:
        broken.setattr(GroupMembersCache, "invalidate", lambda self, group: asyncio.sleep(0))
        await groups.join("tea", "bob")
    await groups.join("tea", "bob")
    assert await groups.members("tea") == ("bob", "carol")


async def test_a_commit_without_an_answer_deletes_the_copy(groups, store):
    """It may have happened."""
    await groups.create("tea", "carol")
    await groups.members("tea")
    dialect = store._engine.sync_engine.dialect
    really = dialect.do_commit

    def unanswered(connection):
        really(connection)
        raise dialect.loaded_dbapi.OperationalError("the line broke")

    dialect.do_commit = unanswered
    with pytest.raises(StoreUncertain):
        await groups.join("tea", "bob")
    dialect.do_commit = really
    assert await groups.members("tea") == ("bob", "carol")


async def test_a_change_that_is_cancelled_anywhere_leaves_copy_and_database_in_agreement(groups):
    """Whichever way it ended."""
    await groups.create("tea", "carol")
    for steps in range(40):
        await groups.members("tea")
        task = asyncio.create_task(groups.join("tea", f"u{steps}"))
        for _ in range(steps):
            await asyncio.sleep(0.0002)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert await groups.members("tea") == await groups._read("tea")


async def test_after_any_changes_at_once_the_copy_says_what_the_database_says(
    shared_database_url, server
):
    """Readers and writers in two processes, without any order."""
    async with two(shared_database_url, server) as both:
        await both[0].create("tea", "carol")
        chance = random.Random(7)

        async def someone(number):
            for _ in range(8):
                groups = chance.choice(both)
                action = chance.choice((groups.join, groups.leave))
                await (
                    groups.members("tea")
                    if chance.random() < 0.6
                    else action("tea", f"u{number % 5}")
                )

        await asyncio.gather(*(someone(number) for number in range(16)))
        assert (
            await both[0].members("tea")
            == await both[1].members("tea")
            == await both[0]._read("tea")
        )


# Redis fails


@pytest.mark.parametrize("nonsense", ["{", "[1, 2]", '{"a": 1}', b"\xff\xfe"])
async def test_a_copy_that_cannot_be_read_is_none(groups, queue, nonsense):
    """The database answers."""
    await groups.create("tea", "carol")
    await queue.context("groups").connection.call("SET", queue.keys.cached_members("tea"), nonsense)
    assert await groups.members("tea") == ("carol",)


async def test_a_key_of_another_type_is_no_error(groups, queue):
    """Somebody else's, under the same name.

    A copy cannot be read, and the version not be counted.
    """
    await groups.create("tea", "carol")
    commands = queue.context("groups").connection
    for key in (queue.keys.cached_members("tea"), queue.keys.members_version("tea")):
        await commands.call("DEL", key)
        await commands.call("LPUSH", key, "x")
    assert await groups.join("tea", "bob") == await groups.members("tea") == ("bob", "carol")


async def test_without_redis_the_database_answers(groups, queue, one_server, caplog):
    """Questions at once, changes after their word to Redis was given up.

    Both are told in the log, once.
    """
    await groups.create("tea", "carol")
    await groups.members("tea")
    one_server.kill()
    await wait_until(lambda: not queue.is_connected)
    began = time.monotonic()
    for _ in range(50):
        assert await groups.members("tea") == ("carol",)
    assert time.monotonic() - began < 5 * HASTY.timeout_s
    with caplog.at_level(logging.WARNING):
        assert await groups.join("tea", "bob") == await groups.members("tea") == ("bob", "carol")
    assert "the copy of tea's members may be old for 60000 ms" in caplog.text
    assert await groups.groups_of("bob") == ("tea",)
    await one_server.start()
    await wait_until(lambda: queue.is_connected)
    assert await groups.members("tea") == ("bob", "carol")
    assert await call(queue, "EXISTS", queue.keys.cached_members("tea")) == 1


async def test_a_redis_that_hangs_delays_and_does_not_fail(groups, queue, one_server, caplog):
    """For as long as the queue's limits say."""
    await groups.create("tea", "carol")
    one_server.pause()
    with caplog.at_level(logging.WARNING):
        assert await groups.members("tea") == ("carol",)
        assert await groups.join("tea", "bob") == ("bob", "carol")
    assert "the database answers" in caplog.text
    one_server.resume()


async def test_a_database_that_fails_is_told(store, queue):
    """There is nothing to answer from; a copy that is there answers."""
    groups = GroupService(store, queue)
    await groups.create("tea", "carol")
    await groups.members("tea")
    await store.close()
    assert await groups.members("tea") == ("carol",)
    for ask in (groups.join("tea", "bob"), groups.groups_of("bob"), groups.members("other")):
        with pytest.raises(StoreFailed):
            await ask
