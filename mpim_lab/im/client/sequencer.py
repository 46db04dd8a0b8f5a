"""Reader: the reading client's rule for one conversation: every message once, in the order of the numbers. No I/O, no clock.

Pushes come early, late, twice or not at all; pages (answers to `sync`) fill what is missing. The reader says what can be
handed over now, and whether it is time to ask for more.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from mpim_lab.errors import ReorderOverflow
from mpim_lab.im.protocol.requests import ChatMessage
from mpim_lab.mq.ordering.reorder_buffer import ReorderBuffer


class Missing(NamedTuple):
    """Numbers that nothing has any more: told, and passed over."""

    conversation: str
    first: int
    last: int


class Asked:
    """What a conversation waits for: an answer to `sync`, for `patience_s` after it was asked; None: nothing was asked."""

    def __init__(self, patience_s: float = 2.0) -> None:
        self._patience_s = patience_s
        self.asked_at: float | None = None

    def waits(self, now: float) -> bool:
        """Whether it was asked, and the answer may still come."""
        return self.asked_at is not None and now - self.asked_at < self._patience_s


class Unplaced(Asked):
    """A conversation of which nobody has said yet where it begins; `first`: the lowest number that was pushed."""

    first = math.inf


class Reader(Asked):
    """Begins after number `after`. Times are the caller's, in seconds; a gap is asked about after `gap_s`.

    >>> m1, m2, m3 = (ChatMessage("alice:bob", n, f"m{n}", "alice", "hi") for n in (1, 2, 3))
    >>> reader = Reader("alice:bob", after=0)
    >>> reader.push(m1, now=0.0), reader.push(m3, now=0.1), reader.asks(now=0.2)
    ([ChatMessage(conversation='alice:bob', sequence=1, id='m1', sender='alice', text='hi', at_ms=0)], [], None)
    >>> reader.asks(now=0.4)
    1
    >>> [each.id for each in reader.page((m2,), last=3, missing=None, now=0.5)], reader.asks(now=0.9)
    (['m2', 'm3'], None)
    """

    def __init__(
        self, conversation: str, *, after: int, limit: int = 1_000, gap_s: float = 0.2, patience_s: float = 2.0
    ):
        super().__init__(patience_s)
        self.conversation, self.missing = conversation, list[Missing]()
        self._limit, self._gap_s = limit, gap_s
        self.known_last = 0  # as far as the gateway has said
        self._begin(after)

    def _begin(self, after: int) -> None:
        self._early: ReorderBuffer[ChatMessage] = ReorderBuffer(limit=self._limit, next=after + 1)
        self.asked_at = None
        self._goes_on = False  # a page brought something, and more is missing: ask for the next one at once

    @property
    def position(self) -> int:
        """The number of the last message that was handed over."""
        return self._early.next - 1

    def push(self, message: ChatMessage, now: float) -> list[ChatMessage]:
        """Take in a push; gives what can be handed over, in order."""
        self.known_last = max(self.known_last, message.sequence)
        try:
            return self._early.add(message.sequence, message, now=now)
        except ReorderOverflow:  # it is in the log; a page will bring it
            return []

    def page(
        self, messages: Sequence[ChatMessage], last: int, missing: tuple[int, int] | None, now: float
    ) -> list[ChatMessage]:
        """Take in the answer to a `sync`; gives what can be handed over, in order."""
        self.asked_at = None
        self.known_last = max(self.known_last, last)
        released: list[ChatMessage] = []
        if missing is not None and missing[0] <= self._early.next <= missing[1]:
            begin, end = self._early.next, missing[1] + 1
            released += self._early.skip_to(end, now=now)
            self._note_missing(begin, end, [each.sequence for each in released if each.sequence < end])
        for message in messages:
            released += self.push(message, now)
        self._goes_on = bool(released)
        return released

    def _note_missing(self, begin: int, end: int, here: Sequence[int]) -> None:
        """What is missing from `begin` to before `end`, except for what had arrived early."""
        for number in (*here, end):
            if number > begin:
                self.missing.append(Missing(self.conversation, begin, number - 1))
            begin = number + 1

    def told_last(self, last: int) -> bool:
        """The gateway says how far the conversation is; gives whether something is missing here."""
        self.known_last = max(self.known_last, last)
        return last > self.position

    def forgotten(self, acked: int, last: int) -> bool:
        """Whether the server knows less than was read: it lost what it had. Then begin where it is now."""
        if last >= self.position:
            return False
        self.missing.append(Missing(self.conversation, last + 1, self.position))
        self.known_last = last
        self._begin(min(acked, last))
        return True

    def is_settled(self, now: float) -> bool:
        """Whether nothing is missing, as far as anybody has said, and no answer may still come."""
        return self.known_last <= self.position and not len(self._early) and not self.waits(now)

    def asks(self, now: float, *, at_once: bool = False) -> int | None:
        """After which number to `sync` now; None: nothing is to be asked, or it was asked just now."""
        if self.waits(now):
            return None
        behind = self.known_last > self.position and (at_once or self._goes_on or not len(self._early))
        if behind or self._early.overdue(now, self._gap_s):
            self.asked_at, self._goes_on = now, False
            return self.position
        return None
