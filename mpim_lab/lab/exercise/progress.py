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
    """Return for each challenge, by its id, `tries` and since when it is `passed` (None: not yet)."""
    path = progress_path()
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        return {
            str(each): {"tries": int(kept["tries"]), "passed": kept["passed"]}
            for each, kept in found.items()
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        _log.warning("%s cannot be read: %s", path, error)
        return {}


def record_attempt(id: str, *, passed: bool) -> None:
    """Record one more attempt at a challenge. One that was passed once stays passed."""
    progress = load_progress()
    kept = progress.setdefault(id, {"tries": 0, "passed": None})
    kept["tries"] += 1
    if passed and kept["passed"] is None:
        kept["passed"] = datetime.date.today().isoformat()
    path = progress_path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}")
        text = json.dumps(progress, indent=1, ensure_ascii=False) + "\n"
        part.write_text(text, encoding="utf-8")
        part.replace(path)  # whole or not at all
    except OSError as error:
        _log.warning("%s cannot be written: %s", path, error)


def forget_progress() -> None:
    """Remove the file with all progress. Nothing happens if there is none."""
    progress_path().unlink(missing_ok=True)
