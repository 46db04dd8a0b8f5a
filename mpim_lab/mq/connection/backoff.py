"""Backoff: how long to wait before the next attempt. A rule without clock or chance of its own."""

import math
from dataclasses import dataclass

from mpim_lab.errors import InvalidParameter


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
