"""Quiz: interview questions one at a time: think first, then reveal.

Without a kernel: all of them, answers folded away.
"""

from collections.abc import Sequence
from html import escape
from typing import Any

import ipywidgets as ui

from mpim_lab.errors import InvalidParameter
from mpim_lab.lab.exercise.questions import FollowUp, Question
from mpim_lab.widgets.static_picture import WIDGET_VIEW, Bundle


class Quiz(ui.VBox):
    """Show questions one at a time, in English or Chinese (中文); the answer comes when asked for."""

    def __init__(self, questions: Sequence[Question]) -> None:
        if not questions:
            raise InvalidParameter("a quiz needs at least one question")
        self.questions, self.number, self.is_revealed = list(questions), 0, False
        self.text = ui.HTML()
        self.proof = ui.Output()  # rendered as a cell's output is: JupyterLab follows its link
        self.language = ui.ToggleButtons(
            options=["English", "中文"], style={"button_width": "90px"}, tooltips=["", ""]
        )
        self.back = self._button("Back", "arrow-left", lambda: self.go(-1))
        self.reveal_button = self._button("Reveal the answer", "eye", self.reveal, "primary")
        self.next = self._button("Next", "arrow-right", lambda: self.go(1))
        self.language.observe(lambda _: self._draw(), names="value")
        row = ui.HBox(
            [self.back, self.reveal_button, self.next, self.language],
            layout=ui.Layout(flex_flow="row wrap"),
        )
        super().__init__([self.text, self.proof, row])
        self._draw()

    def _button(self, label: str, icon: str, act: Any, style: str = "") -> ui.Button:
        button = ui.Button(
            description=label, icon=icon, button_style=style, layout=ui.Layout(width="auto")
        )
        button.on_click(lambda _: act())
        return button

    def go(self, by: int) -> None:
        """Go to another question; its answer is hidden again."""
        self.number = max(0, min(len(self.questions) - 1, self.number + by))
        self.is_revealed = False
        self._draw()

    def reveal(self) -> None:
        """Show the answer, and the cell that proves it."""
        self.is_revealed = True
        self._draw()

    def _draw(self) -> None:
        question, is_english = self.questions[self.number], self.language.value == "English"
        asked = question.question_en if is_english else question.question_zh
        place = f"question {self.number + 1} of {len(self.questions)} · {_kind(question)}"
        shown = _answer(question, is_english) if self.is_revealed else "<p><i>Think first.</i></p>"
        self.text.value = (
            "<div style='border:1px solid var(--jp-border-color2);border-radius:8px;"
            "padding:8px 16px;line-height:1.5'>"
            f"<small>{escape(place)}</small>"
            f"<h3 style='margin:4px 0'>{escape(asked)}</h3>{shown}</div>"
        )
        proof = {"text/html": f"Proved by {_link(question)}", "text/plain": question.cell}
        self.proof.outputs = (
            ({"output_type": "display_data", "data": proof, "metadata": {}},)
            if self.is_revealed
            else ()
        )
        self.back.disabled, self.next.disabled = (
            self.number == 0,
            self.number == len(self.questions) - 1,
        )
        self.reveal_button.disabled = self.is_revealed

    def _repr_mimebundle_(self, **options: Any) -> Bundle:
        view = super()._repr_mimebundle_(**options)
        data = view[0] if isinstance(view, tuple) else view or {}
        live = {WIDGET_VIEW: data[WIDGET_VIEW]} if WIDGET_VIEW in data else {}
        return {
            **live,
            "text/html": folded(self.questions),
            "text/plain": plain(self.questions),
        }, {}


def _kind(question: Question) -> str:
    return f"{question.topic} · {question.difficulty}"


def _target(question: Question, suffix: str) -> str:
    notebook, _, cell = question.cell.partition("#")
    return f"{notebook.removesuffix('.ipynb')}{suffix}#cell-id={cell}"


def _link(question: Question) -> str:
    notebook, _, cell = question.cell.partition("#")
    target = escape(_target(question, ".ipynb"))
    return (
        f'<a href="{target}"><code>{escape(notebook)}</code>, cell <code>{escape(cell)}</code></a>'
    )


def _answer(question: Question, is_english: bool) -> str:
    """The answer in one language: headline, answer, weak answers, follow-ups folded away."""
    if is_english:
        texts = question.headline_en, question.answer_en, "Weak answers", question.weak_en
    else:
        texts = question.headline_zh, question.answer_zh, "不好的回答", question.weak_zh
    headline, answer, label, weak = map(escape, texts)
    follow_ups = "".join(_follow_up(each, is_english) for each in question.follow_ups)
    return f"<p><b>{headline}</b></p><p>{answer}</p><p><i>{label}:</i> {weak}</p>{follow_ups}"


def _follow_up(follow_up: FollowUp, is_english: bool) -> str:
    asked = follow_up.question_en if is_english else follow_up.question_zh
    answer = follow_up.answer_en if is_english else follow_up.answer_zh
    return f"<details><summary>→ {escape(asked)}</summary><p>{escape(answer)}</p></details>"


def folded(questions: Sequence[Question]) -> str:
    """All questions with their answers folded away: works without a kernel and without a script.

    The second link of each is for pages that nbconvert made: there the cells have anchors.
    """
    return "".join(
        f"<details><summary><b>{number}. {escape(each.question_en)}</b>"
        f" <small>{escape(_kind(each))}</small><br>{escape(each.question_zh)}</summary>"
        f"{_answer(each, True)}{_answer(each, False)}"
        f"<p>Proved by {_link(each)} (in an exported page: "
        f'<a href="{escape(_target(each, ".html"))}">this cell</a>)</p></details>'
        for number, each in enumerate(questions, 1)
    )


def plain(questions: Sequence[Question]) -> str:
    """The same as plain text."""
    return "\n\n".join(_plain(number, each) for number, each in enumerate(questions, 1))


def _plain(number: int, question: Question) -> str:
    rows = [f"{number}. {question.question_en}", f"   {question.question_zh}"]
    rows += [
        f"   {mark} {text}"
        for mark, texts in (
            ("⇒", (question.headline_en, question.headline_zh)),
            ("→", (question.answer_en, question.answer_zh)),
            ("✘", (question.weak_en, question.weak_zh)),
        )
        for text in texts
    ]
    for each in question.follow_ups:
        rows += [f"   + {each.question_en}", f"     → {each.answer_en}"]
        rows += [f"   + {each.question_zh}", f"     → {each.answer_zh}"]
    return "\n".join([*rows, f"   [{_kind(question)}; {question.cell}]"])
