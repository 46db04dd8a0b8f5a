"""The house keeps its shape: imports point one way, files stay small."""

import ast
import os
import shutil
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest

import mpim_lab
from tests.conftest import missing

ROOT = Path(mpim_lab.__file__).parent
CONTRACTS = ROOT.parent / "pyproject.toml"
FILES = sorted(path for path in ROOT.rglob("*.py"))
LINT_IMPORTS = """
import sys
from importlinter.cli import lint_imports_command as main
sys.argv[0] = 'lint-imports'
main()
"""


def name_of(path):
    return str(path.relative_to(ROOT))


def lint_imports(folder, *options):
    """Check the contracts of pyproject.toml on the package in this folder."""
    if find_spec("importlinter") is None:
        missing("import-linter is not installed: `make check` checks which way imports go")
    command = [
        sys.executable,
        "-P",
        "-c",
        LINT_IMPORTS,
        "--no-logo",
        "--no-cache",
        *options,
        str(CONTRACTS),
    ]
    environment = os.environ | {"PYTHONPATH": str(folder)}
    return subprocess.run(
        command,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_imports_point_one_way():
    """The contracts of pyproject.toml hold, also inside functions and under TYPE_CHECKING."""
    run = lint_imports(ROOT.parent)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "0 broken" in run.stdout


WRONG = {
    "up, from the package": ("house", "mq/connection/retry.py", "from mpim_lab import chapters"),
    "up, inside a function": (
        "house",
        "errors.py",
        "def late():\n    import mpim_lab.mq.connection.resp",
    ),
    "up, for types only": (
        "house",
        "keys.py",
        "if TYPE_CHECKING:\n    from mpim_lab.im.system import System",
    ),
    "a folder without a place": ("house", "attic/__init__.py", ""),
    "streams know pubsub": ("mq", "mq/streams/stream.py", "from mpim_lab.mq.pubsub import queue"),
    "a service knows a gateway": (
        "im",
        "im/services/groups.py",
        "from mpim_lab.im.gateway import session",
    ),
    "a client knows a service": (
        "im-client",
        "im/client/client.py",
        "import mpim_lab.im.services.messages",
    ),
    "a trace injects faults": (
        "lab",
        "lab/trace/trace.py",
        "from mpim_lab.lab.faults import injector",
    ),
    "5 uses 1": (
        "chapters",
        "chapters/ch05_batching/scenario.py",
        "from mpim_lab.chapters.ch01_pubsub import naive",
    ),
    "a picture sends": ("pictures", "widgets/scenes/svg.py", "import mpim_lab.mq.pubsub.queue"),
    "in by the front door": ("front-door", "mq/pool/pool.py", "from mpim_lab import MessageQueue"),
    "two files in a circle": (
        "no-cycles",
        "lab/faults/relay.py",
        "from mpim_lab.lab.faults import proxy",
    ),
}


@pytest.mark.parametrize(("contract", "file", "line"), WRONG.values(), ids=WRONG)
def test_an_import_the_other_way_is_caught(contract, file, line, tmp_path):
    """Each contract can fail: the same check, on a copy of the package with one import more."""
    copy = tmp_path / "mpim_lab"
    shutil.copytree(
        ROOT, copy, ignore=shutil.ignore_patterns("__pycache__", "static", "web", "*.lua")
    )
    (copy / file).parent.mkdir(exist_ok=True)
    with (copy / file).open("a", encoding="utf-8") as changed:
        changed.write(f"\n\n{line}\n")
    run = lint_imports(tmp_path, "--contract", contract)
    assert run.returncode == 1, run.stdout + run.stderr
    assert "1 broken" in run.stdout, run.stdout


def test_every_contract_was_seen_to_fail():
    """A contract that nothing can break would say nothing."""
    contracts = tomllib.loads(CONTRACTS.read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    assert {each["id"] for each in contracts} == {contract for contract, _, _ in WRONG.values()}


def lines_of_docstrings(tree):
    holders = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, holders) and ast.get_docstring(node) is not None:
            yield node, node.body[0].end_lineno - node.body[0].lineno + 1


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_and_functions_are_small(path):
    """A file has one concept (at most 400 lines), a function one idea (40).

    Docstrings are not counted.
    """
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    docstrings = dict(lines_of_docstrings(tree))
    assert len(text.splitlines()) - sum(docstrings.values()) <= 400
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = node.end_lineno - node.body[0].lineno + 1 - docstrings.get(node, 0)
            assert lines <= 40, f"{node.name} has {lines} lines"
