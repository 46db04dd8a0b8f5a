"""Terminal: what a command prints, on plain terminals and into pipes that close early."""

import codecs
import contextlib
import errno
import io
import os
import sys
from collections.abc import Callable, Iterator
from typing import TextIO

from mpim_lab.errors import InvalidParameter, MpimError

# what a shell gives for a program that SIGPIPE or SIGINT ended
BROKEN_PIPE = 128 + 13
INTERRUPTED = 128 + 2
_PLAIN = {
    "✔": "+", "✘": "x", "–": "-", "—": "-", "→": "->", "←": "<-", "…": "...", "·": "-", "×": "x",
    "÷": "/", "−": "-", "≥": ">=", "≤": "<=", "≈": "~", "µ": "u", "─": "-", "│": "|", "▶": ">",
    "◀": "<", "█": "#", "▇": "#", "•": "*", "“": '"', "”": '"', "’": "'", "‘": "'",
}  # fmt: skip


def replace_unencodable() -> None:
    """Have standard output and error replace what their encoding lacks, instead of failing.

    Where one of them is closed (`>&-`), what goes there is dropped.
    """
    sys.stdout = sys.stdout or _nowhere()
    sys.stderr = sys.stderr or _nowhere()
    codecs.register_error("mpim_lab.terminal", _replace)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="mpim_lab.terminal")


def _nowhere() -> TextIO:
    return open(os.devnull, "w", encoding="utf-8")


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    failed = error.object[error.start : error.end]
    texts = (_PLAIN.get(c) or c.encode("ascii", "backslashreplace").decode() for c in failed)
    return "".join(texts), error.end


@contextlib.contextmanager
def exit_quietly() -> Iterator[None]:
    """End with the usual status, and no traceback, at Ctrl-C or when our reader is gone."""
    try:
        yield
        sys.stdout.flush()
    except BaseException as error:
        if _holds(error, BrokenPipeError):
            _discard_output()
            sys.exit(BROKEN_PIPE)
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            print(f"mpim-lab: {error.strerror}", file=sys.stderr)
            _discard_output()
            sys.exit(1)
        if _holds(error, KeyboardInterrupt):
            sys.exit(INTERRUPTED)
        raise


def run_main(main: Callable[[], int]) -> int:
    """Run a program's `main`; an error of ours is one line and status 1, or 2 for a parameter."""
    try:
        with exit_quietly():
            return main()
    except MpimError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2 if isinstance(error, InvalidParameter) else 1


def first_error(error: BaseException) -> BaseException:
    """One error of a group: tasks fail alike."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _discard_output() -> None:
    """What is still to be written would fail again at the exit."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _holds(error: BaseException, kind: type[BaseException]) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return error.subgroup(kind) is not None
    return isinstance(error, kind)
