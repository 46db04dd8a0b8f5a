"""Chapter 8's experiments: who reads what under each fault, in the naive and in the correct system.

And what it costs.
"""

import asyncio

import pytest

from mpim_lab.chapters.ch08_im.experiment import (
    ALL_FAULTS,
    COMPARED_FAULTS,
    ImExperiment,
    all_faults_schedule,
    compare_designs,
)
from mpim_lab.chapters.ch08_im.faults import IM_FAULTS
from mpim_lab.chapters.ch08_im.measurements import group_sweep, overhead_sweep
from mpim_lab.chapters.ch08_im.naive import NaivePresence
from mpim_lab.chapters.shared.experiment import summarize
from mpim_lab.demo import demo
from mpim_lab.errors import InvalidParameter
from mpim_lab.events import EventKind
from mpim_lab.lab.system.embedded import MpimSystem
from mpim_lab.lab.trace.trace import Trace
from mpim_lab.widgets import FlowView
from mpim_lab.widgets.im_scene_builder import has_hops
from mpim_lab.widgets.scene_builder import build_scene
from tests.support import REPEATS

CORRECT = "✔ once, in order"
NAIVE = {
    "none": CORRECT,
    "receiver flaps": "3 lost",
    "gateway killed": "3 lost",
    "server restart": "3 lost",
    "partition": "3 lost",
    "dies before the push": CORRECT,
    "dies after the push": "1 twice",
    "sent twice": "1 twice",
    "interleave": "1 out of order",
    "return breaks": "3 lost",
    "late unbind": "7 stalled",
    "half the group": "2 twice",
    ALL_FAULTS: "15 lost, 2 twice, 1 out of order",
}


def picture(result):
    return FlowView(result.trace)._repr_mimebundle_()[0]["image/svg+xml"]


def test_the_capstone_has_every_fault():
    """None is left out; the schedule has all that can happen in one run."""
    assert set(COMPARED_FAULTS) == {"none", *IM_FAULTS, ALL_FAULTS} == set(NAIVE)
    assert {fault.kind for fault in all_faults_schedule(1)} == set(IM_FAULTS) - {
        "late unbind",
        "half the group",
    }
    assert all_faults_schedule(1) != all_faults_schedule(2)


async def test_the_naive_version_fails_as_the_notebook_says_and_the_correct_system_does_not(
    lab_server,
):
    """All faults with the notebook's seed, on each server."""
    table = await compare_designs(seed=7)
    assert dict(table["naive"]) == NAIVE
    assert set(table["correct"]) == {CORRECT}


@pytest.mark.parametrize("seed", [1, 23, 456][:REPEATS])
async def test_the_correct_system_holds_under_seeds_that_nobody_chose(lab_server, seed):
    """And the naive version does not."""
    table = await compare_designs(seed=seed, messages=15)
    assert set(table["correct"]) == {CORRECT}
    broken = set(table.index) - {"none", "dies before the push"}
    assert all(table.loc[fault, "naive"] != CORRECT for fault in broken)


@pytest.mark.parametrize(
    "fault", ["receiver flaps", "gateway killed", "dies after the push", "sent twice", "interleave"]
)
async def test_the_naive_versions_picture_is_the_same_every_time(lab_server, fault):
    """Two connections hear of a message in any order; the picture does not show which."""
    results = [
        await ImExperiment(design="naive", fault=fault).run() for _ in range(max(2, REPEATS))
    ]
    assert len({picture(result) for result in results}) == 1


async def test_the_correct_pictures_are_the_same_every_time(lab_server):
    """Of those that the notebook stores."""
    results = [
        await ImExperiment(design="correct", fault="receiver flaps").run()
        for _ in range(max(2, REPEATS))
    ]
    assert len({picture(result) for result in results}) == 1


async def test_a_group_gets_everything_once_though_the_service_dies_half_way(lab_server):
    """Each member's order is judged by itself."""
    result = await ImExperiment(design="correct", fault="half the group", group=True).run()
    assert (result.verdict.sent, result.verdict.delivered, summarize(result.verdict)) == (
        48,
        48,
        "✓",
    )


async def test_a_scene_shows_clients_gateways_services_channels_and_stores(lab_server):
    """In columns, from left to right; who sent does not see an echo."""
    result = await ImExperiment(design="correct", fault="receiver flaps").run()
    scene = build_scene(result.trace)
    assert has_hops(result.trace)
    kept = ("user:bob", "chat log", "offline store")
    assert scene.columns == (("alice",), ("gw-1",), ("messages",), kept, ("gw-2", "gw-3"), ("bob",))
    waited = next(story for story in scene.stories if story.id == "m5")
    assert ("messages", "offline store") in [(leg.source, leg.target) for leg in waited.legs]
    assert waited.log[-1] == "bob reads it"
    assert [band.node for band in scene.bands] == ["bob"]


async def test_a_lost_message_ends_where_nobody_listened(lab_server):
    """And whoever sent it was told "success"."""
    result = await ImExperiment(design="naive", fault="receiver flaps").run()
    lost = [story for story in build_scene(result.trace).stories if story.fate == "lost"]
    assert len(lost) == 3 and all(story.silently_lost for story in lost)
    assert {(leg.target, leg.outcome) for story in lost for leg in story.legs[-1:]} == {
        ("user:bob", "lost")
    }


async def test_a_fault_can_be_injected_while_a_run_goes_on(lab_server):
    """It hits the next message; one that this chapter does not have is refused."""
    run = ImExperiment(design="naive", fault="none", messages=30, pace_ms=20).start()
    while not any(run.trace.by_kind(EventKind.OUTCOME)):
        await asyncio.sleep(0.005)
    with pytest.raises(InvalidParameter):
        await run.inject("flood")
    await run.inject("receiver flaps")
    assert summarize((await run.result()).verdict) == "3 lost"


async def test_a_group_costs_the_naive_version_two_round_trips_a_member_the_correct_one_four(
    lab_server,
):
    """Counted on a line that is half a millisecond long each way."""
    rows = [row async for row in group_sweep(sizes=(2, 30))]
    assert [(row["design"], row["members"], row["round trips"]) for row in rows] == [
        ("naive", 2, 6),
        ("correct", 2, 4),
        ("naive", 30, 62),
        ("correct", 30, 4),
    ]
    assert all(row["ms"] > 0 for row in rows)


async def test_the_price_of_the_guarantees_is_measured_for_both(lab_server):
    """At the service itself."""
    rows = [row async for row in overhead_sweep(seconds=0.2)]
    assert [row["design"] for row in rows] == ["naive", "correct"]
    assert all(row["messages a second"] > 100 and row["p50 ms"] > 0 for row in rows)


async def test_the_demo_ends_well(lab_server, capsys):
    """It says so, and what everybody read."""
    assert await demo(pause_s=0.0) == 0
    told = capsys.readouterr().out
    assert "gw-2 is gone" in told and "Everybody has read everything, once and in order." in told


async def test_a_notebook_makes_a_system_in_one_line(lab_server):
    """With a server of its own, which is gone afterwards."""
    trace = Trace()
    async with MpimSystem(gateways=2, observer=trace) as mpim:
        server = mpim.server
        async with (
            mpim.client("alice", at=["gw-1"]) as alice,
            mpim.client("bob", at=["gw-2"]) as bob,
        ):
            assert (await alice.send("bob", "hi", id="m1")).status == "pushed"
            assert (await bob.receive()).text == "hi"
    assert not server.is_running
    assert [story.fate for story in build_scene(trace).stories] == ["delivered"]


async def test_a_farewell_that_takes_its_time_changes_no_verdict(lab_server, monkeypatch):
    """The next message waits until the late unbind is done.

    What is found is the same on a busy machine.
    """
    unbind = NaivePresence.unbind_route

    async def slowly(presence, route):
        await asyncio.sleep(0.03)
        return await unbind(presence, route)

    monkeypatch.setattr(NaivePresence, "unbind_route", slowly)
    late = await ImExperiment(design="naive", fault="late unbind").run()
    assert len(late.verdict.stalled) == 7 and not late.verdict.lost
