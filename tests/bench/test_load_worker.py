"""What the load processes are made of: the plan, the delivery counter."""

import asyncio
import json
import math
import subprocess
import sys
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpim_lab.errors import InvalidParameter, NotConnected
from mpim_lab.lab.trace.checker import check
from mpim_lab.load.redis.adapters.batching import _Line
from mpim_lab.load.redis.plan import BOUNDS, HEAD, LoadPlan
from mpim_lab.load.redis.publisher import OpenLoop
from mpim_lab.load.redis.receiver import DeliveryCounter


def plan(**changes):
    defaults = {
        "url": "redis://bob:secret@127.0.0.1/0",
        "who": "mpim_lab",
        "channel": "load",
        "tasks": 8,
    }
    return LoadPlan(**defaults | {"messages": 1_000, "seconds": 1.0} | changes)


@pytest.mark.parametrize("name", BOUNDS)
def test_the_bounds_of_a_plan_are_themselves_allowed_and_nothing_beyond(name):
    """InvalidParameter names the number."""
    low, high = BOUNDS[name]
    for value in (low, high):
        assert getattr(plan(**{name: value}), name) == value
    for value in (low - 1, high + 1, math.nan):
        with pytest.raises(InvalidParameter, match=name):
            plan(**{name: value})


@given(
    tasks=st.integers(1, 4_096),
    seconds=st.floats(0.01, 600.0),
    offered_per_s=st.none() | st.floats(1.0, 2_000_000.0),
    channel=st.text(),
)
def test_a_plan_travels_as_json(**numbers):
    """The other side reads what was written."""
    text = json.dumps(asdict(plan(**numbers)))
    assert LoadPlan(**json.loads(text)) == plan(**numbers)


async def test_a_schedule_begins_when_all_of_its_tasks_wait():
    """Otherwise its first messages would be late by as long as it takes to make the tasks."""
    waiting = []

    async def publish(channel, payload):
        waiting.append(len(loop._idle) + loop._limit)  # and those who were woken
        return 1

    loop = OpenLoop(plan(tasks=2_000, offered_per_s=1_000.0, seconds=0.2), publish)
    await loop.run()
    assert waiting[0] == 2_000
    assert loop.sent == len(waiting) == 200


def test_a_plan_does_not_show_the_password():
    """Nor the address that carries it."""
    assert "secret" not in repr(plan())


@given(st.lists(st.integers(0, 9), max_size=30))
def test_the_counter_counts_what_the_checker_finds(arrivals):
    """Both sides of a load, and of an experiment, mean the same by lost, doubled and overtaken."""
    counter = DeliveryCounter()
    for number, sequence in enumerate(arrivals):
        assert counter.add(HEAD.pack(sequence, 0.0) + b"padding", at=float(number)) == sequence
    verdict = check(
        [str(sequence) for sequence in range(10)], [str(sequence) for sequence in arrivals]
    )
    assert counter.lost(10) == len(verdict.lost)
    assert counter.different == verdict.delivered
    assert counter.duplicates == len(arrivals) - verdict.delivered
    assert counter.reordered == len(verdict.reordered)


def test_the_counter_grows_with_the_load():
    """One byte a message, however many there are."""
    counter = DeliveryCounter()
    for sequence in (0, 200_000, 200_000, 100_000):
        counter.add(HEAD.pack(sequence, 0.0), at=0.5)
    assert (counter.received, counter.duplicates, counter.reordered) == (4, 1, 1)


def test_a_cut_begins_anew_and_the_whole_remains():
    """Each interval has its own percentiles, the run has those of all."""
    counter = DeliveryCounter()
    counter.add(HEAD.pack(0, 0.0), at=0.001)
    first = counter.cut()
    counter.add(HEAD.pack(1, 0.0), at=1.0)
    assert (first.max_s, counter.cut().max_s, counter.cut().percentile_ms(0.5)) == (
        0.001,
        1.0,
        None,
    )
    assert counter.latencies.percentile_ms(0.0) == pytest.approx(1.0, rel=0.01)
    assert counter.latencies.max_s == 1.0


@pytest.mark.parametrize(("who", "loaded"), [("mpim_lab", "False"), ("batching:mpim_lab", "True")])
def test_a_receiver_loads_numpy_only_if_it_gathers(who, loaded):
    """It takes 0.2 s at the start, and memory that a load reports as its receiver's."""
    code = f"""
import sys
from mpim_lab.load.redis.__main__ import receiver_of
from mpim_lab.load.redis.plan import LoadPlan
receiver_of(LoadPlan(**{asdict(plan(who=who))!r}))
print("numpy" in sys.modules)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == loaded


async def test_nobody_overtakes_those_who_waited_for_the_batcher_to_open():
    """Not those, either, who come in the very turn of the loop in which it opens."""
    said, opened, tasks = [], asyncio.Event(), []

    async def call(number):
        said.append(number)

    async def send(number):
        await (line.call or await line.turn())(number)

    async def begin():
        await opened.wait()
        tasks.append(asyncio.create_task(send(3)))  # runs before those who wait are told
        return call

    line = _Line(begin)
    tasks += [asyncio.create_task(send(number)) for number in range(3)]
    await asyncio.sleep(0)
    opened.set()
    while line.call is None:
        await asyncio.sleep(0)
    await send(4)
    await asyncio.gather(*tasks)
    assert said == [0, 1, 2, 3, 4]


async def test_whoever_waits_for_a_batcher_that_cannot_open_is_told_why():
    """Those who came before it failed, and those who come after."""

    async def begin():
        raise NotConnected("nobody there")

    line = _Line(begin)
    for _ in range(2):
        with pytest.raises(NotConnected, match="nobody there"):
            await line.turn()
