"""Charts: throughput and latency while a run goes on, the ladder, the curves of a sweep.

Plotly, and an SVG to keep.
"""

import asyncio
from collections.abc import Sequence
from statistics import median
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mpim_lab.errors import InvalidParameter
from mpim_lab.events import EventKind
from mpim_lab.keys import is_ack_channel
from mpim_lab.lab.exercise.experiment import Run
from mpim_lab.lab.trace.trace import RateSample, Trace
from mpim_lab.widgets.chart_svg import bars_svg, lines_svg
from mpim_lab.widgets.plot import Plot, styled
from mpim_lab.widgets.static_picture import PALETTE

POLL_S = 0.25
MAX_POINTS = 240
_LOG: dict[str, Any] = {"type": "log", "rangemode": "normal", "dtick": 1}


class LiveCharts(Plot):
    """Messages a second, and latency in milliseconds (p50, p99), while a run goes on.

    Redrawn at most four times a second with a few hundred points: a run in other processes does not
    feel it.
    """

    def __init__(self, trace: Trace | None = None) -> None:
        figure = make_subplots(cols=2, horizontal_spacing=0.11)
        for column, name, colour in (
            (1, "received", PALETTE[0]),
            (2, "p50", PALETTE[2]),
            (2, "p99", PALETTE[1]),
        ):
            figure.add_scatter(
                x=[],
                y=[],
                name=name,
                mode="lines",
                line={"color": colour, "width": 2.4},
                row=1,
                col=column,
            )
        figure.update_xaxes(title_text="seconds")
        figure.update_yaxes(title_text="messages/s", col=1)
        figure.update_yaxes(title_text="latency, ms", col=2)
        super().__init__(styled(figure), "", "")
        self._trace = trace if trace is not None else Trace()
        self.refresh()

    async def follow(self, run: Run) -> None:
        """Keep up with a run until it ends."""
        self._trace = run.trace
        try:
            while not run.done:
                self.refresh()
                await asyncio.sleep(POLL_S)
        finally:
            self.refresh()

    def refresh(self) -> None:
        """Draw what the trace holds now."""
        frame = samples(self._trace)
        xs = list(frame["seconds"])
        columns = [_plain(frame[name]) for name in ("messages_per_s", "p50_ms", "p99_ms")]
        for line, ys in zip(self.figure.data, columns, strict=True):
            line.x, line.y = xs, ys
        self.redraw()
        last = (
            "no messages yet"
            if frame.empty
            else f"{frame['messages_per_s'].max():,.0f} messages/s at the most"
        )
        self.text = f"LiveCharts: {last}"
        series = {"received": (xs, columns[0])}
        self.svg = lines_svg(series, "Throughput", "seconds", "messages per second")


def samples(trace: Trace) -> pd.DataFrame:
    """What was received, by time.

    From the load processes' counts, or from the events where there are none.

    An interval in which nothing came is a row of its own, with rate 0 and no latency.
    """
    receivers = {rate.actor for rate in trace.rates if rate.p50_ms is not None}
    rates = [rate for rate in trace.rates if rate.actor in receivers] or _from_events(trace)
    begun = rates[0].at if rates else 0.0
    rows = [
        (rate.at - begun, rate.messages / max(rate.seconds, 1e-9), rate.p50_ms, rate.p99_ms)
        for rate in rates
    ]
    frame = pd.DataFrame(rows, columns=["seconds", "messages_per_s", "p50_ms", "p99_ms"])
    return frame.iloc[:: len(frame) // MAX_POINTS + 1]


def _plain(column: "pd.Series[Any]") -> list[float | None]:
    """Numbers as plotly takes them: a gap is None."""
    return [None if pd.isna(value) else float(value) for value in column]


def _from_events(trace: Trace, interval_s: float = 0.25) -> list[RateSample]:
    """Count the messages that were handled in each interval.

    Those of a sampled trace stand for the others, too.
    """
    begun: dict[str, float] = {}
    bins: dict[int, list[float]] = {}
    for event in trace.events:
        if event.kind is EventKind.ACCEPTED:
            begun.setdefault(event.message_id, event.at)
        elif (
            event.kind is EventKind.HANDLED
            and event.message_id in begun
            and not is_ack_channel(event.channel)
        ):
            bins.setdefault(int(event.at / interval_s), []).append(
                (event.at - begun[event.message_id]) * 1e3
            )
    made = []
    for number in range(min(bins, default=0), max(bins, default=-1) + 1):
        latencies = sorted(bins.get(number, ()))
        p50, p99 = (
            (median(latencies), latencies[int(len(latencies) * 0.99)])
            if latencies
            else (None, None)
        )
        messages = len(latencies) * trace.sample_rate
        made.append(RateSample(number * interval_s, "events", interval_s, messages, p50, p99))
    return made


def ladder_chart(
    rungs: Sequence[tuple[str, float]],
    *,
    title: str = "The throughput ladder",
    unit: str = "messages per second",
) -> Plot:
    """Horizontal bars from slow to fast, each with its ratio to the first if that is above 0."""
    if not rungs:
        raise InvalidParameter("a ladder needs at least one rung")
    names, values = [name for name, _ in rungs], [value for _, value in rungs]
    labels = [
        f"{value:,.0f}" + (f"  ({value / values[0]:.1f}×)" if values[0] else "") for value in values
    ]
    bars = go.Bar(
        x=values,
        y=names,
        orientation="h",
        text=labels,
        textposition="outside",
        marker_color=PALETTE[0],
    )
    figure = styled(go.Figure(bars), 90 + 46 * len(rungs))
    figure.update_layout(title=title, margin={"l": 250}, hovermode="closest")
    figure.update_xaxes(title_text=unit, range=[0, (max(values) or 1) * 1.3])
    figure.update_yaxes(autorange="reversed", ticks="outside", ticklen=8, tickcolor="rgba(0,0,0,0)")
    text = "\n".join(f"{name:40} {label}" for name, label in zip(names, labels, strict=True))
    return Plot(figure, bars_svg(list(zip(names, values, labels, strict=True)), title, unit), text)


def sweep_picture(
    frame: pd.DataFrame,
    *,
    x: str,
    y: str,
    color: str | None = None,
    title: str = "",
    log_x: bool = False,
    log_y: bool = False,
) -> tuple[Any, str, str]:
    """One line for each value of `color`: `y` against `x`, with points.

    Column names are the axis titles: give units.

    log_x, log_y: an axis in powers of ten, for what spans several of them; values of 0 and below
    are left out. Gives the figure, the static picture and the text.
    """
    groups = (
        [("", frame)]
        if color is None
        else [(str(name), group) for name, group in frame.groupby(color, sort=False)]
    )
    figure = go.Figure()
    for index, (name, group) in enumerate(groups):
        line = {"color": PALETTE[index % len(PALETTE)], "width": 2.4}
        figure.add_scatter(
            x=list(group[x]),
            y=list(group[y]),
            name=name,
            mode="lines+markers",
            line=line,
            showlegend=bool(name),
        )
    styled(figure).update_layout(title=title)
    if color is not None:  # the names below, clear of the title
        figure.update_layout(
            height=360,
            margin_b=96,
            legend={"orientation": "h", "x": 0, "y": -0.24, "yanchor": "top"},
        )
    figure.update_xaxes(title_text=x, **(_LOG if log_x else {}))
    figure.update_yaxes(title_text=y, **(_LOG if log_y else {}))
    series = {name or y: (list(group[x]), list(group[y])) for name, group in groups}
    svg = lines_svg(series, title, x, y, log_x=log_x, log_y=log_y)
    return figure, svg, frame.to_string(index=False)


def sweep_chart(frame: pd.DataFrame, **chart: Any) -> Plot:
    """The curves of a sweep; what `sweep_picture` says of the other arguments holds here."""
    return Plot(*sweep_picture(frame, **chart))
