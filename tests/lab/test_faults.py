"""The fault schedule: seeded, counted by attempts, the same for the same seed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpim_lab.errors import FaultUnavailable, InvalidParameter
from mpim_lab.events import EventKind
from mpim_lab.lab.faults.injector import (
    DESCRIPTIONS,
    Fault,
    FaultInjector,
    IdleDetector,
    schedule_faults,
)
from mpim_lab.lab.trace.trace import Trace


def recording_causes(log):
    async def begin():
        log.append("begin")

    async def end():
        log.append("end")

    return {"cut": (begin, end)}


@given(
    st.integers(0, 9_999),
    st.sampled_from(sorted(DESCRIPTIONS)),
    st.integers(4, 2_000),
    st.integers(1, 200),
)
def test_a_plan_is_the_same_for_the_same_seed_and_never_strikes_the_first_message(
    seed, kind, messages, duration
):
    """The first message shows the undisturbed case."""
    faults = schedule_faults(seed, kind, messages, duration)
    assert faults == schedule_faults(seed, kind, messages, duration)
    assert faults
    assert all(2 <= fault.at <= messages for fault in faults)


def test_seeds_differ():
    """Another seed strikes elsewhere (not always, but over many seeds)."""
    assert len({schedule_faults(seed, "cut", 100, 3)[0].at for seed in range(50)}) > 20


@pytest.mark.parametrize("fault", [("nonsense", 1, 1), ("cut", 0, 1), ("cut", 1, 0)])
def test_a_bad_fault_is_refused(fault):
    """Kind, place and length are checked."""
    with pytest.raises(InvalidParameter):
        Fault(*fault)


async def test_a_fault_begins_before_its_attempt_and_ends_after_its_last():
    """at=2, duration=2: attempts 2 and 3."""
    log, trace = [], Trace()
    faults = FaultInjector(recording_causes(log), trace)
    faults.add(Fault("cut", at=2, duration=2))
    for attempt in range(1, 5):
        await faults.before_attempt()
        log.append(attempt)
        await faults.after_attempt()
    assert log == [1, "begin", 2, 3, "end", 4]
    assert [event.kind for event in trace.events] == [EventKind.FAULT_BEGAN, EventKind.FAULT_ENDED]


async def test_a_fault_that_outlasts_the_run_is_ended_with_it():
    """Nothing is left broken."""
    log = []
    faults = FaultInjector(recording_causes(log), Trace())
    faults.inject("cut", duration=100)
    await faults.before_attempt()
    assert faults.active == {"cut"}
    await faults.clear()
    assert log == ["begin", "end"]
    assert not faults.active


async def test_what_cannot_be_caused_is_refused():
    """FaultUnavailable instead of a fault that silently never strikes."""
    with pytest.raises(FaultUnavailable):
        FaultInjector({}, Trace()).add(Fault("kill", 1, 1))


def test_a_moment_in_which_the_machine_stood_still_is_not_quiet(monkeypatch):
    """A second between two looks is no second of nothing heard: it counts as one look."""
    clock = iter([0.0, 0.0, 1.0, 1.005, 1.010])
    monkeypatch.setattr("mpim_lab.lab.faults.injector.now", lambda: next(clock))
    quiet = IdleDetector(Trace())
    looks = [quiet.is_idle_for(0.015) for _ in range(4)]
    assert looks == [False, False, False, True]
