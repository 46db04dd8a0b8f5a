"""ResultCard: a challenge's result: passed, or the shortest failing history, in words and drawn."""

import itertools
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from mpim_lab.events import Event, EventKind
from mpim_lab.lab.exercise.challenge import ChallengeResult
from mpim_lab.lab.trace.trace import Trace
from mpim_lab.widgets.scenes.builder import build_scene
from mpim_lab.widgets.scenes.svg import space_time_svg
from mpim_lab.widgets.static_picture import Bundle, bundle, escape

_DONE = (EventKind.RECEIVED, EventKind.EFFECT, EventKind.HANDLED, EventKind.ACKED)


def same_for_equal_runs(events: Iterable[Event]) -> list[Event]:
    """Order what several actors did side by side by their names.

    Which of two workers that begin together is first depends on the machine, and says nothing.
    """
    ordered: list[Event] = []
    for (kind, _), group in itertools.groupby(
        events, key=lambda each: (each.kind, each.message_id)
    ):
        together = list(group)
        if kind in _DONE:
            by_name = sorted(together, key=lambda each: each.actor)
            together = [
                replace(event, at=place.at) for event, place in zip(by_name, together, strict=True)
            ]
        ordered += together
    return ordered


class ResultCard:
    """Card that shows a challenge's result: `ResultCard(await challenge.check(MyClass))`.

    Equal results, equal cards.
    """

    def __init__(self, result: ChallengeResult) -> None:
        self.result = result

    @property
    def picture(self) -> str:
        """The failing message's way, as SVG; empty if there is nothing to draw."""
        failure = self.result.failure
        if failure is None or failure.trace is None or not failure.message_id:
            return ""
        history = Trace(sample_above_per_s=None)
        history.events = same_for_equal_runs(
            event for event in failure.trace.events if event.message_id in ("", failure.message_id)
        )
        return space_time_svg(build_scene(history), f"{failure.message_id}: its way")

    def __repr__(self) -> str:
        return repr(self.result)

    def _repr_mimebundle_(self, **options: Any) -> Bundle:
        data, described = bundle(None, self.picture, repr(self))
        colour = "#009E73" if self.result.passed else "#D55E00"
        style = f"border-left:5px solid {colour};padding:6px 12px;margin:6px 2px"
        text = f"<pre style='{style}'>{escape(repr(self))}</pre>"
        return {**data, "text/html": f"{text}{self.picture}"}, described
