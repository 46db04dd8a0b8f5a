"""Backlog: what waits in a batcher, in order, and who waits for its outcome. A plain object without clock or I/O."""

from collections import deque
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from mpim_lab.mq.batching.policies import BatchRule
from mpim_lab.mq.batching.receipt import Receipt


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
