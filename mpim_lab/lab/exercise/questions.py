"""Questions: the interview question bank, each answered by a cell the reader can run."""

import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from mpim_lab.errors import InvalidParameter
from mpim_lab.lab.exercise.data_files import checked_fields, data_path, read_list

DIFFICULTIES = ("junior", "middle", "senior")
TOPICS = (
    "basics",
    "delivery",
    "streams",
    "idempotency",
    "ordering",
    "batching",
    "compression",
    "connections",
    "messaging",
    "storage",
    "operations",
    "design",
)


@dataclass(frozen=True)
class FollowUp:
    """What the interviewer asks next, with its answer, in two languages."""

    question_en: str
    answer_en: str
    question_zh: str
    answer_zh: str


@dataclass(frozen=True)
class Question:
    """One question in two languages, with all that a candidate needs to answer it.

    `headline_*` is the answer in one sentence, `weak_*` what weak answers say. `cell` is
    "<notebook>.ipynb#<cell id>": the cell that proves the answer.
    """

    id: str
    chapter: int
    topic: str
    difficulty: str
    question_en: str
    question_zh: str
    headline_en: str
    headline_zh: str
    answer_en: str
    answer_zh: str
    follow_ups: tuple[FollowUp, ...]
    weak_en: str
    weak_zh: str
    cell: str


def load_questions(folder: Path | None = None) -> list[Question]:
    """Read the question bank.

    Args:
        folder: where the files are, one a chapter; None: the bank of `data/`.

    Returns:
        The questions, chapter by chapter, each chapter in its file's order.

    Raises:
        InvalidParameter: there is no file, or a file or a question has a mistake, or an id is
            used twice; it names the question.
    """
    folder = folder or data_path("questions")
    paths = sorted(folder.glob("ch[0-9][0-9].yaml"))
    if not paths:
        raise InvalidParameter(f"there are no questions in {folder}")
    questions = [question for path in paths for question in _read(path)]
    _check_ids(questions)
    return questions


def questions_of(chapter: int, folder: Path | None = None) -> list[Question]:
    """Return the questions of one chapter, easiest first.

    Raises:
        InvalidParameter: as `load_questions`, for this chapter's file only.
    """
    questions = _read((folder or data_path("questions")) / f"ch{chapter:02}.yaml")
    _check_ids(questions)
    return sorted(questions, key=lambda question: DIFFICULTIES.index(question.difficulty))


def _read(path: Path) -> list[Question]:
    if not path.exists():
        raise InvalidParameter(f"there is no question file {path.name!r}")
    records = read_list(path, f"question bank {path.name} is a list of questions")
    questions = [_question(record) for record in records]
    for question in questions:
        if path.name != f"ch{question.chapter:02}.yaml":
            wrong = f"chapter {question.chapter} does not belong in {path.name}"
            raise InvalidParameter(f"question {question.id!r}: {wrong}")
    return questions


def _check_ids(questions: list[Question]) -> None:
    seen: set[str] = set()
    for question in questions:
        if question.id in seen:
            raise InvalidParameter(f"the question id {question.id!r} is used twice")
        seen.add(question.id)


def _question(record: Any) -> Question:
    name = record.get("id", record) if isinstance(record, dict) else record
    what = f"question {name!r}"
    record = checked_fields(record, Question, what)
    _check_texts(record, Question, what)
    if type(record["chapter"]) is not int:
        raise InvalidParameter(f"{what}: chapter must be a number")
    question = Question(**record | {"follow_ups": _follow_ups(record["follow_ups"], what)})
    for field, choices in (("topic", TOPICS), ("difficulty", DIFFICULTIES)):
        if record[field] not in choices:
            raise InvalidParameter(f"{what}: {field} is one of {', '.join(choices)}")
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", question.id):
        raise InvalidParameter(f"{what}: id must be in kebab-case, like {'late-subscriber'!r}")
    if not re.fullmatch(r"\S+\.ipynb#\S+", question.cell):
        raise InvalidParameter(f"{what}: cell must be notebook.ipynb#id")
    return question


def _follow_ups(records: Any, what: str) -> tuple[FollowUp, ...]:
    if not isinstance(records, list) or not 1 <= len(records) <= 3:
        raise InvalidParameter(f"{what}: follow_ups must be a list of one to three")
    for number, record in enumerate(records, 1):
        checked_fields(record, FollowUp, f"{what}, follow-up {number}")
        _check_texts(record, FollowUp, f"{what}, follow-up {number}")
    return tuple(FollowUp(**record) for record in records)


def _check_texts(record: dict[str, Any], kind: type[Any], what: str) -> None:
    texts = [field.name for field in fields(kind) if field.type is str]
    if wrong := [name for name in texts if not isinstance(record[name], str)]:
        raise InvalidParameter(f"{what}: {wrong} must be text; quote yes, no and numbers")
    if empty := [name for name in texts if not record[name].strip()]:
        raise InvalidParameter(f"{what}: {empty} must say something")
