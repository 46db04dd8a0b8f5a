"""The quiz: think first, then reveal."""

from dataclasses import asdict, replace

import pytest

from mpim_lab.errors import InvalidParameter
from mpim_lab.lab.exercise.questions import FollowUp, Question
from mpim_lab.widgets import Quiz
from mpim_lab.widgets.static_picture import WIDGET_VIEW

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
WHY = replace(
    ASK, id="why", difficulty="senior", question_en="Why?", question_zh="为什么？", answer_en="So."
)
ENGLISH = (
    "Who got it?",
    "The listeners.",
    "Whoever listened.",
    "Everybody did.",
    "And then?",
    "Nobody.",
)
CHINESE = ("谁收到了？", "听众。", "正在听的人。", "所有人。", "然后呢？", "没有人。")


def proof(quiz):
    return "".join(output["data"]["text/html"] for output in quiz.proof.outputs)


def test_the_answer_is_hidden_until_it_is_asked_for():
    """Then it comes with its headline, weak answers, follow-ups, and the cell that proves it."""
    quiz = Quiz([ASK, WHY])
    assert "question 1 of 2 · delivery · junior" in quiz.text.value
    assert [words for words in ENGLISH if words in quiz.text.value] == ["Who got it?"]
    assert not quiz.proof.outputs
    quiz.reveal_button.click()
    assert [words for words in ENGLISH if words not in quiz.text.value] == []
    assert "<b>The listeners.</b>" in quiz.text.value
    assert "<details><summary>→ And then?</summary><p>Nobody.</p></details>" in quiz.text.value
    assert '<a href="01_pubsub.ipynb#cell-id=who">' in proof(quiz)
    assert "<code>01_pubsub.ipynb</code>, cell <code>who</code>" in proof(quiz)
    assert quiz.reveal_button.disabled


def test_the_next_question_hides_its_answer_again():
    """And so does the one before."""
    quiz = Quiz([ASK, WHY])
    quiz.reveal_button.click()
    quiz.next.click()
    assert "question 2 of 2 · delivery · senior" in quiz.text.value
    assert "Why?" in quiz.text.value
    assert "So." not in quiz.text.value
    assert not quiz.proof.outputs
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
    assert [words for words in CHINESE if words not in quiz.text.value] == []
    assert [words for words in ENGLISH if words in quiz.text.value] == []
    quiz.language.value = "English"
    assert [words for words in ENGLISH if words not in quiz.text.value] == []


def test_without_a_kernel_every_question_and_answer_is_there_in_both_languages():
    """In html, folded away, and as plain text."""
    data, _ = Quiz([ASK, WHY])._repr_mimebundle_()
    for text in (data["text/html"], data["text/plain"]):
        for words in (*ENGLISH, *CHINESE, "Why?", "为什么？", "So.", "delivery · senior"):
            assert words in text
        assert data[WIDGET_VIEW]["model_id"] not in text


def test_without_a_kernel_the_answers_are_folded_away():
    """Each question, and in it each follow-up; with links for JupyterLab and for nbconvert's page."""
    html = Quiz([ASK, WHY])._repr_mimebundle_()[0]["text/html"]
    for number in (1, 2):
        assert f"<details><summary><b>{number}. " in html
    assert html.count("<details>") == html.count("</details>") == 2 * (1 + 2)
    assert html.count('<a href="01_pubsub.ipynb#cell-id=who">') == 2
    assert html.count('<a href="01_pubsub.html#cell-id=who">') == 2


def test_the_plain_text_of_a_question_is_stable():
    """It is stored in the notebooks, and nbval compares it."""
    assert Quiz([ASK])._repr_mimebundle_()[0]["text/plain"] == (
        "1. Who got it?\n   谁收到了？\n"
        "   ⇒ The listeners.\n   ⇒ 听众。\n"
        "   → Whoever listened.\n   → 正在听的人。\n"
        "   ✘ Everybody did.\n   ✘ 所有人。\n"
        "   + And then?\n     → Nobody.\n   + 然后呢？\n     → 没有人。\n"
        "   [delivery · junior; 01_pubsub.ipynb#who]"
    )


def test_markup_in_a_question_is_shown_and_not_obeyed():
    """In every field, revealed or not, with a kernel or without."""
    evil = "<img src=x onerror=alert(1)>"
    names = [name for name, value in asdict(ASK).items() if isinstance(value, str)]
    quiz = Quiz([replace(ASK, **dict.fromkeys(names, evil), follow_ups=(FollowUp(*[evil] * 4),))])
    pages = [quiz._repr_mimebundle_()[0]["text/html"], quiz.text.value]
    quiz.reveal()
    pages += [quiz.text.value, proof(quiz)]
    quiz.language.value = "中文"
    for page in [*pages, quiz.text.value]:
        assert "<img" not in page
        assert "&lt;img src=x onerror=alert(1)&gt;" in page


def test_a_quiz_without_questions_is_refused():
    """InvalidParameter."""
    with pytest.raises(InvalidParameter, match="at least one"):
        Quiz([])
