"""Tours: the files of each chapter in reading order, and a message's way through them.

The order is in `data/tours.yaml`. What a file is for is said by the file itself, in its first line.
"""

import ast
import itertools
import re
from dataclasses import dataclass
from pathlib import Path

from mpim_lab.errors import InvalidParameter
from mpim_lab.lab.exercise.data_files import checked_fields, data_path, read_list

PACKAGE = Path(__file__).parents[2]
_COMMENTS = {
    ".lua": r"--\s?(.*)",
    ".js": r"//\s?(.*)",
    ".css": r"/\*\s*(.*?)\s*\*/",
    ".html": r"<!--\s*(.*?)\s*-->",
}


@dataclass(frozen=True)
class Tour:
    """One chapter's tour.

    `path` has pairs: a file, or a name for what is no file, and what happens there. All files are
    relative to the package.
    """

    chapter: int
    title: str
    path: tuple[tuple[str, str], ...]
    modules: tuple[str, ...]

    def purposes(self) -> dict[str, str]:
        """What each file is for, in reading order."""
        return {module: purpose(module) for module in self.modules}


def load_tours() -> dict[int, Tour]:
    """Read the tours, by chapter.

    Raises:
        InvalidParameter: A tour has other fields, or names a file that is not there.
    """
    tours = {}
    for record in read_list(data_path("tours.yaml"), "tours are a list"):
        values = checked_fields(record, Tour, "tour")
        tour = Tour(
            values["chapter"],
            values["title"],
            tuple((place, action) for place, action in values["path"]),
            tuple(values["modules"]),
        )
        named = [*tour.modules, *(place for place, _ in tour.path if "/" in place)]
        lost = [name for name in named if not (PACKAGE / name).is_file()]
        if lost or len(set(tour.modules)) < len(tour.modules):
            raise InvalidParameter(f"tour {tour.chapter}: no such file, or twice: {lost}")
        tours[tour.chapter] = tour
    return tours


def tour_of(chapter: int) -> Tour:
    """Find the tour of a chapter. Raise InvalidParameter if it has none."""
    tours = load_tours()
    if chapter not in tours:
        raise InvalidParameter(f"there is no tour of chapter {chapter!r}: one of {sorted(tours)}")
    return tours[chapter]


def purpose(module: str) -> str:
    """The first sentence of a file: what it is for.

    >>> purpose("mq/pubsub/subscription_table.py")
    'SubscriptionTable: the subscriptions of one queue, kept in step with the server.'
    """
    file = PACKAGE / module
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".py":
        said = (ast.get_docstring(ast.parse(text)) or "").partition("\n\n")[0].split("\n")
    else:
        lines = text.removeprefix("<!doctype html>\n").split("\n")
        comments = (re.match(_COMMENTS[file.suffix], line) for line in lines)
        said = [found[1] for found in itertools.takewhile(bool, comments) if found]
    return re.split(r"(?<=[.?!])\s", " ".join(said), maxsplit=1)[0]
