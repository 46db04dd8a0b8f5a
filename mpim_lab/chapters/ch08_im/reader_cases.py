"""The cases of the learner's reader, easiest first.

At the end seeded mixes of it all, the short ones first.
"""

import random
from collections.abc import Awaitable, Callable

from mpim_lab.chapters.ch08_im.reader_harness import ReaderHarness

Script = Callable[[ReaderHarness], Awaitable[None]]


async def in_order(harness: ReaderHarness) -> None:
    """Three pushes, and the gateway says nothing new."""
    for number in (1, 2, 3):
        await harness.append()
        harness.push(number)
    harness.announce_last()


async def twice(harness: ReaderHarness) -> None:
    """A gateway that is not sure pushes again."""
    await harness.append(2)
    for number in (1, 1, 2, 1, 2):
        harness.push(number)


async def gap(harness: ReaderHarness) -> None:
    """The push of m2 is lost, and others come after it."""
    await harness.append(5)
    for number in (1, 3, 4, 5):
        harness.push(number)
    await harness.deliver_page()


async def early(harness: ReaderHarness) -> None:
    """m2 overtakes m1; both the late push and the page bring m1."""
    await harness.append(2)
    for number in (2, 1):
        harness.push(number)
    await harness.deliver_page()


async def between(harness: ReaderHarness) -> None:
    """m4 comes after the page was read and before it arrives."""
    await harness.append(3)
    for number in (1, 3):
        harness.push(number)
    await harness.load_page()
    await harness.append()
    harness.push(4)
    await harness.deliver_page()


async def filled_late(harness: ReaderHarness) -> None:
    """The late push fills the gap.

    Another gap opens; then the page arrives, which knows nothing of that one.
    """
    await harness.append(3)
    for number in (1, 3):
        harness.push(number)
    await harness.load_page()
    harness.push(2)
    await harness.append(2)
    harness.push(5)
    await harness.deliver_page()
    await harness.deliver_page()


async def last_lost(harness: ReaderHarness) -> None:
    """The push of the last message is lost: no number after it tells of it."""
    await harness.append(3)
    for number in (1, 2):
        harness.push(number)
    harness.announce_last()
    harness.announce_last()
    await harness.deliver_page()
    harness.announce_last()


async def long_away(harness: ReaderHarness) -> None:
    """250 messages while the client was away; one more is pushed meanwhile."""
    await harness.append(250)
    harness.announce_last()
    await harness.deliver_page()
    await harness.append()
    harness.push(251)
    await harness.finish()


def random_case(length: int, seed: int) -> Script:
    """Messages are pushed in time, late, twice or never, in an order that the seed chooses."""

    async def script(harness: ReaderHarness) -> None:
        chance = random.Random(f"{seed} of {length}")
        late: list[int] = []
        while harness.length < length:
            await harness.append()
            late += chance.choice(
                [[], [harness.length], [harness.length], [harness.length, harness.length]]
            )
            while late and chance.random() < 0.6:
                harness.push(late.pop(chance.randrange(len(late))))
            step = chance.random()
            if step < 0.15:
                harness.announce_last()
            elif step < 0.4:
                await harness.load_page()
            elif step < 0.6:
                await harness.deliver_page()
        await harness.finish()
        for number in late:
            harness.push(number)

    return script


RANDOM_CASES = (
    *(random_case(length, seed) for length in (3, 5, 8, 13, 34) for seed in range(1, 9)),
    random_case(260, 1),
)
CASES: tuple[tuple[str, tuple[Script, ...]], ...] = (
    ("three pushes in order", (in_order,)),
    ("pushes come twice", (twice,)),
    ("the push of m2 is lost", (gap,)),
    ("m2 comes before m1", (early,)),
    ("the push of m2 is lost, and m4 comes before the page", (between,)),
    ("the push of m2 comes late, the page later still, and m4 is lost", (filled_late,)),
    ("the last push is lost, and the gateway says how far it is", (last_lost,)),
    ("250 messages while the client was away", (long_away,)),
    ("pushes in time, late, twice or never, mixed by a seed", RANDOM_CASES),
)
