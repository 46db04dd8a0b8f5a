"""What runs by itself: CI has one definition, and hooks before a commit need no network."""

import re
import subprocess
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
TARGETS = set(
    re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
)


def test_the_workflows_run_the_one_definition():
    """Each job is `.ci/run`, with targets of the Makefile.

    It may read the repository and nothing else.
    """
    for path in sorted((ROOT / ".github" / "workflows").glob("*.yml")):
        workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert workflow["permissions"] == {"contents": "read"}
        assert workflow["concurrency"]["cancel-in-progress"] is True
        for job in workflow["jobs"].values():
            (command,) = [step["run"] for step in job["steps"] if "run" in step]
            assert command.startswith("bash .ci/run") and set(command.split()[2:]) <= TARGETS


def test_ci_runs_targets_that_exist():
    """And it is a script that a shell can read."""
    text = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert set(re.findall(r'^stage "make ([a-z-]+)" make \1$', text, re.MULTILINE)) <= TARGETS
    assert subprocess.run(["bash", "-n", ROOT / ".ci" / "run"], check=False).returncode == 0


def hooks():
    configuration = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert [each["repo"] for each in configuration["repos"]] == ["local"]
    return {hook["id"]: hook for each in configuration["repos"] for hook in each["hooks"]}


def test_hooks_need_no_network():
    """They use the tools in .venv, which `make check` uses, too."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for hook in hooks().values():
        assert hook["language"] == "system"
        program = hook["entry"].split()[0]
        assert (
            program == "bash"
            or program.replace(".venv/", "$(VENV)/").replace("$(VENV)/bin", "$(BIN)") in makefile
        )


def test_a_large_file_is_refused(tmp_path):
    """The hook's own command, on a file of 2 MiB and on a small one."""
    command = hooks()["file-size"]["entry"]
    (tmp_path / "large").write_bytes(bytes(2**21))
    (tmp_path / "small").write_bytes(b"1")
    runs = [
        subprocess.run(
            f"{command} {tmp_path / name}", shell=True, capture_output=True, text=True, check=False
        )
        for name in ("large", "small")
    ]
    assert [run.returncode for run in runs] == [1, 0]
    assert "large" in runs[0].stdout
