"""Retry: when a failed delivery is tried again, and when it is given up. A rule without clock or chance of its own."""

from dataclasses import dataclass, field

from mpim_lab.mq.connection.backoff import Backoff
from mpim_lab.mq.connection.bounds import check_whole


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
