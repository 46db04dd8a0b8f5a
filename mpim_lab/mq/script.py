"""Script: a step that must be atomic, run on the server; its source is in scripts/, its keys at the head of the file."""

import asyncio
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mpim_lab.errors import CommandRejected
from mpim_lab.mq.connection import pack
from mpim_lab.mq.link import Link

_FOLDER = Path(__file__).parent / "scripts"


class Script:
    """One Lua file, with those it builds on put before it; sent once and then called by its digest.

    folder: where they are; the message queue's own if none is given.
    """

    def __init__(self, *names: str, folder: Path = _FOLDER) -> None:
        self.source = b"\n".join((folder / f"{name}.lua").read_bytes() for name in names)
        self._digest = hashlib.sha1(self.source, usedforsecurity=False).hexdigest()

    def begin(self, link: Link, keys: Sequence[bytes], *arguments: bytes | str) -> asyncio.Future[Any] | None:
        """The same without waiting, for whoever can do it again by `run`: the future is the reply, or any error.

        None: nothing can be written at this moment.
        """
        connection = link.connection
        if connection.blocked:
            return None
        return connection.send(pack("EVALSHA", self._digest, str(len(keys)), *keys, *arguments))

    async def run(self, link: Link, keys: Sequence[bytes], *arguments: bytes | str) -> Any:
        """Run it. A server that does not know it (a new one, one that was restarted) gets the source and runs that."""
        words = (str(len(keys)), *keys, *arguments)
        try:
            return await link.call("EVALSHA", self._digest, *words)
        except CommandRejected as error:
            if not str(error).startswith("NOSCRIPT"):
                raise
        return await link.call("EVAL", self.source, *words)
