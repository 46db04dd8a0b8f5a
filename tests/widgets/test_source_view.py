"""SourceView shows real source, and its notes stay with their lines."""

import pytest

from mpim_lab.chapters.ch03_idempotency import naive
from mpim_lab.errors import InvalidParameter
from mpim_lab.mq import IdempotencyStore, Pool, PooledConnection
from mpim_lab.widgets import SideBySide, SourceView


def test_a_method_is_shown_under_the_first_line_of_its_class() -> None:
    shown = repr(SourceView(naive.CheckThenSet.run)).split("\n")
    assert shown[0] == "CheckThenSet.run  (mpim_lab/chapters/ch03_idempotency/naive.py)"
    assert shown[2].startswith("class CheckThenSet")
    assert shown[4].startswith("    async def run(self")


def test_a_note_is_numbered_on_the_line_that_has_its_text() -> None:
    view = SourceView(naive.CheckThenSet.run, notes={"EXISTS": "Check.", '"SET"': "Record."})
    lines = repr(view).split("\n")
    assert [line for line in lines if line.endswith("# ①")] == [
        '        if await self._link.call("EXISTS", self._key(id)):  # ①'
    ]
    assert lines[-2:] == ["① Check.", "② Record."]


@pytest.mark.parametrize("piece", ["is nowhere", "self"])
def test_a_note_whose_text_is_not_on_exactly_one_line_is_refused(piece: str) -> None:
    with pytest.raises(InvalidParameter, match="not on one"):
        SourceView(naive.CheckThenSet.run, notes={piece: "Which line?"})


def test_a_long_docstring_is_cut_after_its_first_line() -> None:
    shown = repr(SourceView(IdempotencyStore.claim))
    assert '"""Claim an id."""' in shown
    assert "Returns:" not in shown
    assert "return await self._claims.submit" in shown


def test_a_property_and_a_class_and_a_lua_file_have_source_too() -> None:
    assert "def dirty_reason" in repr(SourceView(PooledConnection.dirty_reason))
    assert repr(SourceView(naive.MarkFirst)).count("class MarkFirst") == 1
    lua = repr(SourceView("mq/idempotency/lua/claim.lua", notes={'"INCR"': "A new token."}))
    assert "-- ①" in lua


@pytest.mark.parametrize(
    "shown", [(), (3,), ("../pyproject.toml",), (len,), (Pool.stats, naive.MarkFirst.run)]
)
def test_what_has_no_source_here_is_refused(shown: tuple[object, ...]) -> None:
    with pytest.raises(InvalidParameter):
        SourceView(*shown)


def test_html_has_colours_a_link_and_every_line_once() -> None:
    view = SourceView(naive.CheckThenSet.run, notes={"EXISTS": "a < b"})
    html = view._repr_mimebundle_()[0]["text/html"]
    assert html.count('<span class="l') == len(view.lines)
    assert '<a href="../mpim_lab/chapters/ch03_idempotency/naive.py">' in html
    assert '<span class="k">await</span>' in html
    assert "a &lt; b" in html


def test_two_views_stand_side_by_side() -> None:
    pair = SideBySide(SourceView(naive.CheckThenSet.run), SourceView(naive.MarkFirst.run))
    data = pair._repr_mimebundle_()[0]
    assert data["text/html"].count('<div class="mpim-source">') == 2
    assert data["text/html"].count("<style>") == 1
    assert "CheckThenSet.run" in data["text/plain"]
