"""Plain: what a command prints, on terminals that know fewer characters, and into pipes that close early."""

import codecs
import contextlib
import io
import os
import sys
from collections.abc import Iterator

BROKEN_PIPE, INTERRUPTED = 128 + 13, 128 + 2  # what a shell gives for a program that SIGPIPE or SIGINT ended
_PLAIN = {
    "✔": "+", "✘": "x", "–": "-", "—": "-", "→": "->", "←": "<-", "…": "...", "·": "-", "×": "x", "÷": "/", "−": "-",
    "≥": ">=", "≤": "<=", "≈": "~", "µ": "u", "─": "-", "│": "|", "▶": ">", "◀": "<", "█": "#", "▇": "#", "•": "*",
    "“": '"', "”": '"', "’": "'", "‘": "'",
}  # fmt: skip


def write_plainly() -> None:
    """Have standard output and error write what their encoding lacks in other characters, instead of failing."""
    codecs.register_error("mpim_lab.plain", _replace)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="mpim_lab.plain")


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    texts = (_PLAIN.get(each) or each.encode("ascii", "backslashreplace").decode() for each in _failed(error))
    return "".join(texts), error.end


def _failed(error: UnicodeEncodeError) -> str:
    return error.object[error.start : error.end]


@contextlib.contextmanager
def ending_quietly() -> Iterator[None]:
    """End with the usual status and no traceback when the reader of our output is gone, or Ctrl-C was pressed."""
    try:
        yield
        sys.stdout.flush()
    except BaseException as error:
        if _holds(error, BrokenPipeError):
            with contextlib.suppress(OSError, ValueError):  # what is still to be written would fail again at the exit
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(BROKEN_PIPE)
        if _holds(error, KeyboardInterrupt):
            sys.exit(INTERRUPTED)
        raise


def _holds(error: BaseException, kind: type[BaseException]) -> bool:
    return isinstance(error, kind) or (
        isinstance(error, BaseExceptionGroup) and any(_holds(each, kind) for each in error.exceptions)
    )
