"""SourceView: code of the package as it is taught: coloured, the lines that matter numbered.

A line is chosen by a piece of its text, never by its number: when the code changes, the view
either follows or refuses. By hand: no viewer pairs notes with lines and leaves stable text.
"""

import ast
import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pygments import highlight
from pygments.formatters.html import HtmlFormatter
from pygments.lexers import get_lexer_for_filename

from mpim_lab.errors import InvalidParameter
from mpim_lab.widgets.static_picture import Bundle, escape

PACKAGE = Path(__file__).parents[1]
_NUMBERS = "①②③④⑤⑥⑦⑧⑨⑩"
_COMMENTS = ("#", "--", "//", '"""', 'r"""')  # and docstrings: a note is about code
_LIGHT = (
    "--card:#fff;--edge:#d0d7de;--ink:#1f2328;--soft:#57606a;--mark:#fff4ce;--key:#a0111f;"
    "--name:#6639ba;--text:#0a3069;--number:#0550ae;--note:#59636e"
)
_DARK = (
    "--card:#161b22;--edge:#30363d;--ink:#e6edf3;--soft:#9ea7b3;--mark:#3b3000;--key:#ff7b72;"
    "--name:#d2a8ff;--text:#a5d6ff;--number:#79c0ff;--note:#9198a1"
)
STYLE = (
    f".mpim-source{{{_LIGHT}}}"
    f"@media(prefers-color-scheme:dark){{.mpim-source{{{_DARK}}}}}"
    f"[data-jp-theme-light=true] .mpim-source{{{_LIGHT}}}"
    f"[data-jp-theme-light=false] .mpim-source{{{_DARK}}}"
    ".mpim-source{border:1px solid var(--edge);border-radius:10px;background:var(--card);"
    "color:var(--ink);margin:6px 2px;max-width:100%;min-width:0;overflow:hidden}"
    ".mpim-source>p{margin:0;padding:7px 14px;border-bottom:1px solid var(--edge);display:flex;"
    "flex-wrap:wrap;gap:2px 16px;justify-content:space-between;font:600 13px system-ui,sans-serif}"
    ".mpim-source a{color:var(--number);text-decoration:none;font-weight:400}"
    ".mpim-source pre{margin:0;padding:8px 0;overflow-x:auto;background:none;color:inherit;"
    "font:12.5px/1.5 ui-monospace,Menlo,Consolas,monospace}"
    ".mpim-source pre span.l{display:block;padding:0 14px 0 32px;width:max-content;"
    "min-width:100%;box-sizing:border-box}.mpim-source pre span.m{background:var(--mark)}"
    ".mpim-source pre b{display:inline-block;width:20px;margin-left:-20px}"
    ".mpim-source ol{list-style:none;margin:0;padding:8px 14px;border-top:1px solid var(--edge);"
    "font:13px/1.5 system-ui,sans-serif}"
    ".mpim-source li{margin:2px 0}.mpim-source li b,.mpim-source pre b{color:var(--key)}"
    ".mpim-source .k,.mpim-source .ow{color:var(--key)}"
    ".mpim-source .n{color:var(--name)}.mpim-source .s{color:var(--text)}"
    ".mpim-source .i{color:var(--number)}.mpim-source .c{color:var(--note);font-style:italic}"
    ".mpim-sources{display:grid;gap:4px;"
    "grid-template-columns:repeat(auto-fit,minmax(min(430px,100%),1fr))}"
    ".mpim-sources pre span.l{width:auto;white-space:pre-wrap;overflow-wrap:anywhere;"
    "word-break:normal;"
    "padding-left:calc(32px + var(--i)*1ch);text-indent:calc(var(--i)*-1ch)}"
    ".mpim-sources pre b{text-indent:0}"
)
_CLASSES = {  # of pygments, shortened to five
    **dict.fromkeys(("k", "kc", "kd", "kn", "kp", "kr", "kt", "ow"), "k"),
    **dict.fromkeys(("nf", "nc", "fm", "nd", "nb", "bp"), "n"),
    **dict.fromkeys(("s", "s1", "s2", "sd", "sa", "se", "si", "sb", "sx", "sr", "sh"), "s"),
    **dict.fromkeys(("mi", "mf", "mh", "m", "mb", "mo", "il"), "i"),
    **dict.fromkeys(("c", "c1", "cm", "ch", "cs", "cp"), "c"),
}


class SourceView:
    """View of real source text: functions, methods or classes of one module, or one whole file.

    Long docstrings are shown by their first line.

    Args:
        *shown: Functions, methods, properties or classes of one module; or the path of a file in
            the package, such as "mq/idempotency/lua/claim.lua".
        notes: For each line that matters, a piece of its text and one sentence about it.
        title: Heading; None: the names of what is shown.

    Raises:
        InvalidParameter: Nothing is shown, it has no source, or a piece of text does not stand on
            exactly one line of code.
    """

    def __init__(
        self, *shown: Any, notes: Mapping[str, str] | None = None, title: str | None = None
    ) -> None:
        if not shown:
            raise InvalidParameter("a source view shows at least one thing")
        if isinstance(shown[0], str):
            self.path, self.lines = _whole_file(shown[0])
            names = self.path.rpartition("/")[2]
        else:
            self.path, self.lines = _symbols(shown)
            names = ", ".join(_target(each).__qualname__ for each in shown)
        self.title = names if title is None else title
        self.notes = list((notes or {}).values())
        self._numbers = _numbered(self.lines, list(notes or {}), self.title)

    def __repr__(self) -> str:
        comment = {"py": "#", "lua": "--"}.get(self.path.rpartition(".")[2], "//")
        code = [
            f"{line}  {comment} {_NUMBERS[self._numbers[at]]}" if at in self._numbers else line
            for at, line in enumerate(self.lines)
        ]
        notes = [f"{_NUMBERS[at]} {note}" for at, note in enumerate(self.notes)]
        return "\n".join([f"{self.title}  (mpim_lab/{self.path})", "", *code, "", *notes]).rstrip()

    def card(self) -> str:
        """The view as HTML, without its style."""
        notes = "".join(
            f"<li><b>{_NUMBERS[at]}</b> {escape(note)}</li>" for at, note in enumerate(self.notes)
        )
        lines = [
            self._line(at, line)
            for at, line in enumerate(coloured(self.path, "\n".join(self.lines)))
        ]
        return (
            f'<div class="mpim-source"><p>{escape(self.title)} {file_link(self.path)}</p>'
            f"<pre>{''.join(lines)}</pre>{f'<ol>{notes}</ol>' if notes else ''}</div>"
        )

    def _line(self, at: int, coloured_line: str) -> str:
        """One line as HTML; `--i` is where the rest of it begins if it is too long for the card."""
        number = self._numbers.get(at)
        mark = "" if number is None else f"<b>{_NUMBERS[number]}</b>"
        indent = len(self.lines[at]) - len(self.lines[at].lstrip()) + 4
        return (
            f'<span class="l{" m" if mark else ""}" style="--i:{indent}">'
            f"{mark}{coloured_line or ' '}</span>"
        )

    def _repr_mimebundle_(self, **options: Any) -> Bundle:
        html = f"<style>{STYLE}</style>{self.card()}"
        return {"text/html": html, "text/plain": repr(self)}, {}


class SideBySide:
    """Two or more views beside each other: what was wrong, and what is right."""

    def __init__(self, *views: SourceView) -> None:
        self.views = views

    def __repr__(self) -> str:
        return "\n\n".join(map(repr, self.views))

    def _repr_mimebundle_(self, **options: Any) -> Bundle:
        cards = "".join(view.card() for view in self.views)
        html = f'<style>{STYLE}</style><div class="mpim-sources">{cards}</div>'
        return {"text/html": html, "text/plain": repr(self)}, {}


def file_link(path: str, text: str = "") -> str:
    """A link that opens a file of the package beside a notebook of this project."""
    return f'<a href="../mpim_lab/{escape(path)}">{escape(text or path)}</a>'


def coloured(path: str, code: str) -> list[str]:
    """The lines of code as HTML, their parts named by five classes."""
    made: str = highlight(code, get_lexer_for_filename(path), HtmlFormatter(nowrap=True))
    short = re.sub(
        r'<span class="(\w+)">(.*?)</span>',
        lambda part: (
            f'<span class="{_CLASSES[part[1]]}">{part[2]}</span>'
            if part[1] in _CLASSES
            else part[2]
        ),
        made,
    )
    lines = short.rstrip("\n").split("\n")
    leading = len(code) - len(code.lstrip("\n"))  # the highlighter drops empty lines at the start
    return [""] * leading + lines


def _target(shown: Any) -> Any:
    """The function behind a property or a wrapped function."""
    found = getattr(shown, "fget", None) or getattr(shown, "func", None) or shown
    if not hasattr(found, "__qualname__") or not hasattr(found, "__module__"):
        raise InvalidParameter(f"{shown!r:.80} has no source: a function, method or class has")
    return found


def _whole_file(path: str) -> tuple[str, list[str]]:
    file = (PACKAGE / path).resolve()
    if not file.is_relative_to(PACKAGE) or not file.is_file():
        raise InvalidParameter(f"{path!r} is no file of the package")
    return path, file.read_text(encoding="utf-8").rstrip("\n").split("\n")


def _symbols(shown: Sequence[Any]) -> tuple[str, list[str]]:
    """The file of some symbols, and their lines, a method under the first line of its class."""
    targets = [_target(each) for each in shown]
    modules = {target.__module__ for target in targets}
    root, _, inside = targets[0].__module__.partition(".")
    if len(modules) > 1 or root != PACKAGE.name:
        raise InvalidParameter(f"one view shows one module of {PACKAGE.name}, not {modules}")
    path = f"{inside.replace('.', '/')}.py"
    lines = (PACKAGE / path).read_text(encoding="utf-8").split("\n")
    tree = ast.parse("\n".join(lines))
    parts: list[str] = []
    owner = None
    for target in targets:
        *outer, node = _chain(tree, target.__qualname__)
        part = _without_long_docstrings(node, lines)
        if outer and outer[-1] is not owner:
            owner = outer[-1]
            header = lines[owner.lineno - 1 : owner.body[0].lineno - 1]
            part = "\n".join([textwrap.dedent(line) for line in header if line.strip()]) + (
                f"\n    ...\n{textwrap.indent(part, '    ')}"
            )
        elif outer:
            part = textwrap.indent(part, "    ")
        else:
            owner = None
        parts.append(part)
    return path, "\n\n".join(parts).split("\n")


def _chain(tree: ast.Module, qualname: str) -> list[Any]:
    """The nodes that a qualified name goes through."""
    found: list[Any] = []
    body: Sequence[ast.stmt] = tree.body
    for name in qualname.split("."):
        node = next((each for each in body if getattr(each, "name", None) == name), None)
        if node is None:
            raise InvalidParameter(f"{qualname} does not stand in its module")
        found.append(node)
        body = getattr(node, "body", ())
    return found


def _without_long_docstrings(node: Any, lines: Sequence[str]) -> str:
    """The source of a node, each docstring cut after its first line."""
    first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
    kept = dict(enumerate(lines[first - 1 : node.end_lineno], start=first))
    for inner in ast.walk(node):
        if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            text = inner.body[0]
            if not (ast.get_docstring(inner) and text.end_lineno != text.lineno):
                continue
            kept[text.lineno] = f'{kept[text.lineno].rstrip()}"""'
            for number in range(text.lineno + 1, (text.end_lineno or text.lineno) + 1):
                kept.pop(number)
    return textwrap.dedent("\n".join(kept.values())).strip("\n")


def _numbered(lines: Sequence[str], pieces: Sequence[str], title: str) -> dict[int, int]:
    """For each line that has a note, the note's number from 0 on."""
    if len(pieces) > len(_NUMBERS):
        raise InvalidParameter(f"{title}: at most {len(_NUMBERS)} notes")
    numbers: dict[int, int] = {}
    for number, piece in enumerate(pieces):
        found = [
            at
            for at, line in enumerate(lines)
            if piece in line and not line.lstrip().startswith(_COMMENTS)
        ]
        if len(found) != 1 or found[0] in numbers:
            raise InvalidParameter(
                f"{title}: {piece!r} stands on {len(found)} lines that have no note, not on one"
            )
        numbers[found[0]] = number
    return numbers
