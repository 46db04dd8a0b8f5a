"""The corpus: the same chat for the same seed, and what is tried is not what was learnt."""

import json
import re
import zlib
from statistics import median

import pytest
import yaml

from mpim_lab.lab.exercise.data_files import data_path
from mpim_lab.lab.workload.corpus import (
    LANGUAGES,
    TEST_SPLIT,
    TRAINING_SPLIT,
    Corpus,
    _load_templates,
    _split,
)
from mpim_lab.mq.compression.codec import Codec
from mpim_lab.mq.compression.dictionary import train_dictionary

FORMS = ("lines", "samples", "messages", "message_samples", "envelopes", "envelope_samples")


def is_chinese(line):
    return any("\u4e00" <= character <= "\u9fff" for character in line.decode())


def share(lengths, part):
    return sorted(lengths)[int(len(lengths) * part)]


@pytest.mark.parametrize("form", FORMS)
def test_the_same_seed_gives_the_same_text_and_another_one_another(form):
    """Any number of them; a longer draw begins like a shorter one."""
    one, again, other = (getattr(Corpus(seed), form) for seed in (1, 1, 2))
    assert one(500) == again(1_000)[:500]
    assert one(100) != other(100)
    assert len(one(17)) == 17 and one(0) == []


def test_chat_is_mostly_short_with_a_long_tail():
    """Half of the lines have 20 to 40 bytes at most, one in a hundred more than 200.

    The longest has 1 to 2 KB.
    """
    lengths = [len(line) for line in Corpus().lines(100_000)]
    assert 20 <= median(lengths) <= 40
    assert min(lengths) >= 2 and share(lengths, 0.1) < 12
    assert 35 <= share(lengths, 0.75) <= 60
    assert 90 <= share(lengths, 0.95) <= 160 < 200 <= share(lengths, 0.99) <= 400
    assert 1_000 < max(lengths) < 2_048


def test_half_of_the_chat_is_chinese():
    """Emoji alone count as neither."""
    lines = Corpus().lines(20_000)
    assert 0.45 < sum(map(is_chinese, lines)) / len(lines) < 0.53
    assert all(line.decode().strip() == line.decode() != "" for line in lines)
    assert not [line for line in lines if b"{" in line or b"}" in line or b"\n" in line]


def test_no_message_says_the_same_twice():
    """A repeat within a short message would be compressed by anything, and nobody writes it."""
    for line in Corpus().lines(20_000):
        sentences = re.split(r"(?<=[?!]) |\. ", line.decode())
        assert len(sentences) == len(set(sentences))


def test_it_grows_to_any_size_without_running_dry():
    """Of 100,000 lines more than 40,000 are different.

    The others are the "ok" that everybody says.
    """
    assert len(set(Corpus().lines(100_000))) > 40_000


@pytest.mark.parametrize("seed", [1, 7])
def test_nothing_that_is_tried_was_seen_in_training(seed):
    """Other lines and templates of the book, so not one whole message in common."""
    for language in LANGUAGES:
        for kind in ("lines", "templates"):
            tried, trained = (
                set(_split(language, kind, half)) for half in (TEST_SPLIT, TRAINING_SPLIT)
            )
            assert not tried & trained
            assert tried | trained == set(_load_templates()[language][kind])
            assert 0.4 < len(tried) / len(tried | trained) < 0.6
    assert not set(Corpus(seed).lines(50_000)) & set(Corpus(seed).samples(50_000))


def test_the_json_forms_carry_the_lines():
    """In the same order, as UTF-8 and not as escapes.

    An envelope has an id of its own and is sent after the one before.
    """
    lines, messages, envelopes = (
        getattr(Corpus(3), form)(2_000) for form in ("lines", "messages", "envelopes")
    )
    for packed in (messages, envelopes):
        assert [json.loads(each)["text"].encode() for each in packed] == lines
        assert b"\\u" not in b"".join(packed)
    opened = [json.loads(each) for each in envelopes]
    assert list(opened[0]) == ["id", "conversation", "from", "sent_at", "text"]
    assert len({each["id"] for each in opened}) == 2_000
    sent_at = [each["sent_at"] for each in opened]
    assert sent_at == sorted(set(sent_at))
    assert 50 <= median(map(len, messages)) <= 70 and 120 <= median(map(len, envelopes)) <= 145


@pytest.mark.parametrize(
    ("form", "samples"), [("messages", "message_samples"), ("envelopes", "envelope_samples")]
)
def test_a_dictionary_makes_the_median_message_half_again_as_small(form, samples):
    """Mark and number of the dictionary included, learnt from other text."""
    corpus = Corpus()
    codec = Codec(
        "zstd-dictionary",
        threshold_bytes=0,
        dictionaries=[train_dictionary(getattr(corpus, samples)())],
    )
    assert (
        median(len(text) / len(codec.compress_raw(text)) for text in getattr(corpus, form)(2_000))
        >= 1.5
    )


def test_zlib_makes_the_median_line_longer():
    """It has nothing to repeat in a line of a few words; most lines grow, and most messages."""
    for texts in (Corpus().lines(2_000), Corpus().messages(2_000)):
        grew = [len(zlib.compress(text)) > len(text) for text in texts]
        assert sum(grew) / len(grew) > 0.75


def test_the_book_says_nothing_twice_and_fills_every_slot():
    """Nor is a line what a template can become.

    A slot without a word, or a word without a slot, is a slip.
    """
    book = yaml.safe_load(data_path("chat_lines.yaml").read_text(encoding="utf-8"))
    assert book == _load_templates()
    for language in LANGUAGES:
        lines, templates, slots = (
            book[language]["lines"],
            book[language]["templates"],
            book["slots"][language],
        )
        texts = lines + templates
        assert len(lines) >= 400 and len(templates) >= 100 and len(texts) == len(set(texts))
        assert all(isinstance(text, str) and text == text.strip() != "" for text in texts)
        assert {slot for text in templates for slot in re.findall(r"\{(\w+)\}", text)} == set(slots)
        assert all(len(words) == len(set(words)) >= 15 for words in slots.values())
        assert all(re.search(r"\{\w+\}", text) for text in templates) and not [
            text for text in lines if "{" in text
        ]
        shapes = [re.compile(_shape(template, slots)) for template in templates]
        assert not [line for line in lines if any(shape.fullmatch(line) for shape in shapes)]


def _shape(template, slots):
    """What a template can become, as a regular expression."""
    parts = re.split(r"\{(\w+)\}", template)  # text, slot, text, slot … text
    for place in range(len(parts)):
        words = slots[parts[place]] if place % 2 else [parts[place]]
        parts[place] = f"(?:{'|'.join(map(re.escape, words))})"
    return "".join(parts)
