"""Gateway picture: the rows of `mpim-lab bench gateway` as a plotly figure of four sides."""

import html
from collections.abc import Callable, Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mpim_lab.bench.gateway.cases import CONNECT
from mpim_lab.bench.report.axes import whole_decades
from mpim_lab.bench.report.figures import COLOURS, SHAPES, points_of
from mpim_lab.bench.rows import Row

SIDES = (
    "closed loop: messages received a second",
    "at a steady rate: latency from due to handled, p50 to p99",
    "memory of the server a connection",
    "seconds until the last one is connected, or has it",
)
UNITS = ("messages/s", "milliseconds", "KiB", "seconds")
Ends = Callable[[Row], tuple[float, float]]


def gateway_figure(rows: Sequence[Row]) -> go.Figure:
    """Throughput, latency, memory, reach.

    A candidate looks the same on all sides, lines go from least to most.
    """
    figure = make_subplots(
        rows=2, cols=2, horizontal_spacing=0.1, vertical_spacing=0.16, subplot_titles=SIDES
    )
    measured = [row for row in rows if "rounds" in row]
    for place, who in enumerate(dict.fromkeys(row["who"] for row in rows)):
        own = [row for row in measured if row["who"] == who]
        look = COLOURS[place * 2 % len(COLOURS)], SHAPES[place % len(SHAPES)]
        closed = [row for row in own if row.get("loop") == "closed"]
        opened = [row for row in own if row.get("loop") == "open"]
        memory = [row for row in own if row.get("memory_kib")]
        _draw(figure, 0, who, look, closed, "messages_per_s", _spread)
        _draw(figure, 1, who, look, opened, "p50_ms", _to_p99)
        _draw(figure, 2, who, look, memory, "memory_kib", _itself("memory_kib"))
        _draw(figure, 3, who, look, [row for row in own if "seconds" in row], "seconds", _spread)
    for side, unit in enumerate(UNITS):
        kind = "linear" if unit == "KiB" else "log"
        figure.update_yaxes(
            type=kind, title=unit, rangemode="tozero", row=side // 2 + 1, col=side % 2 + 1
        )
    return figure.update_layout(
        template="plotly_white", scattermode="group", height=820, legend={"orientation": "h"}
    )


def gateway_page_of(report: dict[str, Any]) -> str:
    """A page with the figure, and plotly's script inside: it needs no network."""
    rows, machine = report["rows"], report["machine"]
    clients = next(
        (row["clients"] for row in rows if row["case"] == CONNECT and "clients" in row), 0
    )
    where = f"{machine['cpu']}, {machine['cores']} cores, {machine['server']}"
    title = f"Gateways with {clients:,} connected clients<br><sup>{html.escape(where)}</sup>"
    page: str = (
        whole_decades(gateway_figure(rows))
        .update_layout(title=title)
        .to_html(include_plotlyjs=True)
    )
    return page


def _spread(row: Row) -> tuple[float, float]:
    low, high = row["spread"]
    return low, high


def _to_p99(row: Row) -> tuple[float, float]:
    return row["p50_ms"], row["p99_ms"]


def _itself(column: str) -> Ends:
    return lambda row: (row[column], row[column])


def _draw(
    figure: go.Figure,
    side: int,
    who: str,
    look: tuple[str, str],
    rows: Sequence[Row],
    column: str,
    ends: Ends,
) -> None:
    rows = [row for row in rows if row.get(column)]
    if not rows:
        return
    cases, values = [row["case"] for row in rows], [row[column] for row in rows]
    points = points_of(figure, who, look, cases, values, [ends(row) for row in rows])
    points.update(hovertemplate="%{y:,.4~g} " + UNITS[side])
    figure.add_trace(points, row=side // 2 + 1, col=side % 2 + 1)
