"""Chapter 2's experiment: each naive version breaks in its own way, every time.

The fix holds; what is on disk survives.
"""

import asyncio

import pytest
from redis.asyncio import Redis

from mpim_lab.chapters.ch02_streams.experiment import DESIGNS, StreamDelivery, compare_designs
from mpim_lab.errors import FaultUnavailable, InvalidParameter
from mpim_lab.events import EventKind
from mpim_lab.lab.faults.injector import WORKER_FAULTS, schedule_faults
from mpim_lab.lab.server.embedded import EmbeddedServer
from mpim_lab.widgets import FlowView
from tests.support import REPEATS, wait_until

SEED = 7
ENDS = {  # what becomes of the orders that a fault hits; "" where each of them is done once
    "crash before work": ("lost", "lost", "stalled", "stalled", ""),
    "crash after work": ("", "", "", "", "duplicated"),
    "crash after ack": ("", "", "", "", ""),
    "poison": ("lost", "lost", "stalled", "stalled", "dead_lettered"),
    "zombie": ("", "", "", "", "duplicated"),
    "server kill": ("lost", "lost", "lost", "lost", "lost"),
}


def hit(fault, design, seed=SEED, messages=16, duration=3):
    """The orders a fault hits: one.

    With the server those that waited, too; behind an endless retry all.
    """
    (first,) = (fault.at for fault in schedule_faults(seed, fault, messages, duration))
    last = {"server kill": first + duration}.get(fault, first)
    if (fault, design) == ("poison", "endless retry"):
        last = messages
    return tuple(f"m{number}" for number in range(first, last + 1))


def ends(verdict):
    """What a verdict says of the orders that were not done exactly once."""
    found = {
        name: getattr(verdict, name) for name in ("lost", "stalled", "duplicated", "dead_lettered")
    }
    return {name: ids for name, ids in found.items() if ids}


async def all_at_once(*experiments):
    """Run experiments side by side, each on a server of its own; their results."""
    return await asyncio.gather(*(experiment.run() for experiment in experiments))


async def keys_on(server):
    """Every key on a server."""
    async with Redis.from_url(server.url) as client:
        return await client.keys("*")


@pytest.mark.parametrize("fault", WORKER_FAULTS)
async def test_every_design_under_every_fault_ends_as_the_table_says_every_time(lab_server, fault):
    """REPEATS runs of each design with one seed: one verdict, one picture."""
    runs = await all_at_once(
        *(
            StreamDelivery(design=design, fault=fault, seed=SEED)
            for design in DESIGNS
            for _ in range(REPEATS)
        )
    )
    for index, (design, end) in enumerate(zip(DESIGNS, ENDS[fault], strict=True)):
        results = runs[REPEATS * index : REPEATS * (index + 1)]
        assert ends(results[0].verdict) == ({end: hit(fault, design)} if end else {})
        assert len({result.verdict for result in results}) == 1
        assert (
            len(
                {
                    FlowView(result.trace)._repr_mimebundle_()[0]["image/svg+xml"]
                    for result in results
                }
            )
            == 1
        )


async def test_the_chapters_table_has_a_row_for_each_design_and_fault(lab_server):
    """Counts, and what was observed in words; here of one fault."""
    table = await compare_designs(SEED, faults=("poison",))
    assert list(table.index) == [("poison", design) for design in DESIGNS]
    for design, end in zip(DESIGNS, ENDS["poison"], strict=True):
        counts = dict.fromkeys(
            ("lost", "duplicated", "reordered", "stalled", "dead_lettered"), 0
        ) | {end: len(hit("poison", design))}
        assert table.loc[("poison", design)].drop("observed").to_dict() == counts


async def test_without_a_fault_every_design_does_everything_once(lab_server):
    """The naive versions look right until something goes wrong."""
    for result in await all_at_once(
        *(StreamDelivery(design=design, fault="none") for design in DESIGNS)
    ):
        assert result.verdict.semantics == "exactly once in this run, in order"


async def test_a_worker_that_dies_after_its_acknowledgement_dies_once(lab_server):
    """One fault was planned; whoever comes after is not hit by it."""
    result = await StreamDelivery(design="correct", fault="crash after ack").run()
    assert (
        len(list(result.trace.by_kind(EventKind.FAULT_BEGAN)))
        == len(list(result.trace.by_kind(EventKind.FAULT_ENDED)))
        == 1
    )


async def test_what_a_naive_version_lost_was_added_and_so_misreported(lab_server):
    """alice was told "added"; the entry is in the stream, and the group has forgotten it."""
    verdict = (await StreamDelivery(design="ack first", fault="crash before work").run()).verdict
    assert verdict.silently_lost == verdict.lost == hit("crash before work", "ack first")
    assert 'acknowledged "added" but lost 1' in str(verdict)


@pytest.mark.parametrize("fault", [fault for fault in WORKER_FAULTS if fault != "server kill"])
async def test_the_correct_design_loses_nothing_under_other_seeds_either(lab_server, fault):
    """Seeds that nobody chose for being pretty."""
    for result in await all_at_once(
        *(StreamDelivery(design="correct", fault=fault, seed=seed) for seed in range(REPEATS))
    ):
        assert (result.verdict.lost, result.verdict.stalled) == ((), ())
        assert len(result.verdict.dead_lettered) == (fault == "poison")


@pytest.mark.parametrize(
    ("persistence", "kept"), [("none", False), ("everysec", True), ("always", True)]
)
async def test_what_survives_a_killed_server_depends_on_its_persistence(
    lab_server, persistence, kept
):
    """What was written stays with the operating system when the process is killed.

    What never was is gone.
    """
    results = await all_at_once(
        *(
            StreamDelivery(design=design, fault="server kill", persistence=persistence)
            for design in ("correct", "no claim")
        )
    )
    waited = hit("server kill", "correct")
    correct, no_claim = (ends(result.verdict) for result in results)
    assert correct == ({} if kept else {"lost": waited})
    assert no_claim == ({"stalled": waited[:1]} if kept else {"lost": waited})


async def test_a_poison_is_tried_three_times_before_it_is_buried(lab_server):
    """And the error is told with it."""
    result = await StreamDelivery(design="correct", fault="poison").run()
    life = result.trace.by_message()[result.verdict.dead_lettered[0]]
    assert [event.count for event in life if event.kind is EventKind.RETRIED] == [2, 3]
    (buried,) = (event for event in life if event.kind is EventKind.DEAD_LETTERED)
    assert (
        buried.detail
        == f"tries used up: ValueError: {result.verdict.dead_lettered[0]} cannot be read"
    )


@pytest.mark.parametrize(
    "parameters",
    [
        {"design": "perfect"},
        {"fault": "cut"},
        {"messages": 5},
        {"messages": 1_001},
        {"duration": 0},
        {"persistence": "sometimes"},
        {"pace_ms": -1},
        {"seed": 10_000},
        {"messages": "many"},
    ],
)
def test_a_parameter_out_of_its_bounds_is_refused(parameters):
    """Before anything is started; the error names the parameter."""
    with pytest.raises(InvalidParameter, match=next(iter(parameters))):
        StreamDelivery(**parameters)


@pytest.mark.parametrize("pace_ms", [0, 10])
async def test_a_fault_can_be_caused_by_hand_while_the_run_goes_on(lab_server, pace_ms):
    """What the panel's buttons do.

    It hits the next order, also while alice's last one is being worked on.
    """
    run = StreamDelivery(design="ack first", fault="none", messages=1_000, pace_ms=pace_ms).start()
    await wait_until(lambda: run.injector is not None)
    await wait_until(lambda: any(run.trace.by_kind(EventKind.EFFECT)))
    await run.inject("crash before work")
    await wait_until(lambda: any(run.trace.by_kind(EventKind.FAULT_ENDED)))
    run.stop()
    assert len((await run.result()).verdict.lost) == 1


async def test_a_second_zombie_while_the_first_one_sleeps_is_woken_too(lab_server):
    """Nobody is forgotten: neither an order nor a worker's task."""
    before = asyncio.all_tasks()
    run = StreamDelivery(design="correct", fault="none", messages=20, pace_ms=10).start()
    await wait_until(lambda: run.injector is not None)
    await run.inject("zombie")
    await wait_until(lambda: any(run.trace.by_kind(EventKind.FAULT_BEGAN)))
    await run.inject("zombie")
    verdict = (await run.result()).verdict
    assert (verdict.lost, verdict.stalled, len(verdict.duplicated)) == ((), (), 1)
    await wait_until(lambda: asyncio.all_tasks() == before)


async def test_an_unknown_fault_and_a_fault_after_the_end_are_refused(lab_server):
    """InvalidParameter names those there are; after the end there is nothing to inject into."""
    run = StreamDelivery(fault="none", messages=6).start()
    with pytest.raises(InvalidParameter, match="zombie"):
        await run.inject("away")
    await run.result()
    with pytest.raises(FaultUnavailable, match="not going on"):
        await run.inject("zombie")


async def test_a_run_that_is_stopped_ends_at_its_next_order_with_a_verdict(lab_server):
    """What was sent is judged, what was not does not count."""
    run = StreamDelivery(design="correct", fault="none", messages=1_000, pace_ms=10).start()
    await wait_until(lambda: any(run.trace.by_kind(EventKind.EFFECT)))
    run.stop()
    verdict = (await run.result()).verdict
    assert 1 <= verdict.sent < 1_000
    assert verdict.delivered == verdict.sent


async def test_a_run_that_is_stopped_while_nobody_works_still_finishes_what_waits(lab_server):
    """Stopping is no fault: somebody is hired for what is left."""
    run = StreamDelivery(
        design="correct", fault="none", duration=100, messages=1_000, pace_ms=10
    ).start()
    await wait_until(lambda: run.injector is not None)
    await run.inject("crash before work")
    await wait_until(lambda: any(run.trace.by_kind(EventKind.CRASHED)))
    run.stop()
    verdict = (await run.result()).verdict
    assert verdict.delivered == verdict.sent


@pytest.mark.parametrize("fault", ["none", "zombie"])
async def test_a_run_that_is_cancelled_leaves_neither_server_nor_task_behind(
    lab_server, monkeypatch, fault
):
    """An interrupted cell must not leave processes."""
    started, start, before = [], EmbeddedServer.start, asyncio.all_tasks()

    async def noted(server):
        await start(server)
        started.append(server)

    monkeypatch.setattr(EmbeddedServer, "start", noted)
    run = StreamDelivery(fault=fault, messages=1_000, pace_ms=5, duration=100, seed=6)
    task = asyncio.create_task(run.run())
    await wait_until(lambda: started)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await wait_until(lambda: not started[0].is_running)
    await wait_until(lambda: asyncio.all_tasks() == before)


async def test_on_the_readers_own_server_a_server_kill_is_refused_and_nothing_is_left(
    server, monkeypatch
):
    """Planned or by hand; all other faults work anywhere, and take their keys with them."""
    monkeypatch.setenv("MPIM_REDIS_URL", server.url)
    with pytest.raises(FaultUnavailable, match="yours"):
        await StreamDelivery(fault="server kill").run()
    assert await keys_on(server) == []
    run = StreamDelivery(fault="none", messages=50, pace_ms=10).start()
    await wait_until(lambda: any(run.trace.by_kind(EventKind.EFFECT)))
    assert {key.split(b":")[0][:4] for key in await keys_on(server)} == {b"lab-"}
    with pytest.raises(FaultUnavailable, match="yours"):
        await run.inject("server kill")
    run.stop()
    assert (await run.result()).verdict.lost == ()
    verdict = (await StreamDelivery(design="correct", fault="poison").run()).verdict
    assert ends(verdict) == {"dead_lettered": hit("poison", "correct")}
    assert await keys_on(server) == []
