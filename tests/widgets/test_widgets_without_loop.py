"""Widgets where no event loop runs: a plain script, a terminal."""

import asyncio
from typing import Any

import pytest

from mpim_lab.chapters.ch01_pubsub.experiment import PubSubDelivery
from mpim_lab.errors import WrongLoop
from mpim_lab.lab.exercise.questions import questions_of
from mpim_lab.load.load import start_load
from mpim_lab.widgets import FlowView, LiveCharts, Panel, Quiz, SweepPanel
from mpim_lab.widgets.controls import Buttons
from tests.support import wait_until

AXES = {"x": "n", "y": "rate"}


async def sweep():
    yield {"n": 1, "rate": 2}


MADE: dict[str, Any] = {
    "Panel": lambda: Panel(PubSubDelivery),
    "FlowView": FlowView,
    "Quiz": lambda: Quiz(questions_of(1)[:2]),
    "LiveCharts": LiveCharts,
    "SweepPanel": lambda: SweepPanel(sweep, steps=1, title="Speed", **AXES),
}


@pytest.mark.parametrize("name", MADE)
def test_a_widget_is_made_and_shown_where_no_loop_runs(name):
    """With its picture and its text."""
    assert MADE[name]()._repr_mimebundle_()[0]["text/plain"]


@pytest.mark.parametrize("name", ["Panel", "SweepPanel"])
def test_a_button_says_that_no_loop_runs(name):
    """In the widget's own text: WrongLoop, and what to do."""
    panel = MADE[name]()
    panel.run_button.click()
    assert "<b>WrongLoop</b>" in panel.status.value and "await" in panel.status.value


def test_a_panel_made_before_the_loop_works_in_it():
    """It runs in the loop that runs at the click; and in the next one, when that has ended."""
    panel = MADE["SweepPanel"]()

    async def click():
        panel.rows = []
        panel.run_button.click()
        await wait_until(lambda: "done" in panel.status.value and panel.rows)
        panel.status.value = ""

    for _ in range(2):
        asyncio.run(click())
    panel.run_button.click()
    assert "WrongLoop" in panel.status.value


def test_what_needs_a_loop_says_so():
    """WrongLoop, not asyncio's RuntimeError."""
    for begin in (PubSubDelivery().start, lambda: start_load("redis://127.0.0.1:1")):
        with pytest.raises(WrongLoop, match="no event loop"):
            begin()


async def test_a_click_whose_call_raises_is_told():
    """In the widget's own text, by the error's name."""
    said = []
    Buttons(said.append).make("Go", "", "", lambda: 1 / 0).click()
    await wait_until(lambda: said)
    assert "<b>ZeroDivisionError</b>" in said[0]
