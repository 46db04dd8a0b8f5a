"""The code tours name every file that is taught, once, in words of its own."""

import re

import pytest

from mpim_lab.errors import InvalidParameter
from mpim_lab.lab.exercise.tours import PACKAGE, load_tours
from mpim_lab.widgets import CodeTour

TAUGHT = ("mq", "im", "lab", "chapters", "widgets")


def test_together_the_tours_name_every_file_once() -> None:
    toured = [module for tour in load_tours().values() for module in tour.modules]
    files = {
        file.relative_to(PACKAGE).as_posix()
        for folder in TAUGHT
        for file in (PACKAGE / folder).rglob("*")
        if file.suffix in (".py", ".lua", ".js", ".css", ".html") and file.name != "__init__.py"
    }
    assert sorted(toured) == sorted(files)


def test_each_file_says_what_it_is_for_in_its_first_sentence() -> None:
    for tour in load_tours().values():
        for module, said in tour.purposes().items():
            assert re.fullmatch(r"\S.{9,180}[.?]", said), (module, said)


def test_each_file_of_a_messages_way_is_on_some_tour() -> None:
    tours = load_tours().values()
    toured = {module for tour in tours for module in tour.modules}
    for tour in tours:
        assert {place for place, _ in tour.path if "/" in place} <= toured


@pytest.mark.parametrize("chapter", sorted(load_tours()))
def test_a_tour_is_a_picture_and_a_table_of_links(chapter: int) -> None:
    tour = CodeTour(chapter)
    html = tour._repr_mimebundle_()[0]["text/html"]
    assert html.count('<a href="../mpim_lab/') == len(tour.tour.modules)
    assert html.count("<rect") == 1 + len(tour.tour.path)
    assert html.count('<path class="a"') == len(tour.tour.path) - 1
    assert tour.tour.modules[0] in repr(tour)


def test_a_chapter_without_a_tour_is_refused() -> None:
    with pytest.raises(InvalidParameter, match="there is no tour of chapter 99"):
        CodeTour(99)
