"""Questions: the interview question bank, each answered by a cell the reader can run."""

import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from mpim_lab.errors import InvalidParameter
from mpim_lab.lab.exercise.data_files import checked_fields, data_path, read_list

DIFFICULTIES = ("junior", "middle", "senior")


@dataclass(frozen=True)
class Question:
    """One question in two languages.

    `cell` is "<notebook>.ipynb#<cell id>": the cell that proves the answer.
    """

    id: str
    chapter: int
    difficulty: str
    question_en: str
    question_zh: str
    answer_en: str
    answer_zh: str
    cell: str


def load_questions(path: Path | None = None) -> list[Question]:
    """Read the question bank.

    Args:
        path: a file in YAML; None: the bank of `data/`.

    Returns:
        The questions, in the file's order.

    Raises:
        InvalidParameter: a field is missing, empty or of the wrong type, or an id is used twice;
            it names the question.
    """
    records = read_list(path or data_path("questions.yaml"), "question bank is a list of questions")
    questions = [_question(record) for record in records]
    seen: set[str] = set()
    for question in questions:
        if question.id in seen:
            raise InvalidParameter(f"the question id {question.id!r} is used twice")
        seen.add(question.id)
    return questions


def _question(record: Any) -> Question:
    name = record.get("id", record) if isinstance(record, dict) else record
    record = checked_fields(record, Question, f"question {name!r}")
    wrong = [field.name for field in fields(Question) if type(record[field.name]) is not field.type]
    if wrong:
        rule = "must be text, the chapter a number; quote yes, no and numbers"
        raise InvalidParameter(f"question {name!r}: {wrong} {rule}")
    question = Question(**record)
    if question.difficulty not in DIFFICULTIES:
        raise InvalidParameter(f"question {name!r}: difficulty is one of {', '.join(DIFFICULTIES)}")
    empty = [
        field for field, value in record.items() if isinstance(value, str) and not value.strip()
    ]
    if empty or not re.fullmatch(r"\S+\.ipynb#\S+", question.cell):
        raise InvalidParameter(
            f"question {name!r}: {empty or 'cell'} must say something (cell: notebook.ipynb#id)"
        )
    return question


def questions_of(chapter: int) -> list[Question]:
    """Return the questions of one chapter, easiest first."""
    chosen = [question for question in load_questions() if question.chapter == chapter]
    return sorted(chosen, key=lambda question: DIFFICULTIES.index(question.difficulty))
