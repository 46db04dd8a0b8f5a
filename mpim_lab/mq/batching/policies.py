"""BatchPolicy: when is a batch flushed? Plain objects; time is passed in.

A batch is flushed by whichever comes first: so many messages, so many bytes, or the time at which
its oldest message has waited long enough. What waits for longer is what the connection does: one
batch of a batcher is in flight at a time, and what comes meanwhile is gathered for the next. So a
policy with no window at all adapts by itself: on an idle connection a message is sent at once,
alone, and on a busy one batches grow to what came in one round trip. (Nagle's algorithm for TCP is
this policy: RFC 896; others call it natural or smart batching.)
"""

import math
from dataclasses import dataclass

from mpim_lab.mq.connection.bounds import check_bounds

MAX_MESSAGES = 16_384
MAX_BYTES = 16 * 1024 * 1024
MAX_WINDOW_MS = 60_000.0


@dataclass(frozen=True)
class BatchPolicy:
    """The base of the policies: the limits of a batch.

    Args:
        max_messages: At most so many messages.
        max_bytes: At most so many bytes.

    Raises:
        InvalidParameter: A limit is out of bounds.
    """

    max_messages: int
    max_bytes: int

    def __post_init__(self) -> None:
        check_bounds(1, MAX_MESSAGES, max_messages=self.max_messages)
        check_bounds(1, MAX_BYTES, max_bytes=self.max_bytes)

    def is_full(self, messages: int, bytes: int) -> bool:
        """Return whether so much is a whole batch.

        Args:
            messages: How many messages there are.
            bytes: How many bytes they have.

        Returns:
            True if a limit is reached.

        >>> policy = FixedWindow(max_messages=3, max_bytes=100)
        >>> policy.is_full(2, 99), policy.is_full(3, 30), policy.is_full(1, 100)
        (False, True, True)
        """
        return messages >= self.max_messages or bytes >= self.max_bytes

    def flush_deadline(self, oldest_at: float) -> float:
        """Return when a batch that is not full is flushed.

        Args:
            oldest_at: When its oldest message came, in seconds.

        Returns:
            The time, in seconds; infinite: never by itself.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class FixedWindow(BatchPolicy):
    """A fixed linger time: a message waits at most `window_ms` for company.

    More delay, fewer and larger batches.

    >>> FixedWindow(window_ms=5).flush_deadline(100.0)
    100.005
    """

    max_messages: int = 256
    max_bytes: int = 64 * 1024
    window_ms: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_bounds(0.0, MAX_WINDOW_MS, window_ms=self.window_ms)

    def flush_deadline(self, oldest_at: float) -> float:
        """Return the end of the window of its oldest message."""
        return oldest_at + self.window_ms / 1e3


@dataclass(frozen=True)
class Adaptive(BatchPolicy):
    """No linger time: a batch is what came while the one before was in flight.

    >>> Adaptive().flush_deadline(100.0)
    100.0
    """

    max_messages: int = 512
    max_bytes: int = 64 * 1024

    def flush_deadline(self, oldest_at: float) -> float:
        """Return the same time: at once, if the connection is free."""
        return oldest_at


@dataclass(frozen=True)
class SizeOnly(BatchPolicy):
    """Only a full batch is sent, or one that is flushed by `flush` or `close`.

    For bulk work without any hurry.

    >>> SizeOnly().flush_deadline(100.0)
    inf
    """

    max_messages: int = 1_024
    max_bytes: int = 256 * 1024

    def flush_deadline(self, oldest_at: float) -> float:
        """Return infinity: never by itself."""
        return math.inf
