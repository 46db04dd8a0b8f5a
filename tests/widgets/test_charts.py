"""Charts: what is drawn from a trace, and what is left for readers without a kernel."""

import asyncio
from dataclasses import replace

import pandas as pd
import pytest

from mpim_lab.errors import InvalidParameter
from mpim_lab.events import EventKind
from mpim_lab.lab.trace.trace import RateSample, Trace
from mpim_lab.widgets import LiveCharts, ladder_chart, sweep_chart
from mpim_lab.widgets.charts import MAX_POINTS, samples
from tests.pictures import assert_is_static, fake_run
from tests.traces import (
    BOB_LISTENS,
    CONFIRM,
    by_bob,
    delivered,
    fill,
    handled,
    sent,
    told,
    trace_of,
)


def drawn(charts):
    """The values of each line of a chart."""
    return [list(line.y) for line in charts.figure.data]


def test_live_charts_draw_what_the_load_processes_counted():
    """Only the receiver's counts have latencies.

    An interval in which nothing came is drawn as 0.
    """
    trace = Trace()
    for at, actor, messages, p50 in [
        (7, "r", 50, 1.5),
        (7, "p", 60, None),
        (8, "r", 0, None),
        (9, "r", 100, 2.5),
    ]:
        trace.rates.append(RateSample(float(at), actor, 0.5, messages, p50, p50 and 2 * p50))
    charts = LiveCharts(trace)
    assert drawn(charts) == [[100, 0, 200], [1.5, None, 2.5], [3, None, 5]]
    assert list(charts.figure.data[0].x) == [0, 1, 2]
    assert "received" in assert_is_static(charts, "200 messages/s at the most")


def test_live_charts_count_the_events_where_there_are_no_processes():
    """Quarters of a second; a pause is drawn as 0, and confirmations are no messages."""
    trace = trace_of(BOB_LISTENS, *delivered("m1"), *delivered("m2"))
    for event in [
        *sent("m3"),
        *handled("m3"),
        *by_bob("m3", EventKind.ACCEPTED, EventKind.HANDLED, channel=CONFIRM),
    ]:
        trace(replace(event, at=0.9))
    rates, p50s, p99s = drawn(LiveCharts(trace))
    assert rates == [8, 0, 0, 4]
    assert p50s == [pytest.approx(3), None, None, 0]
    assert p99s == [pytest.approx(3), None, None, 0]


def test_the_messages_of_a_sampled_trace_stand_for_the_others():
    """What is drawn is the rate of all."""
    lives = [event for number in range(1_000) for event in delivered(f"m{number}")]
    trace = trace_of(BOB_LISTENS, *lives, every_s=0.0002, sample_above_per_s=1_000)
    assert trace.sample_rate > 1
    assert samples(trace)["messages_per_s"].sum() / 4 == len(trace.by_message()) * trace.sample_rate


def test_live_charts_stay_small():
    """A few hundred points at the most, whatever was counted."""
    trace = Trace()
    trace.rates += [RateSample(float(at), "r", 1.0, at, 1.0, 1.0) for at in range(10_000)]
    assert MAX_POINTS / 2 < len(drawn(LiveCharts(trace))[0]) <= MAX_POINTS


async def test_live_charts_follow_a_run_to_its_end():
    """What came last is drawn, too."""
    charts, run = LiveCharts(), fake_run()
    assert "no messages yet" in charts.text
    following = asyncio.create_task(charts.follow(run))
    fill(run.trace, *delivered("m1"), *told("m1"))
    run.done = True
    await following
    assert drawn(charts)[0] == [4]


def test_a_ladder_compares_with_its_first_rung():
    """Bars in the given order, and the same as text."""
    chart = ladder_chart([("slow", 100.0), ("fast", 1_250.0)], title="Ladder")
    assert list(chart.figure.data[0].x) == [100, 1_250]
    svg = assert_is_static(chart, "slow", "100  (1.0×)", "1,250  (12.5×)")
    assert "1,250  (12.5×)" in svg


def test_a_ladder_whose_first_rung_is_zero_has_no_ratios():
    """Nothing came: that is shown, too. Without any rung there is nothing to show."""
    assert assert_is_static(ladder_chart([("none", 0.0), ("some", 5.0)]), "none", "5")
    assert "×" not in ladder_chart([("none", 0.0), ("none", 0.0)]).text
    with pytest.raises(InvalidParameter, match="rung"):
        ladder_chart([])


def test_a_sweep_has_a_line_for_each_group():
    """In the order of the table; without `color` there is one line."""
    frame = pd.DataFrame(
        {"tasks": [1, 2, 1, 2], "per s": [10.0, 20.0, 30.0, None], "who": ["b", "b", "a", "a"]}
    )
    chart = sweep_chart(frame, x="tasks", y="per s", color="who", title="Sweep")
    assert [(line.name, list(line.x)) for line in chart.figure.data] == [
        ("b", [1, 2]),
        ("a", [1, 2]),
    ]
    assert "nan" not in assert_is_static(chart, "tasks", "30.0")
    assert len(sweep_chart(frame, x="tasks", y="per s").figure.data) == 1
