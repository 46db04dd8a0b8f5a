"""Virtual time: an event loop whose clock jumps to the next timer, so that a window of a minute costs nothing.

What sleeps for an hour is woken at once, and everything is the same in every run. `time.monotonic`,
`time.time` and `time.perf_counter` follow the same clock while the loop runs; threads do not.

    >>> async def wait_an_hour():
    ...     begun = time.monotonic()
    ...     await asyncio.sleep(3600)
    ...     return round(time.monotonic() - begun)
    >>> run_virtual(wait_an_hour())
    3600
"""

import asyncio
import contextlib
import selectors
import time
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar
from unittest import mock

T = TypeVar("T")
_ITERATION_S = (
    20e-6  # a turn of the loop costs something, so that polling without a pause ends, too
)
_EPOCH_S = 1_700_000_000.0


class Deadlock(Exception):
    """Everybody waits for what nobody will do: there is neither a timer nor anything else to come."""


class _VirtualClock(selectors.BaseSelector):
    """A selector that never waits: it moves the clock on instead. Nothing is registered but the loop's own."""

    def __init__(self) -> None:
        self._own = selectors.DefaultSelector()
        self.now_s = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        """Move on to the next timer. Raises Deadlock if there is none, and nothing is ready."""
        ready: list[Any] = self._own.select(0)
        if timeout is None and not ready:
            raise Deadlock("everybody waits, and nothing will happen any more")
        self.now_s += max(timeout or 0.0, _ITERATION_S)
        return ready

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        """As the usual selector."""
        return self._own.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        """As the usual selector."""
        return self._own.unregister(fileobj)

    def get_map(self) -> Any:
        """As the usual selector."""
        return self._own.get_map()

    def close(self) -> None:
        """As the usual selector."""
        self._own.close()


@contextlib.contextmanager
def _patched_clocks(clock: _VirtualClock) -> Iterator[None]:
    def since_start() -> float:
        return clock.now_s

    def since_epoch() -> float:
        return _EPOCH_S + clock.now_s

    with (
        mock.patch.object(time, "monotonic", since_start),
        mock.patch.object(time, "perf_counter", since_start),
        mock.patch.object(time, "time", since_epoch),
    ):
        yield


def run_virtual(work: Coroutine[Any, Any, T], *, limit_s: float = 3_600.0 * 24) -> T:
    """Run a coroutine in virtual time, in an event loop of its own, also inside of another one.

    Args:
        work: what to run.
        limit_s: of virtual time, after which it counts as endless.

    Raises:
        Deadlock: if nothing can happen any more.
        TimeoutError: after `limit_s`.
    """
    clock = _VirtualClock()
    outer = asyncio._get_running_loop()
    asyncio._set_running_loop(None)
    loop = asyncio.SelectorEventLoop(clock)
    loop.set_exception_handler(lambda loop, context: None)
    loop.slow_callback_duration = 1e9
    try:
        with _patched_clocks(clock):
            return loop.run_until_complete(_limited(work, limit_s))
    finally:
        _clear(loop, clock)
        asyncio._set_running_loop(outer)


async def _limited(work: Coroutine[Any, Any, T], limit_s: float) -> T:
    async with asyncio.timeout(limit_s):
        return await work


def _clear(loop: asyncio.AbstractEventLoop, clock: _VirtualClock) -> None:
    """Cancel what is left, a few times; a class that swallows that is left behind."""
    for _ in range(3):
        if not (left := asyncio.all_tasks(loop)):
            break
        for task in left:
            task.cancel()
        with contextlib.suppress(Exception), _patched_clocks(clock):
            loop.run_until_complete(asyncio.wait(left, timeout=1.0))
    loop.close()
