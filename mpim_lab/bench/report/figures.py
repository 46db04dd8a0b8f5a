"""Picture: the rows as a plotly figure, throughput on the left and latency on the right."""

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mpim_lab.bench.rows import Row

# Okabe and Ito, colours that colour-blind people can tell apart: https://jfly.uni-koeln.de/color/
COLOURS = ("#0072B2", "#56B4E9", "#E69F00", "#F0E442", "#CC79A7", "#D55E00", "#009E73")
SHAPES = (
    "circle",
    "square",
    "diamond",
    "cross",
    "triangle-up",
    "x",
    "star",
    "hexagon",
)  # one more: pairs repeat after 56
TITLES = {
    "pubsub": "Pub/Sub",
    "streams": "Streams, add → consume → acknowledge,",
    "batching": "Batches, packed and unpacked,",
}
Look = tuple[str, str]


def picture_of(report: dict[str, Any]) -> go.Figure:
    """Draw a report of `mpim-lab bench pubsub`, `streams` or `batching`.

    The same candidate looks the same on both sides.

    The rates are those of the closed loop, the latencies those of the open one if it was run.
    """
    rows: Sequence[Row] = report["rows"]
    machine = report["machine"]
    timed = "open" if any(row["loop"] == "open" for row in rows) else "closed"
    figure = make_subplots(
        rows=1,
        cols=2,
        horizontal_spacing=0.1,
        subplot_titles=(
            "closed loop: messages received a second",
            f"{timed} loop: latency from due to handled, p50 to p99",
        ),
    )
    for place, who in enumerate(dict.fromkeys(row["who"] for row in rows)):
        own = [row for row in rows if row["who"] == who and "messages_per_s" in row]
        look = COLOURS[place % len(COLOURS)], SHAPES[place % len(SHAPES)]
        _draw_throughput(figure, who, [row for row in own if row["loop"] == "closed"], look)
        _draw_latencies(
            figure, who, [row for row in own if row["loop"] == timed and row.get("p50_ms")], look
        )
    figure.update_yaxes(type="log", title="messages/s", row=1, col=1)
    figure.update_yaxes(type="log", title="milliseconds", row=1, col=2)
    figure.update_layout(
        template="plotly_white",
        scattermode="group",
        height=520,
        legend={"orientation": "h", "y": -0.12},
        title=_title(rows, machine),
    )
    return figure


def _title(rows: Sequence[Row], machine: dict[str, Any]) -> str:
    where = f"{machine['cpu']}, {machine['cores']} cores, {machine['server']}"
    return f"{TITLES[rows[0]['bench']]} with 100-byte payloads<br><sup>{where}</sup>"


def _draw_throughput(figure: go.Figure, who: str, rows: Sequence[Row], look: Look) -> None:
    rates = [row["messages_per_s"] for row in rows]
    ends = [(row["spread"][0], row["spread"][1]) for row in rows]
    _draw(figure, 1, who, rows, rates, ends, look, [f"{rate:,.0f} msg/s" for rate in rates])


def _draw_latencies(figure: go.Figure, who: str, rows: Sequence[Row], look: Look) -> None:
    p50s = [row["p50_ms"] for row in rows]
    ends = [(row["p50_ms"], row["p99_ms"]) for row in rows]
    _draw(
        figure,
        2,
        who,
        rows,
        p50s,
        ends,
        look,
        [f"p50 {p50:.2f} ms, p99 {p99:.2f} ms" for p50, p99 in ends],
    )


def _draw(
    figure: go.Figure,
    column: int,
    who: str,
    rows: Sequence[Row],
    values: Sequence[float],
    ends: Sequence[tuple[float, float]],
    look: Look,
    texts: Sequence[str],
) -> None:
    """Draw one candidate on one side: a point a case, and a line from one end to the other.

    An axis of logarithms has no zero for a bar to stand on.
    """
    if not rows:
        return
    points = points_of(figure, who, look, [row["case"] for row in rows], values, ends)
    points.update(text=list(texts), hovertemplate="%{text}")
    figure.add_trace(points, row=1, col=column)


def points_of(
    figure: go.Figure,
    who: str,
    look: Look,
    cases: Sequence[str],
    values: Sequence[float],
    ends: Sequence[tuple[float, float]],
) -> go.Scatter:
    """One candidate's points, one a case, each with a line from one end to the other.

    Named once in a figure's legend.
    """
    colour, shape = look
    above = [high - value for value, (_, high) in zip(values, ends, strict=True)]
    below = [value - low for value, (low, _) in zip(values, ends, strict=True)]
    return go.Scatter(
        name=who,
        x=list(cases),
        y=list(values),
        error_y={
            "type": "data",
            "array": above,
            "arrayminus": below,
            "color": colour,
            "thickness": 2,
            "width": 5,
        },
        mode="markers",
        marker={
            "color": colour,
            "symbol": shape,
            "size": 12,
            "line": {"color": "#444", "width": 0.6},
        },
        legendgroup=who,
        offsetgroup=who,
        showlegend=all(drawn.legendgroup != who for drawn in figure.data),
    )
