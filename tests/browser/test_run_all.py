"""What the other tests lean on: a cell that fails ends *Run All*, and says why."""

import pytest

from tests.browser.notebook_page import NotebookPage

pytestmark = pytest.mark.timeout(120)


def test_a_cell_that_fails_ends_the_run_at_once_and_is_quoted(notebook_of, page, jupyter):
    """Out of view as well; the cells after it have no number and never will."""
    cells = ["assert 1 == 2, 'too slow'" if number == 40 else str(number) for number in range(80)]
    notebook = NotebookPage(page, jupyter, notebook_of("fails.ipynb", *cells))
    with pytest.raises(AssertionError, match=r"(?s)fails\.ipynb.*AssertionError: too slow"):
        notebook.run_all()
    numbers = page.locator(".jp-CodeCell .jp-InputPrompt").all_text_contents()
    assert numbers == [f"[{number + 1}]:" if number <= 40 else "[ ]:" for number in range(80)]
