"""Two thousand messages in one picture."""

import pytest

from tests.browser.conftest import keep
from tests.browser.notebook_page import NotebookPage

pytestmark = pytest.mark.timeout(180)

CELL = """
from mpim_lab.chapters.ch01_pubsub.experiment import PubSubDelivery
from mpim_lab.widgets import FlowView

result = await PubSubDelivery(design="naive", fault="away", messages=2_000, duration=200).run()
FlowView(result.trace)
"""


def test_two_thousand_messages_play(notebook_of, page, jupyter):
    """All of them in view while they play.

    The time a frame takes is printed, not judged: that is this machine's.
    """
    chapter = NotebookPage(page, jupyter, notebook_of("many.ipynb", CELL, "1"))
    chapter.run_all()
    view = chapter.cell("FlowView(result.trace)").locator(".mpim-flow")
    view.wait_for()
    for name in (
        "fit everything",
        "to the beginning",
        "faster",
        "faster",
        "faster",
        "play or pause",
    ):
        view.get_by_role("button", name=name).click()
    page.wait_for_function("() => window.__mpimFrameStats.draws > 30")
    frames = page.evaluate(FRAMES)
    view.get_by_role("button", name="to the end").click()
    stats = page.evaluate("window.__mpimFrameStats")
    print(
        f"\n2,000 messages: {frames:.0f} frames/s, drawing {stats['medianMs']:.1f} ms (p95 {stats['p95Ms']:.1f} ms)"
    )
    keep(view, "many-messages")
    assert stats["messages"] == 2_000
    assert "1800 delivered" in view.inner_text()
    assert "200 lost" in view.inner_text()


# Frames a second over one second of playing.
FRAMES = """() => new Promise((resolve) => {
  const begun = performance.now(), first = window.__mpimFrameStats.draws;
  setTimeout(() => resolve((window.__mpimFrameStats.draws - first) / ((performance.now() - begun) / 1000)), 1000);
})"""
