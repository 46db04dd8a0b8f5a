"""Progress: which challenges the learner has passed, in a file of the learner's own.

`MPIM_PROGRESS` names another file; by default it is `mpim_lab/progress.json` in the user's data
folder (on Linux XDG_DATA_HOME, or ~/.local/share). A file that cannot be read or written is reported
in the log and stops nobody.
"""

import datetime
import json
import logging
import os
from pathlib import Path
from typing import Any

from platformdirs import user_data_path

_log = logging.getLogger(__name__)


def progress_path() -> Path:
    """Return where the file is."""
    if named := os.environ.get("MPIM_PROGRESS", "").strip():
        return Path(named)
    return user_data_path("mpim_lab", appauthor=False) / "progress.json"


def load_progress() -> dict[str, dict[str, Any]]:
    """For each challenge by title: `tries`, and since when it is `passed` (None: not yet)."""
    path = progress_path()
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        return {
            str(title): {"tries": int(line["tries"]), "passed": line["passed"]}
            for title, line in found.items()
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        _log.warning("%s cannot be read: %s", path, error)
        return {}


def record_attempt(title: str, *, passed: bool) -> None:
    """Record one more attempt. A challenge that was passed once stays passed."""
    lines = load_progress()
    line = lines.setdefault(title, {"tries": 0, "passed": None})
    line["tries"] += 1
    if passed and line["passed"] is None:
        line["passed"] = datetime.date.today().isoformat()
    path = progress_path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}")
        part.write_text(json.dumps(lines, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        part.replace(path)  # whole or not at all
    except OSError as error:
        _log.warning("%s cannot be written: %s", path, error)
