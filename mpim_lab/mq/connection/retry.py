"""Retry: when a failed delivery is tried again, and when it is given up. A rule without clock or chance of its own.

Backoff: how long to wait before the next attempt. A rule without clock or chance of its own.
"""

import math
from dataclasses import dataclass, field

from mpim_lab.errors import InvalidParameter
from mpim_lab.mq.connection.bounds import check_whole


@dataclass(frozen=True)
class Backoff:
    """Exponential backoff with jitter: attempt n waits between half and all of `first_s * 2**(n-1)`, at most `most_s`.

    The jitter keeps a thousand clients from coming back in the same instant; never below half keeps a lone client from
    hammering. Source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015 ("equal jitter").

        >>> rule = Backoff(first_s=0.1, most_s=1.0)
        >>> [round(rule.delay_s(attempt, chance=1.0), 2) for attempt in (1, 2, 3, 4, 5, 6)]
        [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
        >>> rule.delay_s(1, chance=0.0)
        0.05
    """

    first_s: float = 0.05
    most_s: float = 2.0

    def __post_init__(self) -> None:
        if not 0 < self.first_s <= self.most_s < math.inf:
            raise InvalidParameter(
                f"first_s={self.first_s}, most_s={self.most_s}: above 0, in this order, not infinite"
            )

    def delay_s(self, attempt: int, chance: float) -> float:
        """Seconds to wait before attempt `attempt` (1 is the first); `chance` is from 0 to 1."""
        ceiling = min(self.most_s, self.first_s * 2.0 ** min(attempt - 1, 30))
        return ceiling * (1 + chance) / 2


@dataclass(frozen=True)
class RetryRule:
    """At most `tries` deliveries of one entry in all, whoever got it; between two of them the backoff's delay.

    Without a limit a poison message, which no handler can handle, is tried for ever and holds up what comes after it.

        >>> rule = RetryRule(tries=3, backoff=Backoff(first_s=0.1, most_s=10.0))
        >>> [rule.delay_s(deliveries, chance=1.0) for deliveries in (1, 2, 3)]
        [0.1, 0.2, None]
    """

    tries: int = 5
    backoff: Backoff = field(default_factory=lambda: Backoff(first_s=0.1, most_s=10.0))

    def __post_init__(self) -> None:
        check_whole(tries=self.tries)

    def delay_s(self, deliveries: int, chance: float) -> float | None:
        """Seconds until the next try after `deliveries` deliveries; None: it was the last."""
        return None if deliveries >= self.tries else self.backoff.delay_s(deliveries, chance)

    @property
    def longest_s(self) -> float:
        """The longest delay that there can be between two tries."""
        return max((self.backoff.delay_s(done, 1.0) for done in (1, self.tries - 1) if done < self.tries), default=0.0)
