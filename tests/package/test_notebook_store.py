"""How notebooks are stored: the check that runs before a commit sees what should not be there."""

import json
import shutil
from pathlib import Path

import pytest

from mpim_lab.cli import main
from mpim_lab.notebook_store import FOLDER, WIDGET_VIEW, complaint

NOTEBOOK = FOLDER / "00_start_here.ipynb"


def test_all_notebooks_are_stored_as_they_should_be(capsys):
    """As `mpim-lab notebooks` writes them."""
    assert main(["notebooks", "--check"]) == 0
    assert capsys.readouterr().out == ""


def written(path, change, **how):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    change(notebook, code)
    path.write_text(
        json.dumps(notebook, **{"indent": 1, "ensure_ascii": False} | how) + "\n", encoding="utf-8"
    )


def with_a_view(notebook, code):
    output = next(
        each for cell in code for each in cell["outputs"] if "image/svg+xml" in each.get("data", {})
    )
    output["data"][WIDGET_VIEW] = {"model_id": "1"}


@pytest.mark.parametrize(
    ("change", "how", "found"),
    [
        (lambda notebook, code: None, {"indent": 2}, "its text"),
        (lambda notebook, code: None, {"ensure_ascii": True}, "its text"),
        (lambda notebook, code: notebook["metadata"].update(widgets={}), {}, "its text"),
        (with_a_view, {}, "its text"),
        (
            lambda notebook, code: code[0].update(execution_count=7),
            {},
            "not run from top to bottom",
        ),
        (
            lambda notebook, code: code[0].update(execution_count=None),
            {},
            "not run from top to bottom",
        ),
    ],
)
def test_what_should_not_be_there_is_seen(change, how, found, tmp_path):
    """And nothing of it is mended silently: the author runs the notebook."""
    path = Path(shutil.copy(NOTEBOOK, tmp_path))
    assert complaint(path) is None
    written(path, change, **how)
    assert found in complaint(path)


def test_a_file_that_is_no_notebook_is_named(tmp_path, capsys):
    """In one line, status 1."""
    path = tmp_path / "no.ipynb"
    path.write_text("{", encoding="utf-8")
    assert main(["notebooks", "--check", str(path)]) == 1
    assert "no.ipynb is no notebook" in capsys.readouterr().err
