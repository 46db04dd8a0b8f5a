"""The static pictures: well-formed, complete, and the same text every time."""

import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpim_lab.lab.trace.trace import Trace
from mpim_lab.widgets.chart_svg import MAX_MARKS, bars_svg, lines_svg, ticks
from mpim_lab.widgets.scenes.builder import build_scene
from mpim_lab.widgets.scenes.scene import FATES, Band, Leg, MessageHistory, Scene
from mpim_lab.widgets.scenes.svg import LANE, LEFT, STEP, TOP, shape, space_time_svg
from mpim_lab.widgets.static_picture import PALETTE
from tests.traces import BOB_LISTENS, CHANNEL, delivered, duplicated, fault, lost, sent, trace_of

SVG = "{http://www.w3.org/2000/svg}"


def parsed(svg):
    """The picture's elements; fails when it is not well-formed."""
    return ElementTree.fromstring(svg)


def texts(svg):
    return [element.text or "" for element in parsed(svg).iter(f"{SVG}text")]


def lines(svg):
    """The points of each line of a chart, in pixels."""
    return [
        [tuple(map(float, point.split(","))) for point in element.get("points").split()]
        for element in parsed(svg).iter(f"{SVG}polyline")
    ]


def bars(svg):
    """The widths of the bars, in pixels."""
    return [
        float(element.get("width"))
        for element in parsed(svg).iter(f"{SVG}rect")
        if element.get("fill")
    ]


# The space-time diagram


def test_every_fate_has_a_shape_of_its_own():
    """Not colour alone: with the colours taken away they still differ."""
    without_colour = {re.sub("#[0-9A-F]{6}", "", shape(fate, 0, 0)) for fate in FATES}
    assert len(without_colour) == len(FATES) == 5


@pytest.mark.parametrize("fate", FATES)
def test_every_fate_is_in_the_legend_and_in_the_picture(fate):
    """A loss is marked where it happened, everything else where it arrived.

    At bob, in the third line.
    """
    story = MessageHistory(
        "m1", fate, legs=[Leg(CHANNEL, "bob", 1.35, 1.7, "lost" if fate == "lost" else "arrived")]
    )
    svg = space_time_svg(Scene(["alice"], [CHANNEL], ["bob"], [story], [], 1), "t")
    assert f"1 {fate}" in texts(svg)
    assert shape(fate, 24, 47) in svg
    assert shape(fate, LEFT + 0.7 * STEP, TOP + 46 + 2 * LANE) in svg


def test_every_lost_message_is_named():
    """Also where there is no room for every name."""
    numbers = range(100_001, 100_025)
    svg = space_time_svg(
        build_scene(trace_of(BOB_LISTENS, *(event for n in numbers for event in lost(f"m{n}")))),
        "t",
    )
    assert {f"m{number}" for number in numbers} <= set(texts(svg))


def test_who_was_told_something_wrong_is_flagged():
    """A flag for each, and their number."""
    svg = space_time_svg(
        build_scene(trace_of(BOB_LISTENS, *lost("m1"), *delivered("m2"), *lost("m3"))), "t"
    )
    assert "2 of them acknowledged “delivered”" in texts(svg)
    assert svg.count("v-10l8 3.5l-8 3.5") == 3  # two, and the legend's


def test_a_fault_is_a_labelled_band():
    """As long as it lasted, at the node it struck."""
    svg = space_time_svg(
        build_scene(trace_of(BOB_LISTENS, *fault("away", *lost("m1"), *lost("m2")))), "t"
    )
    (band,) = [
        element for element in parsed(svg).iter(f"{SVG}rect") if element.get("class") == "band"
    ]
    assert float(band.get("width")) == 2 * STEP
    assert "away" in texts(svg)


def test_whoever_sends_and_receives_has_deliveries_marked_too():
    """In a chat everybody does both."""
    legs = [Leg("alice", CHANNEL, 1, 1.35), Leg(CHANNEL, "alice", 1.35, 1.7)]
    svg = space_time_svg(
        Scene(["alice"], [CHANNEL], [], [MessageHistory("m1", "delivered", legs=legs)], [], 1), "t"
    )
    assert len(list(parsed(svg).iter(f"{SVG}circle"))) == 2  # the legend's, and at alice


def test_names_are_escaped():
    """Ids, nodes, faults and titles come from outside.

    Some characters XML forbids even when escaped.
    """
    evil = "<script>&\"'\x00\uffff"
    legs = [Leg(evil, CHANNEL, 1, 1.35, "lost")]
    scene = Scene(
        [evil],
        [CHANNEL],
        [],
        [MessageHistory(evil, "lost", legs=legs)],
        [Band(evil, 0, 1, evil)],
        1,
        evil,
    )
    svg = space_time_svg(scene, evil)
    assert not list(parsed(svg).iter(f"{SVG}script"))
    assert texts(svg).count("<script>&\"'\ufffd\ufffd") == 5  # title, note, node, band, message


def test_the_same_scene_gives_the_same_text():
    """No ids, no addresses, nothing that differs from run to run; the scene is left as it was."""
    events = [BOB_LISTENS, *delivered("m1"), *lost("m2"), *duplicated("m3")]
    scene = build_scene(trace_of(*events))
    svg = space_time_svg(scene, "t")
    assert (
        svg
        == space_time_svg(scene, "t")
        == space_time_svg(build_scene(trace_of(*events, every_s=0.01)), "t")
    )
    assert not re.search(r"\bid=|0x[0-9a-f]{6}|href", svg)


@pytest.mark.parametrize(
    ("first_lost", "shown"),
    [(None, (1, 40)), (3, (1, 40)), (1_500, (1_495, 1_534)), (1_999, (1_961, 2_000))],
)
def test_of_a_long_trace_the_first_loss_is_shown(first_lost, shown):
    """Forty steps, and it says which."""
    lives = [
        lost(f"m{n}") if n in (first_lost, 2_000) else delivered(f"m{n}") for n in range(1, 2_001)
    ]
    lives[-1] = lives[-1] if first_lost else delivered("m2000")
    svg = space_time_svg(
        build_scene(trace_of(BOB_LISTENS, *(event for life in lives for event in life))), "t"
    )
    assert f"steps {shown[0]}–{shown[1]} of 2000 shown" in texts(svg)
    if first_lost:
        assert f"m{first_lost}" in texts(svg)
    assert f"m{shown[0] - 1}" not in texts(svg)


def test_a_scene_that_fits_is_shown_whole_and_says_nothing_about_it():
    """Forty steps do; a scene's own note is shown in any case."""
    lives = [event for number in range(40) for event in delivered(f"m{number}")]
    assert "shown" not in space_time_svg(build_scene(trace_of(BOB_LISTENS, *lives)), "t")
    assert "a note" in texts(space_time_svg(Scene([], [], [], [], [], 0, "a note"), "t"))


@pytest.mark.parametrize("trace", [Trace(), trace_of(BOB_LISTENS), trace_of(*sent("m1"))])
def test_little_or_nothing_is_a_picture_too(trace):
    """An empty trace, nobody but a listener, nobody but a sender."""
    assert texts(space_time_svg(build_scene(trace), "Who?"))[0] == "Who?"


# Charts


@pytest.mark.parametrize(
    ("highest", "expected"),
    [
        (0, [0, 1]),
        (-3, [0, 1]),
        (float("nan"), [0, 1]),
        (1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (5, [0, 1, 2, 3, 4, 5]),
    ],
)
def test_ticks_of_an_axis(highest, expected):
    """Round numbers; an axis without any extent goes to 1."""
    assert ticks(highest) == pytest.approx(expected)


@given(st.floats(1e-6, 1e12))
def test_ticks_reach_the_highest_value_and_are_few(highest):
    """From 0 to at least the highest, evenly, two to eight of them."""
    marks = ticks(highest)
    assert marks[0] == 0
    assert marks[-1] >= highest * (1 - 1e-6)
    assert 2 <= len(marks) <= 8


def test_a_line_goes_through_its_points():
    """From the origin at the lower left to the highest values at the upper right."""
    svg = lines_svg({"a": ([0, 5, 10], [0, 50, 100])}, "t", "x", "y")
    assert lines(svg) == [[(90, 266), (423, 165), (756, 64)]]
    assert {"a", "t", "x", "y", "10", "100"} <= set(texts(svg))


def test_one_point_is_seen():
    """A line of one point has no length: the point is marked."""
    (mark,) = parsed(lines_svg({"a": ([1], [1])}, "t", "x", "y")).iter(f"{SVG}circle")
    assert (mark.get("cx"), mark.get("cy"), mark.get("fill")) == ("756.0", "64.0", PALETTE[0])


def test_many_points_are_not_marked_each():
    """The line is enough."""
    assert "<circle" not in lines_svg(
        {"a": (range(MAX_MARKS + 1), range(MAX_MARKS + 1))}, "t", "x", "y"
    )


@pytest.mark.parametrize("missing", [None, float("nan")])
def test_a_missing_value_is_left_out(missing):
    """None, or pandas' nan: what could not be measured is not 0."""
    svg = lines_svg({"a": ([1, 2, 4], [10, missing, 20])}, "t", "x", "y")
    assert lines(svg) == lines(lines_svg({"a": ([1, 4], [10, 20])}, "t", "x", "y"))
    assert "nan" not in svg


@pytest.mark.parametrize(
    "series", [{}, {"a": ([], [])}, {"a": ([0], [0])}, {"a": ([1, 2], [None, None])}]
)
def test_a_chart_of_nothing_is_a_chart(series):
    """Axes without lines."""
    assert [len(line) for line in lines(lines_svg(series, "t", "x", "y"))] in ([], [0], [1])


def test_bars_are_as_long_as_their_values():
    """From 0; the longest has all the room."""
    assert bars(bars_svg([("a", 50.0, "50"), ("b", 100.0, "100")], "t", "u")) == [197.0, 394.0]


@pytest.mark.parametrize("values", [[], [0.0], [0.0, 0.0]])
def test_bars_of_nothing_are_as_thin_as_can_be_seen(values):
    """And no error."""
    assert bars(bars_svg([("a", value, "0") for value in values], "t", "u")) == [1.0] * len(values)


def test_chart_names_are_escaped():
    """Titles, series, labels."""
    evil = "<b>&\x01"
    for svg in (
        lines_svg({evil: ([1], [1])}, evil, evil, evil),
        bars_svg([(evil, 1, evil)], evil, evil),
    ):
        assert texts(svg).count("<b>&\ufffd") == 4
