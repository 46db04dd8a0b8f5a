"""What the tests of all challenges share: bad solutions fail, every time, with the same words, for the reason expected."""

import asyncio

from tests.support import REPEATS


async def assert_each_fails(challenge, complaints):
    """Check each bad solution REPEATS times, all at once.

    It fails for the reason expected, with the same words.
    """
    places = asyncio.Semaphore(6)

    async def check(bad):
        async with places:
            return await challenge().check(bad)

    outcomes = await asyncio.gather(*(check(bad) for bad in complaints for _ in range(REPEATS)))
    for index, (bad, complaint) in enumerate(complaints.items()):
        first, *others = outcomes[REPEATS * index : REPEATS * (index + 1)]
        assert not first.passed, bad
        assert complaint in repr(first), f"{bad}: {first!r}"
        assert {repr(first)} == {repr(again) for again in (first, *others)}, (
            f"{bad}: {first!r}, {others!r}"
        )


async def assert_all_pass(*checks):
    """Every outcome is a pass; otherwise the assertion shows the stories."""
    outcomes = await asyncio.gather(*checks)
    failed = [repr(outcome) for outcome in outcomes if not outcome.passed]
    assert not failed, "\n".join(failed)


def assert_hints_come_one_at_a_time(*challenges):
    """The last one stays."""
    for challenge in challenges:
        hints = [challenge.hint() for _ in range(4)]
        assert hints[0].startswith("hint 1 of 3")
        assert hints[2] == hints[3]
