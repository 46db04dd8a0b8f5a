"""Callers: they wait for room, first come, first served, and none of them for ever."""

import asyncio
from collections import deque
from collections.abc import Callable

from mpim_lab.errors import MpimError


class Callers:
    """A line of tasks; `next` lets the first one go on.

    It keeps its place until it does, so that nobody who comes later can slip in before it. Whoever leaves the line, for
    whatever reason, must see to it that `next` is called again if there is room.
    """

    def __init__(self, wait_s: float) -> None:
        self._wait_s = wait_s
        self.line: deque[asyncio.Future[None]] = deque()

    def __len__(self) -> int:
        return len(self.line)

    async def wait(self, why_not: Callable[[], MpimError]) -> None:
        """Wait for this caller's turn. Raises what `why_not` gives once `wait_s` are over, and what `end` was called with."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.line.append(turn)
        try:
            async with asyncio.timeout(self._wait_s):
                await turn
        except TimeoutError:
            raise why_not() from None
        finally:
            self.line.remove(turn)

    def next(self) -> None:
        """Let the first in line go on, if there is one."""
        if self.line and not self.line[0].done():
            self.line[0].set_result(None)

    def end(self, error: MpimError) -> None:
        """Send everybody away."""
        for turn in self.line:
            if not turn.done():
                turn.set_exception(error)
