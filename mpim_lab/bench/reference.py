"""Reference: what `mpim-lab bench all` gave on the lab's machine, beside the reader's figures."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from mpim_lab.bench.machine import machine_text
from mpim_lab.bench.rows import Row, rounded
from mpim_lab.errors import InvalidParameter
from mpim_lab.lab.exercise.data_files import data_path

FILE = "reference.json"


@dataclass(frozen=True)
class Measure:
    """Which number of a bench stands for a name: `column` in the rows of `case`.

    Without a case: the best of the closed ones.

    `names`: how a notebook calls a candidate → how the bench does; the others have the same name in
    both. With `by_case` a name is a case ("channels 1,000").
    """

    column: str
    case: str | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    by_case: bool = False


MEASURES = {
    "pubsub": Measure("messages_per_s"),
    "streams": Measure("messages_per_s"),
    "batching": Measure(
        "messages_per_s",
        names={
            "none": "mpim_lab, not batched",
            "redis-py, 100 a pipeline": "redis-py pipelined",
            "adaptive": "mpim_lab, one by one",
            "adaptive, 100 a call": "mpim_lab",
        },
    ),
    "compression": Measure("times_smaller", case="chat message"),
    "pool": Measure("calls_per_s", case="64 callers"),
    "growth": Measure("messages_per_s", by_case=True),
}


def reference_rows(bench: str) -> list[Row]:
    """The rows of one bench.

    Raises InvalidParameter when there are none, or no reference, with what to do about it.
    """
    rows = [row for row in _reference()["rows"] if row["bench"] == bench]
    if not rows:
        raise InvalidParameter(
            f"bench={bench!r}: the reference has no such bench; it has {', '.join(MEASURES)}"
        )
    return rows


def beside_reference(
    bench: str, yours: "pd.Series[float]", *, case: str | None = None
) -> pd.DataFrame:
    """The reader's own figures beside the reference's: one row a name in `yours`, in its order.

    Columns: yours, reference, "yours / reference"; `attrs["machine"]` describes the machine of the
    reference. A name that the reference does not have, or not measured, has NaN there. case:
    another one than MEASURES says, of those in the rows. Raises InvalidParameter for a bench or a
    case that is not there, and when none of the names is.
    """
    rows = reference_rows(bench)
    known = _known(rows, MEASURES[bench], case)
    names = MEASURES[bench].names
    found = pd.Series(
        {name: known.get(names.get(str(name), str(name))) for name in yours.index}, dtype=float
    )
    if found.isna().all():
        raise InvalidParameter(
            f"the reference of {bench} has none of these names; it has {', '.join(known)}"
        )
    own = yours.astype(float)
    table = pd.DataFrame(
        {"yours": own, "reference": found, "yours / reference": (own / found).round(2)}
    )
    table[["yours", "reference"]] = table[["yours", "reference"]].map(rounded)
    table.index.name = yours.index.name
    table.attrs["machine"] = machine_text(_reference()["machine"], "python", "server")
    return table


def _known(rows: list[Row], measure: Measure, case: str | None) -> dict[str, float]:
    """Name in the bench → its number."""
    case = case or measure.case
    if case is not None and case not in (cases := dict.fromkeys(row["case"] for row in rows)):
        raise InvalidParameter(f"case={case!r}: the reference has {', '.join(cases)}")
    best: dict[str, float] = {}
    for row in rows:
        counts = row["case"] == case if case is not None else row.get("loop", "closed") == "closed"
        if counts and measure.column in row:
            name = row["case"] if measure.by_case else row["who"]
            best[name] = max(best.get(name, 0.0), row[measure.column])
    return best


def _reference() -> dict[str, Any]:
    advice = f"make it with `mpim-lab bench all --json data/{FILE}`"
    try:
        path = data_path(FILE)
    except InvalidParameter as error:
        raise InvalidParameter(f"{error}: {advice}") from error
    try:
        reference: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InvalidParameter(f"{FILE} is no JSON in UTF-8 ({error}): {advice}") from error
    if not isinstance(reference, dict) or not {"machine", "rows"} <= set(reference):
        raise InvalidParameter(f"{FILE} has no machine and rows, as a bench writes them: {advice}")
    return reference
