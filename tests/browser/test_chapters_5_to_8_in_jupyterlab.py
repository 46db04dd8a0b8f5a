"""Chapters 5 to 8 as a reader sees them: run from top to bottom, a sweep measured and stopped by clicks, both themes."""

import re

import pytest

from tests.browser.conftest import chapters, keep

PICTURES = {
    "05_batching.ipynb": {
        "waits": "FlowView(quiet.trace",
        "lost": "FlowView(failed.trace",
        "knee": "SweepPanel(saturation_sweep",
    },
    "06_compression.ipynb": {
        "old": "FlowView(old.trace",
        "grows": "SweepPanel(size_sweep",
        "pays": "sweep_chart(paying",
    },
    "07_connection_pooling.ipynb": {"wrong": "FlowView(", "callers": "SweepPanel(callers_sweep"},
    "08_instant_messaging.ipynb": {
        "away": "FlowView(flaps.trace",
        "back": "FlowView(correct.trace",
        "groups": "SweepPanel(group_sweep",
    },
}
pytestmark = [pytest.mark.timeout(600), chapters(*PICTURES)]


def test_the_pictures_are_there_in_both_themes(chapter, page):
    """Kept as screenshots, to be looked at.

    The challenges show what is wrong with what the reader begins with.
    """
    for name, output in chapter.pictures(PICTURES[chapter.name]):
        keep(output, name)
    assert "✘" in page.locator(".jp-Notebook:visible").inner_text()


def test_a_sweep_is_measured_and_stopped_by_a_click(chapter, page):
    """Measure it again; Stop stops at once and keeps the rows that there are."""
    sweep = chapter.cell("SweepPanel(").locator(".mpim-panel").first
    sweep.get_by_text("done:").wait_for(timeout=60_000)
    sweep.get_by_role("button", name="Measure").click()
    sweep.get_by_text(re.compile(r"\d+ of \d+")).wait_for(timeout=30_000)
    sweep.get_by_role("button", name="Stop").click()
    sweep.get_by_text("stopped after").wait_for(timeout=3_000)
    keep(sweep, f"{chapter.name[:2]}-sweep-stopped")


def test_the_panel_runs_what_its_parameters_say(chapter, page):
    """Run it, and read a verdict."""
    panel = chapter.cell("panel = Panel(").locator(".mpim-panel")
    panel.get_by_role("button", name="Run").click()
    panel.locator("pre").first.wait_for(timeout=60_000)
    assert (
        "sent" in panel.locator("pre").first.inner_text()
        or "done" in panel.locator("pre").first.inner_text()
    )
    panel.get_by_role("button", name="to the end").click()
    keep(panel, f"{chapter.name[:2]}-panel")
