"""Chapter 5's experiment: the naive version breaks the same way every time, the fix holds."""

import asyncio

import pytest

from mpim_lab.chapters.ch05_batching.experiment import BurstExperiment, burst_table
from mpim_lab.chapters.ch05_batching.scenario import (
    BATCHING_FAULTS,
    DESIGNS,
    WINDOW_MS,
    BatchingScenario,
)
from mpim_lab.events import EventKind
from mpim_lab.lab.faults.injector import schedule_faults
from mpim_lab.widgets import FlowView, SpaceTime
from tests.pictures import assert_is_static
from tests.support import REPEATS, wait_until

NAIVE_DESIGNS = ("naive", "naive with a timer")
CORRECT = ("fixed window", "adaptive")


@pytest.mark.parametrize("design", DESIGNS)
async def test_without_a_fault_every_design_delivers_everything(lab_server, design):
    """The naive version looks right until something goes wrong."""
    verdict = (await BurstExperiment(design=design, fault="none", messages=40).run()).verdict
    assert verdict.semantics == "exactly once in this run, in order"
    assert verdict.sent == 40


@pytest.mark.parametrize("messages", [5, 14, 27])
async def test_the_naive_version_keeps_the_end_of_a_burst(lab_server, messages):
    """What does not fill a batch waits for somebody else to write.

    The same with a timer arrives.
    """
    naive = (await BurstExperiment(design="naive", fault="quiet", messages=messages).run()).verdict
    whole = messages - messages % 4
    assert naive.stalled == tuple(f"m{number}" for number in range(whole + 1, messages + 1))
    for design in ("naive with a timer", *CORRECT):
        verdict = (
            await BurstExperiment(design=design, fault="quiet", messages=messages).run()
        ).verdict
        assert (verdict.stalled, verdict.lost, verdict.delivered) == ((), (), messages)


@pytest.mark.parametrize("design", NAIVE_DESIGNS)
@pytest.mark.parametrize("seed", [1, 7][:REPEATS])
async def test_a_failed_flush_has_lost_the_naive_versions_batch(lab_server, design, seed):
    """All of it, the message hit by the fault included.

    All but the one whose call happened to flush were acknowledged.
    """
    verdict = (await BurstExperiment(design=design, fault="flush fails", seed=seed).run()).verdict
    first = schedule_faults(seed, "flush fails", 12, 4)[0].at
    # The batch that is full while the connection is down ends at this message.
    batch = (first + 2) // 4 * 4
    batch = batch if batch >= first else batch + 4
    assert verdict.lost == tuple(f"m{number}" for number in range(batch - 3, batch + 1))
    assert verdict.silently_lost == verdict.lost[:-1]


@pytest.mark.parametrize("design", [*NAIVE_DESIGNS, *CORRECT])
async def test_how_long_it_takes_to_cut_the_line_changes_nothing(lab_server, design, monkeypatch):
    """A busy machine takes longer than the window; the batch in hand must not be closed by it."""
    usual = (await BurstExperiment(design=design, fault="flush fails").run()).verdict
    cut = BatchingScenario._cut

    async def cut_slowly(scenario):
        await cut(scenario)
        await asyncio.sleep(1.5 * WINDOW_MS / 1e3)

    monkeypatch.setattr(BatchingScenario, "_cut", cut_slowly)
    assert (await BurstExperiment(design=design, fault="flush fails").run()).verdict == usual


@pytest.mark.parametrize("design", NAIVE_DESIGNS)
async def test_one_message_that_is_too_large_takes_the_naive_versions_batch_with_it(
    lab_server, design
):
    """Four are lost and three were acknowledged."""
    verdict = (await BurstExperiment(design=design, fault="too large").run()).verdict
    assert (len(verdict.lost), len(verdict.silently_lost)) == (4, 3)


@pytest.mark.parametrize("design", NAIVE_DESIGNS)
async def test_nothing_closes_the_naive_versions_last_batch(lab_server, design):
    """The process ends in an orderly way, and what was held is gone."""
    verdict = (await BurstExperiment(design=design, fault="closed", messages=6).run()).verdict
    assert verdict.lost == verdict.silently_lost == ("m5", "m6")


@pytest.mark.parametrize("design", CORRECT)
@pytest.mark.parametrize("fault", BATCHING_FAULTS)
@pytest.mark.parametrize("seed", [1, 7][:REPEATS])
async def test_the_batcher_loses_nothing_and_lies_to_nobody(lab_server, design, fault, seed):
    """Under the same faults.

    Of the message that is too large its sender is told, and its neighbours arrive.
    """
    verdict = (await BurstExperiment(design=design, fault=fault, seed=seed).run()).verdict
    refused = schedule_faults(seed, "too large", 12, 1)[0].at
    assert verdict.lost == ((f"m{refused}",) if fault == "too large" else ())
    assert (verdict.silently_lost, verdict.stalled, verdict.duplicated, verdict.reordered) == (
        (),
        (),
        (),
        (),
    )


async def test_after_a_lost_answer_a_whole_batch_is_told_that_nobody_knows(lab_server):
    """And it is not repeated: it had arrived."""
    result = await BurstExperiment(design="fixed window", fault="answer lost").run()
    perhaps = [
        event.message_id
        for event in result.trace.by_kind(EventKind.OUTCOME)
        if event.outcome.startswith("failed, perhaps")
    ]
    assert len(perhaps) == 4
    assert result.verdict.delivered == result.verdict.sent


async def test_the_table_is_the_same_every_time(lab_server):
    """It is stored in the notebook."""
    first, *others = [await burst_table() for _ in range(REPEATS)]
    assert all(first.equals(again) for again in others)
    assert len(first) == len(BATCHING_FAULTS) * len(DESIGNS)


@pytest.mark.parametrize(
    ("design", "fault"),
    [
        ("naive", "quiet"),
        ("naive", "flush fails"),
        ("fixed window", "quiet"),
        ("fixed window", "flush fails"),
    ],
)
async def test_pictures_are_the_same_twice_and_show_the_batches(lab_server, design, fault):
    """A message that waits in its batch is a line that leaves the sender late."""
    results = [await BurstExperiment(design=design, fault=fault).run() for _ in range(2)]
    for view in (FlowView, SpaceTime):
        first, again = (assert_is_static(view(result.trace)) for result in results)
        assert first == again
    story = {each.id: each for each in FlowView(results[0].trace).scene.stories}["m1"]
    assert story.legs[0].end - story.legs[0].begin > 3
    assert "it left in a batch of 4" in story.log


async def test_what_is_stalled_is_shown_at_its_sender(lab_server):
    """It never left."""
    result = await BurstExperiment(design="naive", fault="quiet", messages=5).run()
    (story,) = [each for each in FlowView(result.trace).scene.stories if each.fate == "pending"]
    assert story.id == "m5"
    assert [leg.target for leg in story.legs] == ["alice"]
    assert "nobody closes" in story.log[-1]


async def test_a_run_can_be_stopped_and_broken_by_hand(lab_server):
    """As the panel's buttons do it."""
    run = BurstExperiment(design="fixed window", fault="none", messages=400, pace_ms=10).start()
    await wait_until(lambda: len(list(run.trace.by_kind(EventKind.HANDLED))) >= 4)
    await run.inject("flush fails")
    await wait_until(lambda: list(run.trace.by_kind(EventKind.FAULT_ENDED)))
    run.stop()
    verdict = (await run.result()).verdict
    assert verdict.sent < 400
    assert (verdict.lost, verdict.stalled) == ((), ())
