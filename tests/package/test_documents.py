"""What the documents say about the repository is so: links, paths, commands, contracts, names."""

import ast
import re
import textwrap
import tomllib
from pathlib import Path
from xml.etree import ElementTree

import pytest

from mpim_lab import mq

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    "README.md",
    "CONTRIBUTING.md",
    "docs/ARCHITECTURE.md",
    "data/README.md",
    "tests/README.md",
]
TEXTS = {name: (ROOT / name).read_text(encoding="utf-8") for name in DOCUMENTS}
FOLDERS = ("mpim_lab", "tests", "data", "docs", "notebooks")
NAMES = {
    path.name for folder in FOLDERS for path in (ROOT / folder).rglob("*")
}  # some names stand in each chapter
every_document = pytest.mark.parametrize("name", DOCUMENTS)


@every_document
def test_links_lead_somewhere(name):
    """To a file of the repository; the documents need no network."""
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", TEXTS[name])
    assert [each for each in targets if not (ROOT / name).parent.joinpath(each).exists()] == []


@every_document
def test_paths_that_are_named_exist(name):
    """Below the repository, the package or the document.

    A path with a placeholder (NN, <topic>) is none.
    """
    places = (ROOT, ROOT / "mpim_lab", (ROOT / name).parent)
    paths = [
        each
        for each in re.findall(r"`([a-z_.][\w./-]*(?:/|\.[a-z]+))`", TEXTS[name])
        if "NN" not in each
    ]
    paths = [
        each
        for each in paths
        if "/" in each or each.endswith((".py", ".md", ".yaml", ".toml", ".lock", ".yml"))
    ]
    assert [
        each
        for each in paths
        if each.strip("/") not in NAMES and not any((at / each).exists() for at in places)
    ] == []


@pytest.mark.parametrize("name", DOCUMENTS[:3])
def test_lines_can_be_read_in_a_terminal(name):
    """Prose that is wrapped, tables whose rows fit."""
    assert [line for line in TEXTS[name].splitlines() if len(line) > 160] == []


@every_document
def test_commands_that_are_named_exist(name):
    """Each `make …` is a target."""
    targets = set(
        re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    )
    blocks = re.findall(r"^(?:    )?(make [^#\n]*)", TEXTS[name], re.MULTILINE) + re.findall(
        r"`(make [^`]*)`", TEXTS[name]
    )
    words = {
        word for each in blocks for word in re.sub(r"\w+=(\"[^\"]*\"|\S+)", "", each).split()[1:]
    }
    assert {word for word in words if re.fullmatch(r"[a-z-]+", word)} <= targets


def test_the_floor_plan_shows_the_floors_of_the_contracts():
    """Every folder that the contracts know is drawn, and the picture is well-formed."""
    svg = ElementTree.parse(ROOT / "docs" / "floor_plan.svg")
    drawn = {word for text in svg.iter() for word in re.findall(r"\w+", text.text or "")}
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"][
        "importlinter"
    ]["contracts"]
    floors = {
        room.strip()
        for each in contracts
        for floor in each.get("layers", [])
        for room in floor.split("|")
    }
    assert floors - {"terminal", "__main__"} <= drawn


def test_readme_teaches_one_import():
    """What a user of the library needs comes from `mpim_lab` or `mpim_lab.mq`."""
    imports = re.findall(r"^from (\S+) import", TEXTS["README.md"], re.MULTILINE)
    assert {each for each in imports if ".chapters." not in each} == {"mpim_lab", "mpim_lab.mq"}


def test_the_names_that_readme_teaches_exist():
    """Each name of each `from mpim_lab.mq import …`."""
    if not hasattr(mq, "__all__"):
        pytest.skip("mpim_lab.mq exports no names yet")
    blocks = re.findall(r"```python\n(.*?)```", TEXTS["README.md"], re.DOTALL)
    trees = [ast.parse(f"async def cell():\n{textwrap.indent(block, '    ')}") for block in blocks]
    imports = [
        node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)
    ]
    names = {alias.name for node in imports if node.module == "mpim_lab.mq" for alias in node.names}
    assert names <= set(mq.__all__)
