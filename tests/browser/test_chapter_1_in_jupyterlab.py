"""Chapter 1 as a reader sees it: run, moved, broken, looked at."""

import re

import pytest

from tests.browser.conftest import chapters, keep

pytestmark = [pytest.mark.timeout(300), chapters("01_pubsub_delivery.ipynb")]


def count_of(view, fate):
    count = view.locator(f".mpim-count[data-fate={fate}]").filter(has_text=re.compile(r"\d"))
    count.wait_for()  # the view is there before its first numbers are
    return int(re.search(r"\d+", count.inner_text())[0])


def wait_for_count(page, view, fate, test, within_ms=30_000):
    page.wait_for_function(
        "([element, fate, least]) => {"
        " const found = element.querySelector(`.mpim-count[data-fate=${fate}]`);"
        " return found && parseInt(found.textContent.match(/\\d+/)?.[0] ?? -1) >= least; }",
        arg=[view.element_handle(), fate, test],
        timeout=within_ms,
    )


def test_the_pictures_show_what_was_lost_and_follow_the_keyboard_and_the_theme(chapter, page):
    """The broken run shows 18 delivered and 6 lost.

    At the beginning of time nothing is lost yet.
    """
    view = chapter.cell("broken.trace, title").locator(".mpim-flow")
    view.wait_for()
    wait_for_count(page, view, "delivered", 18)
    wait_for_count(page, view, "lost", 6)
    assert (count_of(view, "delivered"), count_of(view, "lost")) == (18, 6)
    assert "6 of them acknowledged" in view.locator(".mpim-silent").inner_text()
    view.focus()
    page.keyboard.press("Home")
    assert count_of(view, "lost") == 0
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    assert (
        "m2 lost, although it was acknowledged" in view.locator(".mpim-story-title").text_content()
    )
    assert "handed it to 0 subscribers" in view.locator(".mpim-story").inner_text()
    page.keyboard.press("+")
    page.keyboard.press(" ")
    wait_for_count(page, view, "lost", 6)
    for theme in ("Dark", "Light"):
        chapter.theme(theme)
        view.scroll_into_view_if_needed()
        keep(view, f"flow-{theme.lower()}")


def test_the_panel_runs_what_its_parameters_say_and_breaks_it_on_a_click(chapter, page):
    """Move a slider, press Run, press a fault button, and read what became of it."""
    cell = chapter.cell("panel = Panel(PubSubDelivery")
    panel = cell.locator(".mpim-panel")
    panel.locator("select").nth(1).select_option("none")
    messages = panel.locator(".widget-hslider", has_text="messages")
    messages.locator(".noUi-handle").focus()
    for _ in range(16):
        page.keyboard.press("ArrowRight")
    page.wait_for_function(
        "(each) => each.textContent.trim() === '40'",
        arg=messages.locator(".widget-readout").element_handle(),
    )
    pace = panel.locator(".widget-hslider", has_text="pace")
    pace.locator(".noUi-handle").focus()
    for _ in range(6):
        page.keyboard.press("ArrowRight")
    panel.get_by_role("button", name="Run").click()
    page.wait_for_function(
        "(each) => each.textContent.includes('running: message')", arg=panel.element_handle()
    )
    panel.get_by_role("button", name="away").click()
    keep(panel, "panel-running")
    panel.get_by_text("sent 40").wait_for(timeout=60_000)
    verdict = panel.locator("pre").inner_text()
    assert re.search(r"^lost [1-6] ", verdict, re.MULTILINE), verdict
    assert count_of(panel, "lost") == int(re.search(r"^lost (\d+)", verdict, re.MULTILINE)[1])
    for theme in ("Dark", "Light"):
        chapter.theme(theme)
        panel.scroll_into_view_if_needed()
        keep(panel, f"panel-{theme.lower()}")


def test_stop_ends_a_run_early(chapter, page):
    """What was sent until then is judged."""
    panel = chapter.cell("panel = Panel(PubSubDelivery").locator(".mpim-panel")
    chapter.run_slowly(panel, 20)
    panel.get_by_role("button", name="Stop").click()
    panel.get_by_text("done", exact=True).wait_for(timeout=10_000)
    assert 1 <= int(re.search(r"^sent (\d+)", panel.locator("pre").inner_text())[1]) < 40


def test_the_quiz_hides_the_answer_until_it_is_asked_for(chapter, page):
    """Think first; the link leads to the cell that proves the answer."""
    from playwright.sync_api import expect  # where it is missing, the fixtures have skipped

    quiz = chapter.cell("Quiz(questions_of(1))").locator(".jp-OutputArea-output").first
    assert "decoupling" not in quiz.inner_text().lower()
    quiz.get_by_role("button", name="Reveal").click()
    quiz.get_by_text("decoupling").first.wait_for()
    quiz.get_by_role("button", name="中文").click()
    quiz.get_by_text("解耦").first.wait_for()
    keep(quiz, "quiz")
    cell = page.locator(".jp-CodeCell:visible", has_text="contextlib.AsyncExitStack").first
    expect(cell).not_to_be_in_viewport()
    quiz.get_by_role("link", name="cell fan-out").click()
    expect(cell).to_be_in_viewport(timeout=30_000)
    keep(chapter.cell("speedometer = Panel").locator(".mpim-panel"), "live-charts")
    keep(chapter.cell("steps = await measure_throughput_steps").locator(".mpim-chart"), "ladder")


def test_a_page_that_is_loaded_again_shows_the_same_pictures(chapter, page):
    """The kernel lives on when a tab is closed.

    The pictures come back, and ask it for what they show.
    """
    chapter.menu("File", "Save Notebook$")
    page.locator(".lm-TabBar-tab.jp-mod-dirty").wait_for(state="detached")
    page.reload()
    page.locator(".jp-NotebookPanel:visible .jp-Cell").first.wait_for(timeout=60_000)
    view = chapter.cell("broken.trace, title").locator(".mpim-flow")
    view.wait_for(timeout=60_000)
    wait_for_count(page, view, "lost", 6)
