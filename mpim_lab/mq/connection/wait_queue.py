"""WaitQueue: callers wait for a slot, first come, first served, and none of them for ever."""

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Iterable

from mpim_lab.errors import MpimError


class WaitQueue:
    """The queue of the callers that wait for a slot, each for at most `timeout_s`.

    `free_slots()` says how many may go on now, `refusal()` with which error one is sent away.
    Whoever is woken keeps its place until it goes on: a newcomer that finds somebody here waits
    behind them, and cannot slip in between. Whoever leaves, with a slot or without one, wakes the
    next: it may have been woken and cancelled at the same moment.
    """

    def __init__(
        self, free_slots: Callable[[], int], refusal: Callable[[], MpimError], timeout_s: float
    ) -> None:
        self._free_slots, self._refusal, self._timeout_s = free_slots, refusal, timeout_s
        self.places: deque[asyncio.Future[None]] = deque()
        self._is_closed = False

    def __len__(self) -> int:
        return len(self.places)

    async def wait(self) -> None:
        """Wait for a slot, which the caller takes before it awaits anything.

        Or raise `refusal()`.
        """
        loop = asyncio.get_running_loop()
        place: asyncio.Future[None] = loop.create_future()
        self.places.append(place)
        try:
            async with asyncio.timeout(self._timeout_s):
                while not self._is_closed:
                    await place
                    if self._free_slots() > 0:
                        break
                    woken, place = place, loop.create_future()
                    self.places[self.places.index(woken)] = place
        except TimeoutError:
            error = self._refusal()
            raise error from error.__cause__
        finally:
            self.places.remove(place)
            _wake(itertools.islice(self.places, 1))
        if self._is_closed:
            raise self._refusal()

    def wake(self) -> None:
        """Wake as many callers as there are free slots, those who have waited longest."""
        if self.places:
            _wake(itertools.islice(self.places, max(0, self._free_slots())))

    def close(self) -> None:
        """Send every caller away, those who are still to come as well."""
        self._is_closed = True
        _wake(self.places)


def _wake(places: Iterable[asyncio.Future[None]]) -> None:
    for place in places:
        if not place.done():
            place.set_result(None)
