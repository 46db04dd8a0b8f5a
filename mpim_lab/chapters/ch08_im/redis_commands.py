"""Redis commands of learners: with the run's keys, replies as text, and a story cut short."""

from collections.abc import Iterable, Sequence
from typing import Any

from mpim_lab.errors import InvalidParameter
from mpim_lab.keys import Keys, Name

_ALL_ARE_KEYS = ("DEL", "UNLINK", "EXISTS", "TOUCH", "WATCH", "MGET")
_NO_KEYS = ("MULTI", "EXEC", "DISCARD", "UNWATCH", "SCRIPT", "TIME", "PING")
_FIRST_LINES, _LAST_LINES = 9, 5  # of a story that is too long
_SCRIPTS = ("EVAL", "EVALSHA", "EVAL_RO", "EVALSHA_RO")


def command_words(command: Sequence[Any]) -> list[str]:
    """Return a command as words, numbers as text.

    Raise InvalidParameter for what is neither, and for a script without keys.

    >>> command_words(("SET", "route:bob", "gw-1", "PX", 600))
    ['SET', 'route:bob', 'gw-1', 'PX', '600']
    """
    words = [each.decode() if isinstance(each, bytes) else str(each) for each in command]
    if not words or any(not isinstance(each, str | bytes | int | float) for each in command):
        raise InvalidParameter(f"a command is words and numbers, not {command!r}")
    if words[0].upper() in _SCRIPTS and not key_positions(words):
        raise InvalidParameter(
            f'{words[0]} needs its keys: call("{words[0]}", script, 1, key, more words…)'
        )
    return words


def key_positions(words: Sequence[str]) -> range:
    """Return where in a command its keys are.

    >>> commands = ("SET a 1", "DEL a b", "EVAL script 2 a b c", "MULTI")
    >>> [list(key_positions(words.split())) for words in commands]
    [[1], [1, 2], [3, 4], []]
    """
    name = words[0].upper()
    if name in _SCRIPTS:
        count = int(words[2]) if len(words) > 2 and words[2].isdigit() else 0
        return range(3, min(3 + count, len(words)))
    return range(
        1, 1 if name in _NO_KEYS else len(words) if name in _ALL_ARE_KEYS else min(2, len(words))
    )


def prefix_keys(words: Sequence[str], keys: Keys) -> list[Name]:
    """Return the command with its keys, or its channel, as the run has them.

    >>> prefix_keys(["EVAL", "script", "1", "seen:bob", "gw-1"], Keys("lab:"))
    ['EVAL', 'script', '1', b'lab:seen:bob', 'gw-1']
    """
    places = key_positions(words)
    named = keys.channel if words[0].upper() == "PUBLISH" else keys.stream
    return [named(word) if place in places else word for place, word in enumerate(words)]


def summarize(words: Sequence[str]) -> str:
    """Return a command for a story: without its values and without its script.

    >>> summarize(["EVAL", "a long script", "1", "route:bob", "gw-1"]), summarize(["EXEC"])
    ('EVAL route:bob', 'EXEC')
    """
    return " ".join([words[0].upper(), *(words[place] for place in key_positions(words))])


def decode_reply(reply: Any) -> Any:
    """Return a reply with its bytes read as text, inside lists and maps as well.

    >>> decode_reply([b"gw-1", 1, None, {b"at": b"gw-2"}])
    ['gw-1', 1, None, {'at': 'gw-2'}]
    """
    if isinstance(reply, bytes):
        return reply.decode("utf-8", "replace")
    if isinstance(reply, list | tuple):
        return [decode_reply(each) for each in reply]
    return (
        {decode_reply(name): decode_reply(each) for name, each in reply.items()}
        if isinstance(reply, dict)
        else reply
    )


def abbreviate_story(lines: Sequence[str]) -> tuple[str, ...]:
    """Return a story's beginning and its end.

    >>> abbreviate_story(["a"] * 3)
    ('a', 'a', 'a')
    >>> len(abbreviate_story(["a"] * 500)), abbreviate_story(["a"] * 500)[9]
    (15, '… and 486 lines more …')
    """
    left_out = len(lines) - _FIRST_LINES - _LAST_LINES
    if left_out <= 1:
        return tuple(lines)
    return (*lines[:_FIRST_LINES], f"… and {left_out} lines more …", *lines[-_LAST_LINES:])


def join_names(names: Iterable[str], most: int = 6) -> str:
    """Return some names in one line.

    >>> join_names(["bob", "carol"]), join_names("abcdefgh"), join_names([])
    ('bob, carol', 'a, b, c, d, e, f and 2 more', 'nobody')
    """
    found = list(names)
    more = f" and {len(found) - most} more" if len(found) > most else ""
    return ", ".join(found[:most]) + more if found else "nobody"
