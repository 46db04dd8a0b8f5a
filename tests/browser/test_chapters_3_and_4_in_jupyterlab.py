"""Chapters 3 and 4 as a reader sees them: run from top to bottom, a fault caused by a click, pictures in both themes."""

import re

import pytest

from tests.browser.conftest import keep
from tests.browser.notebook_page import NotebookPage

pytestmark = pytest.mark.timeout(400)
PICTURES = {
    "03_idempotency.ipynb": {
        "race": "FlowView(race.trace",
        "fenced": "FlowView(zombie.trace",
        "cost": "sweep_chart(curve",
    },
    "04_ordering.ipynb": {
        "crossed": "FlowView(crossed.trace",
        "stuck": "FlowView(blocked.trace",
        "price": "ladder_chart(",
    },
}
TABLES = {"03_idempotency.ipynb": "design_table(Payments", "04_ordering.ipynb": "design_table(Guarantees"}
FAILED = {"03_idempotency.ipynb": "once.check(MyOnce)", "04_ordering.ipynb": "order.check(MyBuffer)"}


@pytest.fixture(scope="module", params=list(PICTURES))
def chapter(request, page, jupyter):
    """A chapter, opened and run from top to bottom."""
    chapter = NotebookPage(page, jupyter, request.param)
    chapter.name = request.param
    chapter.run_all()
    assert page.locator(".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.stderr']").count() == 0
    return chapter


def test_the_pictures_the_table_and_the_failing_story_are_there_in_both_themes(chapter, page):
    """Kept as screenshots, to be looked at."""
    label = chapter.name[:2]
    for theme in ("Dark", "Light"):
        chapter.theme(theme)
        for name, source in PICTURES[chapter.name].items():
            view = chapter.cell(source).locator(".jp-OutputArea-output").last
            view.scroll_into_view_if_needed()
            keep(view, f"{label}-{name}-{theme.lower()}")
        for name, source in (("table", TABLES[chapter.name]), ("failed", FAILED[chapter.name])):
            cell = chapter.cell(source)
            assert cell.locator("table, pre").count()
            keep(cell.locator(".jp-OutputArea-output").last, f"{label}-{name}-{theme.lower()}")
    assert "✘" in chapter.cell(FAILED[chapter.name]).inner_text()


def test_a_fault_is_caused_by_a_click_while_the_panel_runs(chapter, page):
    """A worker crashes, or bob's line is cut; the verdict says what became of it."""
    cell = chapter.cell("panel = Panel(")
    panel = cell.locator(".mpim-panel")
    panel.locator("select").filter(has_text="none").first.select_option("none")
    pace = panel.locator(".widget-hslider", has_text="pace")
    pace.locator(".noUi-handle").focus()
    for _ in range(30):
        page.keyboard.press("ArrowRight")
    panel.get_by_role("button", name="Run").click()
    panel.get_by_text("running: message").wait_for(timeout=30_000)
    fault = "crash after work" if chapter.name.startswith("03") else "answer lost"
    panel.get_by_role("button", name=fault).click()
    panel.get_by_text("done", exact=True).wait_for(timeout=60_000)
    keep(panel, f"{chapter.name[:2]}-panel")
    assert re.search(r"^duplicated 1 ", panel.locator("pre").inner_text(), re.MULTILINE)
