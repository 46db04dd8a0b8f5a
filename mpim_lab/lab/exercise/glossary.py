"""Glossary: the vocabulary of the lab in English and Chinese, read from `data/glossary.yaml`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpim_lab.errors import InvalidParameter
from mpim_lab.lab.exercise.data_files import checked_fields, data_path, read_list

LAST_CHAPTER = 12


@dataclass(frozen=True)
class Term:
    """One term of the field, defined in each language, and the chapter that introduces it."""

    en: str
    zh: str
    chapter: int
    definition_en: str
    definition_zh: str
    synonyms: tuple[str, ...]


def load_glossary(path: Path | None = None) -> list[Term]:
    """Read the glossary, in its order.

    Raise InvalidParameter, naming the term, if a field is missing or empty, or if a name stands for
    two terms.
    """
    records = read_list(path or data_path("glossary.yaml"), "glossary is a list of terms")
    terms = [_term(record) for record in records]
    owners: dict[str, str] = {}
    for term in terms:
        for name in (term.en, term.zh, *term.synonyms):
            if name.casefold() in owners:
                raise InvalidParameter(
                    f"term {term.en!r}: {name!r} stands for {owners[name.casefold()]!r} already"
                )
            owners[name.casefold()] = term.en
    return terms


def _term(record: Any) -> Term:
    name = record.get("en", record) if isinstance(record, dict) else record
    record = checked_fields(record, Term, f"term {name!r}")
    texts = [record[field] for field in ("en", "zh", "definition_en", "definition_zh")]
    if not isinstance(record["synonyms"], list):
        raise InvalidParameter(f"term {name!r}: synonyms is a list, which may be empty")
    if not all(isinstance(text, str) and text.strip() for text in [*texts, *record["synonyms"]]):
        raise InvalidParameter(
            f"term {name!r}: each text must say something; quote yes, no and numbers"
        )
    if type(record["chapter"]) is not int or not 0 <= record["chapter"] <= LAST_CHAPTER:
        raise InvalidParameter(f"term {name!r}: chapter is a number from 0 to {LAST_CHAPTER}")
    return Term(**record | {"synonyms": tuple(record["synonyms"])})
