"""WaitQueue: callers wait for a slot, first come, first served, and none of them for ever."""

import asyncio
from collections import deque
from collections.abc import Callable

from mpim_lab.errors import MpimError


class WaitQueue:
    """A bounded-time FIFO of waiting tasks; `wake_next` lets the first one go on.

    It keeps its place until it does, so that nobody who comes later can slip in before it. Whoever
    leaves the queue, for whatever reason, must see to it that `wake_next` is called again if there
    is a slot.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self.waiters: deque[asyncio.Future[None]] = deque()

    def __len__(self) -> int:
        return len(self.waiters)

    async def wait(self, timeout_error: Callable[[], MpimError]) -> None:
        """Wait for this caller's turn.

        Raise what `timeout_error` returns, or what `fail_all` was called with.
        """
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiters.append(turn)
        try:
            async with asyncio.timeout(self._timeout_s):
                await turn
        except TimeoutError:
            raise timeout_error() from None
        finally:
            self.waiters.remove(turn)

    def wake_next(self) -> None:
        """Wake the first waiter, if there is one."""
        if self.waiters and not self.waiters[0].done():
            self.waiters[0].set_result(None)

    def fail_all(self, error: MpimError) -> None:
        """Fail every waiter."""
        for turn in self.waiters:
            if not turn.done():
                turn.set_exception(error)
