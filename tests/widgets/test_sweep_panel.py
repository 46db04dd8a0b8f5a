"""SweepPanel: rows as they come, progress, a stop that stops at once, errors that are shown.

And charts in powers of ten.
"""

import asyncio

import pytest

from mpim_lab.errors import NotConnected
from mpim_lab.widgets import SweepPanel, sweep_chart
from mpim_lab.widgets.chart_svg import lines_svg
from tests.pictures import assert_is_static
from tests.support import wait_until

AXES = {"x": "tasks", "y": "messages a second", "color": "who"}


class Sweep:
    """Gives rows until it is held up; notes how it ended."""

    def __init__(self, rows=4, hold_at=None, error=None):
        self.rows, self.hold_at, self.error, self.ended = rows, hold_at, error, ""

    async def __call__(self):
        self.ended = "no"
        try:
            for number in range(1, self.rows + 1):
                if number == self.hold_at:
                    await asyncio.Event().wait()
                if self.error is not None:
                    raise self.error
                await asyncio.sleep(0)
                yield {"tasks": number, "messages a second": 100 * number, "who": "ours"}
        finally:
            self.ended = "yes"


async def test_all_rows_are_measured_and_drawn():
    """The table comes back, the curve has its points, the buttons are as at the beginning."""
    panel = SweepPanel(Sweep(), steps=4, title="Speed", **AXES)
    frame = await panel.run()
    assert list(frame["messages a second"]) == [100, 200, 300, 400]
    assert panel.progress.value == 4
    assert panel.status.value == "done: 4 measured"
    assert len(panel.plot.figure.data[0].x) == 4
    assert (panel.run_button.disabled, panel.stop_button.disabled) == (False, True)
    assert "polyline" in assert_is_static(panel, "SweepPanel: Speed")


async def test_stop_ends_the_measuring_at_once_and_keeps_the_rows():
    """Even while a row takes for ever; then it can be measured again."""
    sweep = Sweep(hold_at=3)
    panel = SweepPanel(sweep, steps=4, title="Speed", **AXES)
    running = asyncio.create_task(panel.run())
    await wait_until(lambda: panel.progress.value == 2)
    assert panel.run_button.disabled
    assert len(await panel.run()) == 2  # one at a time
    panel.stop()
    frame = await running
    assert (len(frame), sweep.ended, panel.status.value) == (2, "yes", "stopped after 2 of 4")
    sweep.hold_at = None
    assert len(await panel.run()) == 4


async def test_a_click_is_a_call():
    """Measure and Stop, as the page presses them."""
    sweep = Sweep(hold_at=2)
    panel = SweepPanel(sweep, steps=4, title="Speed", **AXES)
    panel.run_button.click()
    await wait_until(lambda: panel.progress.value == 1)
    panel.stop_button.click()
    await wait_until(lambda: "stopped" in panel.status.value)
    assert sweep.ended == "yes"


async def test_a_cell_that_is_interrupted_ends_the_measuring():
    """Nothing goes on behind the reader's back."""
    sweep = Sweep(hold_at=1)
    running = asyncio.create_task(SweepPanel(sweep, steps=4, title="Speed", **AXES).run())
    await wait_until(lambda: sweep.ended == "no")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await wait_until(lambda: sweep.ended == "yes")


async def test_errors_are_shown_if_they_are_ours_and_raised_if_they_are_bugs():
    """A server that is away is no reason for a traceback."""
    panel = SweepPanel(Sweep(error=NotConnected("no <server>")), steps=4, title="Speed", **AXES)
    assert (await panel.run()).empty
    assert "NotConnected" in panel.status.value and "no &lt;server&gt;" in panel.status.value
    with pytest.raises(ZeroDivisionError):
        await SweepPanel(Sweep(error=ZeroDivisionError()), steps=4, title="Speed", **AXES).run()


async def test_the_error_of_a_clicked_run_is_shown_and_the_panel_can_be_used_again():
    """A bug, too: nobody awaits a click."""
    sweep = Sweep(error=ZeroDivisionError("no <rows>"))
    panel = SweepPanel(sweep, steps=4, title="Speed", **AXES)
    panel.run_button.click()
    await wait_until(lambda: "<b>ZeroDivisionError</b>: no &lt;rows&gt;" in panel.status.value)
    assert (panel.run_button.disabled, panel.stop_button.disabled) == (False, True)
    sweep.error = None
    assert len(await panel.run()) == 4


async def test_a_run_that_is_cancelled_has_cleaned_up_when_it_is_over():
    """The next one does not meet it: not two sweeps at once."""
    going = []

    async def sweep():
        going.append(1)
        try:
            yield {"tasks": 1, "messages a second": 1, "who": "a"}
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.1)
            going.pop()

    panel = SweepPanel(sweep, steps=4, title="Speed", **AXES)
    for _ in range(2):
        run = asyncio.create_task(panel.run())
        await wait_until(lambda: going and panel.rows)
        assert going == [1]
        run.cancel()
        await asyncio.wait([run])
        assert run.cancelled() and going == [] and not panel.run_button.disabled


async def test_before_it_was_measured_there_is_an_empty_picture():
    """And an empty table with the columns."""
    panel = SweepPanel(Sweep(), steps=4, title="Speed", **AXES)
    assert list(panel.frame.columns) == ["tasks", "messages a second", "who"]
    assert_is_static(panel, "SweepPanel")


async def test_an_axis_in_powers_of_ten_spreads_what_spans_them():
    """1, 10, 100 lie at equal distances, and a 0 is left out."""
    svg = lines_svg({"a": ([1, 10, 100, 0], [5, 5, 5, 5])}, "t", "x", "y", log_x=True)
    places = [float(part.split('"')[0]) for part in svg.split('<circle cx="')[1:]]
    assert len(places) == 3
    assert places[1] - places[0] == pytest.approx(places[2] - places[1], abs=0.2)
    panel = SweepPanel(Sweep(), steps=4, title="Speed", log_x=True, log_y=True, **AXES)
    await panel.run()
    assert panel.plot.figure.layout.xaxis.type == panel.plot.figure.layout.yaxis.type == "log"
    assert sweep_chart(panel.frame, **AXES).figure.layout.xaxis.type is None
