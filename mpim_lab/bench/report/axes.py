"""Axes: powers of ten from end to end, so that each has its label and none runs into another."""

import math
from collections.abc import Iterator
from typing import Any

import plotly.graph_objects as go

FAINT = "rgba(128,128,128,.14)"


def whole_decades(figure: go.Figure) -> go.Figure:
    """Have every axis of logarithms begin and end near a power of ten, label those alone, and draw faint lines between."""
    for letter in "xy":
        for axis in figure.select_xaxes() if letter == "x" else figure.select_yaxes():
            if axis.type != "log" or not (
                values := list(_values(figure, letter, axis.plotly_name))
            ):
                continue
            low, high = math.log10(min(values)), math.log10(max(values))
            if (
                letter == "y"
            ):  # an across axis has its own numbers of things, and ends where they do
                axis.range = [math.floor(low) - 0.05, math.ceil(high) + 0.05]
            axis.update(
                dtick=1,
                title_standoff=8,
                minor={"dtick": "D1", "showgrid": letter == "y", "gridcolor": FAINT},
            )
    return figure


def _values(figure: go.Figure, letter: str, axis: str) -> Iterator[float]:
    """What is drawn on an axis, to the ends of its error bars.

    Nothing below 0, which it cannot show.
    """
    for drawn in figure.data:
        if (drawn[f"{letter}axis"] or letter) == axis.replace("axis", ""):
            yield from (value for value in drawn[letter] if value > 0)
            if letter == "y" and drawn.error_y.array is not None:
                yield from _ends(drawn)


def _ends(drawn: Any) -> Iterator[float]:
    for value, above, below in zip(
        drawn.y, drawn.error_y.array, drawn.error_y.arrayminus, strict=True
    ):
        yield from (end for end in (value + above, value - below) if end > 0)
