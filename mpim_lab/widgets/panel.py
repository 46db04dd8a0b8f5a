"""Panel: an experiment's parameters, buttons for run, stop and each fault, and its pictures."""

import asyncio
import contextlib
import functools
from collections.abc import Sequence
from html import escape
from typing import Any

import ipywidgets as ui

from mpim_lab.errors import FaultUnavailable, MpimError
from mpim_lab.events import EventKind
from mpim_lab.lab.exercise.experiment import Experiment, Result, Run
from mpim_lab.lab.faults.injector import DESCRIPTIONS
from mpim_lab.widgets.controls import Buttons, make_control, named
from mpim_lab.widgets.flow import FlowView
from mpim_lab.widgets.static_picture import Bundle, bundle


class Panel(ui.VBox):
    """Change the parameters, run, break it, look.

    `views` are the pictures that follow the run (FlowView by default; add LiveCharts()). `settings`
    are first values of the parameters. What the buttons do can be called, too: `await panel.run()`,
    `await panel.inject("cut")`, `panel.stop()`.
    """

    def __init__(
        self, experiment: type[Experiment], views: Sequence[Any] | None = None, **settings: Any
    ) -> None:
        self.experiment = experiment
        self.views = list(views) if views is not None else [FlowView(title=experiment.title)]
        self.result: Result | None = None
        # Why the last run was none: the server does not offer its fault.
        self.refused: FaultUnavailable | None = None
        self._run: Run | None = None
        buttons = Buttons(self._say)
        first = experiment(**settings)
        self.controls = {
            field.name: make_control(field.name, getattr(first, field.name), parameter)
            for field, parameter in experiment.parameters()
        }
        self.run_button = buttons.make("Run", "play", "primary", self.run)
        self.stop_button = buttons.make("Stop", "stop", "", self.stop)
        self.fault_buttons = {
            name: buttons.make(name, "bolt", "warning", inject, DESCRIPTIONS.get(name, ""))
            for name in experiment.faults
            for inject in [functools.partial(self.inject, name)]
        }
        self.status = ui.HTML()  # of the run
        self.answer = ui.HTML()  # to the last click
        self.card = ui.HTML()  # the verdict
        controls = ui.Box(
            list(self.controls.values()), layout=ui.Layout(display="flex", flex_flow="row wrap")
        )
        faults = (
            [ui.HTML("<b>Break it:</b>"), *self.fault_buttons.values()]
            if self.fault_buttons
            else []
        )
        row = ui.HBox(
            [self.run_button, self.stop_button, *faults, self.status, self.answer],
            layout=ui.Layout(flex_flow="row wrap", align_items="center"),
        )
        super().__init__([controls, row, *self.views, self.card])
        self.add_class("mpim-panel")
        self._busy(False)
        self._say("Choose, then press Run.")

    # What the buttons do

    async def run(self) -> Result | None:
        """Run the experiment as its parameters are now.

        A failure is shown in the panel and gives None. One run at a time.
        """
        if self._run is not None:
            self._answer("It is running already.")
            return None
        self.result, self.refused, self.card.value, self.answer.value = None, None, "", ""
        watchers: list[asyncio.Task[None]] = []
        try:
            self._run = self.experiment(
                **{name: control.value for name, control in self.controls.items()}
            ).start()
            self._busy(True)
            watchers = [asyncio.create_task(view.follow(self._run)) for view in self.views]
            watchers.append(asyncio.create_task(self._count(self._run)))
            self.result = await self._run.result()
            await asyncio.gather(*watchers)
            self._show(self.result)
        except MpimError as error:
            self._say(named(error))
            self.refused = error if isinstance(error, FaultUnavailable) else None
        finally:
            if self._run is not None and not self._run.done:
                await self._run.cancel()
            self._run = None
            self._busy(False)
            await asyncio.gather(*watchers, return_exceptions=True)
        return self.result

    async def inject(self, fault: str) -> None:
        """Cause a fault in the run that goes on; says why if it cannot be caused."""
        try:
            if self._run is None:
                raise FaultUnavailable("nothing is running")
            await self._run.inject(fault)
            self._answer(f"{fault}: {DESCRIPTIONS.get(fault, '')}")
        except MpimError as error:
            self._answer(escape(str(error)))

    def stop(self) -> None:
        """End the run at its next message."""
        if self._run is not None:
            self._run.stop()

    # What is shown

    async def _count(self, run: Run) -> None:
        while not run.done:
            sent = len(
                {
                    event.message_id
                    for event in run.trace.by_kind(EventKind.ACCEPTED, EventKind.CHECKED)
                }
            )
            with contextlib.suppress(AttributeError):
                messages = run.experiment.messages  # type: ignore[attr-defined]
                self._say(f"running: message {sent:,} of {messages:,}")
            await asyncio.sleep(0.25)

    def _busy(self, busy: bool) -> None:
        self.run_button.disabled, self.stop_button.disabled = busy, not busy
        for button in self.fault_buttons.values():
            button.disabled = not busy

    def _say(self, text: str) -> None:
        self.status.value = f"<span style='padding-left:10px'>{text}</span>"

    def _answer(self, text: str) -> None:
        """Say what came of a click. Stays when the counter moves on."""
        self.answer.value = f"<span style='padding-left:10px'>{text}</span>"

    def _show(self, result: Result) -> None:
        self._say("done")
        self.card.value = verdict_card(result)

    def _repr_mimebundle_(self, **options: Any) -> Bundle:
        names = ", ".join(self.controls)
        picture = (
            self.views[0]._repr_mimebundle_()[0].get("image/svg+xml", "") if self.views else ""
        )
        return bundle(
            super()._repr_mimebundle_(**options),
            picture,
            f"Panel: {self.experiment.title} (parameters: {names})",
        )


def verdict_card(result: Result) -> str:
    """The verdict as a card: a word and a mark, not colour alone."""
    verdict = result.verdict
    bad = bool(
        verdict.lost
        or verdict.duplicated
        or verdict.reordered
        or verdict.stalled
        or verdict.altered
    )
    colour, mark = (
        ("#D55E00", "✘ not everything arrived as it should")
        if bad
        else ("#009E73", "✔ every message arrived once, in order")
    )
    return (
        f"<div style='border-left:5px solid {colour};padding:6px 12px;margin:6px 2px;"
        "background:var(--jp-layout-color2)'>"
        f"<b>{mark}</b><pre style='margin:4px 0 0'>{escape(str(verdict))}</pre></div>"
    )
