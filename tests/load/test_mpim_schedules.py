"""Chapter 8's comparison at length: 200 random schedules of nine faults, both designs."""

import asyncio

import pytest

from mpim_lab.chapters.ch08_im.experiment import ALL_FAULTS, ImExperiment

pytestmark = pytest.mark.timeout(900)
SEEDS, AT_ONCE = range(1_000, 1_200), 4


async def verdicts(design):
    """What each seed's schedule did."""
    turns = asyncio.Semaphore(AT_ONCE)

    async def one(seed):
        async with turns:
            return (await ImExperiment(design=design, fault=ALL_FAULTS, seed=seed).run()).verdict

    return dict(zip(SEEDS, await asyncio.gather(*map(one, SEEDS)), strict=True))


async def test_the_correct_system_loses_repeats_and_reorders_nothing_in_two_hundred_schedules():
    """For the reader's application, whatever faults came and in which order."""
    found = await verdicts("correct")
    assert [
        seed
        for seed, each in found.items()
        if each.lost or each.duplicated or each.reordered or each.stalled
    ] == []


async def test_the_naive_version_is_caught_in_each_of_two_hundred_schedules():
    """Every schedule has faults that lose, that repeat and that reorder."""
    found = await verdicts("naive")
    assert [
        seed
        for seed, each in found.items()
        if not (each.lost and each.duplicated and each.reordered)
    ] == []
