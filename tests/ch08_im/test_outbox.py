"""OutboxWorker on a server.

What a service began and did not end is done, and a log is shortened without losing anything.
"""

import asyncio
import contextlib
import logging

import pytest

from mpim_lab.errors import ConnectionLost, InvalidParameter, StoreFailed
from mpim_lab.im.gateway.ack_buffer import AckBuffer
from mpim_lab.im.protocol.frames import decode_push
from mpim_lab.im.protocol.requests import (
    AckRequest,
    ChatMessage,
    PullOfflineRequest,
    SendGroupMessageRequest,
    SendMessageRequest,
)
from mpim_lab.im.services.groups import GroupService
from mpim_lab.im.services.message_log import MessageLog
from mpim_lab.im.services.messages import FanOutResult, MessageService
from mpim_lab.im.services.offline import OfflineStore
from mpim_lab.im.services.outbox import OutboxWorker
from mpim_lab.keys import user_channel
from mpim_lab.lab.server.embedded import EmbeddedServer
from mpim_lab.mq.idempotency.sql_database import SqlDatabase
from mpim_lab.mq.pubsub.queue import MessageQueue
from tests.support import statement_that_fails, wait_until

TALK = "alice:bob"


class Bench:
    """A message service, its outbox and its database."""

    def __init__(self, queue, store, *, keep=20, **options):
        self.store, log = store, MessageLog(queue, trim_every=10)
        self.messages = MessageService(
            queue, GroupService(store, queue), OfflineStore(store), log=log
        )
        self.log, self.outbox = log, OutboxWorker(self.messages, max_log_length=keep, **options)

    async def talk(self, first, last, sender="alice", to="bob"):
        for number in range(first, last + 1):
            request = SendMessageRequest(f"m{number}", sender, to, f"text {number}")
            assert (await self.messages.send_message(request)).sequence == number

    async def talk_to_all(self, first, last, sender="alice"):
        for number in range(first, last + 1):
            request = SendGroupMessageRequest(f"m{number}", sender, "tea", f"text {number}")
            assert (await self.messages.send_group_message(request)).sequence == number

    async def die_after_step_1(self, number, sender="alice"):
        """A group's message whose service ends there."""
        kept = await self.messages.append(
            ChatMessage("#tea", 0, f"m{number}", sender, f"text {number}")
        )
        assert kept.outbox_entry and kept.message.sequence == number

    async def read(self, uid, conversation=TALK, after=0):
        """Everything that this user can pull, in the order in which it comes."""
        read, missing = [], []
        while True:
            page = await self.messages.pull_offline(PullOfflineRequest(uid, conversation, after))
            missing += [page.missing] if page.missing else []
            read += page.messages
            if not page.messages:
                return read, missing
            after = page.messages[-1].sequence

    async def todo(self):
        """What waits in the outbox."""
        return [(each.action, each.sequence) for each in await self.log.due_entries(0)]


@contextlib.asynccontextmanager
async def bench(server, **options):
    async with (
        MessageQueue(server.url) as queue,
        SqlDatabase("sqlite+aiosqlite:///:memory:") as store,
    ):
        yield Bench(queue, store, **options)


@pytest.fixture
async def lab(server):
    async with bench(server) as made:
        yield made


@contextlib.asynccontextmanager
async def listening(messages, *uids):
    """What is pushed to these users: (user, number)."""
    pushed = []
    for uid in uids:
        await messages.queue.subscribe(
            user_channel(uid),
            lambda each: pushed.append((each.channel[5:], decode_push(each.payload)[2])),
        )
    yield pushed
    for uid in uids:
        await messages.queue.unsubscribe(user_channel(uid))


def numbers(page):
    return [each.sequence for each in page]


# Pushes


async def test_a_group_message_whose_service_died_is_pushed_by_the_outbox(lab):
    """To those who are here.

    For those who are not, it waits; the sender needs no copy; nothing is left to do.
    """
    await lab.messages.groups.create("tea", "alice", ["bob", "carol"])
    async with listening(lab.messages, "bob") as pushed:
        await lab.die_after_step_1(1)
        assert pushed == [] and await lab.todo() == [("push", 1)]
        assert await lab.outbox.run_once(min_age_ms=0) == 1
        await wait_until(lambda: pushed)
    assert pushed == [("bob", 1)] and await lab.todo() == []
    assert await lab.messages.offline.pending("carol") == {"#tea": 1}
    assert await lab.messages.offline.pending("alice") == {}
    assert await lab.outbox.run_once(min_age_ms=0) == 0


async def test_the_sender_who_asks_again_is_told_known_and_the_outbox_still_pushes(lab):
    """Its client repeats the id.

    That is not a second message, and not the end of the first one's push.
    """
    await lab.messages.groups.create("tea", "alice", ["bob"])
    await lab.die_after_step_1(1)
    again = await lab.messages.send_group_message(
        SendGroupMessageRequest("m1", "alice", "tea", "text 1")
    )
    assert (again.status, again.sequence) == ("known", 1)
    assert await lab.todo() == [("push", 1)] and await lab.outbox.run_once(min_age_ms=0) == 1


async def test_an_entry_is_done_when_it_is_old_enough_and_never_earlier(lab):
    """By the server's clock: whoever is at it has that long."""
    await lab.messages.groups.create("tea", "alice", ["bob"])
    await lab.die_after_step_1(1)
    loop = asyncio.get_running_loop()
    begun = loop.time()
    while await lab.outbox.run_once(min_age_ms=400) == 0:
        await asyncio.sleep(0.01)
    assert 0.38 <= loop.time() - begun < 5


async def test_two_outboxes_at_once_do_everything_and_leave_nothing(lab, server):
    """Any number may run: what is done twice is a push of a number that clients know."""
    await lab.messages.groups.create("tea", "alice", ["bob"])
    for number in range(1, 31):
        await lab.die_after_step_1(number)
    async with listening(lab.messages, "bob") as pushed:
        other = OutboxWorker(lab.messages, max_log_length=20)
        await asyncio.gather(lab.outbox.run_once(min_age_ms=0), other.run_once(min_age_ms=0))
        await wait_until(lambda: {number for _, number in pushed} == {*range(1, 31)})
    assert await lab.todo() == []
    read, missing = await lab.read("bob", "#tea")
    assert numbers(read) == [*range(1, 31)] and missing == []


async def test_an_outbox_that_runs_finishes_what_is_left(server):
    """By itself, without being asked; and more than one look takes at a time."""
    async with bench(server, keep=1_000, interval_s=0.05, min_age_s=0.05) as lab:
        await lab.messages.groups.create("tea", "alice", ["bob"])
        async with lab.outbox, listening(lab.messages, "bob") as pushed:
            for number in range(1, 251):
                await lab.die_after_step_1(number)
            await wait_until(lambda: {number for _, number in pushed} == {*range(1, 251)})


async def test_an_entry_whose_push_failed_stays(lab, monkeypatch):
    """The line broke in the middle: those who were not told are told at the next look."""
    await lab.messages.groups.create("tea", "alice", ["bob", "carol"])
    await lab.die_after_step_1(1)
    with monkeypatch.context() as patch:

        async def broken(message, members):
            return FanOutResult(1, (), ("carol",))

        patch.setattr(lab.messages, "fan_out", broken)
        assert await lab.outbox.run_once(min_age_ms=0) == 0
    assert await lab.todo() == [("push", 1)]
    assert await lab.outbox.run_once(min_age_ms=0) == 1 and await lab.todo() == []


async def test_a_service_whose_push_failed_leaves_it_to_the_outbox(lab, monkeypatch):
    """The sender is told who could not be told."""
    await lab.messages.groups.create("tea", "alice", ["bob"])

    async def no_line(link, commands):
        raise ConnectionLost("the line broke")

    with monkeypatch.context() as patch:
        patch.setattr("mpim_lab.im.services.messages.call_many", no_line)
        sent = await lab.messages.send_group_message(
            SendGroupMessageRequest("m1", "alice", "tea", "hi")
        )
    assert (sent.sequence, sent.pushed, sent.failed) == (1, 0, ("alice", "bob"))
    assert await lab.todo() == [("push", 1)]
    async with listening(lab.messages, "bob") as pushed:
        assert await lab.outbox.run_once(min_age_ms=0) == 1
        await wait_until(lambda: pushed)


async def test_what_cannot_be_done_does_not_hold_up_what_can(lab, caplog):
    """150 entries of which each fails at the database, and behind them one that needs none."""
    for number in range(150):
        await lab.messages.groups.create(f"g{number}", "alice", ["bob"])
        await lab.messages.append(ChatMessage(f"#g{number}", 0, "m1", "alice", "hi"))
    await lab.messages.groups.create("tea", "alice", ["bob"])
    await lab.die_after_step_1(1)
    await lab.messages.groups.members("tea")
    caplog.set_level(logging.ERROR)
    with statement_that_fails(lab.store, "SELECT mpim_members"):
        async with listening(lab.messages, "alice", "bob") as pushed:
            assert await lab.outbox.run_once(min_age_ms=0) == 1
            await wait_until(lambda: ("bob", 1) in pushed)
    assert len(await lab.log.due_entries(0, count=1_000)) == 150
    assert await lab.outbox.run_once(min_age_ms=0) == 150


async def test_a_message_that_is_not_in_the_log_any_more_needs_no_push(lab):
    """It was trimmed, and stored for those who lacked it: the entry ends."""
    await lab.messages.groups.create("tea", "alice", ["bob"])
    await lab.die_after_step_1(1)
    await lab.talk_to_all(2, 60)
    await lab.outbox.trim("#tea")
    assert ("push", 1) in await lab.todo()
    await lab.outbox.run_once(min_age_ms=0)
    assert await lab.todo() == []
    assert numbers((await lab.read("bob", "#tea"))[0]) == [*range(1, 61)]


# Trimming


async def test_a_log_is_shortened_and_its_receiver_reads_on_without_a_gap(lab):
    """What he had acknowledged is gone.

    What he had not comes from the offline store, then from the log, in order.
    """
    async with listening(lab.messages, "bob"):  # nothing is stored on the way
        await lab.talk(1, 250)
    await lab.messages.ack([AckRequest("bob", TALK, 30), AckRequest("alice", TALK, 250)])
    assert ("trim", 250) in await lab.todo()
    await lab.outbox.run_once(min_age_ms=0)
    assert (await lab.log.length(TALK), await lab.todo()) == (20, [])
    read, missing = await lab.read("bob", after=30)
    assert numbers(read) == [*range(31, 251)] and missing == []
    assert [each.text for each in read] == [f"text {n}" for n in range(31, 251)]
    assert numbers(await lab.messages.offline.page("bob", TALK, 0, 1_000)) == [*range(31, 231)]
    assert await lab.messages.offline.page("alice", TALK, 0, 1_000) == []
    assert (await lab.read("bob"))[1] == [(1, 30)]


async def test_a_groups_log_is_shortened_and_every_member_reads_on_from_where_she_is(lab):
    """Each has stored what she had not acknowledged, and no row more."""
    await lab.messages.groups.create("tea", "alice", ["bob", "carol", "dave", "erin"])
    async with listening(lab.messages, "alice", "bob", "carol", "dave", "erin"):
        await lab.talk_to_all(1, 130)
    far = {"alice": 130, "bob": 0, "carol": 57, "dave": 109, "erin": 57}
    await lab.messages.ack([AckRequest(uid, "#tea", number) for uid, number in far.items()])
    await lab.outbox.run_once(min_age_ms=0)
    assert (await lab.log.length("#tea"), await lab.todo()) == (20, [])
    for uid, number in far.items():
        read, missing = await lab.read(uid, "#tea", after=number)
        assert (uid, numbers(read), missing) == (uid, [*range(number + 1, 131)], [])
        stored = await lab.messages.offline.page(uid, "#tea", 0, 1_000)
        assert (uid, numbers(stored)) == (uid, [*range(number + 1, 111)])


async def test_more_than_one_page_is_shortened_at_once(lab):
    """1,300 messages that nobody acknowledged; the last 20 stay."""
    receiver = [lab.log.append(ChatMessage(TALK, 0, f"m{n}", "alice", "x"), ["bob"], is_group=False)
                for n in range(1_300)]  # fmt: skip
    await asyncio.gather(*receiver)
    await lab.outbox.trim(TALK)
    assert await lab.log.length(TALK) == 20
    read, missing = await lab.read("bob")
    assert numbers(read) == [*range(1, 1_301)] and missing == []


@pytest.mark.parametrize("count", [1, 19, 20])
async def test_a_short_log_stays_as_it_is(lab, count):
    """Nothing is stored, and nothing goes."""
    async with listening(lab.messages, "bob"):
        await lab.talk(1, count)
    assert await lab.outbox.trim(TALK) == 0 and await lab.log.length(TALK) == count
    assert await lab.messages.offline.pending("bob") == {}


async def test_one_more_than_a_log_may_hold_is_one_that_goes(lab):
    """It is the oldest."""
    await lab.talk(1, 21)
    await lab.outbox.trim(TALK)
    assert numbers(await lab.log.read_range(TALK, 0, None, 100)) == [*range(2, 22)]


async def test_a_database_that_is_away_leaves_the_log_as_it_is_and_the_entry_in_the_outbox(lab):
    """Nothing is trimmed that is not stored; when the database is back, it is done."""
    async with listening(lab.messages, "bob"):
        await lab.talk(1, 100)
    entries = await lab.todo()
    with statement_that_fails(lab.store, "INSERT INTO mpim_offline"):
        assert await lab.outbox.run_once(min_age_ms=0) == 0
        with pytest.raises(StoreFailed):
            await lab.outbox.trim(TALK)
    assert await lab.log.length(TALK) == 100 and await lab.todo() == entries
    assert await lab.outbox.run_once(min_age_ms=0) == len(entries) == 10
    assert (
        numbers((await lab.read("bob"))[0]) == [*range(1, 101)] and await lab.log.length(TALK) == 20
    )


async def test_reading_while_the_log_is_shortened_loses_nothing(lab):
    """20 readers and two outboxes at once, while more is said.

    Each reads every number once, in order, none missing.
    """
    others = [
        OutboxWorker(lab.messages, max_log_length=20),
        OutboxWorker(lab.messages, max_log_length=5),
    ]
    done = asyncio.Event()

    async def write():
        for n in range(600):
            await lab.log.append(
                ChatMessage(TALK, 0, f"m{n}", "alice", "x"), ["bob"], is_group=False
            )
        done.set()

    async def shorten(outbox):
        while not done.is_set():
            await outbox.trim(TALK)

    async def read():
        after, seen = 0, []
        while not done.is_set() or after < 600:
            page = await lab.messages.pull_offline(PullOfflineRequest("bob", TALK, after, 7))
            assert page.missing is None
            seen += numbers(page.messages)
            after = seen[-1] if seen else 0
        assert seen == [*range(1, 601)]

    await asyncio.gather(write(), *map(shorten, others), *(read() for _ in range(20)))


async def test_a_log_of_a_group_that_all_have_left_is_shortened(lab):
    """Nobody is left to store it for."""
    await lab.messages.groups.create("tea", "alice")
    await lab.talk_to_all(1, 60)
    await lab.messages.groups.leave("tea", "alice")
    await lab.outbox.run_once(min_age_ms=0)
    assert (await lab.log.length("#tea"), await lab.todo()) == (20, [])


@pytest.mark.parametrize("options", [{"max_log_length": 0}, {"interval_s": 0}, {"min_age_s": -1}])
async def test_bounds_are_refused_by_name(lab, options):
    """A log of nothing, no pause between two looks, what has not happened yet."""
    with pytest.raises(InvalidParameter, match=next(iter(options))):
        OutboxWorker(lab.messages, **options)


# Acknowledgements, which say what may be forgotten


async def test_gathered_acknowledgements_are_written_and_the_highest_counts(lab):
    """Also the last ones, when it ends; and what was stored is forgotten."""
    await lab.talk(1, 30)
    async with AckBuffer(lab.messages, 0.01) as acks:
        for number in (3, 9, 5):
            acks.add("bob", TALK, number, is_stored=True)
        async with asyncio.timeout(5):
            while (await lab.log.read_positions("bob")).get(TALK) != 9:
                await asyncio.sleep(0.01)
        acks.add("bob", TALK, 25, is_stored=True)
    assert await lab.log.read_positions("bob") == {TALK: 25}
    assert numbers(await lab.messages.offline.page("bob", TALK, 0, 100)) == [26, 27, 28, 29, 30]


async def test_acknowledgements_wait_while_the_server_is_away():
    """What could not be written is written when it is back.

    A newer one is not turned back by it.
    """
    async with EmbeddedServer(persistence="always") as server, bench(server) as lab:
        await lab.talk(1, 10)
        async with AckBuffer(lab.messages, 0.01) as acks:
            server.kill()
            acks.add("bob", TALK, 4, is_stored=False)
            await asyncio.sleep(0.1)
            acks.add("bob", TALK, 7, is_stored=False)
            await server.start()
            async with asyncio.timeout(10):
                while (await lab.log.read_positions("bob")).get(TALK) != 7:
                    await asyncio.sleep(0.02)


async def test_an_acknowledgement_that_was_being_written_at_the_end_is_written(lab, monkeypatch):
    """Leaving cancels the one who writes, and writes itself what he had in hand."""
    await lab.talk(1, 10)
    begun, ack, times = asyncio.Event(), lab.messages.ack, []

    async def slow(requests):
        times.append(len(requests))
        begun.set()
        if len(times) == 1:
            await asyncio.sleep(60)
        return await ack(requests)

    monkeypatch.setattr(lab.messages, "ack", slow)
    async with AckBuffer(lab.messages, 0.001) as acks:
        acks.add("bob", TALK, 8, is_stored=False)
        await begun.wait()
    assert await lab.log.read_positions("bob") == {TALK: 8}


async def test_what_has_waited_too_long_in_the_offline_store_goes_by_itself(lab, monkeypatch):
    """Somebody must do it: the outbox does, now and then."""
    called = asyncio.Event()

    async def expire():
        called.set()
        return 0

    monkeypatch.setattr(lab.messages.offline, "expire", expire)
    async with OutboxWorker(lab.messages, expire_interval_s=0.01), asyncio.timeout(5):
        await called.wait()
