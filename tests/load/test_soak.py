"""Random schedules of several faults: the correct design comes through, the naive ones do not."""

import pytest

from mpim_lab.soak.designs import DESIGNS, DETECTABLE_FAULTS, NAIVE_DESIGNS
from mpim_lab.soak.runner import main, run_schedule, soak
from mpim_lab.soak.schedule import KINDS, Schedule

pytestmark = pytest.mark.timeout(300)

SCHEDULES = 60


def wrong(verdict):
    """What is wrong with a run, in the words of the table of flaws."""
    found = {"lost": verdict.lost, "twice": verdict.duplicated, "out of order": verdict.reordered}
    found |= {"stalled": verdict.stalled, "dead_lettered": verdict.dead_lettered}
    return {name for name, ids in found.items() if ids}


def test_a_schedule_is_the_same_in_every_run_of_its_seed():
    """Four to eight faults, each at a message of its own.

    The server is killed in one schedule of ten.
    """
    schedules = [Schedule.from_seed(seed) for seed in range(1, 101)]
    assert schedules == [Schedule.from_seed(seed) for seed in range(1, 101)]
    assert sum(schedule.kills_server for schedule in schedules) == 10
    for schedule in schedules:
        places = [fault.message for fault in schedule.faults]
        assert 4 <= len(places) - schedule.kills_server <= 8
        assert len(set(places)) == len(places)
        assert {planned.sender for planned in schedule.messages} == {0, 1}


async def test_the_correct_design_comes_through_every_schedule(lab_server):
    """What was acknowledged has its effect once and in order.

    What was given up at most once; every kind of fault struck.
    """
    result = await soak(SCHEDULES, at_once=8)
    assert result.failures == {}
    assert (result.schedules, len(result.conclusive)) == (SCHEDULES, SCHEDULES)
    assert all(result.injected[kind] >= SCHEDULES / 10 for kind in KINDS), result.injected
    assert result.injected["server kill"] == SCHEDULES // 10
    assert result.given_up >= result.injected["given up"]


@pytest.mark.parametrize("design", NAIVE_DESIGNS)
async def test_a_naive_design_is_caught_wherever_a_fault_struck_that_bites_it(lab_server, design):
    """Under the same seeds, for the reason that is known, and for no other than its own flaws."""
    result = await soak(SCHEDULES, design=design, at_once=8)
    assert result.conclusive.keys() == set(range(1, SCHEDULES + 1))
    for seed, injected in result.conclusive.items():
        found = wrong(result.failures[seed]) if seed in result.failures else set()
        due = {end for fault, end in DETECTABLE_FAULTS.get(design, {}).items() if fault in injected}
        assert due <= found <= NAIVE_DESIGNS[design], Schedule.from_seed(seed)
    assert sum(bool(injected) for injected in result.conclusive.values()) >= SCHEDULES / 2
    assert len(result.failures) >= SCHEDULES / 3


def test_the_naive_designs_are_all_but_the_correct_one():
    """None is left out of the tables."""
    assert set(NAIVE_DESIGNS) == set(DESIGNS) - {"correct"} >= set(DETECTABLE_FAULTS)


async def test_a_schedule_that_failed_can_be_played_again_with_its_trace(lab_server):
    """Same faults, same reason; the trace tells who did what."""
    outcomes = [await run_schedule(2, "at least once") for _ in range(2)]
    assert all("twice" in wrong(outcome.verdict) for outcome in outcomes)
    assert outcomes[0].injected == outcomes[1].injected
    assert {event.actor for event in outcomes[0].trace.events} >= {
        "sender-1",
        "sender-2",
        "worker-1",
        "worker-2",
    }


def test_the_command_says_what_it_did_and_fails_only_where_nothing_may(lab_server, capsys):
    """Exit status 0 for the correct design; the naive ones are expected to fail."""
    assert main(["--schedules", "3"]) == 0
    assert "schedules that failed                      0" in capsys.readouterr().out
    assert main(["--schedules", "2", "--design", "at least once"]) == 0
    assert "twice" in capsys.readouterr().out
    assert main(["--seed", "1"]) == 0
    assert "fault began" in capsys.readouterr().out
