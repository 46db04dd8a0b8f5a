"""Reference solutions of chapter 4's challenges."""

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


SOLUTIONS: dict[str, type[Any]] = {
    "put_in_order": BoundedReorderBuffer,
    "number_in_one_step": AtomicGateway,
}
