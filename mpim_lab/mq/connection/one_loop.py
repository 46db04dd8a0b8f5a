"""OneLoop: an object with sockets, tasks or futures belongs to one event loop of one process."""

import os
from _thread import get_ident
from asyncio import AbstractEventLoop, get_running_loop

from mpim_lab.errors import WrongLoop

_forks = 0  # that lie between the first process and this one; asking for the process id costs a system call each time


def _forked() -> None:
    global _forks
    _forks += 1


os.register_at_fork(after_in_child=_forked)


class OneLoop:
    """The event loop and process of whoever called `check` first.

    What waits in one loop is not woken from another one: a call from a second `asyncio.run`, from another thread or from a
    forked child would wait for ever, or break what it touches. So it is refused before it touches anything.
    """

    __slots__ = ("_forks", "_loop", "_thread", "_what")

    def __init__(self, what: str) -> None:
        self._what = what
        self._loop: AbstractEventLoop | None = None
        self._forks = self._thread = 0

    @property
    def is_over(self) -> bool:
        """Nothing can be begun in it any more: it was closed, or nobody has called `check` yet."""
        return self._loop is None or self._loop.is_closed()

    def check(self) -> AbstractEventLoop:
        """Return the loop. Raise WrongLoop if this is called in another event loop or process than the first time."""
        loop = self._loop
        # In this thread no other loop runs while this one does. To ask for the running loop costs a system call.
        if loop is not None and get_ident() == self._thread and loop.is_running() and self._forks == _forks:
            return loop
        try:
            running = get_running_loop()
        except RuntimeError:
            raise WrongLoop(f"{self._what} was used without an event loop: use it inside `asyncio.run(…)`") from None
        if loop is not None:
            raise WrongLoop(f"{self._what} belongs to the event loop and process that used it first: make one for each")
        self._loop, self._thread, self._forks = running, get_ident(), _forks
        return running
