"""Static picture: what every widget leaves for readers without a kernel, beside its live view."""

from typing import Any

Bundle = tuple[dict[str, Any], dict[str, Any]]
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"


def bundle(view: Any, svg: str, text: str) -> Bundle:
    """A MIME bundle with the live view (if there is one), the picture and the text; nothing that differs from run to run."""
    data = view[0] if isinstance(view, tuple) else view or {}
    live = {WIDGET_VIEW: data[WIDGET_VIEW]} if WIDGET_VIEW in data else {}
    return {**live, "image/svg+xml": svg, "text/plain": text}, {}
