"""What an import does: it brings in what is below, and makes nothing."""

import json
import os
import subprocess
import sys

import pytest

import mpim_lab
import mpim_lab.im
import mpim_lab.lab
import mpim_lab.mq

GROUND = {"mpim_lab", "errors", "events", "keys"}
IMPORT_ALL = """
import importlib, json, pkgutil, sys

package = importlib.import_module(sys.argv[1])
for each in pkgutil.walk_packages(getattr(package, "__path__", []), f"{sys.argv[1]}."):
    importlib.import_module(each.name)
print(json.dumps(sorted(sys.modules)))
"""
WATCH = """
import sys, threading

FILES = ("os.mkdir", "os.remove", "os.rename", "tempfile.", "sqlite3.", "mmap.")
start = threading.Thread.start


def on_event(event, values):
    is_write = event == "open" and (values[2] or 0) & 3
    if is_write or event.startswith(("socket.", "subprocess.", "os.fork", *FILES)):
        print(event, values, file=sys.stderr)


def watched_start(thread):
    print("thread", thread, file=sys.stderr)
    start(thread)


sys.addaudithook(on_event)
threading.Thread.start = watched_start
"""


def run(program, *arguments):
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")
    }
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )


@pytest.mark.parametrize(
    ("name", "below"),
    [
        ("mpim_lab.errors", {"mpim_lab", "errors"}),
        ("mpim_lab.events", {"mpim_lab", "events"}),
        ("mpim_lab.keys", {"mpim_lab", "errors", "keys"}),
        ("mpim_lab.mq", {*GROUND, "latency_histogram", "mq"}),
        ("mpim_lab.im", {*GROUND, "mq", "im"}),
    ],
)
def test_an_import_brings_in_nothing_from_above(name, below):
    """Whoever imports the ground floor gets that, and no library of the floors above."""
    modules = json.loads(run(IMPORT_ALL, name).stdout)
    ours = {
        each.partition(".")[2].partition(".")[0] or each
        for each in modules
        if each.partition(".")[0] == "mpim_lab"
    }
    assert ours == below
    assert not {
        "IPython",
        "jupyterlab",
        "ipywidgets",
        "anywidget",
        "pandas",
        "plotly",
        "nbclient",
        "pytest",
    } & set(modules)


def test_an_import_makes_nothing():
    """No module opens a socket, starts a thread or a process, or writes a file at import."""
    # What Hypothesis finds installed it imports, and that is not ours.
    done = run("import hypothesis.strategies\n" + WATCH + IMPORT_ALL, "mpim_lab")
    assert done.stderr == ""
    assert "mpim_lab.cli" in done.stdout


def test_an_import_that_makes_something_would_be_seen():
    """The check can fail."""
    assert "socket.__new__" in run(WATCH + "import socket; socket.socket()").stderr
    assert "open (" in run(WATCH + "import os; open(os.devnull, 'w')").stderr
    assert "thread <" in run(WATCH + "threading.Thread(target=print).start()").stderr


@pytest.mark.parametrize(
    "package", [mpim_lab, mpim_lab.mq, mpim_lab.im, mpim_lab.lab], ids=lambda each: each.__name__
)
def test_what_is_exported_is_there_when_it_is_asked_for(package):
    """And it is listed: `dir` knows it before."""
    for name in package.__all__:
        assert name in dir(package)
        assert getattr(package, name).__name__ == name


def test_what_is_not_exported_is_not_there():
    """By its name."""
    with pytest.raises(AttributeError, match="No mpim_lab attribute Kafka"):
        mpim_lab.Kafka  # type: ignore[attr-defined]  # noqa: B018
