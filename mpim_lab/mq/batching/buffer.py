"""PendingBuffer: a batcher's pending messages, in order, and who waits for their outcomes.

A plain object without I/O.

BatchFuture: what one call handed to a batcher, until each of its messages has an outcome.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from mpim_lab.errors import MpimError
from mpim_lab.mq.batching.policies import BatchPolicy

Outcome = int | str | MpimError  # receivers of a channel, id in a stream, or why not


class BatchFuture(asyncio.Future[list[Outcome]]):
    """The future of one call's messages: done when none of them is `remaining`.

    One batch may bring some outcomes only.

    >>> loop = asyncio.new_event_loop()
    >>> future = BatchFuture(3, created_at=0.0, loop=loop)
    >>> future.resolve([1, 1, 1, 1, 1], 0), future.remaining, future.result()
    (3, 0, [1, 1, 1])
    >>> loop.close()
    """

    def __init__(
        self, count: int, created_at: float, *, loop: asyncio.AbstractEventLoop | None
    ) -> None:
        super().__init__(loop=loop)
        self.remaining, self.created_at = count, created_at
        self._outcomes: list[Outcome] = []

    def resolve(self, outcomes: Sequence[Any], start: int) -> int:
        """Resolve its messages with the outcomes from `start` on, as many as there are.

        Return how many.
        """
        some = outcomes[start : start + self.remaining]
        self.remaining -= len(some)
        self._outcomes += some
        if not self.remaining and not self.done():  # cancelled: nobody reads it
            self.set_result(self._outcomes)
        return len(some)


def single_result(outcomes: list[Outcome]) -> int | str:
    """Return the one outcome. Raise the error that it is."""
    if isinstance(outcomes[0], MpimError):
        raise outcomes[0]
    return outcomes[0]


class PendingBuffer:
    """A FIFO buffer of pending messages: appended call by call, popped batch by batch.

    >>> import asyncio
    >>> from mpim_lab.mq.batching.policies import FixedWindow
    >>> buffer, loop = PendingBuffer(), asyncio.new_event_loop()
    >>> buffer.append([b"a", b"b", b"c"], 3, future := BatchFuture(3, created_at=0.0, loop=loop))
    >>> buffer.pop_batch(FixedWindow(max_messages=2)), buffer.messages
    ([b'a', b'b'], 1)
    >>> buffer.resolve([1, 1]), buffer.pop_batch(FixedWindow())
    (None, [b'c'])
    >>> buffer.resolve([2]), future.result()
    (None, [1, 1, 2])
    >>> loop.close()
    """

    def __init__(self) -> None:
        self.messages = self.bytes = 0  # not yet popped
        self.unresolved = 0  # messages without an outcome, popped or not
        self.resolved = 0  # messages that have had their outcome
        self._calls: deque[tuple[Sequence[bytes], int]] = deque()  # payloads, their bytes
        self._futures: deque[BatchFuture] = deque()  # of everything that has no outcome yet

    @property
    def oldest_at(self) -> float:
        """Return when the oldest message came. Asked only while no batch is in flight."""
        return self._futures[0].created_at

    def append(self, payloads: Sequence[bytes], size: int, future: BatchFuture) -> None:
        """Append one call's messages, at least one, `size` bytes in all."""
        self._calls.append((payloads, size))
        self._futures.append(future)
        self.messages += len(payloads)
        self.unresolved += len(payloads)
        self.bytes += size

    def pop_batch(self, policy: BatchPolicy) -> list[bytes]:
        """Pop the oldest messages, as many as make one batch.

        Within both limits, but at least one.
        """
        batch: list[bytes] = []
        capacity, bytes_left = max(1, policy.max_messages), policy.max_bytes
        while self._calls and capacity > 0:
            payloads, size = self._calls[0]
            if len(payloads) > capacity or size > bytes_left:
                batch += self._split(capacity, bytes_left, at_least=0 if batch else 1)
                break
            self._calls.popleft()
            batch += payloads
            capacity, bytes_left = capacity - len(payloads), bytes_left - size
            self.messages -= len(payloads)
            self.bytes -= size
        return batch

    def _split(self, capacity: int, bytes_left: int, at_least: int) -> Sequence[bytes]:
        """Pop the first messages of the oldest call; the others stay."""
        payloads, size = self._calls.popleft()
        sizes = list(accumulate(map(len, payloads[:capacity])))
        count = max(at_least, sum(so_far <= bytes_left for so_far in sizes))
        taken = sizes[count - 1] if count else 0
        if count < len(payloads):
            self._calls.appendleft((payloads[count:], size - taken))
        self.messages -= count
        self.bytes -= taken
        return payloads[:count]

    def resolve(self, outcomes: Sequence[Any]) -> None:
        """Resolve the oldest messages that have no outcome."""
        resolved = 0
        self.unresolved -= len(outcomes)
        self.resolved += len(outcomes)
        while resolved < len(outcomes):
            future = self._futures[0]
            resolved += future.resolve(outcomes, resolved)
            if not future.remaining:
                self._futures.popleft()

    def drain(self) -> list[bytes]:
        """Pop everything that is pending, to be given up."""
        everything = [payload for payloads, _ in self._calls for payload in payloads]
        self._calls.clear()
        self.messages = self.bytes = 0
        return everything
