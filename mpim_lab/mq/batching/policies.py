"""Batch rules: when is a batch closed? Plain objects; time is passed in.

A batch is closed by whichever comes first: so many messages, so many bytes, or the time at which its oldest message has
waited long enough. What waits for longer is what the line does: one batch of a batcher is on its way at a time, and what
comes meanwhile is gathered for the next. So a rule with no window at all adapts by itself: on an idle line a message
leaves at once, alone, and on a busy one batches grow to what came in one round trip. (Nagle's algorithm for TCP is this
rule: RFC 896; others call it natural or smart batching.)
"""

import math
from dataclasses import dataclass

from mpim_lab.mq.connection.bounds import check_bounds

MOST_MESSAGES = 16_384
MOST_BYTES = 16 * 1024 * 1024
MOST_WINDOW_MS = 60_000.0


@dataclass(frozen=True)
class BatchRule:
    """Base of the rules: the limits of a batch. Raises InvalidParameter for limits out of bounds."""

    max_messages: int
    max_bytes: int

    def __post_init__(self) -> None:
        check_bounds(1, MOST_MESSAGES, max_messages=self.max_messages)
        check_bounds(1, MOST_BYTES, max_bytes=self.max_bytes)

    def is_full(self, messages: int, bytes: int) -> bool:
        """Whether so much is a whole batch.

        >>> rule = FixedWindow(max_messages=3, max_bytes=100)
        >>> rule.is_full(2, 99), rule.is_full(3, 30), rule.is_full(1, 100)
        (False, True, True)
        """
        return messages >= self.max_messages or bytes >= self.max_bytes

    def closes_at(self, opened_at: float) -> float:
        """When a batch that is not full is closed, whose oldest message came at `opened_at` (seconds of one clock)."""
        raise NotImplementedError


@dataclass(frozen=True)
class FixedWindow(BatchRule):
    """A message waits at most `window_ms` for company. More delay, fewer and larger batches.

    >>> FixedWindow(window_ms=5).closes_at(100.0)
    100.005
    """

    max_messages: int = 256
    max_bytes: int = 64 * 1024
    window_ms: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_bounds(0.0, MOST_WINDOW_MS, window_ms=self.window_ms)

    def closes_at(self, opened_at: float) -> float:
        """The end of the window of its oldest message."""
        return opened_at + self.window_ms / 1e3


@dataclass(frozen=True)
class Adaptive(BatchRule):
    """Nothing waits for company: a batch is what came while the one before was on its way.

    >>> Adaptive().closes_at(100.0)
    100.0
    """

    max_messages: int = 512
    max_bytes: int = 64 * 1024

    def closes_at(self, opened_at: float) -> float:
        """At once, if the line is free."""
        return opened_at


@dataclass(frozen=True)
class Counted(BatchRule):
    """Only a full batch leaves, or one that `flush` or `close` sends: for work in bulk, where no message is in a hurry.

    >>> Counted().closes_at(100.0)
    inf
    """

    max_messages: int = 1_024
    max_bytes: int = 256 * 1024

    def closes_at(self, opened_at: float) -> float:
        """Never by itself."""
        return math.inf
