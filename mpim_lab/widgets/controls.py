"""Controls: one ipywidgets control for one parameter of an experiment."""

from typing import Any

import ipywidgets as ui

from mpim_lab.lab.exercise.experiment import Parameter


def make_control(name: str, value: Any, parameter: Parameter) -> ui.Widget:
    """Return a drop-down for choices, a checkbox for yes or no, a slider between bounds, a number box otherwise."""
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
