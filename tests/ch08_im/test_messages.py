"""MessageService on a server.

Numbered without gaps, kept once, pushed, and read in order by those who may.
"""

import asyncio
import contextlib

import pytest
from sqlalchemy import event

from mpim_lab.errors import (
    AccessDenied,
    CommandRejected,
    InvalidMessage,
    InvalidParameter,
    MpimError,
    NoSuchGroup,
    NotAMember,
)
from mpim_lab.im.protocol.frames import Broadcast, decode_gateway, decode_push
from mpim_lab.im.protocol.requests import (
    AckRequest,
    BroadcastSystemMessageRequest,
    ChatMessage,
    PullOfflineRequest,
    SendGroupMessageRequest,
    SendMessageRequest,
)
from mpim_lab.im.services.groups import GroupService
from mpim_lab.im.services.message_log import MessageLog
from mpim_lab.im.services.messages import MessageService
from mpim_lab.im.services.offline import OfflineStore
from mpim_lab.keys import BROADCAST_CHANNEL, Keys, user_channel
from mpim_lab.lab.server.embedded import EmbeddedServer
from mpim_lab.mq.connection.resp import RespConnection
from mpim_lab.mq.idempotency.sql_database import SqlDatabase
from mpim_lab.mq.pubsub.queue import MessageQueue
from tests.support import wait_until

TALK = "alice:bob"
HARD = (
    'quotes " and \' and \\" \n\r\t\x00\x7f backslash \\ \\\\ 茶 🫖 é '
    '{"sequence":0,"at_ms":0}"} , "sequence":0 $1 %d'
)


@contextlib.asynccontextmanager
async def service(server):
    async with (
        MessageQueue(server.url) as queue,
        SqlDatabase("sqlite+aiosqlite:///:memory:") as store,
    ):
        yield MessageService(queue, GroupService(store, queue), OfflineStore(store))


@pytest.fixture
async def messages(server):
    async with service(server) as made:
        yield made


@contextlib.asynccontextmanager
async def listening(messages, *uids):
    """What is pushed to these users, in order: (user, message)."""
    pushed = []

    def take(message):
        sender_id, conversation, sequence, frame = decode_push(message.payload)
        read = decode_gateway(frame)
        assert (read.id, read.conversation, read.sequence) == (sender_id, conversation, sequence)
        pushed.append((message.channel.removeprefix("user:"), read))

    for uid in uids:
        await messages.queue.subscribe(user_channel(uid), take)
    yield pushed
    for uid in uids:
        await messages.queue.unsubscribe(user_channel(uid))


async def send(messages, id, text="hello", sender="alice", to="bob"):
    return await messages.send_message(SendMessageRequest(id, sender, to, text))


async def send_all(messages, id, text="hello", sender="alice", group="tea"):
    return await messages.send_group_message(SendGroupMessageRequest(id, sender, group, text))


async def pull(messages, uid="bob", conversation=TALK, after=0, **options):
    return await messages.pull_offline(PullOfflineRequest(uid, conversation, after, **options))


async def call(messages, *words):
    return await messages.queue.context("test").connection.call(*words)


def numbers(page):
    return [each.sequence for each in page]


# Numbers


async def test_fifty_senders_at_once_get_numbers_without_a_gap(messages, server):
    """Over two gateways; the log has each message under the number its sender was told."""
    async with service(server) as other:
        both = (messages, other)
        sent = await asyncio.gather(
            *(
                send(
                    both[n % 2],
                    f"m{n}",
                    f"text {n}",
                    "alice" if n % 3 else "bob",
                    "bob" if n % 3 else "alice",
                )
                for n in range(200)
            )
        )
    assert sorted(numbers(sent)) == [*range(1, 201)]
    first, second = (await pull(messages)), (await pull(messages, after=100))
    log = first.messages + second.messages
    assert numbers(log) == [*range(1, 201)] and {each.conversation for each in sent} == {TALK}
    assert {each.id: each.sequence for each in sent} == {each.id: each.sequence for each in log}
    assert all(
        each.text == f"text {each.id[1:]}" and each.at_ms > 1_000_000_000_000 for each in log
    )


async def test_each_conversation_has_its_own_numbers(messages):
    """What is said elsewhere leaves no gap here."""
    sent = [
        await send(messages, f"m{n}", to=to)
        for n, to in enumerate(["bob", "carol", "bob", "carol", "bob"])
    ]
    assert [(each.conversation, each.sequence) for each in sent] == [
        (TALK, 1), ("alice:carol", 1), (TALK, 2), ("alice:carol", 2), (TALK, 3)
    ]  # fmt: skip


async def test_the_same_id_again_is_the_same_message(messages):
    """Told "known" with the number it has; not pushed and not kept again."""
    async with listening(messages, "bob") as pushed:
        assert (await send(messages, "m1")).status == "pushed"
        again = await send(messages, "m1", "another text")
        assert (again.status, again.sequence) == ("known", 1)
        assert (await send(messages, "m2")).sequence == 2
        await wait_until(lambda: len(pushed) == 2)
    assert [(each.id, each.text) for each in (await pull(messages)).messages] == [
        ("m1", "hello"),
        ("m2", "hello"),
    ]


async def test_the_same_id_twenty_times_at_once_is_one_message(messages, server):
    """By two gateways, as a client does that changed over: one number, one entry, one push."""
    async with service(server) as other, listening(messages, "bob") as pushed:
        sent = await asyncio.gather(*(send(each, "m1") for each in (messages, other) * 10))
        assert sorted(each.status for each in sent) == ["known"] * 19 + ["pushed"]
        assert {each.sequence for each in sent} == {1}
        assert (await send(messages, "m2")).sequence == 2
        await wait_until(lambda: len(pushed) == 2)
    assert await messages.log.length(TALK) == 2


async def test_two_people_who_choose_the_same_id_have_two_messages(messages):
    """An id is its sender's.

    Nobody's message is taken for another one's, in a talk of two or in a group.
    """
    assert (await send(messages, "m1", "from alice")).status == "stored"
    other = await send(messages, "m1", "from bob", "bob", "alice")
    assert (other.status, other.sequence) == ("stored", 2)
    await messages.groups.create("tea", "alice", ["bob"])
    assert [(await send_all(messages, "m1", sender=who)).sequence for who in ("alice", "bob")] == [
        1,
        2,
    ]
    assert [each.text for each in (await pull(messages)).messages] == ["from alice", "from bob"]


async def test_a_message_to_oneself_is_pushed_and_kept_once(messages):
    """A talk of one: note to self."""
    async with listening(messages, "alice") as pushed:
        sent = await send(messages, "m1", to="alice")
        assert (sent.conversation, sent.sequence, sent.status) == ("alice:alice", 1, "pushed")
        await send(messages, "m2", to="alice")
        await wait_until(lambda: len(pushed) >= 2)
    assert [each.id for _, each in pushed] == ["m1", "m2"]
    assert await messages.conversations("alice") == {"alice:alice": (0, 2)}
    with pytest.raises(AccessDenied):
        await pull(messages, "bob", "alice:alice")


# Told


async def test_a_message_is_told_pushed_or_stored_as_somebody_listens_or_not(messages):
    """The receiver counts, and not the sender's own devices, which hear it, too."""
    async with listening(messages, "alice") as pushed:
        assert (await send(messages, "m1")).status == "stored"
        await wait_until(lambda: pushed)
    assert (
        await messages.offline.pending("bob") == {TALK: 1}
        and await messages.offline.pending("alice") == {}
    )
    async with listening(messages, "bob"):
        assert (await send(messages, "m2")).status == "pushed"
    assert await messages.offline.pending("bob") == {TALK: 1}


@pytest.mark.parametrize("group", [None, "tea"])
async def test_a_text_of_any_kind_comes_as_it_was_sent(messages, group):
    """Quotes, lines, zeros, what looks like our own frame.

    By push, from the log and from the offline store.
    """
    await messages.groups.create("tea", "alice", ["bob", "carol"])
    texts = [
        HARD,
        "\\",
        '"',
        "\n",
        "🫖" * 4_000,
        '"sequence":0',
        '"sequence":0}',
        '"at_ms":0}',
        "0}",
    ]
    async with listening(messages, "bob") as pushed:
        for number, text in enumerate(texts):
            await (
                send_all(messages, f"m{number}", text)
                if group
                else send(messages, f"m{number}", text)
            )
        await wait_until(lambda: len(pushed) == len(texts))
    conversation = "#tea" if group else TALK
    kept = (await pull(messages, conversation=conversation)).messages
    assert [each.text for each in kept] == [each.text for _, each in pushed] == texts
    if group:
        assert await messages.offline.page("carol", "#tea", 0, 100) == list(kept)


async def test_an_id_of_any_kind_comes_as_it_was_sent(messages):
    """Whatever the wire lets through: colons, quotes, braces."""
    ids = [":", "a:b", '"', "\\", "{}", "%s", "$", "x" * 64]
    async with listening(messages, "bob") as pushed:
        assert [(await send(messages, each)).sequence for each in ids] == [*range(1, 9)]
        await wait_until(lambda: len(pushed) == len(ids))
    assert (
        [each.id for _, each in pushed]
        == ids
        == [each.id for each in (await pull(messages)).messages]
    )


async def test_a_database_that_is_away_does_not_stop_a_message(messages):
    """It is in the log, and "stored" is true of that."""
    await messages.groups.create("tea", "alice", ["bob"])
    with failing_inserts(messages):
        assert (await send(messages, "m1")).status == "stored"
        assert (await send_all(messages, "m2")).stored == 1
    assert (
        numbers((await pull(messages)).messages)
        == numbers((await pull(messages, conversation="#tea")).messages)
        == [1]
    )


async def test_a_refused_step_leaves_no_number_behind(messages):
    """A log that cannot be written: an error by name.

    Once it can be, the next number is the next one.
    """
    await send(messages, "m1")
    log = Keys().log("chat", TALK)
    await call(messages, "RENAME", log, "aside")
    await call(messages, "SET", log, "no stream")
    with pytest.raises(CommandRejected, match="WRONGTYPE"):
        await send(messages, "m2")
    await call(messages, "RENAME", "aside", log)
    assert (await send(messages, "m2")).sequence == 2 and (await pull(messages)).last == 2


@contextlib.contextmanager
def failing_inserts(messages):
    """A database that refuses whatever is put into it."""

    def refuse(connection, cursor, statement, *_):
        if statement.startswith("INSERT"):
            cursor.execute("this is no statement")

    engine = messages.offline._tables.store._engine.sync_engine
    event.listen(engine, "before_cursor_execute", refuse)
    try:
        yield
    finally:
        event.remove(engine, "before_cursor_execute", refuse)


# Groups


async def test_a_groups_message_is_kept_once_and_pushed_to_all(messages):
    """The sender's other devices hear it.

    For those away it waits in the offline store; the outbox is empty then.
    """
    await messages.groups.create("tea", "alice", ["bob", "carol", "dave"])
    async with listening(messages, "alice", "bob") as pushed:
        sent = await send_all(messages, "m1")
        await wait_until(lambda: len(pushed) == 2)
    assert (sent.status, sent.pushed, sent.stored, sent.failed) == ("pushed", 2, 2, ())
    assert {uid for uid, _ in pushed} == {"alice", "bob"} and {
        each.sequence for _, each in pushed
    } == {1}
    assert await messages.log.length("#tea") == 1
    waiting = {
        uid: await messages.offline.pending(uid) for uid in ("alice", "bob", "carol", "dave")
    }
    assert waiting == {"alice": {}, "bob": {}, "carol": {"#tea": 1}, "dave": {"#tea": 1}}
    assert await call(messages, "XLEN", "chat:{outbox}") == 0
    assert (await send_all(messages, "m1")).status == "known" and await messages.log.length(
        "#tea"
    ) == 1


async def test_a_group_of_which_nobody_is_here_has_it_stored_for_all_but_the_sender(messages):
    """And that is what the sender is told."""
    await messages.groups.create("tea", "alice", ["bob", "carol"])
    sent = await send_all(messages, "m1")
    assert (sent.status, sent.pushed, sent.stored) == ("stored", 0, 2)
    assert await messages.offline.pending("alice") == {}


async def test_fifty_members_who_write_at_once_get_numbers_without_a_gap(messages):
    """And everybody is pushed every one of them."""
    members = [f"user{n}" for n in range(50)]
    await messages.groups.create("tea", "alice", members)
    async with listening(messages, "user7") as pushed:
        sent = await asyncio.gather(
            *(send_all(messages, f"m-{uid}", sender=uid) for uid in members)
        )
        await wait_until(lambda: len(pushed) == 50)
    assert sorted(numbers(sent)) == sorted(each.sequence for _, each in pushed) == [*range(1, 51)]


async def test_only_members_write_to_a_group_and_read_it(messages):
    """Strangers, those who left, and groups that are not there are refused by name."""
    await messages.groups.create("tea", "alice", ["bob"])
    await send_all(messages, "m1")
    for refused in (send_all(messages, "m2", sender="eve"), pull(messages, "eve", "#tea")):
        with pytest.raises(NotAMember, match="eve"):
            await refused
    await messages.groups.leave("tea", "bob")
    for refused in (send_all(messages, "m3", sender="bob"), pull(messages, "bob", "#tea")):
        with pytest.raises(NotAMember, match="bob"):
            await refused
    for refused in (send_all(messages, "m4", group="none"), pull(messages, "bob", "#none")):
        with pytest.raises(NoSuchGroup):
            await refused
    assert numbers((await pull(messages, "alice", "#tea")).messages) == [1]
    assert await messages.log.length("#tea") == 1


@pytest.mark.parametrize("conversation", [TALK, "alice:bob2", "alice:eve2", "alice", "al:ice", "x"])
async def test_nobody_reads_what_two_others_say(messages, conversation):
    """Names are compared whole."""
    with pytest.raises(AccessDenied, match="eve does not take part"):
        await pull(messages, "eve", conversation)


async def test_whoever_joins_begins_with_what_comes_next(messages):
    """What was said before counts as acknowledged."""
    await messages.groups.create("tea", "alice")
    for n in range(3):
        await send_all(messages, f"m{n}")
    await messages.groups.join("tea", "bob")
    assert await messages.seek_to_end("bob", "#tea", is_new=True) == 3
    assert await messages.seek_to_end("bob", "#tea", is_new=False) == 3
    await send_all(messages, "m3")
    assert await messages.conversations("bob") == {"#tea": (3, 4)}


async def test_a_group_of_500_costs_as_many_round_trips_as_one_of_10(one_server, monkeypatch):
    """One round trip, however many members.

    Counted: writes to the command connection, each with everything that waits for an answer, and
    the server's own count of commands other than PUBLISH, of which there is one a member.
    """
    writes, flush = [], RespConnection.flush
    monkeypatch.setattr(
        RespConnection,
        "flush",
        lambda self: (writes.append(len(self._outgoing)) if self._outgoing else None, flush(self)),
    )
    async with service(one_server) as messages:
        seen = {}
        for size in (10, 500):
            everybody = ["alice", *(f"user{n}" for n in range(size - 1))]
            await messages.groups.create(f"of-{size}", "alice", everybody)
            await send_all(
                messages, "first", group=f"of-{size}"
            )  # makes the copy of the members, sends the script
            await call(messages, "CONFIG", "RESETSTAT")
            writes.clear()
            assert (await send_all(messages, "m1", group=f"of-{size}")).stored == size - 1
            seen[size] = (len(writes), await commands_run(messages))
    assert seen[10][0] == seen[500][0] == 4  # members, step 1, all pushes, step 3
    assert seen[10][1].pop("publish") == 10 and seen[500][1].pop("publish") == 500
    assert seen[10][1] == seen[500][1]


async def commands_run(messages):
    lines = (await call(messages, "INFO", "commandstats")).decode().splitlines()
    counts = {
        line.split(":")[0]: int(line.split("calls=")[1].split(",")[0])
        for line in lines
        if "calls=" in line
    }
    return {
        name.removeprefix("cmdstat_"): count
        for name, count in counts.items()
        if name not in _OF_THE_TEST
    }


_OF_THE_TEST = {"cmdstat_config|resetstat", "cmdstat_info"}


# Reading


async def test_350_messages_are_read_in_pages_of_100(messages):
    """In order, and the last page is not full; whoever has everything gets nothing."""
    await asyncio.gather(*(send(messages, f"m{n}") for n in range(350)))
    sizes, after = [], 0
    while (page := await pull(messages, after=after)).messages:
        assert numbers(page.messages) == [*range(after + 1, after + 1 + len(page.messages))]
        assert (page.last, page.missing) == (350, None)
        sizes.append(len(page.messages))
        after = page.messages[-1].sequence
    assert (sizes, after) == ([100, 100, 100, 50], 350)
    assert await pull(messages, after=2**53) == await pull(messages, after=350)


async def test_acknowledgements_go_forward_only(messages):
    """One that comes late gives how far the user is; each user and conversation has its own."""
    for n in range(9):
        await send(messages, f"m{n}")
        await send(messages, f"m{n}", to="carol")
    requests = [
        AckRequest("bob", TALK, 5),
        AckRequest("alice", TALK, 2),
        AckRequest("alice", "alice:carol", 9),
    ]
    assert [each.sequence for each in await messages.ack(requests)] == [5, 2, 9]
    late = [
        AckRequest("bob", TALK, 3),
        AckRequest("bob", TALK, 0),
        AckRequest("bob", TALK, 6),
        AckRequest("bob", TALK, 4),
    ]
    assert [each.sequence for each in await messages.ack(late)] == [5, 5, 6, 6]
    assert await messages.conversations("alice") == {TALK: (2, 9), "alice:carol": (9, 9)}
    assert await messages.conversations("bob") == {TALK: (6, 9)} and await messages.ack([]) == []


async def test_nobody_acknowledges_what_has_not_been_said_yet(messages):
    """Otherwise whoever says 2**53 once would never be told of anything again."""
    await send(messages, "m1")
    assert [each.sequence for each in await messages.ack([AckRequest("bob", TALK, 2**53)])] == [1]
    await send(messages, "m2")
    assert await messages.conversations("bob") == {TALK: (1, 2)}


async def test_acknowledgements_of_what_is_not_theirs_fill_nothing(messages):
    """A client may say any name, as often as it likes: nothing is kept of it."""
    await send(messages, "m1")
    names = [TALK, "nobody:here", "eve:nobody", "#none", "x" * 130, "eve", ":", "eve:茶\n"]
    assert [
        each.sequence for each in await messages.ack([AckRequest("eve", name, 7) for name in names])
    ] == [0] * 8
    assert await call(messages, "EXISTS", Keys().acked("eve")) == 0


async def test_five_hundred_acknowledgements_are_one_step(messages):
    """In the order in which they were given."""
    uids = [f"user{n}" for n in range(500)]
    await asyncio.gather(*(send(messages, "m1", to=uid) for uid in uids))
    requests = [AckRequest(uid, f"alice:{uid}", n % 3) for n, uid in enumerate(uids)]
    assert [each.sequence for each in await messages.ack(requests)] == [
        min(n % 3, 1) for n in range(500)
    ]


async def test_conversations_are_those_of_a_user_and_how_far_they_are(messages):
    """Talks of two she began or was written to in, and her groups, also silent ones."""
    await messages.groups.create("tea", "bob", ["alice"])
    await messages.groups.create("silent", "alice")
    await messages.groups.create("others", "carol")
    await send(messages, "m1")
    await send(messages, "m2", sender="carol", to="alice")
    await send(messages, "m3", sender="carol", to="bob")
    await send_all(messages, "m4", sender="bob")
    expected = {TALK: (0, 1), "alice:carol": (0, 1), "#tea": (0, 1), "#silent": (0, 0)}
    assert await messages.conversations("alice") == expected
    assert await messages.conversations("nobody") == {}


async def test_what_nothing_has_any_more_is_said_to_be_missing(messages):
    """The log was shortened behind the store's back.

    The page says from where to where, and goes on after it.
    """
    for n in range(1, 8):
        await messages.log.append(
            ChatMessage(TALK, 0, f"m{n}", "alice", "hi"), ["bob"], is_group=False
        )
    await messages.log.trim(TALK, 4)
    await messages.offline.store_many(["bob"], [ChatMessage(TALK, 2, "m2", "alice", "hi")])
    assert (page := await pull(messages)).missing == (1, 1) and numbers(page.messages) == [2]
    assert (page := await pull(messages, after=2)).missing == (3, 3) and numbers(page.messages) == [
        4,
        5,
        6,
        7,
    ]
    assert (page := await pull(messages, "alice")).missing == (1, 3) and numbers(page.messages) == [
        4,
        5,
        6,
        7,
    ]


async def test_what_was_stored_is_forgotten_once_it_is_acknowledged(messages):
    """And nothing else."""
    for n in range(3):
        await send(messages, f"m{n}")
    await send(messages, "m3", to="carol")
    assert await messages.delete_offline(AckRequest("bob", TALK, 2)) == 2
    assert numbers(await messages.offline.page("bob", TALK, 0, 100)) == [3]
    assert await messages.offline.pending("carol") == {"alice:carol": 1}


async def test_a_notice_goes_to_every_gateway(messages):
    """It says how many there are."""
    told = []
    assert (
        await messages.broadcast_system_message(BroadcastSystemMessageRequest("n1", "hi"))
    ).gateways == 0
    await messages.queue.subscribe(BROADCAST_CHANNEL, lambda message: told.append(message.payload))
    assert (
        await messages.broadcast_system_message(BroadcastSystemMessageRequest("n2", HARD))
    ).gateways == 1
    await wait_until(lambda: told)
    head, _, frame = told[0].partition(b" ")
    assert (head, decode_gateway(frame)) == (b"n2", Broadcast("n2", HARD))


@pytest.mark.parametrize(
    "text", ["", None, 5, b"hi", "half \ud800", "x" * 100_001], ids=lambda text: repr(text)[:8]
)
async def test_a_text_that_no_client_could_read_is_refused_where_it_is_given(messages, text):
    """A notice without a text would break the line of everybody who is online."""
    with pytest.raises(InvalidMessage):
        await messages.broadcast_system_message(BroadcastSystemMessageRequest("n1", text))
    with pytest.raises(InvalidMessage):
        await messages.send_message(SendMessageRequest("m1", "alice", "bob", text))
    assert await messages.log.last_sequence(TALK) == 0


@pytest.mark.parametrize("number", [-1, 1.5, 2**53 + 1, float("nan"), True, "5", None])
async def test_numbers_that_no_conversation_has_are_refused_by_name(messages, number):
    """Nobody's place is moved, to nowhere least of all."""
    await messages.send_message(SendMessageRequest("m1", "alice", "bob", "hi"))
    with pytest.raises(InvalidParameter, match="after="):
        await messages.pull_offline(PullOfflineRequest("bob", TALK, number))
    with pytest.raises(InvalidParameter, match="limit="):
        await messages.pull_offline(PullOfflineRequest("bob", TALK, 0, number))
    with pytest.raises(InvalidParameter, match="sequence="):
        await messages.ack([AckRequest("bob", TALK, number)])
    assert await messages.conversations("bob") == {TALK: (0, 1)}


async def test_a_page_of_nothing_is_refused(messages):
    """0 messages: nobody would ever come to the end."""
    with pytest.raises(InvalidParameter, match="limit=0"):
        await messages.pull_offline(PullOfflineRequest("bob", TALK, 0, 0))


async def test_bounds_are_refused_by_name(messages):
    """A log that is looked at for trimming never."""
    with pytest.raises(InvalidParameter, match="trim_every"):
        MessageLog(messages.queue, trim_every=0)


# The server dies


async def test_a_server_that_is_killed_in_the_middle_loses_nothing_that_was_confirmed():
    """Killed twice in the middle of 200 sends that are repeated under the same id.

    No gap, each id once, as it was told.
    """
    async with EmbeddedServer(persistence="always") as server, service(server) as messages:
        told, confirmed = {}, []

        async def until_told(number):
            message_id = f"m{number}"
            while message_id not in told:
                with contextlib.suppress(MpimError):
                    told[message_id] = (await send(messages, message_id, f"text {number}")).sequence
                    confirmed.append(message_id)

        async def faults():
            for count in (50, 120):
                await wait_until(lambda count=count: len(confirmed) >= count, within_s=30)
                server.kill()
                await server.start()

        async def some(begin):
            for number in range(begin, 200, 8):
                await until_told(number)

        await asyncio.gather(faults(), *(some(begin) for begin in range(8)))
        log = [*(await pull(messages)).messages, *(await pull(messages, after=100)).messages]
    assert numbers(log) == [*range(1, 201)]
    assert {each.id: each.sequence for each in log} == told and len(told) == 200
