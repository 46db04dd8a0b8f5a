"""A chart is drawn in the end, whatever becomes of its request for plotly's script."""

import pytest

from tests.browser.notebook_page import NotebookPage

pytestmark = pytest.mark.timeout(120)
SETUP = """
import pandas as pd
from mpim_lab.widgets import plot
from mpim_lab.widgets.charts import sweep_chart

answer, asked = plot.Plot._on_message, []

def answers_from_the_third_on(self, *message):
    asked.append(self)
    if len(asked) > 2:
        answer(self, *message)

plot.Plot._on_message = answers_from_the_third_on
chart = lambda title: sweep_chart(pd.DataFrame({"a": [1, 2], "b": [3, 4]}), x="a", y="b", title=title)
"""


def test_a_chart_whose_requests_are_not_answered_asks_again(notebook_of, page, jupyter):
    """Also when the chart that asked first is gone: the others ask for themselves."""
    name = notebook_of("asks.ipynb", SETUP, "chart('first')", "chart('second')")
    notebook = NotebookPage(page, jupyter, name)
    notebook.run_all()
    notebook.cell("chart('first')").get_by_text("waiting for the kernel").wait_for(timeout=3_000)
    notebook.cell("chart('first')").locator(".cm-content").click()
    notebook.menu("Edit", "Clear Cell Output")
    page.locator(".js-plotly-plot svg:visible", has_text="second").first.wait_for(timeout=40_000)
    assert page.locator(".js-plotly-plot").count() == 1
