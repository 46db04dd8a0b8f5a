"""Page: pictures of one or more benches in one HTML file, with plotly's script: no network needed.

It follows the reader's light or dark scheme. Its policy forbids every connection, so that this can
be relied upon.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import plotly.graph_objects as go
from jinja2 import Template
from plotly.offline import get_plotlyjs

from mpim_lab.bench.machine import machine_text
from mpim_lab.bench.report.figures import (
    comparison_figure,
    compression_figure,
    gateway_figure,
    growth_figure,
    pool_figure,
    whole_decades,
)
from mpim_lab.bench.rows import EVERY_CASE, Row, reasons_of
from mpim_lab.widgets.plot import spec_of, styled

TEMPLATE = Path(__file__).parent / "page.html"


class Kind(NamedTuple):
    """How one bench is drawn."""

    heading: str
    sentence: str
    figure: Callable[[Sequence[Row]], go.Figure]
    height: int


KINDS = {
    "pubsub": Kind(
        "Publish and subscribe",
        "Who gets how many messages of 100 bytes a second from a publisher to a handler, "
        "and how long each is on its way.",
        comparison_figure,
        520,
    ),
    "streams": Kind(
        "Streams",
        "Who adds, consumes and acknowledges how many messages a second, "
        "and what each further guarantee costs.",
        comparison_figure,
        520,
    ),
    "batching": Kind(
        "Batching",
        "What many messages in one frame give over single ones and over redis-py's pipelines, "
        "in rate and in latency.",
        comparison_figure,
        520,
    ),
    "compression": Kind(
        "Compression",
        "How much of a chat text is left by each algorithm, "
        "and how many bytes a microsecond of CPU takes off.",
        compression_figure,
        420,
    ),
    "pool": Kind(
        "Connections",
        "How many short commands a second callers get done by each way to a connection, "
        "and how long they wait.",
        pool_figure,
        420,
    ),
    "gateway": Kind(
        "Gateways",
        "How fast and how late a gateway with thousands of connected clients hands messages over, "
        "and what a connection weighs.",
        gateway_figure,
        820,
    ),
}
GROWTH = {
    "message size": "How throughput falls and memory grows as messages get larger, "
    "from 16 bytes to 1 MiB.",
    "channels": "How one queue that subscribes to more and more channels keeps its rate, "
    "and what each channel weighs.",
    "subscribers": "How many deliveries a second one channel gives "
    "as more and more subscribers listen to it.",
    "tasks": "How throughput and memory grow "
    "as more and more tasks each await one publish after another.",
}
KINDS |= {
    f"growth: {axis}": Kind(f"Growth: {axis}", sentence, growth_figure, 380)
    for axis, sentence in GROWTH.items()
}


class Section(NamedTuple):
    """A picture of the page; without a figure nothing was measured."""

    heading: str
    sentence: str
    figure: "go.Figure | None" = None


def sections_of(report: dict[str, Any]) -> Iterator[Section]:
    """Return a section for each picture, bench by bench."""
    parts: dict[str, list[Row]] = {}
    for row in report["rows"]:
        axis = f": {row['axis']}" if "axis" in row else ""
        parts.setdefault(f"{row['bench']}{axis}", []).append(row)
    for name, rows in parts.items():
        reasons = reasons_of(rows)
        missing = f" Not measured: {'; '.join(reasons)}." if reasons else ""
        if all(row["case"] == EVERY_CASE for row in rows):
            yield Section(name, missing.strip())
        else:
            kind = KINDS[name]
            figure = _for_page(kind.figure(rows), kind.height)
            yield Section(kind.heading, kind.sentence + missing, figure)


def _for_page(figure: go.Figure, height: int) -> go.Figure:
    legend = {"orientation": "h", "x": 0, "y": -90 / height, "yanchor": "top"}
    return whole_decades(styled(figure, height)).update_layout(
        legend=legend, margin={"l": 70, "r": 24, "t": 40, "b": 110}
    )


def page_of(report: dict[str, Any]) -> str:
    """The whole page of `{"machine": …, "rows": …}`."""
    sections = list(sections_of(report))
    page: str = Template(TEMPLATE.read_text(encoding="utf-8"), autoescape=True).render(
        machine=machine_text(report["machine"], "os", "python", "server", "measured_at"),
        sections=sections,
        figures=[spec_of(section.figure) for section in sections if section.figure is not None],
        plotly=get_plotlyjs(),
    )
    return page
