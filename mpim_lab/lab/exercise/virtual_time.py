"""Virtual time: an event loop whose clock jumps to the next timer: a minute costs nothing.

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
    """Everybody waits for what nobody will do: there is no timer, and nothing else to come."""


class _VirtualClock(selectors.BaseSelector):
    """A selector that never waits: it moves the clock on instead."""

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


_running: list[_VirtualClock] = []  # the innermost one is the last
_real_monotonic, _real_since_epoch = time.monotonic, time.time


def _monotonic() -> float:
    return _running[-1].now_s if _running else _real_monotonic()


def _since_epoch() -> float:
    return _EPOCH_S + _running[-1].now_s if _running else _real_since_epoch()


@contextlib.contextmanager
def patched_clocks() -> Iterator[None]:
    """Have `time`'s functions follow the virtual clock that runs, or the real one while none does.

    A class that is loaded inside of it gets these, also by `from time import monotonic`.
    """
    with (
        mock.patch.object(time, "monotonic", _monotonic),
        mock.patch.object(time, "perf_counter", _monotonic),
        mock.patch.object(time, "time", _since_epoch),
    ):
        yield


@contextlib.contextmanager
def _running_clock(clock: _VirtualClock) -> Iterator[None]:
    _running.append(clock)
    try:
        with patched_clocks():
            yield
    finally:
        _running.pop()


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
        with _running_clock(clock):
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
        with contextlib.suppress(Exception), _running_clock(clock):
            loop.run_until_complete(asyncio.wait(left, timeout=1.0))
    loop.close()
