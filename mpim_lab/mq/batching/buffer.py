"""Backlog: what waits in a batcher, in order, and who waits for its outcome. A plain object without clock or I/O.

Receipt: what one call handed to a batcher, until each of its messages has an outcome.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from mpim_lab.errors import MpimError, PartlyAdded
from mpim_lab.mq.batching.policies import BatchRule

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


class Backlog:
    """Messages go in at one end, call by call, and out at the other, batch by batch.

    >>> import asyncio
    >>> from mpim_lab.mq.batching.policies import FixedWindow
    >>> backlog, loop = Backlog(), asyncio.new_event_loop()
    >>> backlog.put([b"a", b"b", b"c"], 3, receipt := Receipt(3, at=0.0, loop=loop))
    >>> backlog.take(FixedWindow(max_messages=2)), backlog.messages
    ([b'a', b'b'], 1)
    >>> backlog.settle([1, 1]), backlog.take(FixedWindow()), backlog.settle([2]), receipt.result()
    (None, [b'c'], None, [1, 1, 2])
    >>> loop.close()
    """

    def __init__(self) -> None:
        self.messages = self.bytes = 0  # not yet taken
        self.unsettled = 0  # messages without an outcome, taken or not
        self.settled = 0  # messages that have had their outcome
        self._calls: deque[tuple[Sequence[bytes], int]] = deque()  # payloads, their bytes
        self._receipts: deque[Receipt] = deque()  # of everything that has no outcome yet

    @property
    def opened_at(self) -> float:
        """When the oldest message came. Asked only while no batch is on its way."""
        return self._receipts[0].at

    def put(self, payloads: Sequence[bytes], size: int, receipt: Receipt) -> None:
        """One call's messages, at least one, `size` bytes in all."""
        self._calls.append((payloads, size))
        self._receipts.append(receipt)
        self.messages += len(payloads)
        self.unsettled += len(payloads)
        self.bytes += size

    def take(self, rule: BatchRule) -> list[bytes]:
        """The oldest messages, as many as make one batch: within both limits, but at least one."""
        batch: list[bytes] = []
        room, bytes_left = max(1, rule.max_messages), rule.max_bytes
        while self._calls and room > 0:
            payloads, size = self._calls[0]
            if len(payloads) > room or size > bytes_left:
                batch += self._split(room, bytes_left, at_least=0 if batch else 1)
                break
            self._calls.popleft()
            batch += payloads
            room, bytes_left = room - len(payloads), bytes_left - size
            self.messages -= len(payloads)
            self.bytes -= size
        return batch

    def _split(self, room: int, bytes_left: int, at_least: int) -> Sequence[bytes]:
        """The first messages of the oldest call; the others stay."""
        payloads, size = self._calls.popleft()
        sizes = list(accumulate(map(len, payloads[:room])))
        count = max(at_least, sum(so_far <= bytes_left for so_far in sizes))
        taken = sizes[count - 1] if count else 0
        if count < len(payloads):
            self._calls.appendleft((payloads[count:], size - taken))
        self.messages -= count
        self.bytes -= taken
        return payloads[:count]

    def settle(self, outcomes: Sequence[Any]) -> None:
        """Hand out the outcomes of the oldest messages that have none."""
        settled = 0
        self.unsettled -= len(outcomes)
        self.settled += len(outcomes)
        while settled < len(outcomes):
            receipt = self._receipts[0]
            settled += receipt.settle(outcomes, settled)
            if not receipt.left:
                self._receipts.popleft()

    def take_all(self) -> list[bytes]:
        """Everything that waits, to be given up."""
        everything = [payload for payloads, _ in self._calls for payload in payloads]
        self._calls.clear()
        self.messages = self.bytes = 0
        return everything
