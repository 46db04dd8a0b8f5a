"""Page: pictures of one or more benches in one HTML file, with plotly's script inside: it needs no network.

It follows the reader's light or dark scheme. Its policy forbids every connection, so that this can
be relied upon.
"""

import html
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from mpim_lab.bench.everything import EVERY_CASE
from mpim_lab.bench.report.axes import whole_decades
from mpim_lab.bench.report.curves import compression_figure, growth_figure, pool_figure
from mpim_lab.bench.report.figures import picture_of
from mpim_lab.bench.rows import Row
from mpim_lab.widgets.plot import styled

STATIC = Path(__file__).parent / "static"
COMPARED = {
    "pubsub": (
        "Publish and subscribe",
        "Who gets how many messages of 100 bytes a second from a publisher to a handler, and how long each is on its way.",
    ),
    "streams": (
        "Streams",
        "Who adds, consumes and acknowledges how many messages a second, and what each further guarantee costs.",
    ),
    "batching": (
        "Batching",
        "What many messages in one frame give over single ones and over redis-py's pipelines, in rate and in latency.",
    ),
}
GROWTH = {
    "message size": "How throughput falls and memory grows as messages get larger, from 16 bytes to 1 MiB.",
    "channels": "How one queue that subscribes to more and more channels keeps its rate, and what each channel weighs.",
    "subscribers": "How many deliveries a second one channel gives as more and more subscribers listen to it.",
    "tasks": "How throughput and memory grow as more and more tasks each await one publish after another.",
}
Section = tuple[str, str, "go.Figure | None"]


def sections_of(report: dict[str, Any]) -> Iterator[Section]:
    """Heading, one sentence, figure (None: nothing was measured) for each picture, bench by bench."""
    for bench in dict.fromkeys(row["bench"] for row in report["rows"]):
        rows = [row for row in report["rows"] if row["bench"] == bench]
        if all(row["case"] == EVERY_CASE for row in rows):
            yield bench, f"Not measured: {rows[-1]['reason']}", None
        else:
            missing = _missing(rows)
            for heading, sentence, figure in _sections(bench, rows, report["machine"]):
                yield heading, f"{sentence} {missing}".rstrip(), figure


def _missing(rows: Sequence[Row]) -> str:
    """Who has no numbers, or not in every case, and why: each reason once."""
    reasons = dict.fromkeys(f"{row['who']} ({row['reason']})" for row in rows if "reason" in row)
    return f"Not measured: {'; '.join(reasons)}." if reasons else ""


def _sections(bench: str, rows: Sequence[Row], machine: dict[str, Any]) -> Iterator[Section]:
    if bench in COMPARED:
        figure = picture_of({"machine": machine, "rows": rows})
        yield *COMPARED[bench], _for_page(figure.update_layout(title=None), 520)
    elif bench == "compression":
        sentence = "How much of a chat text is left by each algorithm, and how many bytes a microsecond of CPU takes off."
        yield "Compression", sentence, _for_page(compression_figure(rows), 420)
    elif bench == "pool":
        sentence = "How many short commands a second callers get done by each way to a connection, and how long they wait."
        yield "Connections", sentence, _for_page(pool_figure(rows), 420)
    elif bench == "growth":
        for axis in dict.fromkeys(row["axis"] for row in rows):
            yield f"Growth: {axis}", GROWTH[axis], _for_page(growth_figure(rows, axis), 380)


def _for_page(figure: go.Figure, height: int) -> go.Figure:
    legend = {"orientation": "h", "x": 0, "y": -0.22, "yanchor": "top"}
    return whole_decades(styled(figure, height)).update_layout(
        legend=legend, margin={"l": 70, "r": 24, "t": 40, "b": 110}
    )


def page_of(report: dict[str, Any]) -> str:
    """The whole page of `{"machine": …, "rows": …}`."""
    sections = list(sections_of(report))
    figures = [json.loads(figure.to_json()) for _, _, figure in sections if figure is not None]
    for figure in figures:
        figure["layout"].pop("template", None)  # plotly's own colours, for its own page
    parts = {
        "style": (STATIC / "page.css").read_text(encoding="utf-8"),
        "machine": html.escape(machine_text(report["machine"])),
        "sections": "\n".join(_drawn(sections)),
        "plotly": get_plotlyjs(),
        "figures": json.dumps(figures, ensure_ascii=False).replace("</", "<\\/"),
        "script": (STATIC / "page.js").read_text(encoding="utf-8"),
    }
    page = (STATIC / "page.html").read_text(encoding="utf-8")
    before, *rest = page.split("{{")
    return before + "".join(
        parts[name] + text for name, _, text in (piece.partition("}}") for piece in rest)
    )


def _drawn(sections: Iterable[Section]) -> Iterator[str]:
    for heading, sentence, figure in sections:
        height = "" if figure is None else f' style="height:{figure.layout.height}px"'
        place = (
            ""
            if figure is None
            else f'<div class="scroll"><div class="figure"{height}></div></div>'
        )
        yield f"<section><h2>{html.escape(heading)}</h2><p>{html.escape(sentence)}</p>{place}</section>"


def machine_text(machine: dict[str, Any]) -> str:
    """The machine in one line, as far as it is described.

    >>> machine_text({"cpu": "Z80", "cores": 1, "python": "CPython 3.11", "server": "Valkey 9.0"})
    'Z80, 1 core · CPython 3.11 · Valkey 9.0'
    """
    cores = machine["cores"]
    words = [
        f"{machine['cpu']}, {cores} core{'s' if cores != 1 else ''}",
        machine.get("os"),
        machine["python"],
    ]
    words += [machine["server"], machine.get("measured_at")]
    return " · ".join(word for word in words if word)
