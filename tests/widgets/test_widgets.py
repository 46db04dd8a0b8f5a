"""The widgets' Python side: what they send to the page, and what they leave without a kernel."""

import asyncio
import threading

import ipywidgets as ui
import pytest

from mpim_lab.lab.exercise.experiment import Parameter
from mpim_lab.lab.trace.trace import Trace
from mpim_lab.widgets import FlowView, SpaceTime
from mpim_lab.widgets.controls import make_control
from mpim_lab.widgets.static_picture import WIDGET_VIEW
from tests.pictures import assert_is_static, fake_run
from tests.support import wait_until
from tests.traces import BOB_LISTENS, delivered, fill, handled, lost, sent, trace_of


def listened(view, monkeypatch):
    """What a view sends to the page from now on."""
    messages = []
    monkeypatch.setattr(view, "send", messages.append)
    return messages


def ids(message):
    return [story["id"] for story in message["stories"]]


def say_ready(view):
    """What a page says when it is opened or loaded again."""
    view._handle_custom_msg({"type": "ready"}, [])


# FlowView


def test_a_flow_view_leaves_its_space_time_diagram_and_a_stable_text():
    """Beside the live view, which only a page with a kernel can show."""
    view = FlowView(trace_of(BOB_LISTENS, *delivered("m1"), *lost("m2")), title="Two <messages>")
    assert (
        view._repr_mimebundle_()[0]["text/plain"]
        == "FlowView: 2 messages: 1 delivered, 1 lost (m2)"
    )
    assert "Two &lt;messages&gt;" in assert_is_static(view)
    assert WIDGET_VIEW in view._repr_mimebundle_()[0]


def test_space_time_is_only_the_picture():
    """No live view."""
    data, _ = SpaceTime(trace_of(BOB_LISTENS, *lost("m1")), title="t")._repr_mimebundle_()
    assert set(data) == {"image/svg+xml", "text/plain"}
    assert data["text/plain"] == "SpaceTime: 1 messages: 1 lost (m1)"


def test_a_page_that_is_ready_gets_the_whole_scene(monkeypatch):
    """Again when it is loaded again; other messages are none of ours."""
    view = FlowView(trace_of(BOB_LISTENS, *delivered("m1"), *lost("m2")))
    messages = listened(view, monkeypatch)
    view._handle_custom_msg({"type": "other"}, [])
    say_ready(view)
    say_ready(view)
    first, second = messages
    assert first == second
    assert (first["type"], first["fresh"], first["live"], first["steps"]) == (
        "scene",
        True,
        False,
        2,
    )
    assert (first["producers"], first["channels"], first["consumers"]) == (
        ["alice"],
        ["user:1"],
        ["bob"],
    )
    assert [(story["id"], story["fate"], len(story["legs"])) for story in first["stories"]] == [
        ("m1", "delivered", 2),
        ("m2", "lost", 1),
    ]


def test_another_trace_is_shown_whole(monkeypatch):
    """Nothing of the first one stays."""
    view = FlowView(trace_of(BOB_LISTENS, *delivered("m1")))
    messages = listened(view, monkeypatch)
    view.show(trace_of(BOB_LISTENS, *delivered("m1"), *lost("m2")))
    assert (messages[-1]["fresh"], ids(messages[-1])) == (True, ["m1", "m2"])


async def test_a_run_is_followed_to_its_end(monkeypatch):
    """First everything, then only the stories that changed.

    At the end nothing is on its way any more.
    """
    view, run = FlowView(), fake_run()
    messages = listened(view, monkeypatch)
    fill(run.trace, *delivered("m1"), *sent("m2"))
    following = asyncio.create_task(view.follow(run))
    await wait_until(lambda: messages)
    assert (messages[0]["fresh"], messages[0]["live"], ids(messages[0])) == (
        True,
        True,
        ["m1", "m2"],
    )
    fill(run.trace, *handled("m2"), *sent("m3"), *sent("m4"))
    await wait_until(lambda: len(messages) > 1)
    assert (messages[-1]["fresh"], ids(messages[-1])) == (False, ["m2", "m3", "m4"])
    fill(run.trace, *handled("m4"))
    run.done = True
    await following
    assert (messages[-1]["live"], ids(messages[-1])) == (False, ["m3", "m4"])
    assert [story["fate"] for story in messages[-1]["stories"]] == ["lost", "delivered"]
    assert messages[-1]["summary"] == "4 messages: 3 delivered, 1 lost (m3)"


async def test_of_the_run_before_nothing_is_left(monkeypatch):
    """A second run begins with an empty page."""
    view, run = FlowView(trace_of(BOB_LISTENS, *delivered("m1"), *lost("m2"))), fake_run()
    assert view.scene.steps == 2
    messages = listened(view, monkeypatch)
    following = asyncio.create_task(view.follow(run))
    await wait_until(lambda: messages)
    assert (messages[0]["fresh"], messages[0]["stories"], messages[0]["steps"]) == (True, [], 0)
    run.done = True
    await following


async def test_a_page_that_is_loaded_again_during_a_run_gets_the_whole_scene(monkeypatch):
    """As it is then."""
    view, run = FlowView(), fake_run()
    messages = listened(view, monkeypatch)
    following = asyncio.create_task(view.follow(run))
    fill(run.trace, *delivered("m1"), *sent("m2"))
    await wait_until(lambda: any(map(ids, messages)))
    say_ready(view)
    assert (messages[-1]["fresh"], messages[-1]["live"], ids(messages[-1])) == (
        True,
        True,
        ["m1", "m2"],
    )
    run.done = True
    await following


async def test_a_trace_that_begins_to_sample_is_sent_whole(monkeypatch):
    """The messages it let go leave the page, and those it kept have other steps."""
    view, run = FlowView(), fake_run()
    run.trace = trace_of(BOB_LISTENS, *delivered("m0"), sample_above_per_s=400)
    messages = listened(view, monkeypatch)
    following = asyncio.create_task(view.follow(run))
    await wait_until(lambda: messages)
    fill(run.trace, *(event for number in range(1, 200) for event in delivered(f"m{number}")))
    run.done = True
    await following
    assert run.trace.sample_rate > 1
    assert messages[-1]["fresh"]
    assert ids(messages[-1]) == list(run.trace.by_message())


def test_a_page_on_another_thread_does_not_cut_into_what_is_being_sent(monkeypatch):
    """With subshells its messages come on a thread of their own."""
    view = FlowView(trace_of(BOB_LISTENS, *delivered("m1")))
    page, log = threading.Thread(target=say_ready, args=[view]), []

    def slow_send(message):
        log.append("begin")
        if threading.current_thread() is not page:
            page.start()
            page.join(timeout=0.1)  # it must wait for us
        log.append("end")

    monkeypatch.setattr(view, "send", slow_send)
    view.show(Trace())
    page.join()
    assert log == ["begin", "end", "begin", "end"]


# Controls


@pytest.mark.parametrize(
    ("value", "parameter", "kind", "traits"),
    [
        ("b", Parameter("h", choices=("a", "b")), ui.Dropdown, {"options": ("a", "b")}),
        (True, Parameter("h"), ui.Checkbox, {}),
        (3, Parameter("h", low=1, high=9), ui.IntSlider, {"min": 1, "max": 9, "step": 1}),
        (
            30,
            Parameter("h", low=0, high=500, step=10),
            ui.IntSlider,
            {"min": 0, "max": 500, "step": 10},
        ),
        (0.5, Parameter("h", low=0, high=2), ui.FloatSlider, {"min": 0, "max": 2, "step": 0.02}),
        (
            2,
            Parameter("h", low=0.5, high=20, step=0.5),
            ui.FloatSlider,
            {"min": 0.5, "max": 20, "step": 0.5},
        ),
        (3, Parameter("h", low=1), ui.IntText, {}),
        (0.5, Parameter("h"), ui.FloatText, {}),
    ],
)
def test_a_control_has_the_bounds_of_its_parameter(value, parameter, kind, traits):
    """Its value and its help are the parameter's; a whole number may be the value of a fraction."""
    control = make_control("some_name", value, parameter)
    assert type(control) is kind
    assert (control.value, control.tooltip, control.description) == (value, "h", "some name")
    assert {name: getattr(control, name) for name in traits} == traits


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("pace_ms", "pace (ms)"),
        ("payload_bytes", "payload (bytes)"),
        ("offered_per_s", "offered per s"),
        ("s", "s"),
    ],
)
def test_a_control_says_its_unit(name, label):
    """From the parameter's name."""
    assert make_control(name, 1, Parameter("h")).description == label
