"""Chapter 8's experiments: who reads what under each fault, in the sketch and in the sound system; and what it costs."""

import asyncio

import pytest

from mpim_lab.chapters.ch08_im.experiment import ALL, CAPSTONE, InstantMessaging, capstone, in_short, schedule
from mpim_lab.chapters.ch08_im.faults import MPIM_FAULTS
from mpim_lab.chapters.ch08_im.measurements import group_sweep, price_sweep
from mpim_lab.chapters.ch08_im.naive import SketchedPresence
from mpim_lab.demo import demo
from mpim_lab.errors import InvalidParameter
from mpim_lab.events import Kind
from mpim_lab.lab.system.embedded import MpimSystem
from mpim_lab.lab.trace.trace import Trace
from mpim_lab.widgets import FlowView
from mpim_lab.widgets.journey import is_journey
from mpim_lab.widgets.story import tell
from tests.support import REPEATS

SOUND = "✔ once, in order"
SKETCH = {
    "none": SOUND,
    "receiver flaps": "3 lost",
    "gateway killed": "3 lost",
    "server restart": "3 lost",
    "partition": "3 lost",
    "dies before the push": SOUND,
    "dies after the push": "1 twice",
    "sent twice": "1 twice",
    "interleave": "1 out of order",
    "return breaks": "3 lost",
    "late unbind": "7 left waiting",
    "half the group": "2 twice",
    ALL: "15 lost, 2 twice, 1 out of order",
}


def picture(result):
    return FlowView(result.trace)._repr_mimebundle_()[0]["image/svg+xml"]


def test_the_capstone_has_every_fault():
    """None is left out; the schedule has all that can strike in one run."""
    assert {fault for fault, _ in CAPSTONE} == {"none", *MPIM_FAULTS, ALL} == set(SKETCH)
    assert set(schedule(1).values()) == set(MPIM_FAULTS) - {"late unbind", "half the group"}
    assert schedule(1) != schedule(2)


async def test_the_sketch_fails_as_the_notebook_says_and_the_sound_system_does_not(lab_server):
    """All faults with the notebook's seed, on each server."""
    table = await capstone(seed=7)
    assert dict(table["sketch"]) == SKETCH
    assert set(table["sound"]) == {SOUND}


@pytest.mark.parametrize("seed", [1, 23, 456][:REPEATS])
async def test_the_sound_system_holds_under_seeds_that_nobody_chose(lab_server, seed):
    """And the sketch does not."""
    table = await capstone(seed=seed, messages=15)
    assert set(table["sound"]) == {SOUND}
    broken = set(table.index) - {"none", "dies before the push"}
    assert all(table.loc[fault, "sketch"] != SOUND for fault in broken)


@pytest.mark.parametrize(
    "fault", ["receiver flaps", "gateway killed", "dies after the push", "sent twice", "interleave"]
)
async def test_the_sketchs_picture_is_the_same_every_time(lab_server, fault):
    """Two connections hear of a message in any order; the picture does not show which."""
    results = [await InstantMessaging(design="sketch", fault=fault).run() for _ in range(max(2, REPEATS))]
    assert len({picture(result) for result in results}) == 1


async def test_the_sound_pictures_are_the_same_every_time(lab_server):
    """Of those that the notebook stores."""
    results = [await InstantMessaging(design="sound", fault="receiver flaps").run() for _ in range(max(2, REPEATS))]
    assert len({picture(result) for result in results}) == 1


async def test_a_group_gets_everything_once_though_the_service_dies_half_way(lab_server):
    """Each member's order is judged by itself."""
    result = await InstantMessaging(design="sound", fault="half the group", group=True).run()
    assert (result.verdict.sent, result.verdict.delivered, in_short(result.verdict)) == (48, 48, SOUND)


async def test_a_scene_shows_clients_gateways_services_channels_and_stores(lab_server):
    """In columns, from left to right; who sent does not see an echo."""
    result = await InstantMessaging(design="sound", fault="receiver flaps").run()
    scene = tell(result.trace)
    assert is_journey(result.trace)
    kept = ("user:bob", "chat log", "offline store")
    assert scene.columns == (("alice",), ("gw-1",), ("messages",), kept, ("gw-2", "gw-3"), ("bob",))
    waited = next(story for story in scene.stories if story.id == "m5")
    assert ("messages", "offline store") in [(leg.source, leg.target) for leg in waited.legs]
    assert waited.log[-1] == "bob reads it"
    assert [band.node for band in scene.bands] == ["bob"]


async def test_a_lost_message_ends_where_nobody_listened(lab_server):
    """And whoever sent it was told "success"."""
    result = await InstantMessaging(design="sketch", fault="receiver flaps").run()
    lost = [story for story in tell(result.trace).stories if story.fate == "lost"]
    assert len(lost) == 3 and all(story.misreported for story in lost)
    assert {(leg.target, leg.outcome) for story in lost for leg in story.legs[-1:]} == {("user:bob", "lost")}


async def test_a_fault_can_be_injected_while_a_run_goes_on(lab_server):
    """It strikes at the next message; one that this chapter does not have is refused."""
    run = InstantMessaging(design="sketch", fault="none", messages=30, pace_ms=20).start()
    while not any(run.trace.of(Kind.TOLD)):
        await asyncio.sleep(0.005)
    with pytest.raises(InvalidParameter):
        await run.inject("flood")
    await run.inject("receiver flaps")
    assert in_short((await run.result()).verdict) == "3 lost"


async def test_a_group_costs_the_sketch_two_round_trips_a_member_and_the_sound_service_four(lab_server):
    """Counted on a line that is half a millisecond long each way."""
    rows = [row async for row in group_sweep(sizes=(2, 30))]
    assert [(row["design"], row["members"], row["round trips"]) for row in rows] == [
        ("sketch", 2, 6),
        ("sound", 2, 4),
        ("sketch", 30, 62),
        ("sound", 30, 4),
    ]
    assert all(row["ms"] > 0 for row in rows)


async def test_the_price_of_the_guarantees_is_measured_for_both(lab_server):
    """At the service itself."""
    rows = [row async for row in price_sweep(seconds=0.2)]
    assert [row["design"] for row in rows] == ["sketch", "sound"]
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
        async with mpim.client("alice", at=["gw-1"]) as alice, mpim.client("bob", at=["gw-2"]) as bob:
            assert (await alice.send("bob", "hi", id="m1")).told == "pushed"
            assert (await bob.receive()).text == "hi"
    assert not server.is_running
    assert [story.fate for story in tell(trace).stories] == ["delivered"]


async def test_a_farewell_that_takes_its_time_changes_no_verdict(lab_server, monkeypatch):
    """The next message waits until the late unbind is done: what is found is the same on a busy machine."""
    unbind = SketchedPresence.unbind_route

    async def slowly(presence, route):
        await asyncio.sleep(0.03)
        return await unbind(presence, route)

    monkeypatch.setattr(SketchedPresence, "unbind_route", slowly)
    late = await InstantMessaging(design="sketch", fault="late unbind").run()
    assert len(late.verdict.stuck) == 7 and not late.verdict.lost
