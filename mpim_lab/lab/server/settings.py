r"""Settings: a server's configuration file, in which every value arrives as it was given.

>>> settings = {"requirepass": "it's \"a\\b\" #1", "save": "900 1", "user": 'alice on ">pa ss" ~*'}
>>> print(settings_file(settings), end="")
requirepass "it's \"a\\b\" #1"
save "900" "1"
user "alice" "on" ">pa ss" "~*"
"""

import re
from collections.abc import Mapping, Sequence

from mpim_lab.errors import InvalidParameter

# Settings of several words. All others have one value, blanks and all.
_SEVERAL_WORDS = frozenset(
    (
        *("bind", "client-output-buffer-limit", "latency-tracking-info-percentiles", "loadmodule"),
        *("oom-score-adj-values", "rename-command", "replicaof", "save", "slaveof", "user"),
    )
)
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9._-]*")
_WORD = re.compile(r'"([^"]*)"(?!\S)|\'([^\']*)\'(?!\S)|(\S+)')
_PLAIN = re.compile(r"[ !#-\[\]-~]*")
Value = str | int | Sequence[str]


def settings_file(settings: Mapping[str, Value]) -> str:
    """Write settings by name as a server reads them.

    A sequence is several words; a text is one, but where several belong.

    Raise InvalidParameter for what is no setting's name, or cannot be a value: a NUL would end it.
    No value is shown.
    """
    return "".join(
        f"{_name(name)} {' '.join(map(_quoted, _words(name, value)))}\n"
        for name, value in settings.items()
    )


def _name(name: str) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidParameter(f"{name!r} is no name of a setting")
    return name


def _words(name: str, value: Value) -> list[str]:
    """Take the words of a value apart.

    At blanks, and not inside quotes that begin and end a word.
    """
    if isinstance(value, str | int) and not isinstance(value, bool):
        if name.lower() not in _SEVERAL_WORDS:
            return [str(value)]
        return [found[found.lastindex or 0] for found in _WORD.finditer(str(value))] or [""]
    if isinstance(value, Sequence) and all(isinstance(word, str) for word in value):
        return list(value)
    raise InvalidParameter(
        f"{name}: must be text, a whole number or several texts, not {type(value).__name__}"
    )


def _quoted(word: str) -> str:
    r"""Quote a word for the server.

    >>> print(_quoted('two\nlines, "ä"'))
    "two\nlines, \"\xc3\xa4\""
    """
    if "\0" in word:
        raise InvalidParameter("a setting cannot have a NUL")
    if _PLAIN.fullmatch(word):
        return f'"{word}"'
    try:
        return '"' + "".join(map(_escaped, word.encode("utf-8", "surrogateescape"))) + '"'
    except UnicodeEncodeError as error:
        raise InvalidParameter(f"a setting cannot have a lone surrogate: {error.reason}") from None


def _escaped(byte: int) -> str:
    if byte == 0x0A:
        return r"\n"
    if byte in b'"\\':
        return "\\" + chr(byte)
    return chr(byte) if 0x20 <= byte < 0x7F else f"\\x{byte:02x}"
