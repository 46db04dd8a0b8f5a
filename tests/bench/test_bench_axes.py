"""Axes of the pictures: labels at powers of ten, none of which run into each other."""

import math

import plotly.graph_objects as go
from hypothesis import given
from hypothesis import strategies as st
from plotly.subplots import make_subplots

from mpim_lab.bench.report.figures import whole_decades
from mpim_lab.bench.report.page import sections_of

VALUES = st.lists(st.floats(1e-3, 1e7), min_size=1, max_size=8)


def figure_of(values, **error_y):
    figure = make_subplots(cols=2)
    figure.add_scatter(
        x=list(range(1, len(values) + 1)), y=values, error_y=error_y or None, row=1, col=2
    )
    figure.update_yaxes(type="log", row=1, col=2)
    return figure


@given(VALUES)
def test_an_axis_of_logarithms_has_two_labels_at_least_and_holds_all_that_is_drawn(values):
    """Also where all values are within one decade, or are one."""
    axis = whole_decades(figure_of(values)).layout.yaxis2
    low, high = axis.range
    least, most = math.log10(min(values)), math.log10(max(values))
    assert low < least and most < high
    labelled = [power for power in range(-4, 9) if low <= power <= high]
    assert axis.dtick == 1 and (len(labelled) >= 2 or least == most)


def test_an_error_bar_is_inside_too_and_what_has_no_logarithm_does_no_harm():
    """A bar that ends at or below 0 goes to the lower end."""
    figure = whole_decades(figure_of([5.0, 50.0], array=[1.0, 950.0], arrayminus=[5.0, 49.5]))
    assert figure.layout.yaxis2.range[0] <= math.log10(0.5) and figure.layout.yaxis2.range[1] >= 3
    assert whole_decades(figure_of([0.0])).layout.yaxis2.range is None


def test_an_axis_without_logarithms_and_one_without_lines_stay_as_they_are():
    """Percent begin at 0."""
    figure = figure_of([1.0, 90.0])
    figure.update_yaxes(type="linear", row=1, col=2)
    before = go.Figure(figure)
    assert whole_decades(figure) == before


def test_the_page_says_who_was_not_measured_and_why():
    """Each reason once, with the picture of the others."""
    row = {"bench": "pool", "case": "1 caller", "callers": 1}
    numbers = {"calls_per_s": 10.0, "p99_ms": 1.0, "spread": [9.0, 11.0]}
    rows = [
        row | {"who": "this pool"} | numbers,
        *[row | {"who": "naive", "reason": "it broke"}] * 2,
    ]
    [(_, sentence, figure)] = sections_of({"rows": rows})
    assert sentence.endswith(". Not measured: naive: it broke.") and figure is not None
