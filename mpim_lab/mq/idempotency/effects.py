"""AtomicEffects: what a message's work changes on the server, together with its record.

Two steps in two places can always be parted by a crash. So work that ends up on the same server as
its record does not write by itself: it says what is to be written, and one script writes both or
neither.
"""

from collections.abc import Sequence

from mpim_lab.errors import InvalidParameter
from mpim_lab.keys import Keys, Name

MAX_WORDS = 1_000
Command = tuple[bytes, ...]  # name, key, further words


class AtomicEffects:
    """Commands that run in the same atomic step as the idempotency record, in order.

    Each has exactly one key. They are not rolled back: of several, only the first may be one that
    the server can refuse.

    Args:
        prefix: Put before the keys; the queue's own.
    """

    def __init__(self, prefix: Name | Keys = "") -> None:
        self._keys = prefix if isinstance(prefix, Keys) else Keys(prefix)
        self.commands: list[Command] = []

    def add(self, command: str, key: Name, *words: bytes | str | int) -> None:
        """Add a command on one key, such as `add("INCRBY", "account:bob", 450)`.

        Args:
            command: The command's name.
            key: Its key, without the prefix.
            *words: What follows the key.

        Raises:
            InvalidParameter: It is no command on one key.
        """
        if not isinstance(command, str) or not command.isalpha() or len(words) > MAX_WORDS:
            raise InvalidParameter(
                f"{command!r} with {len(words):,} words is no effect: one command, one key, few "
                "words"
            )
        self.commands.append((command.encode(), self._keys.stream(key), *map(_as_bytes, words)))


def encode_effects(commands: Sequence[Command], keys: list[bytes], words: list[bytes]) -> None:
    """Append commands to a script's keys and arguments, as lua/effects.lua reads them."""
    words.append(b"%d" % len(commands))
    for name, key, *rest in commands:
        keys.append(key)
        words += (b"%d" % (1 + len(rest)), name, *rest)


def _as_bytes(word: bytes | str | int) -> bytes:
    kind = type(word)
    if kind is bytes:
        return word  # type: ignore[return-value]
    if kind is int:
        return b"%d" % int(word)
    if isinstance(word, str):
        return word.encode()
    if isinstance(word, bytes | bytearray | memoryview):
        return bytes(word)
    if isinstance(word, int | float):
        return str(word).encode()
    raise InvalidParameter(f"{word!r} is no word of a command: bytes, text or a number")
