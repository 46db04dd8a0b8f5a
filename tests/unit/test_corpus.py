"""The corpus: the same chat for the same seed, mostly short, in two languages, and what is tried is not what was learnt."""

from statistics import median

import yaml

from mpim_lab.lab.corpus import Corpus, _book
from mpim_lab.lab.questions import data_path


def is_chinese(line):
    return any("\u4e00" <= character <= "\u9fff" for character in line.decode())


def test_the_same_seed_gives_the_same_lines_and_another_one_others():
    """Any number of them; a longer draw begins like a shorter one."""
    assert Corpus(1).lines(1_000) == Corpus(1).lines(2_000)[:1_000]
    assert Corpus(1).messages(100) == Corpus(1).messages(100)
    assert Corpus(1).lines(100) != Corpus(2).lines(100)


def test_chat_is_mostly_short_and_in_two_languages():
    """Half of the lines are a word or two, one in twenty is long."""
    lines = Corpus().lines(20_000)
    lengths = sorted(map(len, lines))
    assert 8 <= median(lengths) <= 16
    assert lengths[int(0.95 * len(lengths))] > 90
    assert all(lines)
    assert 0.35 < sum(map(is_chinese, lines)) / len(lines) < 0.55
    assert 40 <= median(map(len, Corpus().messages(20_000))) <= 60


def test_it_grows_to_any_size_without_running_dry():
    """100,000 lines, more than 10,000 of them different."""
    assert len(set(Corpus().lines(100_000))) > 10_000


def test_half_of_what_is_tried_was_never_seen_in_training():
    """Samples come from every other template only, and from another draw."""
    lines, samples = set(Corpus().lines(5_000)), set(Corpus().samples(20_000))
    unseen = lines - samples
    assert len(unseen) > len(lines) / 2


def test_the_book_says_nothing_twice_and_fills_every_slot():
    """A line that is written twice would be said twice as often."""
    book = yaml.safe_load(data_path("chat_lines.yaml").read_text(encoding="utf-8"))
    assert book == _book()
    for language in ("en", "zh"):
        templates = [line for lines in book[language].values() for line in lines]
        assert len(templates) == len(set(templates)) > 120
        assert all(isinstance(line, str) for line in templates)
        assert not [line for line in Corpus(9).lines(5_000) if b"{" in line or b"}" in line]
