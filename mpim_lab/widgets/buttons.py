"""Buttons: from clicks to calls. A click may come on another thread; the work that it begins belongs to the loop."""

import asyncio
from collections.abc import Callable, Coroutine
from html import escape
from typing import Any

import ipywidgets as ui

Act = Callable[[], Coroutine[Any, Any, Any] | None]


class Buttons:
    """Make the buttons of one panel; what a clicked call raises is told to `say`, as HTML. Belongs to the running loop."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._tasks: set[asyncio.Task[Any]] = set()
        self._loop = asyncio.get_running_loop()

    def make(self, label: str, icon: str, style: str, act: Act, tooltip: str = "") -> ui.Button:
        """A button that calls `act` in the loop, and sees to it that a coroutine that it gives runs to its end."""
        button = ui.Button(
            description=label, icon=icon, button_style=style, tooltip=tooltip, layout=ui.Layout(width="auto")
        )
        button.on_click(lambda _: self._loop.call_soon_threadsafe(self._begin, act))
        return button

    def _begin(self, act: Act) -> None:
        work = act()
        if work is not None:
            task = self._loop.create_task(work)
            self._tasks.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._say(named(error))


def named(error: BaseException) -> str:
    """An error as HTML: its class, and what it says."""
    return f"<b>{type(error).__name__}</b>: {escape(str(error))}"
