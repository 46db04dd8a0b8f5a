"""Chapters 2 to 4 as a reader sees them: run from top to bottom, a fault caused by a click, pictures in both themes."""

import re

import pytest

from tests.browser.conftest import chapters, keep

PICTURES = {
    "02_streams_and_acks.ipynb": {
        "lost": "FlowView(lost.trace",
        "poison": "FlowView(poison.trace",
        "fixed": "FlowView(crash.trace",
        "cost": "sweep_chart(curve",
        "table": "compare_designs(seed",
        "failed": "nothing.check(MyWorker)",
    },
    "03_idempotency.ipynb": {
        "race": "FlowView(race.trace",
        "fenced": "FlowView(zombie.trace",
        "cost": "sweep_chart(curve",
        "table": "compare_designs(PaymentExperiment",
        "failed": "once.check(MyOnce)",
    },
    "04_ordering.ipynb": {
        "crossed": "FlowView(crossed.trace",
        "stalled": "FlowView(blocked.trace",
        "price": "ladder_chart(",
        "table": "compare_designs(DeliveryGuarantees",
        "failed": "order.check(MyBuffer)",
    },
}
pytestmark = [pytest.mark.timeout(400), chapters(*PICTURES)]


def test_the_pictures_the_table_and_the_failing_story_are_there_in_both_themes(chapter):
    """Kept as screenshots, to be looked at."""
    for name, output in chapter.pictures(PICTURES[chapter.name]):
        keep(output, name)
    assert "✘" in chapter.cell(PICTURES[chapter.name]["failed"]).inner_text()


def test_a_fault_is_caused_by_a_click_while_the_panel_runs(chapter, page):
    """A worker crashes, or bob's line is cut; the verdict says what became of it."""
    cell = chapter.cell("panel = Panel(")
    panel = cell.locator(".mpim-panel")
    panel.locator("select").filter(has_text="none").first.select_option("none")
    chapter.run_slowly(panel, 30)
    fault = "answer lost" if chapter.name.startswith("04") else "crash after work"
    panel.get_by_role("button", name=fault).click()
    panel.get_by_text("done", exact=True).wait_for(timeout=60_000)
    keep(panel, f"{chapter.name[:2]}-panel")
    assert re.search(r"^duplicated 1 ", panel.locator("pre").inner_text(), re.MULTILINE)
