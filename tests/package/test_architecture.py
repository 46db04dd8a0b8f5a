"""The house keeps its shape: imports point one way, files stay small."""

import ast
from pathlib import Path

import pytest

import mpim_lab

ROOT = Path(mpim_lab.__file__).parent
# Who may import whom; a room may always import from itself.
ALLOWED = {
    "errors": set(),
    "events": set(),
    "terminal": {"errors"},
    "keys": {"errors"},
    "mq": {"errors", "events", "keys"},
    "im": {"errors", "events", "keys", "mq"},
    "lab": {"errors", "events", "terminal", "keys", "mq", "im"},
    "load": {"errors", "events", "terminal", "keys", "mq", "im", "lab"},
    "chapters": {"errors", "events", "terminal", "keys", "mq", "im", "lab", "load"},
    "soak": {"errors", "events", "terminal", "keys", "mq", "im", "lab", "load", "chapters"},
    "widgets": {"errors", "events", "keys", "lab"},
    "demo": {"errors", "events", "terminal", "keys", "mq", "im", "lab", "load", "chapters"},
    "bench": {"errors", "events", "keys", "mq", "lab", "load", "chapters", "widgets"},
}
FILES = sorted(path for path in ROOT.rglob("*.py"))


def name_of(path):
    return str(path.relative_to(ROOT))


def room_of(path):
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported_rooms(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        for module in modules:
            if module.startswith("mpim_lab."):
                yield module.split(".")[1]
        assert not (isinstance(node, ast.ImportFrom) and node.level), "imports are absolute"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_point_one_way(path):
    """Also those inside functions and under TYPE_CHECKING."""
    room = room_of(path)
    if room in ALLOWED:
        assert set(imported_rooms(path)) <= ALLOWED[room] | {room}


def test_modules_do_not_import_each_other_in_a_circle():
    """Module by module, not only room by room."""
    graph = {}
    for path in FILES:
        module = ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")
        tree = ast.parse(path.read_text(encoding="utf-8"))
        graph[module] = {node.module for node in tree.body if isinstance(node, ast.ImportFrom) and node.module}
    finished = set()

    def visit(module, above):
        assert module not in above, f"circle: {' → '.join([*above, module])}"
        if module not in finished:
            for below in sorted(graph.get(module, set()) & graph.keys()):
                visit(below, [*above, module])
            finished.add(module)

    for module in graph:
        visit(module, [])


def lines_of_docstrings(tree):
    holders = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, holders) and ast.get_docstring(node) is not None:
            yield node, node.body[0].end_lineno - node.body[0].lineno + 1


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_and_functions_are_small(path):
    """A file has one concept (at most 400 lines), a function one idea (40); docstrings are not counted."""
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    docstrings = dict(lines_of_docstrings(tree))
    assert len(text.splitlines()) - sum(docstrings.values()) <= 400
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = node.end_lineno - node.lineno + 1 - docstrings.get(node, 0)
            assert lines <= 40, f"{node.name} has {lines} lines"
