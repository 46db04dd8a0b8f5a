"""The quiz and its question bank: think first, then reveal.

A bank with a mistake is refused, and the mistake named.
"""

from dataclasses import asdict, replace

import pytest
import yaml

from mpim_lab.errors import InvalidParameter
from mpim_lab.lab.exercise.data_files import data_path
from mpim_lab.lab.exercise.questions import Question, load_questions, questions_of
from mpim_lab.widgets import Quiz
from mpim_lab.widgets.static_picture import WIDGET_VIEW

ASK = Question(
    id="ask",
    chapter=1,
    difficulty="junior",
    question_en="Who got it?",
    question_zh="谁收到了？",
    answer_en="Whoever listened.",
    answer_zh="正在听的人。",
    cell="01_pubsub.ipynb#who",
)
WHY = replace(
    ASK, id="why", difficulty="senior", question_en="Why?", question_zh="为什么？", answer_en="So."
)


def write(path, *records):
    path.write_text(yaml.safe_dump(list(records), allow_unicode=True), encoding="utf-8")
    return path


# The quiz


def test_the_answer_is_hidden_until_it_is_asked_for():
    """Then it comes with the cell that proves it."""
    quiz = Quiz([ASK, WHY])
    assert "Who got it?" in quiz.text.value
    assert "Whoever listened." not in quiz.text.value
    quiz.reveal_button.click()
    assert "Whoever listened." in quiz.text.value
    assert "<code>01_pubsub.ipynb</code>, cell <code>who</code>" in quiz.text.value
    assert quiz.reveal_button.disabled


def test_the_next_question_hides_its_answer_again():
    """And so does the one before."""
    quiz = Quiz([ASK, WHY])
    quiz.reveal_button.click()
    quiz.next.click()
    assert "question 2 of 2 · senior" in quiz.text.value
    assert "Why?" in quiz.text.value
    assert "So." not in quiz.text.value
    assert not quiz.reveal_button.disabled
    quiz.back.click()
    assert "Whoever listened." not in quiz.text.value


def test_there_is_nothing_before_the_first_and_after_the_last():
    """The buttons are off, and what they do is harmless all the same."""
    quiz = Quiz([ASK, WHY])
    assert (quiz.back.disabled, quiz.next.disabled) == (True, False)
    quiz.go(-1)
    assert quiz.number == 0
    quiz.go(5)
    assert (quiz.number, quiz.back.disabled, quiz.next.disabled) == (1, False, True)


def test_the_language_can_be_changed_at_any_time():
    """The same question, revealed as it was."""
    quiz = Quiz([ASK])
    quiz.reveal()
    quiz.language.value = "中文"
    assert "谁收到了？" in quiz.text.value
    assert "正在听的人。" in quiz.text.value
    assert "Who got it?" not in quiz.text.value
    quiz.language.value = "English"
    assert "Whoever listened." in quiz.text.value


def test_without_a_kernel_every_question_and_answer_is_there_in_both_languages():
    """In html, folded away, and as plain text."""
    data, _ = Quiz([ASK, WHY])._repr_mimebundle_()
    assert data["text/html"].count("<details>") == 2
    for text in (data["text/html"], data["text/plain"]):
        for words in (
            "Who got it?",
            "谁收到了？",
            "Whoever listened.",
            "正在听的人。",
            "Why?",
            "为什么？",
            "So.",
        ):
            assert words in text
        assert data[WIDGET_VIEW]["model_id"] not in text
    assert "[01_pubsub.ipynb#who]" in data["text/plain"]


def test_markup_in_a_question_is_shown_and_not_obeyed():
    """In every field, revealed or not, with a kernel or without."""
    evil = "<img src=x onerror=alert(1)>"
    names = [name for name, value in asdict(ASK).items() if isinstance(value, str)]
    quiz = Quiz([replace(ASK, **dict.fromkeys(names, evil))])
    pages = [quiz._repr_mimebundle_()[0]["text/html"], quiz.text.value]
    quiz.reveal()
    quiz.language.value = "中文"
    for page in [*pages, quiz.text.value]:
        assert "<img" not in page
        assert "&lt;img src=x onerror=alert(1)&gt;" in page


def test_a_quiz_without_questions_is_refused():
    """InvalidParameter."""
    with pytest.raises(InvalidParameter, match="at least one"):
        Quiz([])


# The bank


def test_the_bank_that_comes_with_us_is_sound():
    """It can be read, and every question has an id of its own."""
    questions = load_questions()
    assert questions
    assert len({question.id for question in questions}) == len(questions)


def test_a_bank_is_read(tmp_path):
    """What was written, in its order."""
    assert load_questions(write(tmp_path / "q.yaml", asdict(WHY), asdict(ASK))) == [WHY, ASK]


def test_the_questions_of_a_chapter_come_easiest_first(tmp_path, monkeypatch):
    """Those of other chapters do not."""
    path = write(
        tmp_path / "q.yaml", asdict(WHY), asdict(replace(ASK, id="other", chapter=2)), asdict(ASK)
    )
    monkeypatch.setattr("mpim_lab.lab.exercise.questions.data_path", lambda name: path)
    assert questions_of(1) == [ASK, WHY]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"difficulty": "hard"}, "difficulty is one of junior, middle, senior"),
        ({"answer_zh": " \n"}, r"\['answer_zh'\] must say something"),
        ({"answer_en": False}, r"\['answer_en'\] must be text"),
        ({"question_en": 42}, r"\['question_en'\] must be text"),
        ({"chapter": "1"}, r"\['chapter'\] must be text, the chapter a number"),
        ({"cell": "01_pubsub.ipynb"}, "cell"),
        ({"cell": "01_pubsub.ipynb#"}, "cell"),
        ({"cell": "#who"}, "cell"),
        ({"hint": "?"}, r"unknown \['hint'\]"),
        ({True: "?", "hint": "?"}, r"unknown \[True, 'hint'\]"),
    ],
)
def test_a_mistake_in_a_question_is_named(tmp_path, change, complaint):
    """With the question it is in."""
    with pytest.raises(InvalidParameter, match=f"'ask'.*{complaint}"):
        load_questions(write(tmp_path / "q.yaml", asdict(ASK) | change))


@pytest.mark.parametrize("missing", ["id", "chapter", "answer_zh", "cell"])
def test_a_missing_field_is_named(tmp_path, missing):
    """One error for each, and not what it would lead to later."""
    record = {name: value for name, value in asdict(ASK).items() if name != missing}
    with pytest.raises(InvalidParameter, match=rf"missing \['{missing}'\], unknown \[\]"):
        load_questions(write(tmp_path / "q.yaml", record))


def test_two_questions_of_one_id_are_refused(tmp_path):
    """Links and progress go by id."""
    with pytest.raises(InvalidParameter, match="'ask' is used twice"):
        load_questions(write(tmp_path / "q.yaml", asdict(ASK), asdict(WHY), asdict(ASK)))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "a list of questions"),
        ("id: ask", "a list of questions"),
        ("- ask", "question 'ask': missing"),
        ("- id: [", "q.yaml is no YAML"),
        ("- id: a: b", "q.yaml is no YAML"),
    ],
)
def test_what_is_no_list_of_questions_is_refused(tmp_path, text, complaint):
    """InvalidParameter, whatever is wrong, with the place where YAML gave up."""
    path = tmp_path / "q.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InvalidParameter, match=complaint):
        load_questions(path)


def test_a_bank_in_another_encoding_is_refused(tmp_path):
    """A Windows editor's GBK, say."""
    (tmp_path / "q.yaml").write_bytes("- id: 问题".encode("gbk"))
    with pytest.raises(InvalidParameter, match="UTF-8"):
        load_questions(tmp_path / "q.yaml")


def test_a_data_file_that_is_not_there_is_named():
    """InvalidParameter."""
    with pytest.raises(InvalidParameter, match=r"nowhere\.yaml"):
        data_path("nowhere.yaml")
