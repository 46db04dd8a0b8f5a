"""The panel: parameters, buttons and pictures around real runs on a real server."""

import asyncio
import contextlib
from dataclasses import dataclass
from typing import ClassVar

import pytest

from mpim_lab.chapters.ch01_pubsub.experiment import PubSubDelivery
from mpim_lab.lab.exercise.experiment import Experiment, parameter
from mpim_lab.lab.faults.injector import DESCRIPTIONS
from mpim_lab.lab.trace.checker import Verdict
from mpim_lab.widgets import FlowView, LiveCharts, Panel
from tests.support import wait_until

LONG = {
    "fault": "none",
    "messages": 500,
    "pace_ms": 10,
    "duration": 2,
}  # more than a test waits for


@dataclass(frozen=True, kw_only=True)
class Clumsy(Experiment):
    """Goes on until it is stopped.

    Its fault's button has a mistake in it, and so has it if asked for.
    """

    title: ClassVar[str] = "clumsy"
    faults: ClassVar[tuple[str, ...]] = ("cut",)

    mistake: str = parameter("later", "when", choices=("later", "at once"))

    async def execute(self, run):
        async def injector(fault):
            raise RuntimeError("<mistake> in a fault")

        if self.mistake == "at once":
            raise RuntimeError("<mistake> at once")
        run.injector = injector
        while not run.stopping:
            await asyncio.sleep(0.01)
        return Verdict(0, 0)


@contextlib.asynccontextmanager
async def going_on(panel):
    """A run that was started with the button and has sent something; stopped at the end."""
    panel.run_button.click()
    await wait_until(lambda: panel.views[0].scene.steps)
    yield
    panel.stop_button.click()
    await wait_until(lambda: disabled(panel) == IDLE)


async def counter_moves_on(panel):
    shown = panel.status.value
    await wait_until(lambda: panel.status.value != shown)


def disabled(panel):
    """Of run, stop and each fault."""
    faults = {button.disabled for button in panel.fault_buttons.values()}
    assert len(faults) == 1
    return panel.run_button.disabled, panel.stop_button.disabled, faults.pop()


IDLE, BUSY = (False, True, True), (True, False, False)


@pytest.mark.parametrize("design", ["naive", "confirmed"])
async def test_a_panel_runs_what_its_parameters_say(lab_server, design):
    """The first values are the settings'.

    The verdict is the one the experiment gives without a panel.
    """
    panel = Panel(PubSubDelivery, design=design, fault="cut", duration=3)
    assert panel.controls["messages"].value == 24
    panel.controls["seed"].value = 3
    result = await panel.run()
    expected = await PubSubDelivery(design=design, fault="cut", duration=3, seed=3).run()
    assert result.experiment == expected.experiment
    assert result.verdict == expected.verdict
    assert panel.result is result
    for line in str(expected.verdict).splitlines()[:4]:
        assert line in panel.card.value


async def test_the_same_seed_leaves_the_same_picture(lab_server):
    """Notebooks are compared with what they stored."""
    pictures = []
    for _ in range(2):
        panel = Panel(PubSubDelivery, fault="away")
        await panel.run()
        data, _ = panel._repr_mimebundle_()
        pictures.append((data["image/svg+xml"], data["text/plain"]))
    assert pictures[0] == pictures[1]
    assert "18 delivered" in pictures[0][0]
    assert pictures[0][1].startswith(
        "Panel: Who gets the message? (parameters: design, fault, messages"
    )


async def test_the_views_follow(lab_server):
    """They show the whole run when it is over, and the next one without what the first left."""
    panel = Panel(PubSubDelivery, views=[FlowView(), LiveCharts()], fault="away")
    flow, charts = panel.views
    await panel.run()
    assert str(flow.scene).startswith("24 messages: 18 delivered, 6 lost")
    assert charts.text.endswith("messages/s at the most")
    panel.controls["fault"].value, panel.controls["messages"].value = "none", 8
    await panel.run()
    assert str(flow.scene) == "8 messages: 8 delivered"


async def test_the_run_button_starts_a_run_and_the_stop_button_ends_it(lab_server):
    """Early, with the verdict on what was sent.

    Run is off meanwhile, stop and the faults are off before and after.
    """
    panel = Panel(PubSubDelivery, **LONG)
    assert disabled(panel) == IDLE
    async with going_on(panel):
        assert disabled(panel) == BUSY
        await wait_until(lambda: "of 500" in panel.status.value)
    assert 0 < panel.result.verdict.sent < 500
    assert panel.result.verdict.lost == ()
    assert f"sent {panel.result.verdict.sent}" in panel.card.value


async def test_a_fault_button_breaks_the_run_that_goes_on(lab_server):
    """Messages are lost; what the fault is can be read while the counter goes on."""
    panel = Panel(PubSubDelivery, **LONG)
    async with going_on(panel):
        panel.fault_buttons["cut"].click()
        await wait_until(lambda: any(band.label == "cut" for band in panel.views[0].scene.bands))
        await counter_moves_on(panel)
        assert DESCRIPTIONS["cut"] in panel.answer.value
    assert panel.result.verdict.lost


async def test_one_run_at_a_time(lab_server):
    """A second one is refused in words, and the first one does not notice."""
    panel = Panel(PubSubDelivery, **LONG)
    async with going_on(panel):
        before = panel.views[0].scene.steps
        assert await panel.run() is None
        assert "running already" in panel.answer.value
        assert disabled(panel) == BUSY
        await wait_until(lambda: panel.views[0].scene.steps > before + 5)
    assert panel.result.verdict.lost == ()


async def test_what_is_pressed_while_nothing_runs_is_harmless(lab_server):
    """It says so."""
    panel = Panel(PubSubDelivery)
    panel.stop()
    await panel.inject("cut")
    assert "nothing is running" in panel.answer.value


async def test_a_run_that_fails_is_shown_and_the_panel_can_be_used_again(monkeypatch):
    """Nothing is raised, and no verdict of an earlier run stands beside the error."""
    monkeypatch.delenv("MPIM_REDIS_URL", raising=False)
    panel = Panel(PubSubDelivery, fault="none", messages=4)
    assert (await panel.run()).verdict.sent == 4
    monkeypatch.setenv("MPIM_SERVER_BINARY", "no-<such>-server")
    assert await panel.run() is None
    assert (
        "<b>ServerFailed</b>: no program &#x27;no-&lt;such&gt;-server&#x27; on PATH"
        in panel.status.value
    )
    assert (panel.result, panel.card.value, disabled(panel)) == (None, "", IDLE)
    monkeypatch.delenv("MPIM_SERVER_BINARY")
    assert (await panel.run()).verdict.sent == 4
    assert "ServerFailed" not in panel.status.value


async def test_a_parameter_outside_its_bounds_is_shown(lab_server):
    """A control cannot be set so; code can."""
    panel = Panel(PubSubDelivery)
    panel.controls["seed"] = type("Control", (), {"value": -1})
    assert await panel.run() is None
    assert "<b>InvalidParameter</b>: seed=-1" in panel.status.value
    assert disabled(panel) == IDLE


async def test_a_mistake_in_an_experiment_is_shown_where_it_was_started():
    """The caller of run gets it; after a click the panel shows it."""
    panel = Panel(Clumsy, views=[], mistake="at once")
    with pytest.raises(RuntimeError, match="at once"):
        await panel.run()
    panel.run_button.click()
    await wait_until(lambda: "<b>RuntimeError</b>: &lt;mistake&gt; at once" in panel.status.value)
    assert disabled(panel) == IDLE


async def test_a_mistake_in_a_fault_does_not_pretend_that_the_run_is_over():
    """It can still be stopped."""
    panel = Panel(Clumsy, views=[])
    panel.run_button.click()
    await wait_until(lambda: disabled(panel) == BUSY)
    panel.fault_buttons["cut"].click()
    await wait_until(lambda: "&lt;mistake&gt; in a fault" in panel.status.value)
    assert disabled(panel) == BUSY
    panel.stop_button.click()
    await wait_until(lambda: panel.result)


async def test_an_interrupted_cell_ends_its_run(lab_server):
    """Nothing of it goes on, and the next one can start at once."""
    panel = Panel(PubSubDelivery, **LONG)
    cell = asyncio.create_task(panel.run())
    await wait_until(lambda: panel.views[0].scene.steps)
    cell.cancel()
    await wait_until(cell.cancelled, within_s=3)  # the run would take longer
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert disabled(panel) == IDLE
    panel.controls["messages"].value = 4
    assert (await panel.run()).verdict.sent == 4


async def test_a_fault_that_cannot_be_caused_says_why(server, monkeypatch):
    """On the reader's own server the lab kills nothing.

    The run goes on, and the reason can still be read then.
    """
    monkeypatch.setenv("MPIM_REDIS_URL", server.url)
    panel = Panel(PubSubDelivery, **LONG)
    async with going_on(panel):
        panel.fault_buttons["kill"].click()
        await wait_until(lambda: "is yours: the lab does not kill it" in panel.answer.value)
        await counter_moves_on(panel)
        assert "is yours" in panel.answer.value
    assert panel.result.verdict.lost == ()
    panel.controls["fault"].value = "kill"
    assert await panel.run() is None
    assert "<b>FaultUnavailable</b>: the server at" in panel.status.value


async def test_a_panel_without_views_leaves_a_text():
    """And no empty picture."""
    data, _ = Panel(Clumsy, views=[])._repr_mimebundle_()
    assert "image/svg+xml" not in data
    assert data["text/plain"] == "Panel: clumsy (parameters: mistake)"
