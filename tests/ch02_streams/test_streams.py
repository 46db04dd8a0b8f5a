"""Stream on a real server: what was added is kept and read, until it is trimmed.

What cannot be added has a name.
"""

import asyncio

import pytest

from mpim_lab.errors import CommandRejected, InvalidMessage, InvalidParameter, QueueClosed
from mpim_lab.events import EventKind
from mpim_lab.lab.trace.trace import Trace
from mpim_lab.mq.pubsub.queue import MessageQueue


@pytest.fixture
async def mq(server):
    async with MessageQueue(server.url, name="alice", max_payload_bytes=1_000) as queue:
        yield queue


async def filled(mq, count, **options):
    """A stream of so many entries, and their ids."""
    stream = mq.stream("log", **options)
    return stream, await asyncio.gather(*(stream.add(str(number)) for number in range(count)))


async def test_a_payload_is_kept_unchanged_in_the_field_data(mq):
    """Text as UTF-8; reading takes nothing away."""
    stream, after = mq.stream("orders"), "0"
    for payload in (
        b"",
        b"\x00\r\n\xff",
        "晚上好",
        b"x" * 1_000,
        bytearray(b"ba"),
        memoryview(b"mv"),
    ):
        added = await stream.add(payload)
        expected = payload.encode() if isinstance(payload, str) else bytes(payload)
        for _ in range(2):
            (entry,) = await stream.read(after)
            assert (entry.id, entry.fields, entry.data) == (added, {"data": expected}, expected)
        after = added


async def test_a_mapping_gives_the_fields(mq):
    """Names and values may be any text; values bytes, too. Without "data" there is no data."""
    stream = mq.stream("orders")
    await stream.add({"order": "17", "茶": b"\xff", "": ""})
    (entry,) = await stream.read()
    assert entry.fields == {"order": b"17", "茶": b"\xff", "": b""}
    assert entry.data == b""


async def test_ids_ascend_in_the_order_of_adding(mq):
    """Also when many are added at once."""
    stream, ids = await filled(mq, 500)
    entries = await stream.read(count=1_000)
    assert [entry.id for entry in entries] == ids
    assert [entry.data for entry in entries] == [str(number).encode() for number in range(500)]


async def test_an_id_of_ones_own_is_refused_the_second_time(mq):
    """So a repeat after a time-out is not appended twice.

    The same holds for an id below the last one.
    """
    stream = mq.stream("orders")
    for payload in ("a", {"order": "a"}):
        fresh = f"{await stream.length() + 17}-1"
        assert await stream.add(payload, id=fresh) == fresh
        for late in (fresh, "3-1"):
            with pytest.raises(CommandRejected, match="equal or smaller") as caught:
                await stream.add(payload, id=late)
            assert caught.value.definite
    assert await stream.length() == 2


async def test_what_cannot_be_added_is_refused_before_anything_is_sent(mq):
    """Bytes or text of at most max_payload_bytes, or at least one field of them."""
    stream = mq.stream("orders")
    for payload in (
        {},
        None,
        7,
        ["x"],
        {"a": 1},
        {7: "a"},
        {"a": None},
        "\ud800",
        b"x" * 1_001,
        {"a": "é" * 501},
    ):
        with pytest.raises(InvalidMessage) as caught:
            await stream.add(payload)
        assert caught.value.definite
    assert await stream.length() == 0


async def test_reading_goes_on_after_an_id(mq):
    """At most `count` at a time; an empty list at the end."""
    stream, _ = await filled(mq, 5)
    seen, after = [], "0"
    while entries := await stream.read(after, count=2):
        assert len(entries) <= 2
        seen += [entry.data for entry in entries]
        after = entries[-1].id
    assert seen == [b"0", b"1", b"2", b"3", b"4"]


async def test_waiting_gives_the_first_entry_that_comes(mq):
    """Over a connection of its own: adding on the same queue is not held up.

    A name may be any text.
    """
    stream = mq.stream("the 订单")
    reader = asyncio.create_task(stream.wait(timeout_ms=10_000))
    while not reader.done():
        await stream.add("a")
        await asyncio.wait([reader], timeout=0.02)
    assert (await reader)[0].data == b"a"


async def test_waiting_for_what_is_there_already_returns_at_once(mq):
    """From an id on."""
    stream, ids = await filled(mq, 3)
    async with asyncio.timeout(5):
        assert [entry.id for entry in await stream.wait(ids[0], timeout_ms=60_000)] == ids[1:]


async def test_waiting_in_vain_ends_with_nothing(mq):
    """An empty list, no error."""
    assert await mq.stream("orders").wait(timeout_ms=20) == []


async def test_a_range_has_both_its_ends(mq):
    """With a parenthesis it leaves one out; count is a limit."""
    stream, ids = await filled(mq, 5)
    assert [entry.id for entry in await stream.range()] == ids
    assert [entry.id for entry in await stream.range(ids[1], ids[3])] == ids[1:4]
    assert [entry.id for entry in await stream.range(f"({ids[1]}", f"({ids[3]}")] == ids[2:3]
    assert [entry.id for entry in await stream.range(count=2)] == ids[:2]


async def test_trimming_by_number_is_exact_or_about(mq):
    """About: whole blocks only, so a hundred more may stay, never fewer."""
    stream, _ = await filled(mq, 1_000)
    about = await stream.trim(max_entries=150)
    assert 1_000 - 150 - 200 <= about <= 1_000 - 150
    exact = await stream.trim(max_entries=10, exact=True)
    assert (about + exact, await stream.length()) == (990, 10)
    assert (await stream.read())[0].data == b"990"
    assert await stream.trim(max_entries=0, exact=True) == 10


async def test_trimming_by_age_goes_by_the_servers_clock(mq):
    """Ids are times: what is younger stays."""
    stream = mq.stream("log")
    for number in range(5):
        await stream.add("old", id=f"{1_000 + number}-0")
    await stream.add("new")
    assert await stream.trim(max_age_ms=60_000) == 0  # one block holds them all
    assert await stream.trim(max_age_ms=60_000, exact=True) == 5
    assert [entry.data for entry in await stream.range()] == [b"new"]
    assert await stream.trim(max_age_ms=10**15, exact=True) == 0


async def test_trimming_goes_by_number_or_by_age(mq):
    """One of them, not both and not neither."""
    for options in ({}, {"max_entries": 1, "max_age_ms": 1}):
        with pytest.raises(InvalidParameter, match="one of them"):
            await mq.stream("log").trim(**options)


async def test_single_entries_can_be_deleted(mq):
    """Gives how many there were."""
    stream, ids = await filled(mq, 3)
    assert await stream.delete() == 0
    assert await stream.delete(ids[1], "1-1") == 1
    assert [entry.id for entry in await stream.range()] == [ids[0], ids[2]]


async def test_a_stream_with_max_entries_keeps_about_so_many(mq):
    """The newest; whole blocks are forgotten while adding."""
    stream, ids = await filled(mq, 2_000, max_entries=300)
    assert 300 <= await stream.length() <= 500
    assert (await stream.range())[-1].id == ids[-1]
    await stream.add({"order": "17"})
    assert await stream.length() <= 500


async def test_a_stream_of_no_entries_is_refused(mq):
    """At least 1, or None for all."""
    with pytest.raises(InvalidParameter, match="max_entries=0"):
        mq.stream("log", max_entries=0)


async def test_a_bad_name_is_refused(mq):
    """As a channel's."""
    for name in ("", None, 7, "\ud800"):
        with pytest.raises(InvalidMessage):
            mq.stream(name)


async def test_a_prefix_keeps_two_labs_on_one_server_apart(server):
    """Streams and dead letters carry it on the server, and only there."""
    async with (
        MessageQueue(server.url, prefix="lab-1:") as one,
        MessageQueue(server.url, prefix="lab-2:") as two,
    ):
        await one.stream("orders").add("x")
        assert await two.stream("orders").length() == 0
        assert await one.stream("orders").length() == 1
        assert (
            await one.stream("orders").group("g")
        ).dead_letters.key == b"lab-1:stream:{lab-1:orders}:dead:g"


async def test_the_observer_sees_an_entry_accepted_and_added_or_failed(server):
    """Named by its first field's first word; the server's id is the detail."""
    trace = Trace()
    async with MessageQueue(server.url, name="alice", observer=trace) as mq:
        stream = mq.stream("orders")
        added = await stream.add("m1 tea")
        await stream.add({"order": "m2", "item": "tea"})
        with pytest.raises(CommandRejected):
            await stream.add("m3", id="1-1")
    lives = {
        name: [(event.kind, event.actor, event.channel) for event in life]
        for name, life in trace.by_message().items()
    }
    good, bad = [EventKind.ACCEPTED, EventKind.ADDED], [EventKind.ACCEPTED, EventKind.FAILED]
    kinds = {"m1": good, "m2": good, "m3": bad}
    assert lives == {
        name: [(kind, "alice", "orders") for kind in life] for name, life in kinds.items()
    }
    assert next(trace.by_kind(EventKind.ADDED)).detail == added
    assert next(trace.by_kind(EventKind.FAILED)).detail.startswith("CommandRejected: ")


async def test_a_closed_queue_refuses_with_a_named_error(mq):
    """QueueClosed, whatever is asked of the stream."""
    stream = mq.stream("orders")
    await mq.close()
    for attempt in (
        stream.add("x"),
        stream.add({"a": "b"}),
        stream.read(),
        stream.length(),
        stream.group("g"),
    ):
        with pytest.raises(QueueClosed):
            await attempt
    with pytest.raises(QueueClosed):
        await mq.publish("a", b"x")


async def test_a_key_that_is_no_stream_is_refused_by_the_server(mq):
    """CommandRejected with the server's own word; later replies still meet their commands."""
    await mq._commands.call("SET", "orders", "1")
    with pytest.raises(CommandRejected, match="WRONGTYPE"):
        await mq.stream("orders").add("x")
    assert await mq.stream("other").add("y")


@pytest.mark.parametrize("id", [5, "", "\ud800"])
async def test_an_id_that_is_no_text_is_refused_before_anything_is_sent(mq, id):
    """InvalidMessage; as bytes, as the server has it, it is welcome."""
    with pytest.raises(InvalidMessage):
        await mq.stream("orders").add("x", id=id)
    assert await mq.stream("orders").add("x", id=b"5-5") == "5-5"


@pytest.mark.parametrize("count", [0, -1, 1.5, True])
async def test_a_count_that_is_no_number_of_entries_is_refused_by_whatever_reads(mq, count):
    """None and "no limit" are two words of the server's for the same 0."""
    stream = mq.stream("orders")
    await stream.add("x")
    group = await stream.group("g")
    for read in (stream.read, stream.range, stream.wait, group.pending, group.dead_letters.list):
        with pytest.raises(InvalidParameter, match="count"):
            await read(count=count)
