"""Dead letters on a real server: what was given up, for people to read, replay or drop."""

import asyncio

from tests.streams import dies_with, shop


async def test_a_dead_letter_is_replayed_once_with_its_fields_and_goes_to_the_end(server):
    """A new entry; the second replay finds nothing, and two at once make one entry."""
    async with shop(server) as (group, stream):
        await stream.add({"order": "17", "晚": b"\x00\xff"})
        assert await group.bury((await dies_with(group))[0], reason="tired", error="x" * 1_000)
        await stream.add("later")
        (letter,) = await group.dead_letters.list()
        assert len(letter.error) == 500
        replays = await asyncio.gather(*(group.dead_letters.replay(letter.id) for _ in range(3)))
        assert sum(new is not None for new in replays) == 1
        assert await group.dead_letters.replay(letter.id) is None
        last = (await stream.range())[-1]
        assert last.fields == {"order": b"17", "晚": b"\x00\xff"}
        assert last.id in replays
        assert (await group.dead_letters.count(), await stream.length()) == (0, 3)


async def test_burying_what_somebody_finished_meanwhile_does_nothing(server):
    """Twice is once, and what was acknowledged is no dead letter."""
    async with shop(server, "a") as (group, stream):
        delivery = (await dies_with(group))[0]
        assert [await group.bury(delivery, reason="r") for _ in range(2)] == [True, False]
        await stream.add("b")
        other = (await dies_with(group))[0]
        await group.ack(other.entry.id)
        assert not await group.bury(other, reason="r")
        assert await group.dead_letters.count() == 1


async def test_dead_letters_are_listed_page_by_page_and_dropped(server):
    """Oldest first; drop says how many there were."""
    async with shop(server) as (group, stream):
        for number in range(3):
            await stream.add(str(number))
            await group.bury((await dies_with(group))[0], reason=f"r{number}")
        first, second = await group.dead_letters.list(count=2)
        (third,) = await group.dead_letters.list(after=f"({second.id}")
        assert [letter.reason for letter in (first, second, third)] == ["r0", "r1", "r2"]
        assert await group.dead_letters.drop() == 0
        assert await group.dead_letters.drop(first.id, second.id, first.id) == 2
        assert await group.dead_letters.replay(first.id) is None
        assert await group.dead_letters.count() == 1
