"""Knobs: one ipywidgets control for one parameter of an experiment."""

from typing import Any

import ipywidgets as ui

from mpim_lab.lab.exercise.experiment import Knob


def make_control(name: str, value: Any, knob: Knob) -> ui.Widget:
    """A drop-down for choices, a checkbox for yes or no, a slider between bounds, a number box otherwise."""
    words, unit = name.rpartition("_")[::2]
    label = (
        f"{words.replace('_', ' ')} ({unit})"
        if unit in ("ms", "s", "bytes") and words and not words.endswith("per")
        else name.replace("_", " ")
    )
    common = {"value": value, "description": label, "tooltip": knob.help, "style": {"description_width": "initial"}}
    layout = ui.Layout(width="330px", margin="2px 16px 2px 2px")
    if knob.choices:
        return ui.Dropdown(options=list(knob.choices), layout=layout, **common)
    if isinstance(value, bool):
        return ui.Checkbox(layout=layout, **common)
    if knob.low is None or knob.high is None:
        return (ui.IntText if isinstance(value, int) else ui.FloatText)(layout=layout, **common)
    bounds = {"min": knob.low, "max": knob.high, "continuous_update": False, "layout": layout}
    is_whole = all(float(number).is_integer() for number in (knob.low, knob.high, knob.step or 1))
    if isinstance(value, int) and is_whole:
        bounds |= {"min": int(knob.low), "max": int(knob.high)}
        return ui.IntSlider(step=int(knob.step or 1), **bounds, **common)
    return ui.FloatSlider(step=knob.step or (knob.high - knob.low) / 100, **bounds, **common)
