"""Chapter 3's experiment: each naive version breaks in its own way, every time.

The fix books every payment once.
"""

import pytest
from redis.asyncio import Redis

from mpim_lab.chapters.ch03_idempotency.designs import IDEMPOTENCY_DESIGNS
from mpim_lab.chapters.ch03_idempotency.experiment import FAULTS, PaymentExperiment
from mpim_lab.chapters.shared.experiment import (
    compare_designs,
    run_concurrently,
    summarize,
)
from mpim_lab.errors import FaultUnavailable, InvalidParameter
from mpim_lab.events import EventKind
from mpim_lab.lab.faults.injector import schedule_faults
from mpim_lab.lab.server.embedded import EmbeddedServer
from mpim_lab.widgets import FlowView
from tests.support import REPEATS, wait_until

SEED = 7
DESIGNS = ("fresh id", "library retries", "check then set", "mark first", "correct")
ENDS = {
    "request lost": ("✓", "✓", "✓", "✓", "✓"),
    "answer lost": ("1 twice", "1 twice", "✓", "✓", "✓"),
    "answer late": ("1 twice", "1 twice", "✓", "✓", "✓"),
    "sent twice": ("1 twice", "1 twice", "✓", "✓", "✓"),
    "two at once": ("1 twice", "1 twice", "1 twice", "✓", "✓"),
    "crash before work": ("✓", "✓", "✓", "1 lost", "✓"),
    "crash after work": ("✓", "✓", "1 twice", "✓", "✓"),
    "zombie": ("✓", "✓", "1 twice", "1 out of order", "✓"),
    "answer to the worker lost": ("✓", "✓", "1 twice", "✓", "✓"),
}


def picture(result):
    return FlowView(result.trace)._repr_mimebundle_()[0]["image/svg+xml"]


@pytest.mark.parametrize("fault", FAULTS)
async def test_every_design_under_every_fault_ends_as_the_table_says_every_time(lab_server, fault):
    """REPEATS runs of each design with one seed: one verdict, one picture."""
    assert tuple(IDEMPOTENCY_DESIGNS) == DESIGNS
    runs = await run_concurrently(
        [
            PaymentExperiment(design=design, fault=fault, seed=SEED)
            for design in DESIGNS
            for _ in range(REPEATS)
        ]
    )
    (hit,) = (f"m{planned.at}" for planned in schedule_faults(SEED, fault, 12, 3))
    for index, (design, end) in enumerate(zip(DESIGNS, ENDS[fault], strict=True)):
        results = runs[REPEATS * index : REPEATS * (index + 1)]
        assert summarize(results[0].verdict) == end, design
        assert len({result.verdict for result in results}) == 1, design
        assert len({picture(result) for result in results}) == 1, design
        wrong = (
            results[0].verdict.lost + results[0].verdict.duplicated + results[0].verdict.reordered
        )
        assert wrong in ((), (hit,))


async def test_without_a_fault_every_design_books_everything_once(lab_server):
    """The naive versions look right until something goes wrong."""
    for result in await run_concurrently(
        [PaymentExperiment(design=design, fault="none") for design in DESIGNS]
    ):
        assert result.verdict.semantics == "exactly once in this run, in order"


async def test_the_chapters_table_has_a_row_for_each_fault(lab_server):
    """And a column for each design."""
    table = await compare_designs(
        PaymentExperiment, seed=SEED, faults=("sent twice", "crash before work")
    )
    assert list(table.columns) == list(DESIGNS)
    for fault in table.index:
        assert tuple(table.loc[fault]) == ENDS[fault]


@pytest.mark.parametrize("fault", FAULTS)
async def test_the_correct_design_books_once_under_other_seeds_too(lab_server, fault):
    """Seeds that nobody chose for being pretty."""
    for result in await run_concurrently(
        [PaymentExperiment(design="correct", fault=fault, seed=seed) for seed in range(REPEATS)]
    ):
        assert (result.verdict.lost, result.verdict.duplicated, result.verdict.stalled) == (
            (),
            (),
            (),
        )


async def test_the_zombies_own_attempt_is_refused(lab_server):
    """It wakes up, finishes its work, and nothing of it is kept.

    The payment was booked by the other worker.
    """
    result = await PaymentExperiment(design="correct", fault="zombie", seed=SEED).run()
    (hit,) = {event.message_id for event in result.trace.by_kind(EventKind.CLAIMED)}
    booked_by = [
        event.actor for event in result.trace.by_kind(EventKind.EFFECT) if event.message_id == hit
    ]
    assert booked_by == ["worker-2"]


async def test_one_call_of_a_library_that_retries_appends_two_entries(lab_server):
    """alice's application made one call, and was told once; the payment is booked twice."""
    result = await PaymentExperiment(design="library retries", fault="answer late", seed=SEED).run()
    (twice,) = result.verdict.duplicated
    accepted = [
        event for event in result.trace.by_kind(EventKind.ACCEPTED) if event.message_id == twice
    ]
    assert len(accepted) == 1
    assert result.outcomes[twice] == "added"


async def test_faults_can_be_caused_by_hand_while_a_run_goes_on(lab_server):
    """As the panel's buttons do; one that needs longer leases is refused with the reason."""
    run = PaymentExperiment(design="check then set", fault="none", messages=30, pace_ms=20).start()
    await wait_until(lambda: len(list(run.trace.by_kind(EventKind.EFFECT))) > 3)
    await run.inject("sent twice")
    with pytest.raises(FaultUnavailable, match="before the run"):
        await run.inject("two at once")
    with pytest.raises(InvalidParameter, match="not a fault"):
        await run.inject("earthquake")
    await run.inject("crash before work")
    verdict = (await run.result()).verdict
    assert (verdict.lost, verdict.duplicated) == ((), ())


@pytest.mark.parametrize("fault", ["crash before work", "crash after work", "zombie"])
async def test_a_fault_that_strikes_who_was_brought_back_at_the_end_leaves_nothing_stuck(fault):
    """Two presses of a button, near the end of a run."""
    run = PaymentExperiment(design="correct", fault="none", messages=8, pace_ms=50).start()
    await wait_until(lambda: len(list(run.trace.by_kind(EventKind.OUTCOME))) >= 6)
    await run.inject(fault)
    await wait_until(lambda: len(list(run.trace.by_kind(EventKind.OUTCOME))) >= 7)
    await run.inject(fault)
    verdict = (await run.result()).verdict
    assert (verdict.lost, verdict.duplicated, verdict.stalled) == ((), (), ())


async def test_nothing_is_left_on_the_readers_own_server(monkeypatch):
    """Every key carries the run's prefix and goes with it."""
    async with EmbeddedServer() as server:
        monkeypatch.setenv("MPIM_REDIS_URL", server.url)
        verdict = (await PaymentExperiment(design="correct", fault="answer lost").run()).verdict
        assert verdict.semantics == "exactly once in this run, in order"
        async with Redis.from_url(server.url, protocol=3) as client:
            assert await client.keys("*") == []
