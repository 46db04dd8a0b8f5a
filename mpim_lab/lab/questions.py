"""Questions: the interview question bank, each answered by a cell the reader can run."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from mpim_lab.errors import InvalidParameter

PACKAGE = Path(__file__).parent.parent
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
    records = yaml.safe_load((path or data_path("questions.yaml")).read_text(encoding="utf-8"))
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
        raise InvalidParameter(f"question {name!r}: missing {sorted(wanted - given)}, unknown {sorted(given - wanted)}")
    question = Question(**record)
    if question.difficulty not in DIFFICULTIES:
        raise InvalidParameter(f"question {name!r}: difficulty is one of {', '.join(DIFFICULTIES)}")
    empty = [
        field.name
        for field in fields(Question)
        if field.type in ("str", str) and not str(getattr(question, field.name)).strip()
    ]
    if empty or ".ipynb#" not in question.cell:
        raise InvalidParameter(f"question {name!r}: {empty or 'cell'} must say something (cell: notebook.ipynb#id)")
    return question


def questions_of(chapter: int) -> list[Question]:
    """The questions of one chapter, easiest first."""
    chosen = [question for question in load_questions() if question.chapter == chapter]
    return sorted(chosen, key=lambda question: DIFFICULTIES.index(question.difficulty))
