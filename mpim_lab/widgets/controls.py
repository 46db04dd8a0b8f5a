"""Controls: one for one parameter of an experiment, and buttons, from clicks to calls."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from html import escape
from typing import Any

import ipywidgets as ui

from mpim_lab.errors import WrongLoop
from mpim_lab.lab.exercise.experiment import Parameter, running_loop

Act = Callable[[], Coroutine[Any, Any, Any] | None]


def make_control(name: str, value: Any, parameter: Parameter) -> ui.Widget:
    """Return a drop-down for choices, a checkbox for yes or no, a slider, or a number box."""
    words, unit = name.rpartition("_")[::2]
    label = (
        f"{words.replace('_', ' ')} ({unit})"
        if unit in ("ms", "s", "bytes") and words and not words.endswith("per")
        else name.replace("_", " ")
    )
    common = {
        "value": value,
        "description": label,
        "tooltip": parameter.help,
        "style": {"description_width": "initial"},
    }
    layout = ui.Layout(width="330px", margin="2px 16px 2px 2px")
    if parameter.choices:
        return ui.Dropdown(options=list(parameter.choices), layout=layout, **common)
    if isinstance(value, bool):
        return ui.Checkbox(layout=layout, **common)
    if parameter.low is None or parameter.high is None:
        return (ui.IntText if isinstance(value, int) else ui.FloatText)(layout=layout, **common)
    bounds = {
        "min": parameter.low,
        "max": parameter.high,
        "continuous_update": False,
        "layout": layout,
    }
    is_whole = all(
        float(number).is_integer()
        for number in (parameter.low, parameter.high, parameter.step or 1)
    )
    if isinstance(value, int) and is_whole:
        bounds |= {"min": int(parameter.low), "max": int(parameter.high)}
        return ui.IntSlider(step=int(parameter.step or 1), **bounds, **common)
    return ui.FloatSlider(
        step=parameter.step or (parameter.high - parameter.low) / 100, **bounds, **common
    )


class Buttons:
    """Make the buttons of one panel; what a clicked call raises is told to `say`, as HTML.

    A click may come on another thread; the work that it begins belongs to the loop.

    What they begin runs in the loop in which they were made, or else in the one that runs at the
    first click.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._tasks: set[asyncio.Task[Any]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        with contextlib.suppress(WrongLoop):
            self._loop = running_loop()

    def make(self, label: str, icon: str, style: str, act: Act, tooltip: str = "") -> ui.Button:
        """Make a button that calls `act` in the loop; a coroutine that it gives runs to its end."""
        button = ui.Button(
            description=label,
            icon=icon,
            button_style=style,
            tooltip=tooltip,
            layout=ui.Layout(width="auto"),
        )
        button.on_click(lambda _: self._clicked(act))
        return button

    def _clicked(self, act: Act) -> None:
        try:
            if self._loop is None or not self._loop.is_running():
                self._loop = running_loop()
            self._loop.call_soon_threadsafe(self._begin, act)
        except (WrongLoop, RuntimeError) as error:  # it may be closed at this very moment
            self._say(named(error))

    def _begin(self, act: Act) -> None:
        try:
            work = act()
        except Exception as error:
            self._say(named(error))
            return
        if work is not None:
            task = asyncio.ensure_future(work)
            self._tasks.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._say(named(error))


def named(error: BaseException) -> str:
    """An error as HTML: its class, and what it says."""
    return f"<b>{type(error).__name__}</b>: {escape(str(error))}"
