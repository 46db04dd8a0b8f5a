"""Buttons: from clicks to calls.

A click may come on another thread; the work that it begins belongs to the loop.
"""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from html import escape
from typing import Any

import ipywidgets as ui

from mpim_lab.errors import WrongLoop
from mpim_lab.lab.exercise.experiment import running_loop

Act = Callable[[], Coroutine[Any, Any, Any] | None]


class Buttons:
    """Make the buttons of one panel; what a clicked call raises is told to `say`, as HTML.

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
        """A button that calls `act` in the loop, and sees to it that a coroutine that it gives runs to its end."""
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
