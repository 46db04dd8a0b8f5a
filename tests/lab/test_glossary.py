"""The glossary: every entry is complete and unique, defined in one sentence in each language."""

import re

import pytest

from mpim_lab.errors import InvalidParameter
from mpim_lab.lab.exercise.glossary import load_glossary

ENTRY = """
- en: lease
  zh: 租约
  chapter: 3
  definition_en: A right that ends.
  definition_zh: 有期限的权利。
  synonyms: [lock]
"""


def test_every_term_is_defined_in_one_sentence_of_each_language():
    """One sentence from a capital letter to a full stop, short enough to be remembered."""
    for term in load_glossary():
        assert re.fullmatch(r"[A-Z][^.!?]*(\d,\d|\.\d)?[^.!?]*\.", term.definition_en), term.en
        assert len(term.definition_en.split()) <= 30, term.en
        assert re.fullmatch(r"[^。！？]+。", term.definition_zh), term.en
        assert re.search(r"[\u4e00-\u9fff]", term.zh) and term.en.isascii(), term.en


def test_the_three_parts_of_the_vocabulary_are_there():
    """Delivery, performance, instant messaging and scale."""
    chapters = {term.chapter for term in load_glossary()}
    assert {1, 2, 3, 4, 5, 6, 7, 8, 10} <= chapters
    names = {term.en for term in load_glossary()}
    assert {"at most once", "fencing token", "back-pressure", "stale route", "split brain"} <= names


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (ENTRY.replace("  zh: 租约\n", ""), "term 'lease': missing \\['zh'\\]"),
        (ENTRY + "  seen: 1\n", "term 'lease': missing \\[\\], unknown \\['seen'\\]"),
        (ENTRY.replace("A right that ends.", "''"), "term 'lease': each text must say something"),
        (ENTRY.replace("租约", "yes"), "term 'lease': each text must say something"),
        (ENTRY.replace("[lock]", "lock"), "term 'lease': synonyms is a list"),
        (ENTRY.replace("chapter: 3", "chapter: 99"), "term 'lease': chapter is a number"),
        (ENTRY + ENTRY, "term 'lease': 'lease' stands for 'lease' already"),
        (
            ENTRY + ENTRY.replace("en: lease", "en: Lock").replace("租约", "锁"),
            "term 'Lock': 'Lock' stands for 'lease'",
        ),
        ("just a text", "the glossary is a list of terms"),
        ("- : [", "glossary.yaml is no YAML"),
    ],
)
def test_a_mistake_is_named(text, complaint, tmp_path):
    """With the term that has it."""
    path = tmp_path / "glossary.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InvalidParameter, match=complaint):
        load_glossary(path)
