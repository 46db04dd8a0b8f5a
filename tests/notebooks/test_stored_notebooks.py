"""What is stored in the notebooks: outputs, pictures, prose, and cells that the questions point at."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbconvert import HTMLExporter

from mpim_lab.lab.exercise.questions import questions_of
from mpim_lab.notebook_store import METADATA
from mpim_lab.widgets.quiz import folded

FOLDER = Path(__file__).parents[2] / "notebooks"
PATHS = sorted(FOLDER.glob("[0-9]*.ipynb"))
NOTEBOOKS = {path.name: nbformat.read(path, as_version=4) for path in PATHS}
every_notebook = pytest.mark.parametrize("name", NOTEBOOKS)


def code_cells(name):
    return [cell for cell in NOTEBOOKS[name].cells if cell.cell_type == "code"]


def shows_something(source):
    """Whether the last line is an expression that is not an awaited call made for what it does."""
    last = (
        ast.parse(source, mode="exec").body[-1] if "await" not in source else _last_of_async(source)
    )
    return isinstance(last, ast.Expr) and not isinstance(last.value, ast.Await)


def _last_of_async(source):
    indented = "\n".join(f"    {line}" for line in source.splitlines())
    return ast.parse(f"async def cell():\n{indented}").body[0].body[-1]  # type: ignore[attr-defined]


# A sentence about a line of code, in a SourceView: prose, not code.
NOTE = re.compile(r"""\s+(["']).+\1: ".+""")


@every_notebook
def test_every_cell_was_run_and_its_output_is_stored(name):
    """A notebook without outputs would pass nbval without comparing anything."""
    for number, cell in enumerate(code_cells(name), 1):
        assert cell.execution_count == number, cell.id
        assert [output for output in cell.outputs if output.output_type == "error"] == [], cell.id
        if shows_something(cell.source):
            assert cell.outputs, cell.id


@every_notebook
def test_nothing_of_a_running_kernel_is_stored(name):
    """Widget state breaks GitHub's page and a widget's view hides the picture beside it."""
    notebook = NOTEBOOKS[name]
    assert dict(notebook.metadata) == METADATA
    for cell in code_cells(name):
        for output in cell.outputs:
            assert "application/vnd.jupyter.widget-view+json" not in output.get("data", {})
            text = str(output.get("text", "")) + str(output.get("data", {}).get("text/plain", ""))
            assert not re.search(r" at 0x[0-9a-f]{6,}|/tmp/|/home/|site-packages", text), cell.id


@every_notebook
def test_prose_stands_before_each_cell_and_cells_are_short(name):
    """One idea a cell; a reader is told what to look for before it runs."""
    before = None
    for cell in NOTEBOOKS[name].cells:
        if cell.cell_type == "code":
            assert before is not None and before.cell_type == "markdown", cell.id
            lines = [line for line in cell.source.splitlines() if not NOTE.match(line)]
            assert len(lines) <= 12, cell.id
            assert max(map(len, cell.source.splitlines())) <= 96, cell.id
        before = cell


@every_notebook
def test_a_reader_without_a_kernel_sees_the_pictures_and_the_questions(name):
    """nbconvert's HTML has every stored picture as a picture, and both languages of every question."""
    html, _ = HTMLExporter().from_notebook_node(NOTEBOOKS[name])
    pictures = [
        output["data"]["image/svg+xml"]
        for cell in code_cells(name)
        for output in cell.outputs
        if "image/svg+xml" in output.get("data", {})
    ]
    assert pictures
    assert html.count("data:image/svg+xml;base64") + html.count('role="img"') >= len(pictures)
    for question in questions_of(int(name[:2])):
        assert question.question_zh in html
        assert question.answer_zh[:20] in html


@every_notebook
def test_every_question_points_at_a_cell_that_exists(name):
    """And what it points at is a code cell: something that was run."""
    cells = {f"{each}#{cell.id}" for each in NOTEBOOKS for cell in code_cells(each)}
    questions = questions_of(int(name[:2]))
    assert questions
    assert [question.id for question in questions if question.cell not in cells] == []


@every_notebook
def test_every_link_of_a_quiz_has_its_anchor_in_an_exported_page(name):
    """The anchors are nbconvert's, and so are the names of the pages."""
    targets = re.findall(r'href="([^"]+\.html)#([^"]+)"', folded(questions_of(int(name[:2]))))
    assert targets
    for page in {page for page, _ in targets}:
        notebook = NOTEBOOKS[page.removesuffix(".html") + ".ipynb"]
        html, _ = HTMLExporter().from_notebook_node(notebook)
        anchors = set(re.findall(r'id="(cell-id=[^"]+)"', html))
        assert {anchor for where, anchor in targets if where == page} <= anchors


@pytest.mark.parametrize("changed", [False, True], ids=["as it is", "one number changed"])
def test_a_changed_number_makes_nbval_fail(changed, tmp_path):
    """nbval compares what is stored with what a run gives.

    Only then is a stored output worth anything.
    """
    notebook = nbformat.from_dict(NOTEBOOKS["01_pubsub_delivery.ipynb"])
    wanted = [
        index for index, cell in enumerate(notebook.cells) if cell.id in ("setup", "nobody-listens")
    ]
    notebook = nbformat.v4.new_notebook(
        cells=[notebook.cells[index].copy() for index in wanted], metadata=METADATA
    )
    output = notebook.cells[1].outputs[0]
    assert output["data"]["text/plain"] == "0"
    if changed:
        notebook.cells[1] = nbformat.from_dict(
            notebook.cells[1] | {"outputs": [_with_text(output, "1")]}
        )
    nbformat.write(notebook, tmp_path / "one.ipynb")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "--nbval",
        "-p",
        "no:cacheprovider",
        "one.ipynb",
    ]
    run = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == (1 if changed else 0), run.stdout


def _with_text(output, text):
    return nbformat.from_dict(output | {"data": {"text/plain": text}})
