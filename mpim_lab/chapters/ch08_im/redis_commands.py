"""Words: the learner's commands get the run's keys, replies are read as text, and a story is told in a few lines."""

from collections.abc import Iterable, Sequence
from typing import Any

from mpim_lab.errors import InvalidParameter
from mpim_lab.keys import Keys, Name

_ALL_ARE_KEYS = ("DEL", "UNLINK", "EXISTS", "TOUCH", "WATCH", "MGET")
_NO_KEYS = ("MULTI", "EXEC", "DISCARD", "UNWATCH", "SCRIPT", "TIME", "PING")
_FIRST_LINES, _LAST_LINES = 9, 5  # of a story that is too long
_SCRIPTS = ("EVAL", "EVALSHA", "EVAL_RO", "EVALSHA_RO")


def words_of(command: Sequence[Any]) -> list[str]:
    """A command as words, numbers as text. Raises InvalidParameter for what is neither, and for a script without keys.

    >>> words_of(("SET", "route:bob", "gw-1", "PX", 600))
    ['SET', 'route:bob', 'gw-1', 'PX', '600']
    """
    words = [each.decode() if isinstance(each, bytes) else str(each) for each in command]
    if not words or any(not isinstance(each, str | bytes | int | float) for each in command):
        raise InvalidParameter(f"a command is words and numbers, not {command!r}")
    if words[0].upper() in _SCRIPTS and not keys_in(words):
        raise InvalidParameter(f'{words[0]} needs its keys: call("{words[0]}", script, 1, key, more words…)')
    return words


def keys_in(words: Sequence[str]) -> range:
    """Where in a command its keys are.

    >>> [list(keys_in(words.split())) for words in ("SET a 1", "DEL a b", "EVAL script 2 a b c", "MULTI")]
    [[1], [1, 2], [3, 4], []]
    """
    name = words[0].upper()
    if name in _SCRIPTS:
        count = int(words[2]) if len(words) > 2 and words[2].isdigit() else 0
        return range(3, min(3 + count, len(words)))
    return range(1, 1 if name in _NO_KEYS else len(words) if name in _ALL_ARE_KEYS else min(2, len(words)))


def with_keys(words: Sequence[str], keys: Keys) -> list[Name]:
    """The command with its keys, or its channel, as the run has them.

    >>> with_keys(["EVAL", "script", "1", "seen:bob", "gw-1"], Keys("lab:"))
    ['EVAL', 'script', '1', b'lab:seen:bob', 'gw-1']
    """
    places, named = keys_in(words), keys.channel if words[0].upper() == "PUBLISH" else keys.stream
    return [named(word) if place in places else word for place, word in enumerate(words)]


def in_short(words: Sequence[str]) -> str:
    """A command for a story: without its values and without its script.

    >>> in_short(["EVAL", "a long script", "1", "route:bob", "gw-1"]), in_short(["EXEC"])
    ('EVAL route:bob', 'EXEC')
    """
    return " ".join([words[0].upper(), *(words[place] for place in keys_in(words))])


def as_text(reply: Any) -> Any:
    """A reply with its bytes read as text, inside lists and maps as well.

    >>> as_text([b"gw-1", 1, None, {b"at": b"gw-2"}])
    ['gw-1', 1, None, {'at': 'gw-2'}]
    """
    if isinstance(reply, bytes):
        return reply.decode("utf-8", "replace")
    if isinstance(reply, list | tuple):
        return [as_text(each) for each in reply]
    return {as_text(name): as_text(each) for name, each in reply.items()} if isinstance(reply, dict) else reply


def story_in_short(lines: Sequence[str]) -> tuple[str, ...]:
    """A story's beginning and its end.

    >>> story_in_short(["a"] * 3), len(story_in_short(["a"] * 500)), story_in_short(["a"] * 500)[9]
    (('a', 'a', 'a'), 15, '… and 486 lines more …')
    """
    left_out = len(lines) - _FIRST_LINES - _LAST_LINES
    if left_out <= 1:
        return tuple(lines)
    return (*lines[:_FIRST_LINES], f"… and {left_out} lines more …", *lines[-_LAST_LINES:])


def listed(names: Iterable[str], most: int = 6) -> str:
    """Some names.

    >>> listed(["bob", "carol"]), listed("abcdefgh"), listed([])
    ('bob, carol', 'a, b, c, d, e, f and 2 more', 'nobody')
    """
    found = list(names)
    more = f" and {len(found) - most} more" if len(found) > most else ""
    return ", ".join(found[:most]) + more if found else "nobody"
