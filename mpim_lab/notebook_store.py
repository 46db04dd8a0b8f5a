"""Run notebooks and store their outputs the way this project wants them in git.

What is stored is what a reader without a kernel sees: pictures and text, no widget state. A view of
a widget that is not running would hide the picture beside it, so the view is taken out and the
picture stays.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat.reader import NotJSONError
from nbformat.validator import ValidationError

from mpim_lab.errors import MpimError

FOLDER = Path(__file__).parent.parent / "notebooks"
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
METADATA = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


class NotebookFailed(MpimError):
    """A notebook cannot be read or written, or one of its cells raised; nothing was stored."""


def _chosen(paths: Sequence[str]) -> list[Path]:
    return [Path(path) for path in paths] or sorted(FOLDER.glob("[0-9]*.ipynb"))


def store_all(paths: Sequence[str]) -> int:
    """Run and store the given notebooks, or all of them; gives the exit status."""
    os.environ["MPIM_CHECK"] = "quick"  # for the kernels: the first schedules of each challenge
    for path in _chosen(paths):
        print(f"running {path.name} ...", flush=True)
        store(path)
    return 0


def check_all(paths: Sequence[str]) -> int:
    """Say which of the given notebooks, or of all, are not stored as they should be.

    Return the exit status.
    """
    wrong = {path: found for path in _chosen(paths) if (found := complaint(path))}
    for path, found in wrong.items():
        print(f"{path}: {found}; `mpim-lab notebooks {path}` runs and stores it")
    return 1 if wrong else 0


def complaint(path: Path) -> str | None:
    """Return what is wrong with the way a notebook is stored, or None.

    Nothing is run. Raise NotebookFailed.
    """
    try:
        text = path.read_text(encoding="utf-8")
        notebook = nbformat.reads(text, as_version=4)  # type: ignore[no-untyped-call]
    except (OSError, UnicodeDecodeError, NotJSONError, ValidationError) as error:
        raise NotebookFailed(f"{path} is no notebook that can be read: {error}") from error
    clean(notebook)
    if nbformat.writes(notebook) + "\n" != text:  # type: ignore[no-untyped-call]
        return "its text is not as this project writes it"
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    if [cell.execution_count for cell in cells] != list(range(1, len(cells) + 1)):
        return "it was not run from top to bottom"
    if any(output.output_type == "error" for cell in cells for output in cell.outputs):
        return "a cell raised"
    return None


def store(path: Path) -> None:
    """Run one notebook from top to bottom in a fresh kernel and write it back.

    Raises NotebookFailed.
    """
    try:
        notebook = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
        NotebookClient(
            notebook,
            timeout=120,
            kernel_name="python3",
            resources={"metadata": {"path": str(path.parent)}},
        ).execute()
        clean(notebook)
        nbformat.write(notebook, path)  # type: ignore[no-untyped-call]
    except (OSError, NotJSONError, ValidationError) as error:
        raise NotebookFailed(
            f"{path} is no notebook that can be read and written: {error}"
        ) from error
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        raise NotebookFailed(f"{path}: {error}") from error


def clean(notebook: Any) -> None:
    """Take out what differs from run to run or hides the pictures."""
    notebook.metadata.clear()
    notebook.metadata.update(METADATA)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if len(data) > 1:
                data.pop(WIDGET_VIEW, None)
