"""Data files: what stands in `data/`, and reading those that are lists of records in YAML."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from mpim_lab.errors import InvalidParameter

_PACKAGE = Path(__file__).parents[2]


def data_path(name: str) -> Path:
    """Find a file of `data/`: beside the package in a checkout, inside it when it is installed."""
    for folder in (_PACKAGE.parent / "data", _PACKAGE / "data"):
        if (folder / name).exists():
            return folder / name
    raise InvalidParameter(f"there is no data file {name!r}")


def read_list(path: Path, what: str) -> list[Any]:
    """Read a list in YAML; `what` names it in the InvalidParameter that is raised if it is none."""
    try:
        records = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidParameter(f"{path.name} is no YAML in UTF-8: {error}") from error
    if not isinstance(records, list):
        raise InvalidParameter(f"the {what}")
    return records


def checked_fields(record: Any, kind: type[Any], what: str) -> Any:
    """Return a record that has the fields of `kind`, a dataclass, and no others.

    Raise InvalidParameter, naming it.
    """
    wanted = {field.name for field in fields(kind)}
    if not isinstance(record, dict) or set(record) != wanted:
        given = set(record) if isinstance(record, dict) else set()
        missing, unknown = sorted(wanted - given), sorted(given - wanted, key=str)
        raise InvalidParameter(f"{what}: missing {missing}, unknown {unknown}")
    return record
