"""Load: what the processes count is what went by."""

import asyncio
import dataclasses

import pytest

from mpim_lab.chapters.ch01_pubsub.measurements import (
    THROUGHPUT_STEPS,
    ThroughputRun,
    measure_throughput_steps,
)
from mpim_lab.events import EventKind
from mpim_lab.lab.trace.trace import Trace
from mpim_lab.load.load import measure, start_load
from tests.support import wait_until

# Tasks that keep the order: any number on the one connection of ours, one where each task has a
# connection of its own.
ALWAYS_THERE = (("mpim_lab", 8), ("bare protocol", 8), ("redis-py", 1), ("redis-py pipelined", 1))


def assert_is_sound(result):
    """Nothing was lost, doubled or overtaken, and the numbers can be true together."""
    assert (result.lost, result.duplicates, result.reordered) == (0, 0, 0)
    assert result.received == result.sent > 0
    assert 0 < result.p50_ms <= result.p90_ms <= result.p99_ms <= result.max_ms
    assert (
        min(result.messages_per_s, result.seconds, result.publisher_cpu_s, result.receiver_cpu_s)
        > 0
    )
    assert min(result.publisher_rss_bytes, result.receiver_rss_bytes) > 1_000_000


async def is_going(load, trace):
    """Wait until both processes have reported messages."""
    await wait_until(
        lambda: load.done or len({rate.actor for rate in trace.rates if rate.messages}) == 2
    )
    assert not load.done


@pytest.mark.parametrize(("who", "tasks"), ALWAYS_THERE)
async def test_a_closed_loop_loses_nothing_whoever_publishes(server, who, tasks):
    """Everything that was sent is received, once and in order."""
    result = await measure(server.url, who, tasks=tasks, seconds=0.15)
    assert_is_sound(result)
    assert (result.who, result.tasks, result.offered_per_s, result.kept_up) == (
        who,
        tasks,
        None,
        True,
    )


@pytest.mark.parametrize(("who", "tasks"), [("mpim_lab", 128), ("redis-py pipelined", 1)])
async def test_an_open_loop_sends_no_more_than_is_due(server, who, tasks):
    """Its schedule ends with its seconds; what was not sent by then never is."""
    result = await measure(server.url, who, tasks=tasks, offered_per_s=2_000, seconds=0.2)
    assert_is_sound(result)
    assert result.sent <= 400


@pytest.mark.parametrize(
    ("who", "offered_per_s"), [("mpim_lab", 5_000), ("redis-py pipelined", None)]
)
async def test_a_number_of_messages_is_kept_to_the_message(server, who, offered_per_s):
    """Also by a pipeline that would take a hundred at a time, and in an open loop."""
    result = await measure(server.url, who, tasks=3, messages=250, offered_per_s=offered_per_s)
    assert (result.sent, result.received, result.lost, result.duplicates) == (250, 250, 0, 0)


async def test_two_loads_on_one_server_do_not_hear_each_other(server):
    """Each has a channel of its own, of any size of payload."""
    results = await asyncio.gather(
        *(measure(server.url, messages=300, payload_bytes=size) for size in (16, 10_000))
    )
    for result in results:
        assert_is_sound(result)


async def test_a_load_that_is_stopped_gives_what_it_had(server):
    """Long before its time, and nothing that was sent is forgotten."""
    trace = Trace()
    load = start_load(server.url, offered_per_s=5_000, seconds=60.0, trace=trace)
    await is_going(load, trace)
    load.stop()
    result = await load.result()
    assert_is_sound(result)
    assert result.seconds < 60.0
    load.stop()  # too late, and harmless
    assert load.done


@pytest.mark.parametrize("offered_per_s", [None, 5_000])
async def test_a_load_that_is_stopped_before_it_began_sends_nothing(server, offered_per_s):
    """The order is not lost while the processes still start, and comes before the word to begin."""
    load = start_load(server.url, offered_per_s=offered_per_s, seconds=60.0)
    load.stop()
    result = await load.result()
    assert (result.sent, result.received, result.lost, result.p50_ms, result.max_ms) == (
        0,
        0,
        0,
        None,
        None,
    )
    assert result.messages_per_s == 0


@pytest.mark.parametrize(
    ("who", "offered_per_s"), [("mpim_lab", 20_000), ("redis-py pipelined", None)]
)
async def test_a_trace_fills_while_the_load_goes_on_and_keeps_whole_lives(
    server, who, offered_per_s
):
    """Rates of all messages, and of one message in many everything that happened to it.

    The text says so.
    """
    trace = Trace()
    load = start_load(
        server.url, who, tasks=16, offered_per_s=offered_per_s, seconds=60.0, trace=trace
    )
    await is_going(load, trace)
    load.stop()
    result = await load.result()
    for actor, count in (("publisher", result.sent), ("receiver", result.received)):
        assert sum(rate.messages for rate in trace.rates if rate.actor == actor) == count
    lives = trace.by_message()
    assert "m0" in lives
    assert all(int(name[1:]) % trace.sample_rate == 0 for name in lives)
    for life in lives.values():
        happened = {event.kind: event for event in life}
        assert len(life) == 4 and set(happened) == {
            EventKind.ACCEPTED,
            EventKind.PUBLISHED,
            EventKind.RECEIVED,
            EventKind.HANDLED,
        }
        assert happened[EventKind.PUBLISHED].count == 1
        assert (
            happened[EventKind.ACCEPTED].at
            <= happened[EventKind.RECEIVED].at
            <= happened[EventKind.HANDLED].at
        )
    assert len(trace) + trace.dropped == 4 * result.sent
    assert f"sampled, one message in {trace.sample_rate}" in repr(trace)


async def test_the_experiment_gives_a_verdict_and_the_loads_numbers(lab_server):
    """Chapter 1's speed, as the panel runs it."""
    result = await ThroughputRun(tasks=16, seconds=0.5).run()
    assert result.verdict == dataclasses.replace(
        result.verdict, delivered=result.verdict.sent, lost=()
    )
    assert result.verdict.semantics == "exactly once in this run, in order"
    assert {"messages_per_s", "p50_ms", "p99_ms", "max_ms"} <= set(result.metrics)
    assert min(result.metrics.values()) > 0
    assert result.trace.rates


async def test_the_experiment_can_be_stopped(lab_server):
    """A run of 20 seconds ends when the panel's button says so, and has lost nothing."""
    run = ThroughputRun(offered_per_s=2_000, seconds=20.0).start()
    await wait_until(lambda: any(rate.messages for rate in run.trace.rates))
    run.stop()
    verdict = (await run.result()).verdict
    assert 0 < verdict.sent == verdict.delivered < 40_000


async def test_every_rung_of_the_ladder_is_measured(monkeypatch):
    """In the order in which the notebook tells them."""
    monkeypatch.delenv("MPIM_REDIS_URL", raising=False)
    rungs = await measure_throughput_steps(0.1)
    assert [name for name, _ in rungs] == [name for name, _, _ in THROUGHPUT_STEPS]
    assert all(messages_per_s > 0 for _, messages_per_s in rungs)
