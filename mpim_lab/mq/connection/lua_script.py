"""LuaScript: an atomic step, run on the server.

Its source is a Lua file, which begins with its keys.
"""

import hashlib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from mpim_lab.errors import CommandRejected
from mpim_lab.mq.connection.reconnecting import CommandConnection

_PACKAGE = Path(__file__).parents[2]


class LuaScript:
    """One Lua file of the package, with those it builds on put before it.

    Sent once and then called by its digest.
    """

    def __init__(self, *paths: str) -> None:
        self.source = b"\n".join((_PACKAGE / path).read_bytes() for path in paths)
        self._digest = hashlib.sha1(self.source, usedforsecurity=False).hexdigest()

    def template(
        self,
        keys: Sequence[bytes],
        arguments: Sequence[bytes | str],
        open_positions: Collection[int],
    ) -> bytes:
        """A packed call with some words left open, at these positions (the first key is 0).

        See `command_template`.
        """
        words = ["EVALSHA", self._digest, str(len(keys)), *keys, *arguments]
        return command_template(words, [position + 3 for position in open_positions])

    async def run(
        self, link: CommandConnection, keys: Sequence[bytes], *arguments: bytes | str
    ) -> Any:
        """Run it.

        A server that does not know it (a new one, one that was restarted) gets the source and runs
        that.
        """
        words = (str(len(keys)), *keys, *arguments)
        try:
            return await link.call("EVALSHA", self._digest, *words)
        except CommandRejected as error:
            if not str(error).startswith("NOSCRIPT"):
                raise
        return await link.call("EVAL", self.source, *words)


def command_template(words: Sequence[bytes | str], open_positions: Collection[int]) -> bytes:
    r"""A packed command with the words at these positions left open.

    `template % (length, word, length, word, …)`.

    Made once for many commands: packing each anew takes several times as long as filling in two or
    three words.

    >>> command_template(["SET", "50%", "?"], [2]) % (2, b"hi")
    b'*3\r\n$3\r\nSET\r\n$3\r\n50%\r\n$2\r\nhi\r\n'
    """
    parts = [b"*%d\r\n" % len(words)]
    for position, word in enumerate(words):
        raw = word.encode() if isinstance(word, str) else word
        parts.append(
            b"$%d\r\n%b\r\n"
            if position in open_positions
            else b"$%d\r\n%b\r\n" % (len(raw), raw.replace(b"%", b"%%"))
        )
    return b"".join(parts)
