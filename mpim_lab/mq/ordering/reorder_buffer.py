"""ReorderBuffer: messages wait in it until what comes before them is there.

A rule without I/O or clock.
"""

from typing import Generic, TypeVar

from mpim_lab.errors import ReorderOverflow
from mpim_lab.mq.connection.bounds import check_whole

Item = TypeVar("Item")


class ReorderBuffer(Generic[Item]):
    """A reorder buffer: it releases one conversation's messages in order, each exactly once.

    Times are the caller's, in seconds.

    Args:
        limit: At most so many messages wait; one more raises `ReorderOverflow`.
        next: The sequence number that is waited for.

        >>> buffer = ReorderBuffer(limit=8)
        >>> buffer.add(2, "world")
        []
        >>> buffer.add(1, "hello")
        ['hello', 'world']
        >>> buffer.add(1, "hello")          # a redelivery
        []

    A gap that does not fill must not block for ever. The buffer says what is missing and since
    when; its owner fetches it or gives it up:

        >>> buffer.add(5, "all", now=10.0)
        []
        >>> buffer.missing, [buffer.overdue(now=now, gap_timeout_s=0.5) for now in (10.4, 10.5)]
        (range(3, 5), [False, True])
        >>> buffer.skip_to(5)
        ['all']
    """

    def __init__(self, *, limit: int = 1_000, next: int = 1) -> None:
        check_whole(limit=limit, next=next)
        self.next, self._limit = next, limit
        self._buffered: dict[int, Item] = {}
        self._gap_since: float | None = None

    def __len__(self) -> int:
        return len(self._buffered)

    def add(self, sequence: int, item: Item, *, now: float = 0.0) -> list[Item]:
        """Add one message.

        Args:
            sequence: Its sequence number.
            item: The message.
            now: When it came, in seconds.

        Returns:
            What can be released, in order; nothing for a sequence number seen before.

        Raises:
            ReorderOverflow: `limit` messages wait already.
        """
        if sequence < self.next or sequence in self._buffered:
            return []
        if sequence > self.next and len(self._buffered) >= self._limit:
            waiting = f"{self._limit:,} buffered messages wait for sequence number {self.next}"
            raise ReorderOverflow(f"{waiting}; {sequence} is too much")
        self._buffered[sequence] = item
        return self._pop_ready(now)

    @property
    def missing(self) -> range:
        """The sequence numbers of the first gap; empty when nothing waits."""
        return range(self.next, min(self._buffered, default=self.next))

    def overdue(self, now: float, gap_timeout_s: float) -> bool:
        """Return whether the first gap is open for too long.

        Args:
            now: The time, in seconds.
            gap_timeout_s: How long is too long.

        Returns:
            True if it is.
        """
        return self._gap_since is not None and now - self._gap_since >= gap_timeout_s

    def skip_to(self, sequence: int, *, now: float = 0.0) -> list[Item]:
        """Give up every number below `sequence` that is not here.

        Args:
            sequence: The number to go on from.
            now: The time, in seconds.

        Returns:
            What can be released then, in order.
        """
        passed = [
            self._buffered.pop(number) for number in sorted(self._buffered) if number < sequence
        ]
        self.next = max(self.next, sequence)
        if passed:
            self._gap_since = None  # what is left waits for another gap
        return passed + self._pop_ready(now)

    def _pop_ready(self, now: float) -> list[Item]:
        released = []
        while self.next in self._buffered:
            released.append(self._buffered.pop(self.next))
            self.next += 1
        if not self._buffered:
            self._gap_since = None
        elif released or self._gap_since is None:
            self._gap_since = now  # another gap than before
        return released
