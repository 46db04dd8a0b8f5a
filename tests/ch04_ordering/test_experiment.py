"""Chapter 4's experiments: who reads and works in order, and what each delivery mode guarantees."""

import pytest

from mpim_lab.chapters.ch04_ordering.experiment import (
    CHAT_FAULTS,
    PIPELINE_FAULTS,
    WORKER_FAULTS,
    ChatOrdering,
    DeliveryGuarantees,
    WorkOrdering,
)
from mpim_lab.chapters.shared.experiment import (
    compare_designs,
    run_concurrently,
    summarize,
)
from mpim_lab.events import EventKind
from mpim_lab.widgets import FlowView
from tests.support import REPEATS

SEED = 7
CHAT = {
    "none": ("✓", "✓", "✓"),
    "interleave": ("1 out of order", "✓", "✓"),
    "gateway dies": ("✓", "6 stalled", "✓"),
    "away": ("4 lost", "4 lost, 7 stalled", "✓"),
    "answer lost": ("1 twice", "1 twice", "✓"),
}
WORK = {
    "slow worker": ("1 out of order", "✓", "✓"),
    "zombie": ("✓", "1 twice", "✓"),
    "crash before work": ("✓", "✓", "✓"),
    "crash after work": ("✓", "1 twice", "✓"),
    "answer to the worker lost": ("✓", "1 twice", "✓"),
    "poison": ("1 dead letter", "1 dead letter", "1 dead letter"),
}
ENDS_OF_MODES = {
    "request lost": ("1 lost", "1 out of order", "✓"),
    "request late": ("1 out of order", "1 twice, 1 out of order", "✓"),
    "answer lost": ("✓", "1 twice", "✓"),
    "sent twice": ("1 twice", "1 twice", "✓"),
    "crash before work": ("1 lost", "✓", "✓"),
    "crash after work": ("✓", "1 twice", "✓"),
    "crash after ack": ("✓", "✓", "✓"),
    "answer to the worker lost": ("✓", "1 twice", "✓"),
    "zombie": ("1 out of order", "1 twice", "✓"),
    "poison": ("1 lost", "1 dead letter", "1 dead letter"),
    "server kill": ("1 lost", "✓", "✓"),
}


def picture(result):
    return FlowView(result.trace)._repr_mimebundle_()[0]["image/svg+xml"]


async def assert_ends(kind, designs, fault, ends):
    """REPEATS runs of each design with one seed: the end expected, one verdict, one picture."""
    runs = await run_concurrently(
        [kind(design=design, fault=fault, seed=SEED) for design in designs for _ in range(REPEATS)]
    )
    for index, (design, end) in enumerate(zip(designs, ends, strict=True)):
        results = runs[REPEATS * index : REPEATS * (index + 1)]
        assert summarize(results[0].verdict) == end, design
        assert len({result.verdict for result in results}) == 1, design
        assert len({picture(result) for result in results}) == 1, design


def test_the_tables_are_about_every_fault():
    """None is left out."""
    assert [tuple(CHAT)[1:], tuple(WORK), tuple(ENDS_OF_MODES)] == [
        CHAT_FAULTS,
        WORKER_FAULTS,
        PIPELINE_FAULTS,
    ]


@pytest.mark.parametrize("fault", CHAT)
async def test_bob_reads_as_the_table_says_every_time(lab_server, fault):
    """Numbered in two steps and read as it comes, or patiently.

    Numbered in one step and read with a log beside it.
    """
    await assert_ends(ChatOrdering, ("as it comes", "wait for ever", "correct"), fault, CHAT[fault])


@pytest.mark.parametrize("fault", WORK)
async def test_workers_keep_the_order_or_not_as_the_table_says_every_time(lab_server, fault):
    """Any worker of a group; an owner that nobody checks; an owner whose commits are fenced."""
    await assert_ends(WorkOrdering, ("any worker", "no fence", "correct"), fault, WORK[fault])


@pytest.mark.parametrize("fault", ENDS_OF_MODES)
async def test_each_mode_guarantees_what_the_table_says_every_time(lab_server, fault):
    """At most once loses, at least once repeats, exactly once in effect does neither."""
    await assert_ends(
        DeliveryGuarantees, tuple(DeliveryGuarantees.designs), fault, ENDS_OF_MODES[fault]
    )


async def test_the_final_table_is_made_of_the_same_runs(lab_server):
    """Rows are faults, columns modes."""
    table = await compare_designs(
        DeliveryGuarantees, seed=SEED, faults=("crash before work", "crash after work")
    )
    assert {fault: tuple(table.loc[fault]) for fault in table.index} == {
        fault: ENDS_OF_MODES[fault] for fault in table.index
    }


@pytest.mark.parametrize("fault", [fault for fault in PIPELINE_FAULTS if fault != "poison"])
async def test_exactly_once_holds_under_other_seeds_too(lab_server, fault):
    """Seeds that nobody chose for being pretty."""
    for result in await run_concurrently(
        [DeliveryGuarantees(fault=fault, seed=seed) for seed in range(REPEATS)]
    ):
        assert summarize(result.verdict) == "✓"


@pytest.mark.parametrize("fault", CHAT_FAULTS)
async def test_bob_reads_everything_in_order_under_other_seeds_too(lab_server, fault):
    """Also where the last messages are the ones he missed."""
    for result in await run_concurrently(
        [ChatOrdering(design="correct", fault=fault, seed=seed) for seed in range(REPEATS)]
    ):
        assert summarize(result.verdict) == "✓"


async def test_the_zombies_commit_is_refused(lab_server):
    """Its effects are not in the ledger: only the new owner's are."""
    result = await WorkOrdering(design="correct", fault="zombie", seed=SEED).run()
    hit = [
        event.message_id
        for event in result.trace.by_kind(EventKind.RECEIVED)
        if event.actor == "worker-1"
    ][-1]
    effects = [
        event.actor for event in result.trace.by_kind(EventKind.EFFECT) if event.message_id == hit
    ]
    assert effects == ["worker-2"]
