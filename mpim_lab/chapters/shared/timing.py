"""Timing: callers that call again and again, side by side, and how long each call took."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from mpim_lab.events import now
from mpim_lab.terminal import first_error

# Does one call; returns the seconds that it waited before it could begin.
Call = Callable[[], Awaitable[float]]


@dataclass
class CallTimings:
    """The timings of a run's calls.

    Seconds waited before each, seconds until its reply, and how long all of it took.
    """

    waits: list[float] = field(default_factory=list)
    totals: list[float] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Calls a second."""
        return len(self.totals) / self.seconds if self.seconds else 0.0


async def time_calls(calls: Sequence[Call], seconds: float) -> CallTimings:
    """Repeat each of the calls for so long; the last one counts as well, however long it takes.

    Raise what the first call raised; no other goes on then.
    """
    times, begun = CallTimings(), now()

    async def repeat(call: Call) -> None:
        while (at := now()) - begun < seconds:
            times.waits.append(await call())
            times.totals.append(now() - at)

    try:
        async with asyncio.TaskGroup() as group:
            for call in calls:
                group.create_task(repeat(call))
    except ExceptionGroup as errors:
        raise first_error(errors) from errors
    times.seconds = now() - begun
    return times


def quantile_ms(seconds: Sequence[float], share: float) -> float:
    """Return the milliseconds that this share of all did not exceed; 0 when there are none.

    >>> quantile_ms([0.001, 0.002, 0.003, 0.004], 0.5)
    2.0
    """
    ordered = sorted(seconds)
    return ordered[max(0, -int(-len(ordered) * share // 1) - 1)] * 1e3 if ordered else 0.0
