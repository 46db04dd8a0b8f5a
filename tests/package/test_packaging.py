"""What is declared, pinned and offered to conda users is one and the same."""

import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK = (ROOT / "requirements.lock").read_text().splitlines()


def package(requirement):
    return re.match(r"[A-Za-z0-9_.-]+", requirement)[0].lower().replace("_", "-").replace(".", "-")


def test_every_declared_package_is_pinned():
    """Versions are declared in pyproject.toml only; the lock pins each to one version."""
    declared = list(PROJECT["dependencies"])
    for extra in PROJECT["optional-dependencies"].values():
        declared += extra
    pinned = {package(line) for line in LOCK}
    assert {package(each) for each in declared} <= pinned


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
    for each in PROJECT["dependencies"]:
        requirement = Requirement(each)
        if requirement.marker is None or requirement.marker.evaluate():
            assert requirement.specifier.contains(pinned[package(each)]), each


def test_conda_users_get_the_same_versions():
    """environment.yml installs the package under the constraints of the lock, on a Python that pyproject allows."""
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    (pip,) = [each["pip"] for each in environment["dependencies"] if isinstance(each, dict)]
    assert "-c requirements.lock" in pip
    assert "-e .[test]" in pip
    lowest = PROJECT["requires-python"].removeprefix(">=")
    assert any(str(each).startswith(f"python>={lowest}") for each in environment["dependencies"])


def test_no_host_name_is_written_down():
    """Nothing that is committed names a package index."""
    for name in ("pyproject.toml", "requirements.lock", "environment.yml", "Makefile"):
        assert not re.search(r"https?://(?!127\.0\.0\.1)", (ROOT / name).read_text()), name
