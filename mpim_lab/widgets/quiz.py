"""Quiz: interview questions one at a time: think first, then reveal.

Without a kernel: all of them, answers folded away.
"""

from collections.abc import Sequence
from html import escape
from typing import Any

import ipywidgets as ui

from mpim_lab.errors import InvalidParameter
from mpim_lab.lab.exercise.questions import Question
from mpim_lab.widgets.static_picture import WIDGET_VIEW, Bundle


class Quiz(ui.VBox):
    """Show questions one at a time, in English or Chinese (中文); the answer comes when asked for."""

    def __init__(self, questions: Sequence[Question]) -> None:
        if not questions:
            raise InvalidParameter("a quiz needs at least one question")
        self.questions, self.number, self.is_revealed = list(questions), 0, False
        self.text = ui.HTML()
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
        super().__init__([self.text, row])
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
        answer = question.answer_en if is_english else question.answer_zh
        place = f"question {self.number + 1} of {len(self.questions)} · {question.difficulty}"
        shown = (
            f"<p>{escape(answer)}</p><p>Proved by {_link(question)}</p>"
            if self.is_revealed
            else "<p><i>Think first.</i></p>"
        )
        self.text.value = (
            "<div style='border:1px solid var(--jp-border-color2);border-radius:8px;"
            "padding:8px 16px;line-height:1.5'>"
            f"<small>{escape(place)}</small>"
            f"<h3 style='margin:4px 0'>{escape(asked)}</h3>{shown}</div>"
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


def _link(question: Question) -> str:
    notebook, _, cell = question.cell.partition("#")
    return f"<code>{escape(notebook)}</code>, cell <code>{escape(cell)}</code>"


def folded(questions: Sequence[Question]) -> str:
    """All questions with their answers folded away: works without a kernel and without a script."""
    return "".join(
        f"<details><summary><b>{escape(each.question_en)}</b>"
        f"<br>{escape(each.question_zh)}</summary>"
        f"<p>{escape(each.answer_en)}</p><p>{escape(each.answer_zh)}</p>"
        f"<p>Proved by {_link(each)}</p></details>"
        for each in questions
    )


def plain(questions: Sequence[Question]) -> str:
    """The same as plain text."""
    return "\n\n".join(
        f"{number}. {each.question_en}\n   {each.question_zh}\n"
        f"   → {each.answer_en}\n   → {each.answer_zh}\n   [{each.cell}]"
        for number, each in enumerate(questions, 1)
    )
