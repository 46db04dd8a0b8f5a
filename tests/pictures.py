"""Views in tests: a run for them to follow, and what they must leave for readers without a kernel."""

from types import SimpleNamespace
from xml.etree import ElementTree

from mpim_lab.widgets.static_picture import WIDGET_VIEW
from tests.traces import BOB_LISTENS, trace_of


def fake_run():
    """A run as views see it."""
    return SimpleNamespace(trace=trace_of(BOB_LISTENS), done=False)


def assert_is_static(view, *words):
    """A picture and a text that say the same in every run; gives the picture."""
    data, _ = view._repr_mimebundle_()
    ElementTree.fromstring(data["image/svg+xml"])
    for text in (data["image/svg+xml"], data["text/plain"]):
        assert " at 0x" not in text
        assert data.get(WIDGET_VIEW, {}).get("model_id", "no model") not in text
    for word in words:
        assert word in data["text/plain"]
    return data["image/svg+xml"]
