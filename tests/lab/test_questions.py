"""The interview bank: every entry is complete, short enough to be spoken, and proved by a cell.

A bank with a mistake is refused, and the mistake named.
"""

import re
from dataclasses import asdict, replace

import pytest
import yaml

from mpim_lab.errors import InvalidParameter
from mpim_lab.lab.exercise.data_files import data_path
from mpim_lab.lab.exercise.questions import FollowUp, Question, load_questions, questions_of

FILES = sorted(data_path("questions").glob("ch*.yaml"))
every_file = pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])

ASK = Question(
    id="ask",
    chapter=1,
    topic="delivery",
    difficulty="junior",
    question_en="Who got it?",
    question_zh="谁收到了？",
    headline_en="The listeners.",
    headline_zh="听众。",
    answer_en="Whoever listened.",
    answer_zh="正在听的人。",
    follow_ups=(FollowUp("And then?", "Nobody.", "然后呢？", "没有人。"),),
    weak_en="Everybody did.",
    weak_zh="所有人。",
    cell="01_pubsub.ipynb#who",
)
WHY = replace(ASK, id="why", difficulty="senior")


def write(path, *questions):
    """Write records, or questions, as a file of the bank; return its folder."""
    records = [each if isinstance(each, dict) else asdict(each) for each in questions]
    path.write_text(yaml.safe_dump(records, allow_unicode=True), encoding="utf-8")
    return path.parent


def sentences(text):
    return re.split(r"(?<=[.!?])\s+", text.strip())


# The bank that comes with the package


@every_file
def test_an_answer_can_be_spoken(path):
    """80 to 180 words, no sentence above 25; the headline is one of them."""
    for question in questions_of(int(path.stem[2:])):
        assert 80 <= len(question.answer_en.split()) <= 180, question.id
        assert 100 <= len(question.answer_zh) <= 420, question.id
        assert len(sentences(question.headline_en)) == 1, question.id
        for sentence in [question.headline_en, *sentences(question.answer_en)]:
            assert len(sentence.split()) <= 25, (question.id, sentence)


@every_file
def test_weak_answers_and_follow_ups_are_short(path):
    """One or two sentences, and one to three."""
    for question in questions_of(int(path.stem[2:])):
        assert len(sentences(question.weak_en)) <= 2, question.id
        for each in question.follow_ups:
            assert len(sentences(each.answer_en)) <= 3, (question.id, each.question_en)


@every_file
def test_an_answer_is_in_both_languages_and_in_the_words_of_the_field(path):
    """Chinese texts are Chinese; nothing names this package or a class of it."""
    for question in questions_of(int(path.stem[2:])):
        for record in (asdict(question), *map(asdict, question.follow_ups)):
            chinese = [text for name, text in record.items() if name.endswith("_zh")]
            assert all(re.search(r"[\u4e00-\u9fff]", text) for text in chinese), question.id
            assert "mpim_lab" not in str(record), question.id


def test_the_whole_bank_can_be_read():
    """Every id is used once, and every file is of a chapter of its own."""
    assert len(load_questions()) == sum(len(questions_of(int(path.stem[2:]))) for path in FILES)


# Reading a bank


def test_a_bank_is_read(tmp_path):
    """What was written, in its order, the files in the order of the chapters."""
    other = replace(ASK, id="other", chapter=2, cell="02_streams.ipynb#x")
    write(tmp_path / "ch02.yaml", other)
    assert load_questions(write(tmp_path / "ch01.yaml", WHY, ASK)) == [WHY, ASK, other]


def test_the_questions_of_a_chapter_come_easiest_first(tmp_path):
    """Those of other chapters do not, and a mistake in them does no harm."""
    (tmp_path / "ch02.yaml").write_text("- id: [", encoding="utf-8")
    assert questions_of(1, write(tmp_path / "ch01.yaml", WHY, ASK)) == [ASK, WHY]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"difficulty": "hard"}, "difficulty is one of junior, middle, senior"),
        ({"topic": "gossip"}, "topic is one of basics, delivery, .*, design$"),
        ({"answer_zh": " \n"}, r"\['answer_zh'\] must say something"),
        ({"headline_en": ""}, r"\['headline_en'\] must say something"),
        ({"answer_en": False}, r"\['answer_en'\] must be text"),
        ({"question_en": 42}, r"\['question_en'\] must be text"),
        ({"weak_zh": None}, r"\['weak_zh'\] must be text"),
        ({"topic": ["basics"]}, r"\['topic'\] must be text"),
        ({"chapter": "1"}, "chapter must be a number"),
        ({"chapter": True}, "chapter must be a number"),
        ({"chapter": 2}, r"chapter 2 does not belong in ch01\.yaml"),
        ({"cell": "01_pubsub.ipynb"}, "cell must be notebook.ipynb#id"),
        ({"cell": "01_pubsub.ipynb#"}, "cell must be notebook.ipynb#id"),
        ({"cell": "#who"}, "cell must be notebook.ipynb#id"),
        ({"hint": "?"}, r"unknown \['hint'\]"),
        ({True: "?", "hint": "?"}, r"unknown \[True, 'hint'\]"),
        ({"follow_ups": []}, "follow_ups must be a list of one to three"),
        ({"follow_ups": "And then?"}, "follow_ups must be a list of one to three"),
        ({"follow_ups": [asdict(ASK)["follow_ups"][0]] * 4}, "follow_ups must be a list of one to"),
        ({"follow_ups": ["And then?"]}, r"follow-up 1: missing \['answer_en'"),
        (
            {"follow_ups": [asdict(ASK)["follow_ups"][0] | {"answer_zh": " "}]},
            r"follow-up 1: \['answer_zh'\] must say something",
        ),
    ],
)
def test_a_mistake_in_a_question_is_named(tmp_path, change, complaint):
    """With the question it is in."""
    folder = write(tmp_path / "ch01.yaml", asdict(ASK) | change)
    for read in (load_questions, lambda folder: questions_of(1, folder)):
        with pytest.raises(InvalidParameter, match=f"'ask'.*{complaint}"):
            read(folder)


@pytest.mark.parametrize("wrong", ["Ask", "ask me", "ask_me", "-ask"])
def test_an_id_is_in_kebab_case(tmp_path, wrong):
    """It stands in links and in file names."""
    with pytest.raises(InvalidParameter, match=f"'{wrong}': id must be in kebab-case"):
        load_questions(write(tmp_path / "ch01.yaml", replace(ASK, id=wrong)))


@pytest.mark.parametrize("missing", ["id", "chapter", "topic", "answer_zh", "follow_ups", "cell"])
def test_a_missing_field_is_named(tmp_path, missing):
    """One error for each, and not what it would lead to later."""
    record = {name: value for name, value in asdict(ASK).items() if name != missing}
    with pytest.raises(InvalidParameter, match=rf"missing \['{missing}'\], unknown \[\]"):
        load_questions(write(tmp_path / "ch01.yaml", record))


def test_two_questions_of_one_id_are_refused(tmp_path):
    """In one file or in two: links and progress go by id."""
    write(tmp_path / "ch01.yaml", ASK, WHY)
    write(tmp_path / "ch02.yaml", replace(ASK, chapter=2))
    with pytest.raises(InvalidParameter, match="'ask' is used twice"):
        load_questions(tmp_path)
    write(tmp_path / "ch01.yaml", ASK, WHY, ASK)
    with pytest.raises(InvalidParameter, match="'ask' is used twice"):
        questions_of(1, tmp_path)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "ch01.yaml is a list of questions"),
        ("id: ask", "ch01.yaml is a list of questions"),
        ("- ask", "question 'ask': missing"),
        ("- id: [", "ch01.yaml is no YAML"),
        ("- id: a: b", "ch01.yaml is no YAML"),
    ],
)
def test_what_is_no_list_of_questions_is_refused(tmp_path, text, complaint):
    """InvalidParameter, whatever is wrong, with the place where YAML gave up."""
    (tmp_path / "ch01.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(InvalidParameter, match=complaint):
        load_questions(tmp_path)


def test_a_bank_in_another_encoding_is_refused(tmp_path):
    """A Windows editor's GBK, say."""
    (tmp_path / "ch01.yaml").write_bytes("- id: 问题".encode("gbk"))
    with pytest.raises(InvalidParameter, match="UTF-8"):
        load_questions(tmp_path)


def test_a_bank_that_is_not_there_is_named(tmp_path):
    """InvalidParameter: the folder, the chapter's file, or a file of the data."""
    with pytest.raises(InvalidParameter, match=f"no questions in .*{tmp_path.name}"):
        load_questions(tmp_path)
    with pytest.raises(InvalidParameter, match=r"no question file 'ch99\.yaml'"):
        questions_of(99)
    with pytest.raises(InvalidParameter, match=r"nowhere\.yaml"):
        data_path("nowhere.yaml")
