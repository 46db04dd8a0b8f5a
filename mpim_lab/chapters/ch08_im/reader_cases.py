"""What the learner's reading rule goes through, easiest first; at the end seeded mixes of it all, the short ones first."""

import random
from collections.abc import Awaitable, Callable

from mpim_lab.chapters.ch08_im.reader_harness import Reading

Script = Callable[[Reading], Awaitable[None]]


async def in_order(reading: Reading) -> None:
    """Three pushes, and the gateway says nothing new."""
    for number in (1, 2, 3):
        await reading.write()
        reading.push(number)
    reading.tell_last()


async def twice(reading: Reading) -> None:
    """A gateway that is not sure pushes again."""
    await reading.write(2)
    for number in (1, 1, 2, 1, 2):
        reading.push(number)


async def gap(reading: Reading) -> None:
    """The push of m2 is lost, and others come after it."""
    await reading.write(5)
    for number in (1, 3, 4, 5):
        reading.push(number)
    await reading.give_page()


async def early(reading: Reading) -> None:
    """m2 overtakes m1; both the late push and the page bring m1."""
    await reading.write(2)
    for number in (2, 1):
        reading.push(number)
    await reading.give_page()


async def between(reading: Reading) -> None:
    """m4 comes after the page was read and before it arrives."""
    await reading.write(3)
    for number in (1, 3):
        reading.push(number)
    await reading.read_page()
    await reading.write()
    reading.push(4)
    await reading.give_page()


async def filled_late(reading: Reading) -> None:
    """The late push fills the gap; another gap opens; then the page arrives, which knows nothing of that one."""
    await reading.write(3)
    for number in (1, 3):
        reading.push(number)
    await reading.read_page()
    reading.push(2)
    await reading.write(2)
    reading.push(5)
    await reading.give_page()
    await reading.give_page()


async def last_lost(reading: Reading) -> None:
    """The push of the last message is lost: no number after it tells of it."""
    await reading.write(3)
    for number in (1, 2):
        reading.push(number)
    reading.tell_last()
    reading.tell_last()
    await reading.give_page()
    reading.tell_last()


async def long_away(reading: Reading) -> None:
    """250 messages while the client was away; one more is pushed meanwhile."""
    await reading.write(250)
    reading.tell_last()
    await reading.give_page()
    await reading.write()
    reading.push(251)
    await reading.finish()


def mix(length: int, seed: int) -> Script:
    """Messages are pushed in time, late, twice or never, in an order that the seed chooses."""

    async def script(reading: Reading) -> None:
        chance = random.Random(f"{seed} of {length}")
        late: list[int] = []
        while reading.length < length:
            await reading.write()
            late += chance.choice([[], [reading.length], [reading.length], [reading.length, reading.length]])
            while late and chance.random() < 0.6:
                reading.push(late.pop(chance.randrange(len(late))))
            step = chance.random()
            if step < 0.15:
                reading.tell_last()
            elif step < 0.4:
                await reading.read_page()
            elif step < 0.6:
                await reading.give_page()
        await reading.finish()
        for number in late:
            reading.push(number)

    return script


MIXES = (*(mix(length, seed) for length in (3, 5, 8, 13, 34) for seed in range(1, 9)), mix(260, 1))
SCRIPTS: tuple[tuple[str, tuple[Script, ...]], ...] = (
    ("three pushes in order", (in_order,)),
    ("pushes come twice", (twice,)),
    ("the push of m2 is lost", (gap,)),
    ("m2 comes before m1", (early,)),
    ("the push of m2 is lost, and m4 comes before the page", (between,)),
    ("the push of m2 comes late, the page later still, and m4 is lost", (filled_late,)),
    ("the last push is lost, and the gateway says how far it is", (last_lost,)),
    ("250 messages while the client was away", (long_away,)),
    ("pushes in time, late, twice or never, mixed by a seed", MIXES),
)
