"""Curves: compression, pool and growth as plotly figures, two sides each, a line a name."""

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mpim_lab.bench.report.sweep_tables import MIB
from mpim_lab.bench.rows import Row
from mpim_lab.widgets.plot import PALETTE

SHAPES = ("circle", "square", "diamond", "cross", "triangle-up", "x")


def compression_figure(rows: Sequence[Row]) -> go.Figure:
    """What is left, and what a microsecond saves, against the size."""
    rows = [row for row in rows if "bytes" in row and "left_percent" in row]
    figure = _sides("bytes left in percent", "bytes saved a microsecond of CPU")
    _draw(figure, rows, "bytes", (("left_percent", 1.0), ("saved_bytes_a_us", 1.0)))
    _axes(figure, "bytes of chat text", "%", "bytes/µs")
    figure.update_yaxes(type="linear")
    figure.add_hline(100, line={"dash": "dot", "width": 1, "color": "#888"}, row=1, col=1)
    return figure


def pool_figure(rows: Sequence[Row]) -> go.Figure:
    """Calls a second, and how long 99 of 100 calls took, against callers."""
    figure = _sides("calls a second", "99 % of calls had their reply within")
    _draw(
        figure,
        [row for row in rows if "calls_per_s" in row],
        "callers",
        (("calls_per_s", 1.0), ("p99_ms", 1.0)),
    )
    return _axes(figure, "callers at once", "calls/s", "milliseconds")


def growth_figure(rows: Sequence[Row], axis: str) -> go.Figure:
    """Throughput, and memory of the server and the clients, against one axis."""
    rate = "deliveries a second" if axis == "subscribers" else "messages received a second"
    rows = [row for row in rows if row["axis"] == axis and "messages_per_s" in row]
    figure = _sides(rate, "memory")
    values = [row["value"] for row in rows]
    _line(
        figure,
        1,
        "throughput",
        0,
        values,
        [row["messages_per_s"] for row in rows],
        _errors(rows, "messages_per_s"),
    )
    for place, (name, column) in enumerate(
        (("server", "server_bytes"), ("clients", "client_bytes")), start=1
    ):
        _line(figure, 2, name, place, values, [row[column] / MIB for row in rows])
    return _axes(figure, f"{axis} (bytes)" if axis == "message size" else axis, "messages/s", "MiB")


def _sides(left: str, right: str) -> go.Figure:
    return make_subplots(rows=1, cols=2, horizontal_spacing=0.1, subplot_titles=(left, right))


def _draw(
    figure: go.Figure, rows: Sequence[Row], across: str, sides: Sequence[tuple[str, float]]
) -> None:
    for place, who in enumerate(dict.fromkeys(row["who"] for row in rows)):
        own = [row for row in rows if row["who"] == who]
        for side, (column, unit) in enumerate(sides, start=1):
            values = [row[column] / unit for row in own]
            errors = _errors(own, column) if column in ("calls_per_s", "saved_bytes_a_us") else None
            _line(figure, side, who, place, [row[across] for row in own], values, errors)


def _errors(rows: Sequence[Row], column: str) -> dict[str, Any]:
    above = [row["spread"][1] - row[column] for row in rows]
    return {
        "type": "data",
        "array": above,
        "arrayminus": [row[column] - row["spread"][0] for row in rows],
        "width": 4,
    }


def _line(
    figure: go.Figure,
    side: int,
    name: str,
    place: int,
    x: Sequence[float],
    y: Sequence[float],
    errors: dict[str, Any] | None = None,
) -> None:
    colour = PALETTE[place % len(PALETTE)]
    line = go.Scatter(
        name=name,
        x=list(x),
        y=list(y),
        error_y=errors,
        mode="lines+markers",
        line={"color": colour, "width": 2},
        marker={"color": colour, "symbol": SHAPES[place % len(SHAPES)], "size": 9},
        legendgroup=name,
        showlegend=all(drawn.name != name for drawn in figure.data),
        hovertemplate="%{y:,.4~g}",
    )
    figure.add_trace(line, row=1, col=side)


def _axes(figure: go.Figure, across: str, left: str, right: str) -> go.Figure:
    figure.update_xaxes(type="log", title=across, dtick=1)
    figure.update_yaxes(type="log")
    figure.update_yaxes(title=left, row=1, col=1)
    figure.update_yaxes(title=right, row=1, col=2)
    return figure
