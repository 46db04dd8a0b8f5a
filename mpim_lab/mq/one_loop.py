"""OneLoop: an object with sockets, tasks or futures belongs to one event loop of one process."""

import asyncio
import os

from mpim_lab.errors import WrongLoop


class OneLoop:
    """The event loop and process of whoever called `check` first.

    What waits in one loop is not woken from another one: a call from a second `asyncio.run`, from another thread or from a
    forked child would wait for ever, or break what it touches. So it is refused before it touches anything.
    """

    __slots__ = ("_loop", "_process", "_what")

    def __init__(self, what: str) -> None:
        self._what = what
        self._loop: asyncio.AbstractEventLoop | None = None
        self._process = 0

    def check(self) -> None:
        """Raise WrongLoop if this is called in another event loop or process than the first time."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            raise WrongLoop(f"{self._what} was used without an event loop: use it inside `asyncio.run(…)`") from None
        if self._loop is None:
            self._loop, self._process = loop, os.getpid()
        elif loop is not self._loop or os.getpid() != self._process:
            raise WrongLoop(f"{self._what} belongs to the event loop and process that used it first: make one for each")
