"""Reference solutions of chapter 4's challenges."""

import asyncio
import heapq
from collections.abc import Sequence
from typing import Any

from mpim_lab.chapters.ch04_ordering.challenges import LearnerKeys

SEND = """
local given = redis.call('GET', KEYS[2])
if given then return tonumber(given) end
local number = redis.call('INCR', KEYS[1])
redis.call('SET', KEYS[2], number, 'PX', 86400000)
redis.call('PUBLISH', ARGV[1], number .. ' ' .. ARGV[3])
return number
"""


class BoundedReorderBuffer:
    """The solution of `put_in_order`: what comes early waits for the next number, up to a limit."""

    def __init__(self, limit: int) -> None:
        self.limit, self.next = limit, 1
        self.early: dict[int, Any] = {}

    def add(self, sequence: int, item: Any) -> list[Any]:
        """Return the items that can be shown now, in order.

        Raise OverflowError if too many wait.
        """
        if sequence < self.next or sequence in self.early:
            return []
        if sequence > self.next and len(self.early) >= self.limit:
            raise OverflowError(sequence)
        self.early[sequence] = item
        released = []
        while self.next in self.early:
            released.append(self.early.pop(self.next))
            self.next += 1
        return released

    def missing(self) -> Sequence[int]:
        """Return the numbers of the first gap."""
        return range(self.next, min(self.early, default=self.next))


class AtomicGateway:
    """The solution of `number_in_one_step`: one script knows the repeat, numbers and publishes."""

    script = SEND

    def __init__(self, keys: LearnerKeys) -> None:
        self.keys = keys

    async def send(self, id: str, payload: bytes) -> int:
        """Number and publish a message in one atomic step; return its number."""
        keys = self.keys
        return int(
            await keys.call(
                "EVAL", self.script, 2, keys.counter, keys.sent(id), keys.channel, id, payload
            )
        )


class HeapBuffer:
    """Another solution of `put_in_order`: a heap of what is early, and a set of its numbers."""

    def __init__(self, limit: int) -> None:
        self.limit, self.shown = limit, 0
        self.heap: list[tuple[int, int, Any]] = []
        self.numbers: set[int] = set()

    def add(self, sequence: int, item: Any) -> list[Any]:
        """Push what is new; pop what is next."""
        if sequence <= self.shown or sequence in self.numbers:
            return []
        if sequence != self.shown + 1 and len(self.heap) == self.limit:
            raise BufferError(f"{self.limit} messages wait for {self.shown + 1}")
        heapq.heappush(self.heap, (sequence, len(self.numbers), item))
        self.numbers.add(sequence)
        ready = []
        while self.heap and self.heap[0][0] == self.shown + 1:
            self.shown, _, next_item = heapq.heappop(self.heap)
            self.numbers.remove(self.shown)
            ready.append(next_item)
        return ready

    def missing(self) -> list[int]:
        """Return the numbers up to the top of the heap."""
        return [*range(self.shown + 1, self.heap[0][0])] if self.heap else []


class WatchingGateway:
    """Another solution of `number_in_one_step`: WATCH, MULTI, EXEC, and again if somebody was faster.

    It costs more round trips than a script, and it needs a connection that nobody else uses
    meanwhile: the lock is for two sends in one process.
    """

    def __init__(self, keys: LearnerKeys) -> None:
        self.keys, self.lock = keys, asyncio.Lock()

    async def send(self, id: str, payload: bytes) -> int:
        """Read counter and record, write both and publish, unless one of them has changed."""
        call, keys = self.keys.call, self.keys
        async with self.lock:
            while True:
                await call("WATCH", keys.counter, keys.sent(id))
                if (given := await call("GET", keys.sent(id))) is not None:
                    await call("UNWATCH")
                    return int(given)
                number = int(await call("GET", keys.counter) or 0) + 1
                await call("MULTI")
                await call("SET", keys.counter, number)
                await call("SET", keys.sent(id), number, "EX", 86_400)
                await call("PUBLISH", keys.channel, b"%d %b" % (number, payload))
                if await call("EXEC") is not None:
                    return number


SOLUTIONS: dict[str, type[Any]] = {
    "put_in_order": BoundedReorderBuffer,
    "number_in_one_step": AtomicGateway,
}
ALTERNATIVES: dict[str, tuple[type[Any], ...]] = {
    "put_in_order": (HeapBuffer,),
    "number_in_one_step": (WatchingGateway,),
}
