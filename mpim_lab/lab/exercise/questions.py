"""Questions: the interview question bank, each answered by a cell the reader can run."""

import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from mpim_lab.errors import InvalidParameter

PACKAGE = Path(__file__).parents[2]
DIFFICULTIES = ("junior", "middle", "senior")


@dataclass(frozen=True)
class Question:
    """One question in two languages. `cell` is "<notebook>.ipynb#<cell id>": the cell that proves the answer."""

    id: str
    chapter: int
    difficulty: str
    question_en: str
    question_zh: str
    answer_en: str
    answer_zh: str
    cell: str


def data_path(name: str) -> Path:
    """A file of `data/`: beside the package in a checkout, inside it when installed as a wheel."""
    for folder in (PACKAGE.parent / "data", PACKAGE / "data"):
        if (folder / name).exists():
            return folder / name
    raise InvalidParameter(f"there is no data file {name!r}")


def load_questions(path: Path | None = None) -> list[Question]:
    """Read the bank. Raises InvalidParameter, naming the question, for a missing field, a double id and the like."""
    path = path or data_path("questions.yaml")
    try:
        records = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidParameter(f"{path.name} is no YAML in UTF-8: {error}") from error
    if not isinstance(records, list):
        raise InvalidParameter("the question bank is a list of questions")
    questions = [_question(record) for record in records]
    seen: set[str] = set()
    for question in questions:
        if question.id in seen:
            raise InvalidParameter(f"the question id {question.id!r} is used twice")
        seen.add(question.id)
    return questions


def _question(record: Any) -> Question:
    name = record.get("id", record) if isinstance(record, dict) else record
    wanted = {field.name for field in fields(Question)}
    if not isinstance(record, dict) or set(record) != wanted:
        given = set(record) if isinstance(record, dict) else set()
        missing, unknown = sorted(wanted - given), sorted(given - wanted, key=str)
        raise InvalidParameter(f"question {name!r}: missing {missing}, unknown {unknown}")
    wrong = [field.name for field in fields(Question) if type(record[field.name]) is not field.type]
    if wrong:
        raise InvalidParameter(
            f"question {name!r}: {wrong} must be text, the chapter a number; quote yes, no and numbers"
        )
    question = Question(**record)
    if question.difficulty not in DIFFICULTIES:
        raise InvalidParameter(f"question {name!r}: difficulty is one of {', '.join(DIFFICULTIES)}")
    empty = [field for field, value in record.items() if isinstance(value, str) and not value.strip()]
    if empty or not re.fullmatch(r"\S+\.ipynb#\S+", question.cell):
        raise InvalidParameter(f"question {name!r}: {empty or 'cell'} must say something (cell: notebook.ipynb#id)")
    return question


def questions_of(chapter: int) -> list[Question]:
    """The questions of one chapter, easiest first."""
    chosen = [question for question in load_questions() if question.chapter == chapter]
    return sorted(chosen, key=lambda question: DIFFICULTIES.index(question.difficulty))
