"""SweepPanel: a sweep whose curve grows while it is measured, with progress and a stop button."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import ipywidgets as ui
import pandas as pd

from mpim_lab.errors import MpimError
from mpim_lab.widgets.charts import sweep_chart, sweep_picture
from mpim_lab.widgets.controls import Buttons, named
from mpim_lab.widgets.static_picture import Bundle, bundle

Rows = AsyncIterator[dict[str, Any]]


class SweepPanel(ui.VBox):
    """Measure the rows of `sweep()`, one after another, and draw them as they come.

    steps: how many rows are expected. The others are those of `sweep_chart`. What the buttons do
    can be called, too: `await panel.run()` gives the table, `panel.stop()` ends a run at once and
    keeps the rows it has.
    """

    def __init__(self, sweep: Callable[[], Rows], *, steps: int, title: str, **chart: Any) -> None:
        self.rows: list[dict[str, Any]] = []
        self._sweep, self._title, self._chart = sweep, title, chart
        self._measuring: asyncio.Task[None] | None = None
        buttons = Buttons(self._say)
        self.run_button = buttons.make("Measure", "play", "primary", self.run)
        self.stop_button = buttons.make("Stop", "stop", "", self.stop)
        self.progress = ui.IntProgress(value=0, max=steps, layout=ui.Layout(width="220px"))
        self.status = ui.HTML("Press Measure.")
        self.plot = sweep_chart(self._empty(), title=title, **chart)
        row = ui.HBox(
            [self.run_button, self.stop_button, self.progress, self.status],
            layout=ui.Layout(flex_flow="row wrap"),
        )
        super().__init__([row, self.plot])
        self.add_class("mpim-panel")
        self._busy(False)

    @property
    def frame(self) -> pd.DataFrame:
        """What was measured so far."""
        return pd.DataFrame(self.rows) if self.rows else self._empty()

    async def run(self) -> pd.DataFrame:
        """Measure everything; gives the table.

        One at a time: a second call while one runs gives what there is.
        """
        if self._measuring is None:
            self.rows, self.progress.value = [], 0
            self._busy(True)
            self._measuring = asyncio.create_task(self._measure())
            try:
                await asyncio.wait([self._measuring])
                self._tell(self._measuring)
            finally:
                await self._ended(self._measuring)
        return self.frame

    def stop(self) -> None:
        """End the measuring at once."""
        if self._measuring is not None:
            self._measuring.cancel()

    async def _ended(self, measuring: "asyncio.Task[None]") -> None:
        """Wait until it has cleaned up, so that the next run does not meet it."""
        try:
            measuring.cancel()
            await asyncio.wait([measuring])
        finally:
            self._measuring = None
            self._busy(False)

    async def _measure(self) -> None:
        async with contextlib.aclosing(self._sweep()) as rows:  # type: ignore[type-var]
            async for row in rows:
                self.rows.append(row)
                self.progress.value = len(self.rows)
                self._say(f"{len(self.rows)} of {self.progress.max}")
                self._draw()

    def _tell(self, measured: "asyncio.Task[None]") -> None:
        if measured.cancelled():
            self._say(f"stopped after {len(self.rows)} of {self.progress.max}")
        elif (error := measured.exception()) is not None:
            if not isinstance(error, MpimError):
                raise error
            self._say(named(error))
        else:
            self._say(f"done: {len(self.rows)} measured")

    def _say(self, text: str) -> None:
        self.status.value = text

    def _draw(self) -> None:
        chart = sweep_picture(self.frame, title=self._title, **self._chart)
        self.plot.figure, self.plot.svg, self.plot.text = chart
        self.plot.redraw()

    def _empty(self) -> pd.DataFrame:
        names = [self._chart[key] for key in ("x", "y", "color") if self._chart.get(key)]
        return pd.DataFrame({name: pd.Series(dtype=float) for name in names})

    def _busy(self, busy: bool) -> None:
        self.run_button.disabled, self.stop_button.disabled = busy, not busy

    def _repr_mimebundle_(self, **options: Any) -> Bundle:
        return bundle(
            super()._repr_mimebundle_(**options), self.plot.svg, f"SweepPanel: {self._title}"
        )
