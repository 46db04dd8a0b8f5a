"""Dead letters on a real server: what was given up, for people to read, replay or drop."""

import asyncio

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mpim_lab.errors import CommandRejected
from mpim_lab.mq.streams.dead_letters import DeadLetter
from tests.streams import dies_with, everything_done, letters, shop, working

OURS = st.sampled_from(
    [
        b"stream",
        b"group",
        b"id",
        b"reason",
        b"error",
        b"deliveries",
        b"_id",
        b"__data__",
        b"data",
        b"",
    ]
)
PAIRS = st.lists(
    st.tuples(OURS | st.binary(max_size=6), st.binary(max_size=20)), min_size=1, max_size=14
)


async def add(stream, pairs):
    """As another program does, which may name a field twice and need not write UTF-8."""
    return await stream._commands.call(
        "XADD", stream.key, "*", *(part for pair in pairs for part in pair)
    )


async def pairs_at(stream, id):
    """The fields of one entry, as the server has them."""
    ((_, parts),) = await stream._commands.call("XRANGE", stream.key, id, id)
    return tuple(zip(parts[::2], parts[1::2], strict=True))


async def bury_one(group, **why):
    """Read one entry and give it up; gives the letter."""
    (delivery,) = await dies_with(group)
    assert await group.dead_letter(delivery, **{"reason": "r"} | why)
    return (await group.dead_letters.list())[-1]


async def round_trip(group, stream, pairs):
    """Bury and replay an entry of these fields; both are as it was."""
    origin = await add(stream, pairs)
    letter = await bury_one(group)
    assert (letter.origin_id, letter.pairs) == (origin.decode(), tuple(pairs))
    new = await group.dead_letters.redrive(letter.id)
    assert await pairs_at(stream, new) == tuple(pairs)
    await group.ack(*(delivery.id for delivery in await dies_with(group)))


async def test_a_dead_letter_is_replayed_once_with_its_fields_and_goes_to_the_end(server):
    """A new entry; the second replay finds nothing, and two at once make one entry."""
    async with shop(server) as (group, stream):
        await stream.add({"order": "17", "晚": b"\x00\xff"})
        assert await group.dead_letter(
            (await dies_with(group))[0], reason="tired", error="x" * 1_000
        )
        await stream.add("later")
        (letter,) = await group.dead_letters.list()
        assert len(letter.error) == 500
        replays = await asyncio.gather(*(group.dead_letters.redrive(letter.id) for _ in range(3)))
        assert sum(new is not None for new in replays) == 1
        assert await group.dead_letters.redrive(letter.id) is None
        last = (await stream.range())[-1]
        assert last.fields == {"order": b"17", "晚": b"\x00\xff"}
        assert last.id in replays
        assert (await group.dead_letters.count(), await stream.length()) == (0, 3)


async def test_burying_what_somebody_finished_meanwhile_does_nothing(server):
    """Twice is once, and what was acknowledged is no dead letter."""
    async with shop(server, "a") as (group, stream):
        delivery = (await dies_with(group))[0]
        assert [await group.dead_letter(delivery, reason="r") for _ in range(2)] == [True, False]
        await stream.add("b")
        other = (await dies_with(group))[0]
        await group.ack(other.entry.id)
        assert not await group.dead_letter(other, reason="r")
        assert await group.dead_letters.count() == 1


async def test_dead_letters_are_listed_page_by_page_and_dropped(server):
    """Oldest first; drop says how many there were."""
    async with shop(server) as (group, stream):
        for number in range(3):
            await stream.add(str(number))
            await group.dead_letter((await dies_with(group))[0], reason=f"r{number}")
        first, second = await group.dead_letters.list(count=2)
        (third,) = await group.dead_letters.list(after=f"({second.id}")
        assert [letter.reason for letter in (first, second, third)] == ["r0", "r1", "r2"]
        assert await group.dead_letters.delete() == 0
        assert await group.dead_letters.delete(first.id, second.id, first.id) == 2
        assert await group.dead_letters.redrive(first.id) is None
        assert await group.dead_letters.count() == 1


# Byte for byte


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(pairs=PAIRS)
async def test_a_dead_letter_and_the_entry_replayed_from_it_are_byte_for_byte_what_came_in(
    server, pairs
):
    """Repeated, empty and non-UTF-8 names, names that are ours."""
    async with shop(server) as (group, stream):
        await round_trip(group, stream, pairs)
        assert await group.dead_letters.count() == 0


@pytest.mark.parametrize("count", [3_494, 3_500, 3_999, 4_200, 30_000])
async def test_an_entry_of_thousands_of_fields_is_buried_and_replayed_as_it_was(server, count):
    """Around the number of values that Lua's `unpack` gives, and far above."""
    async with shop(server) as (group, stream):
        await round_trip(group, stream, [(b"field", b"%d" % number) for number in range(count)])


async def test_an_entry_of_thousands_of_fields_becomes_a_dead_letter_and_its_neighbours_are_handled(
    server,
):
    """It is tried as often as any other and then given up."""
    got = []

    def handle(entry):
        if len(entry.pairs) > 1:
            raise ValueError("poison")
        got.append(entry.data)

    async with shop(server) as (group, stream):
        await stream.add({f"f{number}": b"v" for number in range(4_200)})
        await stream.add("neighbour")
        async with working(group, handle):
            (letter,) = await letters(group)
            await stream.add("later")
            await everything_done(group)
        assert (got, len(letter.fields), letter.deliveries) == ([b"neighbour", b"later"], 4_200, 3)


async def test_an_entry_that_was_trimmed_meanwhile_is_buried_as_it_was(server):
    """Its fields come from whoever has it in hand."""
    async with shop(server) as (group, stream):
        await add(stream, [(b"\xff", b"1"), (b"\xff", b"2")])
        (delivery,) = await dies_with(group)
        await stream.trim(max_entries=0, exact=True)
        assert await group.dead_letter(delivery, reason="r")
        (letter,) = await group.dead_letters.list()
        assert letter.pairs == ((b"\xff", b"1"), (b"\xff", b"2"))
        assert await group.pending() == []


@pytest.mark.parametrize(
    "foreign",
    [
        [(b"data", b"x")],
        [(b"\xff", b"1"), (b"_deliveries", b"many")],
        [
            (b"stream", b"s"),
            (b"group", b"g"),
            (b"id", b"1-0"),
            (b"reason", b"r"),
            (b"error", b"e"),
            (b"deliveries", b"many"),
        ],
    ],
    ids=["payload", "odd names", "our names and nothing else"],
)
async def test_what_another_program_puts_among_the_dead_letters_is_listed_and_replayed_whole(
    server, foreign
):
    """It has no origin, and nothing of it is ours; the letters beside it are not touched."""
    async with shop(server, "a") as (group, stream):
        own = await bury_one(group)
        await group.context.connection.call(
            "XADD", group.dead_letters.key, "*", *(part for pair in foreign for part in pair)
        )
        first, other = await group.dead_letters.list()
        assert first == own
        assert (other.stream, other.origin_id, other.deliveries, other.pairs) == (
            "",
            "",
            0,
            tuple(foreign),
        )
        assert await pairs_at(stream, await group.dead_letters.redrive(other.id)) == tuple(foreign)


async def test_a_letter_that_another_program_wrote_like_ours_is_read_whatever_it_says(server):
    """Numbers that are none, texts that are not UTF-8."""
    async with shop(server) as (group, _):
        for deliveries in (b"many", b"-1", b"9" * 5_000):
            ours = [
                b"stream",
                b"\xff",
                b"group",
                b"\xfe",
                b"id",
                b"\xfd",
                b"reason",
                b"\xfc",
                b"error",
                b"\xfb",
            ]
            words = (*ours, b"deliveries", deliveries, b"data", b"x")
            await group.context.connection.call("XADD", group.dead_letters.key, "*", *words)
        for letter in await group.dead_letters.list():
            assert letter == DeadLetter(
                letter.id, b"\xff", b"\xfe", "\\xfd", "\\xfc", "\\xfb", 0, ((b"data", b"x"),)
            )


async def test_reason_and_error_may_be_any_text(server):
    """An error may name a file whose name is not UTF-8."""
    async with shop(server, "a", "b") as (group, _):
        (first, _) = await dies_with(group)
        assert await group.dead_letter(first, reason="晚 \0", error="no file '\udcff'")
        (letter,) = await group.dead_letters.list()
        assert (letter.reason, letter.error) == ("晚 \0", "no file '\\udcff'")


async def test_an_entry_that_cannot_be_buried_stays_pending_until_that_is_put_right(server):
    """Somebody's key is where the dead letters go.

    The error is named, and the entry is buried once that is put right.
    """
    got = []

    def handle(entry):
        if entry.data == b"poison":
            raise ValueError
        got.append(entry.data)

    async with shop(server, "poison", "b") as (group, _):
        commands, key = group.context.connection, group.dead_letters.key
        await commands.call("SET", key, "in the way")
        (delivery, other) = await dies_with(group)
        with pytest.raises(CommandRejected) as refused:
            await group.dead_letter(delivery, reason="r")
        assert (refused.value.code, refused.value.definite, refused.value.transient) == (
            "WRONGTYPE",
            True,
            False,
        )
        assert [line.id for line in await group.pending()] == [delivery.id, other.id]
        await commands.call("DEL", key)
        async with working(group, handle, claim_idle_ms=10):
            (letter,) = await letters(group)
            await everything_done(group)
        assert (letter.origin_id, got) == (delivery.id, [b"b"])
