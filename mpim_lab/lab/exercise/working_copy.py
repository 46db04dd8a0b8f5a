"""Working copy: the learner's own notebooks, which no update of the project overwrites.

| in `my_notebooks/`       | `make_copy` (`make lab`) | `reset`                                    |
|--------------------------|--------------------------|--------------------------------------------|
| the notebook is missing  | copies it                | copies it                                  |
| it is there              | leaves it as it is       | asks; keeps it as `….old.ipynb`, and copies |
"""

import shutil
from collections.abc import Callable
from pathlib import Path

from mpim_lab.errors import InvalidParameter

ORIGINALS = Path(__file__).parents[3] / "notebooks"


def make_copy(originals: Path = ORIGINALS) -> Path:
    """Copy the notebooks that the learner has not got yet.

    Args:
        originals: The project's notebooks.

    Returns:
        The folder of the copy, beside that of the originals.

    Raises:
        InvalidParameter: There are no notebooks, or the copy cannot be written.
    """
    paths = sorted(originals.glob("[0-9]*.ipynb"))
    if not paths:
        raise InvalidParameter(f"there are no notebooks in {originals}: work in a checkout")
    folder = originals.parent / "my_notebooks"
    try:
        folder.mkdir(exist_ok=True)
        for path in paths:
            if not (folder / path.name).exists():
                shutil.copyfile(path, folder / path.name)
    except OSError as error:
        raise InvalidParameter(f"{folder} cannot be written: {error}") from error
    return folder


def reset(
    chapter: str, ask: Callable[[str], str] = input, originals: Path = ORIGINALS
) -> Path | None:
    """Bring one notebook back as it was, and keep the learner's beside it.

    Args:
        chapter: What its name begins with: "03", or "3".
        ask: Gets a question; an answer that begins with "y" is a yes.
        originals: The project's notebooks.

    Returns:
        Where the learner's notebook is kept; None if there was nothing to keep, or the answer was
        no.

    Raises:
        InvalidParameter: There is no such chapter, or a file cannot be written.
    """
    number = chapter.zfill(2) if chapter.isdigit() else chapter
    found = [path for path in originals.glob("[0-9]*.ipynb") if path.name.startswith(f"{number}_")]
    if len(found) != 1:
        names = ", ".join(path.name[:2] for path in sorted(originals.glob("[0-9]*.ipynb")))
        raise InvalidParameter(f"there is no chapter {chapter!r}: one of {names}")
    mine = originals.parent / "my_notebooks" / found[0].name
    kept = None
    try:
        if mine.exists():
            question = f"Bring {mine.name} back as it was? Yours is kept beside it. [y/N] "
            if not ask(question).strip().lower().startswith("y"):
                return None
            kept = _free_name(mine)
            mine.rename(kept)
        mine.parent.mkdir(exist_ok=True)
        shutil.copyfile(found[0], mine)
    except OSError as error:
        raise InvalidParameter(f"{mine} cannot be written: {error}") from error
    return kept


def _free_name(mine: Path) -> Path:
    """A name for the learner's notebook that no other has."""
    number = 1
    while (kept := mine.with_suffix(f".old{number if number > 1 else ''}.ipynb")).exists():
        number += 1
    return kept
