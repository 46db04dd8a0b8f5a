"""Plot: a plotly figure as a widget, with a static picture and a text beside it.

Not plotly's own FigureWidget: that carries plotly's whole script with every figure, knows nothing
of JupyterLab's theme and does not grow with the page.
"""

import json
from pathlib import Path
from typing import Any

import anywidget
import plotly.graph_objects as go
import traitlets
from plotly.offline import get_plotlyjs

from mpim_lab.widgets.static_picture import Bundle, bundle

_AXIS: dict[str, Any] = {
    "title_font_size": 13,
    "gridcolor": "rgba(128,128,128,.28)",
    "zerolinecolor": "rgba(128,128,128,.5)",
    "rangemode": "tozero",
}


class Plot(anywidget.AnyWidget):
    """Show `figure`; change it and call `redraw`."""

    _esm = Path(__file__).parent / "static" / "plot.js"
    spec = traitlets.Dict().tag(sync=True)

    def __init__(self, figure: Any, svg: str, text: str) -> None:
        self.figure, self.svg, self.text = figure, svg, text
        super().__init__(spec=spec_of(figure))
        self.on_msg(self._on_message)

    def redraw(self) -> None:
        """Show the figure as it is now."""
        self.spec = spec_of(self.figure)

    def _on_message(self, _widget: Any, content: dict[str, Any], _buffers: Any) -> None:
        if content.get("type") == "plotly, please":
            self.send({"type": "plotly"}, buffers=[get_plotlyjs().encode()])

    def _repr_mimebundle_(self, **options: Any) -> Bundle:
        return bundle(super()._repr_mimebundle_(**options), self.svg, self.text)


def spec_of(figure: Any) -> dict[str, Any]:
    """A figure as its JSON, without plotly's own colours, which are for its own page."""
    spec: dict[str, Any] = json.loads(figure.to_json())
    spec["layout"].pop("template", None)
    return spec


def styled(figure: "go.Figure", height: int = 320) -> Any:
    """Transparent ground, readable sizes, a grid that can be seen in light and dark.

    The page adds its colours.
    """
    figure.update_layout(
        height=height,
        margin={"l": 70, "r": 24, "t": 46, "b": 52},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"size": 13, "family": "system-ui, sans-serif"},
        legend={"orientation": "h", "y": 1.02, "x": 0, "yanchor": "bottom"},
        hovermode="x unified",
    )
    figure.update_xaxes(**_AXIS)
    figure.update_yaxes(**_AXIS)
    return figure
