"""Which challenges a learner has passed: kept in a file, whatever state that is in."""

import json
import logging

import pytest

from mpim_lab.chapters.catalog import ids, progress_table
from mpim_lab.chapters.ch04_ordering.challenges import put_in_order
from mpim_lab.chapters.ch04_ordering.solutions import BoundedReorderBuffer
from mpim_lab.cli import main
from mpim_lab.lab.exercise.progress import (
    forget_progress,
    load_progress,
    progress_path,
    record_attempt,
)


@pytest.fixture
def file(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "progress.json"
    monkeypatch.setenv("MPIM_PROGRESS", str(path))
    return path


def test_tries_are_counted_and_what_was_passed_once_stays_passed(file):
    """A later failure does not take it away."""
    for passed in (False, True, False):
        record_attempt("Lose nothing", passed=passed)
    line = load_progress()["Lose nothing"]
    assert (line["tries"], line["passed"] is not None) == (3, True)
    assert [path.name for path in file.parent.iterdir()] == ["progress.json"]


def test_by_default_it_is_in_the_users_data_folder(tmp_path, monkeypatch):
    """XDG_DATA_HOME, or ~/.local/share."""
    monkeypatch.delenv("MPIM_PROGRESS", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert progress_path() == tmp_path / "mpim_lab" / "progress.json"
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert progress_path() == tmp_path / ".local" / "share" / "mpim_lab" / "progress.json"


@pytest.mark.parametrize(
    "content", ["", "no json", "[1]", '{"a": 1}', '{"a": {"tries": "x", "passed": null}}']
)
def test_a_broken_file_is_reported_and_stops_nobody(file, content, caplog):
    """The next try begins anew."""
    file.parent.mkdir()
    file.write_text(content)
    with caplog.at_level(logging.WARNING):
        record_attempt("Lose nothing", passed=True)
    assert "cannot be read" in caplog.text
    assert json.loads(file.read_text())["Lose nothing"]["tries"] == 1


def test_a_file_that_cannot_be_written_is_reported_and_stops_nobody(monkeypatch, caplog):
    """A read-only home, for example."""
    monkeypatch.setenv("MPIM_PROGRESS", "/proc/nobody/progress.json")
    with caplog.at_level(logging.WARNING):
        record_attempt("Lose nothing", passed=True)
    assert "cannot be written" in caplog.text


class ShowsNothing(BoundedReorderBuffer):
    def add(self, sequence, item):
        return []


async def test_a_check_is_recorded_and_shown(file):
    """By the challenge's id; the first one that is not passed is the next."""
    await put_in_order().check(ShowsNothing)
    await put_in_order().check(BoundedReorderBuffer, quick=True)
    assert load_progress()["ch04/put_in_order"]["tries"] == 2
    table = progress_table()
    assert list(table.index) == ids()
    assert table.loc["ch04/put_in_order", "tries"] == 2
    assert table.loc["ch04/put_in_order", "passed"][:2] == "20"
    assert table["passed"].iloc[0] == "next"


def test_progress_is_forgotten_by_one_call(file, capsys):
    """Also from a terminal, and twice."""
    record_attempt("ch03/do_it_once", passed=True)
    assert main(["progress"]) == 0
    assert "ch03/do_it_once" in capsys.readouterr().out
    assert main(["progress", "--forget"]) == 0
    assert load_progress() == {}
    forget_progress()
