"""Chapter 7's experiments: who gets a connection, who is told why not, who waits for ever.

And what it costs.
"""

import asyncio
import contextlib

import pytest

from mpim_lab.chapters.ch07_pool.connection_strategies import CONNECTION_STRATEGIES
from mpim_lab.chapters.ch07_pool.designs import DESIGNS
from mpim_lab.chapters.ch07_pool.experiment import FAULTS, PoolExperiment, callers_table
from mpim_lab.chapters.ch07_pool.measurements import (
    blocking_sweep,
    callers_sweep,
    collect,
    size_sweep,
)
from mpim_lab.chapters.shared.experiment import run_concurrently
from mpim_lab.events import EventKind
from mpim_lab.lab.exercise.legacy_challenge import message_history
from mpim_lab.widgets import FlowView
from tests.support import REPEATS

SEED = 7
ENDS = {
    "none": ("16 done; 3 of 3 usable",) * 3,
    "leak": (
        "3 done, 3 SimulatedBug, 10 stalled; 0 of 3 usable",
        "13 done, 3 SimulatedBug; 3 of 3 usable",
        "13 done, 3 SimulatedBug; 3 of 3 usable",
    ),
    "cancelled": (
        "15 done, 1 Cancelled; 2 of 3 usable",
        "6 done, 1 Cancelled, 9 wrong reply; 2 of 3 usable",
        "15 done, 1 Cancelled; 3 of 3 usable",
    ),
    "broken connection": (
        "15 done, 1 ConnectionLost; 2 of 3 usable",
        "7 done, 1 ConnectionLost, 8 NotConnected; 2 of 3 usable",
        "15 done, 1 ConnectionLost; 3 of 3 usable",
    ),
    "idle rot": (
        "9 done, 3 ConnectionLost, 4 stalled; 0 of 3 usable",
        "9 done, 1 ConnectionLost, 6 NotConnected; 0 of 3 usable",
        "16 done; 3 of 3 usable",
    ),
    "exhaustion": (
        "6 done, 10 stalled; 3 of 3 usable",
        "6 done, 10 stalled; 3 of 3 usable",
        "6 done, 10 PoolTimeout; 3 of 3 usable",
    ),
    "server restart": (
        "7 done, 3 ConnectionLost, 6 stalled; 0 of 3 usable",
        "7 done, 1 ConnectionLost, 8 NotConnected; 0 of 3 usable",
        "15 done, 1 ConnectionLost; 3 of 3 usable",
    ),
}


def picture(result):
    return FlowView(result.trace)._repr_mimebundle_()[0]["image/svg+xml"]


def test_the_table_is_about_every_fault():
    """None is left out."""
    assert tuple(ENDS) == ("none", *FAULTS)


@pytest.mark.parametrize("fault", ENDS)
async def test_callers_end_as_the_table_says_every_time(lab_server, fault):
    """REPEATS runs of each design with one seed: the end expected, one verdict, one picture."""
    runs = await run_concurrently(
        [
            PoolExperiment(design=design, fault=fault, seed=SEED)
            for design in DESIGNS
            for _ in range(REPEATS)
        ]
    )
    for index, (design, end) in enumerate(zip(DESIGNS, ENDS[fault], strict=True)):
        results = runs[REPEATS * index : REPEATS * (index + 1)]
        assert results[0].verdict.summary == end, design
        assert len({result.verdict for result in results}) == 1, design
        assert len({picture(result) for result in results}) == 1, design


@pytest.mark.parametrize("fault", FAULTS)
async def test_the_pool_holds_under_other_seeds_and_sizes(lab_server, fault):
    """Only the callers hit by the fault have an error.

    All connections are usable, none is stalled or misled.
    """
    errors = {"idle rot": 0, "leak": 3, "exhaustion": None}.get(fault, 1)
    runs = [
        PoolExperiment(design="pool", fault=fault, seed=seed, connections=size)
        for seed in range(REPEATS)
        for size in (2, 4)
    ]
    for result in await run_concurrently(runs):
        verdict = result.verdict
        assert (verdict.stalled, verdict.wrong, verdict.lost) == ((), (), ())
        assert verdict.usable == verdict.connections
        refused = sum(count for _, count in verdict.refused)
        assert refused == errors or (
            errors is None and {name for name, _ in verdict.refused} <= {"PoolTimeout"}
        )


async def test_a_wrong_reply_says_whose_it_was(lab_server):
    """Each caller after the cancelled one reads the reply of the one before."""
    result = await PoolExperiment(design="naive with finally", fault="cancelled", seed=SEED).run()
    first = result.verdict.wrong[0]  # type: ignore[attr-defined]
    before = f"m{int(first[1:]) - 1}"
    assert message_history(result, first)[-1].endswith(f"WrongReply: read the reply to {before}")
    assert result.verdict.silently_lost == result.verdict.wrong  # type: ignore[attr-defined]


async def test_those_in_line_are_served_in_the_order_in_which_they_came(lab_server):
    """In the peak at the end twice as many come as there are connections."""
    result = await PoolExperiment(design="pool", fault="none").run()
    served = [event.message_id for event in result.trace.by_kind(EventKind.RECEIVED)]
    assert served == [f"m{number}" for number in range(1, 17)]


async def test_a_fault_can_be_injected_while_a_run_goes_on(lab_server):
    """It hits the next caller."""
    run = PoolExperiment(design="naive with finally", fault="none", callers=40, pace_ms=10).start()
    while len(run.trace) < 20:
        await asyncio.sleep(0.005)
    await run.inject("cancelled")
    assert (await run.result()).verdict.wrong  # type: ignore[attr-defined]


async def test_a_run_that_is_stopped_gives_its_result(lab_server):
    """Those who came are judged, nobody else comes."""
    run = PoolExperiment(design="pool", fault="none", callers=200, pace_ms=20).start()
    while len(run.trace) < 10:
        await asyncio.sleep(0.005)
    run.stop()
    verdict = (await run.result()).verdict
    assert 0 < verdict.sent < 200
    assert verdict.delivered == verdict.sent


async def test_the_table_is_made_of_the_same_runs(lab_server):
    """A row for each fault and design."""
    table = await callers_table(seed=SEED, faults=("leak", "cancelled"))
    assert list(table.index) == [
        (fault, design) for fault in ("leak", "cancelled") for design in DESIGNS
    ]
    row = table.loc[("leak", "naive")]
    assert list(row) == [3, "3 SimulatedBug", 10, 0, "0 of 3"]
    assert table.loc[("cancelled", "naive with finally"), "wrong replies"] == 9


# What it costs


async def test_the_sweep_over_callers_has_a_row_for_each_way(lab_server):
    """With rates, and waiting times that do not exceed the whole."""
    seen = []
    frame = await collect(callers_sweep((1, 24), seconds=0.05, connections=4), seen.append)
    assert list(zip(frame["callers"], frame["way"], strict=True)) == [
        (count, way) for count in (1, 24) for way in CONNECTION_STRATEGIES
    ]
    assert len(seen) == len(frame)
    assert (frame["calls a second"] > 0).all()
    assert (frame["p50 wait ms"] <= frame["p50 ms"]).all()


async def test_a_blocking_command_holds_up_the_shared_connection_and_not_the_pool(lab_server):
    """On the shared one a short command has to wait until the blocking one ends.

    In the pool none has to.
    """
    frame = (await collect(blocking_sweep(callers=4, seconds=0.5, block_s=0.4))).set_index(
        ["way", "beside them"]
    )
    assert frame.loc[("one shared connection", "BLPOP 0.4"), "p50 ms"] >= 350
    assert frame.loc[("this pool", "BLPOP 0.4"), "p50 ms"] < 350
    assert len(frame) == 4


async def test_the_sweep_over_sizes_agrees_with_littles_law(lab_server):
    """What the pool counts is rate times time held, within what sampling leaves open.

    So it is for those who wait.
    """
    frame = await collect(size_sweep((1, 4), callers=8, seconds=0.3))
    assert list(frame["connections"]) == [1, 4]
    assert (
        abs(frame["in use, by Little's law"] - frame["in use, counted"])
        < 0.25 * frame["connections"]
    ).all()
    assert (abs(frame["waiting, by Little's law"] - frame["waiting, counted"]) < 2).all()


@pytest.mark.parametrize("sweep", [callers_sweep, blocking_sweep, size_sweep])
async def test_a_sweep_stops_at_once(lab_server, sweep):
    """Cancelled in the middle of an hour's measuring, it ends, and leaves no task behind."""
    before = asyncio.all_tasks()
    measuring = asyncio.create_task(collect(sweep(seconds=3_600)))
    await asyncio.sleep(0.3)
    measuring.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        async with asyncio.timeout(5):
            await measuring
    assert measuring.cancelled()
    assert asyncio.all_tasks() <= before | {measuring}
