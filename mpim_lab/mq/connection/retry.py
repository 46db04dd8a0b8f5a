"""Retry: when a failed delivery is tried again, and when it is given up.

A rule without a clock or random numbers of its own.

Backoff: how long to wait before the next attempt. A rule without a clock or random numbers of its
own.
"""

import math
from dataclasses import dataclass, field

from mpim_lab.errors import InvalidParameter
from mpim_lab.mq.connection.bounds import check_whole


@dataclass(frozen=True)
class Backoff:
    """Exponential backoff with jitter.

    Attempt n waits between half and all of `initial_s * 2**(n-1)`, at most `max_s`.

    The jitter keeps a thousand clients from coming back in the same instant; never below half keeps
    a lone client from hammering. Source: "Exponential Backoff And Jitter", AWS Architecture Blog,
    2015 ("equal jitter").

        >>> rule = Backoff(initial_s=0.1, max_s=1.0)
        >>> [round(rule.delay_s(attempt, jitter=1.0), 2) for attempt in (1, 2, 3, 4, 5, 6)]
        [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
        >>> rule.delay_s(1, jitter=0.0)
        0.05
    """

    initial_s: float = 0.05
    max_s: float = 2.0

    def __post_init__(self) -> None:
        if not 0 < self.initial_s <= self.max_s < math.inf:
            raise InvalidParameter(
                f"initial_s={self.initial_s}, max_s={self.max_s}: above 0, in this order, not "
                "infinite"
            )

    def delay_s(self, attempt: int, jitter: float) -> float:
        """Return how long to wait.

        Args:
            attempt: Before which attempt; 1 is the first.
            jitter: From 0 to 1.

        Returns:
            Seconds.
        """
        ceiling = min(self.max_s, self.initial_s * 2.0 ** min(attempt - 1, 30))
        return ceiling * (1 + jitter) / 2


@dataclass(frozen=True)
class RetryPolicy:
    """A retry policy: at most `max_attempts` deliveries of one entry in all.

    Between two of them the backoff's delay.

    Without a limit a poison message, which no handler can handle, is tried for ever and holds up
    what comes after it.

        >>> rule = RetryPolicy(max_attempts=3, backoff=Backoff(initial_s=0.1, max_s=10.0))
        >>> [rule.delay_s(deliveries, jitter=1.0) for deliveries in (1, 2, 3)]
        [0.1, 0.2, None]
    """

    max_attempts: int = 5
    backoff: Backoff = field(default_factory=lambda: Backoff(initial_s=0.1, max_s=10.0))

    def __post_init__(self) -> None:
        check_whole(max_attempts=self.max_attempts)

    def delay_s(self, deliveries: int, jitter: float) -> float | None:
        """Return how long to wait before the next try.

        Args:
            deliveries: How often it was delivered.
            jitter: From 0 to 1.

        Returns:
            Seconds; None: it was the last.
        """
        return None if deliveries >= self.max_attempts else self.backoff.delay_s(deliveries, jitter)

    @property
    def max_delay_s(self) -> float:
        """The longest delay that there can be between two attempts."""
        return max(
            (
                self.backoff.delay_s(done, 1.0)
                for done in (1, self.max_attempts - 1)
                if done < self.max_attempts
            ),
            default=0.0,
        )
