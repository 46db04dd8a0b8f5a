"""ConversationSequencer: every message of one conversation once, in the order of the numbers.

A rule without I/O or clock.

Pushes come early, late, twice or not at all; pages (answers to `sync`) fill what is missing. The
sequencer returns what can be delivered now, and whether it is time to sync.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from mpim_lab.errors import ReorderOverflow
from mpim_lab.im.protocol.requests import ChatMessage
from mpim_lab.mq.ordering.reorder_buffer import ReorderBuffer


class MissingRange(NamedTuple):
    """Sequence numbers that are lost for good: reported, and skipped."""

    conversation: str
    first: int
    last: int


class PendingSync:
    """A `sync` in flight: its page may come within `sync_timeout_s`.

    `requested_at` is None while there is none.
    """

    def __init__(self, sync_timeout_s: float = 2.0) -> None:
        self._sync_timeout_s = sync_timeout_s
        self.requested_at: float | None = None

    def is_pending(self, now: float) -> bool:
        """Return whether it was sent, and the page may still come."""
        return self.requested_at is not None and now - self.requested_at < self._sync_timeout_s


class UnknownStart(PendingSync):
    """A conversation whose first number is not known yet.

    `first`: the lowest number that was pushed.
    """

    first = math.inf


class ConversationSequencer(PendingSync):
    """The order of one conversation, after number `after`. Times are the caller's, in seconds.

    A gap is synced after `gap_timeout_s`.

    >>> m1, m2, m3 = (ChatMessage("alice:bob", n, f"m{n}", "alice", "hi") for n in (1, 2, 3))
    >>> sequencer = ConversationSequencer("alice:bob", after=0)
    >>> [each.id for each in sequencer.on_push(m1, now=0.0)], sequencer.on_push(m3, now=0.1)
    (['m1'], [])
    >>> sequencer.next_sync(now=0.2), sequencer.next_sync(now=0.4)
    (None, 1)
    >>> [each.id for each in sequencer.on_page((m2,), last=3, missing=None, now=0.5)]
    ['m2', 'm3']
    >>> sequencer.next_sync(now=0.9)
    """

    def __init__(
        self,
        conversation: str,
        *,
        after: int,
        max_buffered: int = 1_000,
        gap_timeout_s: float = 0.2,
        sync_timeout_s: float = 2.0,
    ):
        super().__init__(sync_timeout_s)
        self.conversation, self.missing = conversation, list[MissingRange]()
        self._max_buffered, self._gap_timeout_s = max_buffered, gap_timeout_s
        self.last_known = 0  # as far as the gateway has reported
        self._restart(after)

    def _restart(self, after: int) -> None:
        self._buffer: ReorderBuffer[ChatMessage] = ReorderBuffer(
            limit=self._max_buffered, next=after + 1
        )
        self.requested_at = None
        # a page brought something, and more is missing: sync again at once
        self._sync_again = False

    @property
    def position(self) -> int:
        """The number of the last message that was delivered."""
        return self._buffer.next - 1

    def on_push(self, message: ChatMessage, now: float) -> list[ChatMessage]:
        """Handle a push. Return what can be delivered, in order."""
        self.last_known = max(self.last_known, message.sequence)
        try:
            return self._buffer.add(message.sequence, message, now=now)
        except ReorderOverflow:  # it is in the log; a page will bring it
            return []

    def on_page(
        self,
        messages: Sequence[ChatMessage],
        last: int,
        missing: tuple[int, int] | None,
        now: float,
    ) -> list[ChatMessage]:
        """Handle the answer to a `sync`. Return what can be delivered, in order."""
        self.requested_at = None
        self.last_known = max(self.last_known, last)
        released: list[ChatMessage] = []
        if missing is not None and missing[0] <= self._buffer.next <= missing[1]:
            begin, end = self._buffer.next, missing[1] + 1
            released += self._buffer.skip_to(end, now=now)
            self._note_missing(
                begin, end, [each.sequence for each in released if each.sequence < end]
            )
        for message in messages:
            released += self.on_push(message, now)
        self._sync_again = bool(released)
        return released

    def _note_missing(self, begin: int, end: int, here: Sequence[int]) -> None:
        """What is missing from `begin` to before `end`, except for what had arrived early."""
        for number in (*here, end):
            if number > begin:
                self.missing.append(MissingRange(self.conversation, begin, number - 1))
            begin = number + 1

    def advance_last_known(self, last: int) -> bool:
        """Note the conversation's last number, as the gateway reports it.

        Return whether something is missing here.
        """
        self.last_known = max(self.last_known, last)
        return last > self.position

    def reset_if_rewound(self, acked: int, last: int) -> bool:
        """Begin anew where the server is, if it has less than was read: it lost data.

        Return whether it did.
        """
        if last >= self.position:
            return False
        self.missing.append(MissingRange(self.conversation, last + 1, self.position))
        self.last_known = last
        self._restart(min(acked, last))
        return True

    def is_up_to_date(self, now: float) -> bool:
        """Return whether nothing is known to be missing, and no `sync` is in flight."""
        return (
            self.last_known <= self.position and not len(self._buffer) and not self.is_pending(now)
        )

    def next_sync(self, now: float, *, at_once: bool = False) -> int | None:
        """Return after which number to `sync` now.

        None: nothing is missing, or a `sync` is in flight.
        """
        if self.is_pending(now):
            return None
        behind = self.last_known > self.position and (
            at_once or self._sync_again or not len(self._buffer)
        )
        if behind or self._buffer.overdue(now, self._gap_timeout_s):
            self.requested_at, self._sync_again = now, False
            return self.position
        return None
