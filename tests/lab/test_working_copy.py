"""The learner's notebooks are the learner's: an update adds, and a reset asks and keeps."""

import pytest

from mpim_lab.cli import main
from mpim_lab.errors import InvalidParameter
from mpim_lab.lab.exercise import working_copy
from mpim_lab.lab.exercise.working_copy import make_copy, reset


@pytest.fixture
def originals(tmp_path):
    folder = tmp_path / "notebooks"
    folder.mkdir()
    for name in ("00_start_here", "03_idempotency"):
        (folder / f"{name}.ipynb").write_text(f"{name}, as it was")
    return folder


def test_a_copy_has_every_notebook(originals):
    folder = make_copy(originals)
    assert folder == originals.parent / "my_notebooks"
    assert sorted(path.name for path in folder.iterdir()) == [
        "00_start_here.ipynb",
        "03_idempotency.ipynb",
    ]


def test_an_update_adds_what_is_new_and_leaves_the_learners_work(originals):
    mine = make_copy(originals) / "03_idempotency.ipynb"
    mine.write_text("my answers")
    (originals / "03_idempotency.ipynb").write_text("a new edition")
    (originals / "04_ordering.ipynb").write_text("new")
    make_copy(originals)
    assert mine.read_text() == "my answers"
    assert (mine.parent / "04_ordering.ipynb").read_text() == "new"


@pytest.mark.parametrize("chapter", ["03", "3"])
def test_a_reset_brings_a_chapter_back_and_keeps_the_learners(originals, chapter):
    mine = make_copy(originals) / "03_idempotency.ipynb"
    for number, work in enumerate(("first", "second")):
        mine.write_text(work)
        kept = reset(chapter, lambda question: "Y", originals)
        assert mine.read_text() == "03_idempotency, as it was"
        assert kept is not None and kept.read_text() == work
        assert kept.name == f"03_idempotency.old{'' if number == 0 else 2}.ipynb"


@pytest.mark.parametrize("answer", ["", "n", "no", " "])
def test_a_reset_that_is_not_wanted_changes_nothing(originals, answer):
    mine = make_copy(originals) / "03_idempotency.ipynb"
    mine.write_text("my answers")
    assert reset("03", lambda question: answer, originals) is None
    assert mine.read_text() == "my answers"
    assert len(list(mine.parent.iterdir())) == 2


def test_a_reset_of_what_was_deleted_asks_nobody(originals):
    mine = make_copy(originals) / "03_idempotency.ipynb"
    mine.unlink()
    assert reset("03", pytest.fail, originals) is None
    assert mine.read_text() == "03_idempotency, as it was"


@pytest.mark.parametrize("chapter", ["7", "", "0", "../03", "x"])
def test_a_chapter_that_is_not_there_is_named(originals, chapter):
    if chapter == "0":
        (originals / "00_again.ipynb").write_text("two begin with 00")
    with pytest.raises(InvalidParameter, match="there is no chapter"):
        reset(chapter, pytest.fail, originals)


def test_a_copy_without_a_checkout_or_a_place_to_write_is_named(tmp_path, originals):
    with pytest.raises(InvalidParameter, match="there are no notebooks"):
        make_copy(tmp_path / "nowhere")
    (originals.parent / "my_notebooks").write_text("a file is in the way")
    with pytest.raises(InvalidParameter, match="cannot be written"):
        make_copy(originals)


def test_the_command_asks_and_without_an_answer_changes_nothing(monkeypatch, originals, capsys):
    mine = make_copy(originals) / "03_idempotency.ipynb"
    mine.write_text("my answers")
    monkeypatch.setattr(working_copy.reset, "__defaults__", (input, originals))
    monkeypatch.setattr("builtins.input", lambda question: (_ for _ in ()).throw(EOFError))
    assert main(["reset", "03"]) == 0
    assert mine.read_text() == "my answers"
    assert main(["reset", "03", "--yes"]) == 0
    assert mine.read_text() == "03_idempotency, as it was"
    assert "kept:" in capsys.readouterr().out
