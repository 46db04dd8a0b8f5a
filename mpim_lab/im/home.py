"""Home: the one event loop, in the one process, in which something may be used."""

import asyncio
import os

from mpim_lab.errors import WrongLoop


class Home:
    """Where `what` was opened. Asyncio's own answer to the wrong loop is a RuntimeError somewhere, later, or silence."""

    def __init__(self, what: str) -> None:
        self._what, self._pid = what, 0
        self._loop: asyncio.AbstractEventLoop | None = None

    def settle(self) -> None:
        """It is opened here."""
        self._loop, self._pid = asyncio.get_running_loop(), os.getpid()

    def check(self) -> None:
        """Raise WrongLoop anywhere else."""
        if self._loop is None:
            return
        if self._pid != os.getpid():
            raise WrongLoop(f"{self._what} was opened in process {self._pid}, which this one was forked from")
        if self._loop is not asyncio.get_running_loop():
            raise WrongLoop(f"{self._what} was opened in another event loop; make one for each")
