"""Static picture: what every widget leaves for readers without a kernel, beside its live view."""

import html
import re
from typing import Any

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
Bundle = tuple[dict[str, Any], dict[str, Any]]
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def escape(text: str) -> str:
    r"""Text for XML, which forbids most control characters even when escaped.

    A message's id may be any bytes.

    >>> escape("a<b \x00")
    'a&lt;b �'
    """
    return html.escape(_FORBIDDEN.sub("\ufffd", text))


def bundle(view: Any, svg: str, text: str) -> Bundle:
    """A MIME bundle with the live view (if there is one), the picture and the text.

    Nothing that differs from run to run.
    """
    data = view[0] if isinstance(view, tuple) else view or {}
    live = {WIDGET_VIEW: data[WIDGET_VIEW]} if WIDGET_VIEW in data else {}
    picture = {"image/svg+xml": svg} if svg else {}
    described = {"image/svg+xml": {"alt": text}} if svg else {}  # for who cannot see it
    return {**live, **picture, "text/plain": text}, described
