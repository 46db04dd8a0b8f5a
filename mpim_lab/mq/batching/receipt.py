"""Receipt: what one call handed to a batcher, until each of its messages has an outcome."""

import asyncio
from collections.abc import Sequence
from typing import Any

from mpim_lab.errors import MpimError, PartlyAdded

Outcome = int | str | MpimError  # receivers of a channel, id in a stream, or why not


class Receipt(asyncio.Future[list[Outcome]]):
    """Done when all of its `left` messages have an outcome; one batch may bring the outcomes of some of them.

    >>> loop = asyncio.new_event_loop()
    >>> receipt = Receipt(3, at=0.0, loop=loop)
    >>> receipt.settle([1, 1, 1, 1, 1], 0), receipt.left, receipt.result()
    (3, 0, [1, 1, 1])
    >>> loop.close()
    """

    def __init__(self, count: int, at: float, *, loop: asyncio.AbstractEventLoop | None) -> None:
        super().__init__(loop=loop)
        self.left, self.at = count, at
        self._outcomes: list[Outcome] = []

    def settle(self, outcomes: Sequence[Any], start: int) -> int:
        """Take its messages' outcomes from `start` on, as many as there are; gives how many it took."""
        some = outcomes[start : start + self.left]
        self.left -= len(some)
        self._outcomes += some
        if not self.left and not self.done():  # cancelled: nobody reads it
            self.set_result(self._outcomes)
        return len(some)


def first_of(outcomes: list[Outcome]) -> int | str:
    """The one outcome. Raises the error that it is."""
    if isinstance(outcomes[0], MpimError):
        raise outcomes[0]
    return outcomes[0]


def all_of(outcomes: list[Outcome]) -> list[int | str]:
    """The outcomes, if all are good. Raises PartlyAdded."""
    failures = [outcome for outcome in outcomes if isinstance(outcome, MpimError)]
    if failures:
        good = [None if isinstance(outcome, MpimError) else outcome for outcome in outcomes]
        errors = [outcome if isinstance(outcome, MpimError) else None for outcome in outcomes]
        raise PartlyAdded(good, errors) from failures[0]
    return outcomes  # type: ignore[return-value]
