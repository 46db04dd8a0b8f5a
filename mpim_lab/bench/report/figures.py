"""Figures: the rows of a bench as plotly figures, a side a question, a colour and shape a name."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mpim_lab.bench.report.table import MIB
from mpim_lab.bench.rows import Row
from mpim_lab.widgets.static_picture import PALETTE

# With the palette, pairs repeat after 42.
SHAPES = ("circle", "square", "diamond", "cross", "triangle-up", "x", "star")
FAINT = "rgba(128,128,128,.14)"
HAVE_SPREAD = ("messages_per_s", "calls_per_s", "saved_bytes_a_us", "seconds")  # of their rounds


def comparison_figure(rows: Sequence[Row]) -> go.Figure:
    """Throughput of the closed loop, and latency of the open one if it was run."""
    timed = "open" if any(row["loop"] == "open" for row in rows) else "closed"
    figure = _sides(
        "closed loop: messages received a second",
        f"{timed} loop: latency from due to handled, p50 to p99",
    )
    for place, who, own in _by_name(rows):
        closed = [row for row in own if row["loop"] == "closed"]
        opened = [row for row in own if row["loop"] == timed]
        _draw(figure, 0, who, place, closed, "case", "messages_per_s")
        _draw(figure, 1, who, place, opened, "case", "p50_ms")
    return _axes(figure, "", "messages/s", "milliseconds")


def compression_figure(rows: Sequence[Row]) -> go.Figure:
    """What is left, and what a microsecond saves, against the size."""
    figure = _sides("bytes left in percent", "bytes saved a microsecond of CPU")
    for place, who, own in _by_name([row for row in rows if "bytes" in row]):
        _draw(figure, 0, who, place, own, "bytes", "left_percent")
        _draw(figure, 1, who, place, own, "bytes", "saved_bytes_a_us")
    _axes(figure, "bytes of chat text", "%", "bytes/µs").update_yaxes(type="linear")
    figure.add_hline(100, line={"dash": "dot", "width": 1, "color": "#888"}, row=1, col=1)
    return figure


def pool_figure(rows: Sequence[Row]) -> go.Figure:
    """Calls a second, and how long 99 of 100 calls took, against callers."""
    figure = _sides("calls a second", "99 % of calls had their reply within")
    for place, who, own in _by_name(rows):
        _draw(figure, 0, who, place, own, "callers", "calls_per_s")
        _draw(figure, 1, who, place, own, "callers", "p99_ms")
    return _axes(figure, "callers at once", "calls/s", "milliseconds")


def growth_figure(rows: Sequence[Row]) -> go.Figure:
    """Throughput, and memory of the server and the clients, against one axis."""
    axis = rows[0]["axis"]
    rate = "deliveries a second" if axis == "subscribers" else "messages received a second"
    figure = _sides(rate, "memory")
    _draw(figure, 0, "throughput", 0, rows, "value", "messages_per_s")
    _draw(figure, 1, "server", 1, rows, "value", "server_bytes", MIB)
    _draw(figure, 1, "clients", 2, rows, "value", "client_bytes", MIB)
    return _axes(figure, f"{axis} (bytes)" if axis == "message size" else axis, "messages/s", "MiB")


def gateway_figure(rows: Sequence[Row]) -> go.Figure:
    """Throughput, latency, memory, reach."""
    figure = _sides(
        "closed loop: messages received a second",
        "at a steady rate: latency from due to handled, p50 to p99",
        "memory of the server a connection",
        "seconds until the last one is connected, or has it",
    )
    for place, who, own in _by_name(rows):
        closed = [row for row in own if row.get("loop") == "closed"]
        opened = [row for row in own if row.get("loop") == "open"]
        _draw(figure, 0, who, place, closed, "case", "messages_per_s")
        _draw(figure, 1, who, place, opened, "case", "p50_ms")
        _draw(figure, 2, who, place, own, "case", "memory_kib")
        _draw(figure, 3, who, place, own, "case", "seconds")
    _axes(figure, "", "messages/s", "milliseconds", "KiB", "seconds")
    return figure.update_yaxes(type="linear", rangemode="tozero", row=2, col=1)


def _sides(*titles: str) -> go.Figure:
    figure = make_subplots(
        rows=len(titles) // 2,
        cols=2,
        horizontal_spacing=0.1,
        vertical_spacing=0.16,
        subplot_titles=titles,
    )
    return figure.update_layout(scattermode="group")


def _axes(figure: go.Figure, across: str, *units: str) -> go.Figure:
    """Name the axes; across are powers of ten if it has a name, and else cases."""
    if across:
        figure.update_xaxes(type="log", title=across)
    for side, unit in enumerate(units):
        figure.update_yaxes(type="log", title=unit, row=side // 2 + 1, col=side % 2 + 1)
    return figure


def _draw(
    figure: go.Figure,
    side: int,
    name: str,
    place: int,
    rows: Sequence[Row],
    across: str,
    column: str,
    unit: float = 1,
) -> None:
    """Draw one name on one side: points a case, or a line over numbers; each with its ends.

    An axis of logarithms has no zero for a bar to stand on.
    """
    rows = [row for row in rows if row.get(column)]
    if not rows:
        return
    colour = PALETTE[place % len(PALETTE)]
    values = [row[column] / unit for row in rows]
    is_line = across != "case"
    scatter = go.Scatter(
        name=name,
        x=[row[across] for row in rows],
        y=values,
        mode="lines+markers" if is_line else "markers",
        line={"color": colour, "width": 2},
        marker={
            "color": colour,
            "symbol": SHAPES[place % len(SHAPES)],
            "size": 9 if is_line else 12,
        },
        legendgroup=name,
        offsetgroup=name,
        showlegend=all(drawn.legendgroup != name for drawn in figure.data),
        hovertemplate="%{y:,.4~g}",
    )
    ends: list[Any] = []
    if column in HAVE_SPREAD:
        ends = [row["spread"] for row in rows]
    elif column == "p50_ms":
        ends = [(row["p50_ms"], row["p99_ms"]) for row in rows]
    if ends:
        scatter.error_y = {
            "array": [high - value for (_, high), value in zip(ends, values, strict=True)],
            "arrayminus": [value - low for (low, _), value in zip(ends, values, strict=True)],
            "color": colour,
            "width": 5,
        }
    figure.add_trace(scatter, row=side // 2 + 1, col=side % 2 + 1)


def _by_name(rows: Sequence[Row]) -> Iterator[tuple[int, str, list[Row]]]:
    """A place, which has a look, a name, and its rows."""
    for place, who in enumerate(dict.fromkeys(row["who"] for row in rows)):
        yield place, who, [row for row in rows if row["who"] == who]


def whole_decades(figure: go.Figure) -> go.Figure:
    """Have every axis of logarithms begin and end near a power of ten, and label those alone."""
    for letter in "xy":
        for axis in figure.select_xaxes() if letter == "x" else figure.select_yaxes():
            values = list(_values(figure, letter, axis.plotly_name)) if axis.type == "log" else []
            if not values:
                continue
            # An across axis has its own numbers of things, and ends where they do.
            if letter == "y":
                low, high = math.log10(min(values)), math.log10(max(values))
                axis.range = [math.floor(low) - 0.05, math.ceil(high) + 0.05]
            axis.update(
                dtick=1,
                title_standoff=8,
                minor={"dtick": "D1", "showgrid": letter == "y", "gridcolor": FAINT},
            )
    return figure


def _values(figure: go.Figure, letter: str, axis: str) -> Iterator[float]:
    """What is drawn on an axis, to the ends of its error bars, and is above 0."""
    for drawn in figure.data:
        if (drawn[f"{letter}axis"] or letter) != axis.replace("axis", ""):
            continue
        values: list[Any] = list(drawn[letter])
        if letter == "y" and drawn.error_y.array is not None:
            bars = (drawn.error_y.array, drawn.error_y.arrayminus)
            values += [value + above for value, above in zip(drawn.y, bars[0], strict=True)]
            values += [value - below for value, below in zip(drawn.y, bars[1], strict=True)]
        yield from (value for value in values if value > 0)
