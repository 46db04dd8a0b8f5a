"""CodeTour: the files of a chapter in reading order, and a message's way through them.

The picture is made by hand, like the others: it follows dark mode, and its text is stable.
"""

import textwrap
from typing import Any

from mpim_lab.lab.exercise.tours import Tour, tour_of
from mpim_lab.widgets.source_view import STYLE, file_link
from mpim_lab.widgets.static_picture import Bundle, escape

WIDTH, BOX, HIGH, GAP, TOP = 780, 220, 84, 36, 56
_PICTURE_STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#57606a}"
    ".t{font-size:14px;font-weight:600;fill:#1f2328}.f{font-weight:600;fill:#1f2328}"
    ".card{fill:#fff;stroke:#d0d7de}.box{fill:#f6f8fa;stroke:#8c959f}"
    ".out{fill:none;stroke:#8c959f;stroke-dasharray:5 4}.a{fill:none;stroke:#0072B2;stroke-width:2}"
    "@media(prefers-color-scheme:dark){.card{fill:#161b22;stroke:#30363d}.box{fill:#21262d}"
    "text{fill:#9ea7b3}.t,.f{fill:#e6edf3}.a{stroke:#58a6ff}}"
)


class CodeTour:
    """The tour of one chapter: `CodeTour(3)`. Each file has a link that opens it.

    Raises:
        InvalidParameter: The chapter has no tour.
    """

    def __init__(self, chapter: int) -> None:
        self.tour = tour_of(chapter)

    def __repr__(self) -> str:
        way = [f"{place}: {action}" for place, action in self.tour.path]
        files = [f"{module}  {said}" for module, said in self.tour.purposes().items()]
        return "\n".join([self.tour.title, *(f"  → {step}" for step in way), "", *files])

    def _repr_mimebundle_(self, **options: Any) -> Bundle:
        rows, folder = "", ""
        for module, said in self.tour.purposes().items():
            if folder != (folder := module.rpartition("/")[0]):
                rows += f'<tr><th colspan="2">{escape(folder)}</th></tr>'
            name = module.rpartition("/")[2]
            rows += f"<tr><td>{file_link(module, name)}</td><td>{escape(said)}</td></tr>"
        table = f'<div class="mpim-source mpim-tour"><table>{rows}</table></div>'
        more = (
            ".mpim-tour table{border-collapse:collapse;width:100%;font:13px/1.45 system-ui}"
            ".mpim-tour td,.mpim-tour th{text-align:left!important;vertical-align:top;"
            "padding:3px 14px;white-space:normal}.mpim-tour td:first-child{padding-left:28px}"
            ".mpim-tour tr{background:none!important}.mpim-tour a{white-space:nowrap}"
        )
        html = f"<style>{STYLE}{more}</style>{path_svg(self.tour)}{table}"
        return {"text/html": html, "text/plain": repr(self)}, {}


def path_svg(tour: Tour) -> str:
    """Draw the way of a message: three boxes a row, arrows between them, rows to and fro."""
    rows = -(-len(tour.path) // 3)
    height = TOP + rows * (HIGH + GAP) - GAP + 20
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" style="max-width:100%" role="img">'
        f"<title>{escape(tour.title)}</title><style>{_PICTURE_STYLE}</style>"
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z" fill="#0072B2"/></marker></defs>'
        f'<rect class="card" x=".5" y=".5" width="{WIDTH - 1}" height="{height - 1}" rx="10"/>'
        f'<text class="t" x="18" y="30">{escape(tour.title)}</text>'
    ]
    for index, (place, action) in enumerate(tour.path):
        x, y = _corner(index)
        parts.append(_box(x, y, index + 1, place, action))
        if index:
            parts.append(_arrow(index))
    return "".join([*parts, "</svg>"])


def _corner(index: int) -> tuple[int, int]:
    row, column = divmod(index, 3)
    column = 2 - column if row % 2 else column
    return 18 + column * (BOX + 42), TOP + row * (HIGH + GAP)


def _arrow(index: int) -> str:
    (x, y), (x_before, y_before) = _corner(index), _corner(index - 1)
    if y != y_before:
        return _line(x + BOX // 2, y - GAP, x + BOX // 2, y - 3)
    middle = y + HIGH // 2
    return (
        _line(x_before + BOX, middle, x - 3, middle)
        if x > x_before
        else _line(x_before, middle, x + BOX + 3, middle)
    )


def _line(x: int, y: int, to_x: int, to_y: int) -> str:
    return f'<path class="a" d="M{x} {y}L{to_x} {to_y}" marker-end="url(#tip)"/>'


def _box(x: int, y: int, number: int, place: str, action: str) -> str:
    folder, _, name = place.rpartition("/")
    kind = "box" if folder else "out"
    lines = textwrap.wrap(action, 31)[:2]
    said = "".join(
        f'<text x="{x + 12}" y="{y + 52 + 17 * at}">{escape(line)}</text>'
        for at, line in enumerate(lines)
    )
    return (
        f'<rect class="{kind}" x="{x}" y="{y}" width="{BOX}" height="{HIGH}" rx="8"/>'
        f'<text x="{x + 12}" y="{y + 17}" style="font-size:10.5px">{escape(folder) or "–"}</text>'
        f'<text class="f" x="{x + 12}" y="{y + 33}">{number} · {escape(name)}</text>{said}'
    )
