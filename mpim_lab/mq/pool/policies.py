"""The pool's rules about time and choice: when a connection is too old, when a server is passed over, which one is next."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from mpim_lab.errors import NotConnected
from mpim_lab.mq.connection.bounds import check_bounds, check_times
from mpim_lab.mq.connection.retry import Backoff


@dataclass(frozen=True)
class Ageing:
    """When an idle connection is asked for a sign of life, and when it is retired.

    A server's `timeout`, a firewall's table and a load balancer all forget idle connections, mostly without a word: keep
    `max_idle_s` below theirs. `max_lifetime_s` spreads the load anew after a server was added, and bounds what leaks there.

        >>> rule = Ageing(check_idle_after_s=5, max_idle_s=60, max_lifetime_s=1800)
        >>> rule.retire(opened_at=0, idle_since=100, now=161), rule.retire(opened_at=0, idle_since=1790, now=1800)
        ('idle too long', 'too old')
        >>> rule.retire(opened_at=0, idle_since=100, now=106), rule.needs_check(idle_since=100, now=106)
        ('', True)
    """

    check_idle_after_s: float = 5.0
    max_idle_s: float = 60.0
    max_lifetime_s: float = 1800.0

    def __post_init__(self) -> None:
        check_bounds(0.0, math.inf, check_idle_after_s=self.check_idle_after_s)  # 0: always
        check_times(math.inf, max_idle_s=self.max_idle_s, max_lifetime_s=self.max_lifetime_s)

    def retire(self, opened_at: float, idle_since: float, now: float) -> str:
        """Why it is to be closed; "" if it may stay."""
        if now - opened_at >= self.max_lifetime_s:
            return "too old"
        return "idle too long" if now - idle_since >= self.max_idle_s else ""

    def needs_check(self, idle_since: float, now: float) -> bool:
        """Whether to ask before it is handed out."""
        return now - idle_since >= self.check_idle_after_s


@dataclass
class Outage:
    """Whether a server is passed over: after a failed attempt for a while, which grows with each further one (Backoff).

    When the while is over one caller may try; the next while begins with the attempt, so that the others do not all run into
    the same wall, and an attempt that is given up half way leaves nothing to be undone. Attempts that were under way at the
    same time count as one.

        >>> outage = Outage(Backoff(initial_s=1.0, max_s=8.0))
        >>> one, other = (outage.trying(now=9.0, chance=1.0) for _ in range(2))
        >>> outage.failed(one, NotConnected("refused"), now=10.0, chance=1.0)
        >>> outage.failed(other, NotConnected("refused"), now=10.0, chance=1.0)
        >>> outage.failures, outage.is_on(now=10.9), outage.is_on(now=11.0)
        (1, True, False)
        >>> one = outage.trying(now=11.0, chance=1.0)     # one tries ...
        >>> outage.is_on(now=11.0)                        # ... the others pass it over
        True
        >>> outage.ended()
        >>> outage.is_on(now=11.0)
        False
    """

    backoff: Backoff = field(default_factory=Backoff)
    failures: int = 0
    until: float = 0.0
    cause: NotConnected | None = None

    def is_on(self, now: float) -> bool:
        """Whether to pass the server over."""
        return self.failures > 0 and now < self.until

    def trying(self, now: float, chance: float) -> int:
        """An attempt begins; gives its number, for `failed`."""
        if self.failures:
            self.until = now + self.backoff.delay_s(self.failures, chance)
        return self.failures

    def failed(self, attempt: int, cause: NotConnected, now: float, chance: float) -> None:
        """It failed."""
        self.cause = cause
        if attempt == self.failures:
            self.failures += 1
            self.until = now + self.backoff.delay_s(self.failures, chance)

    def ended(self) -> None:
        """It succeeded."""
        self.failures, self.until, self.cause = 0, 0.0, None


@dataclass(frozen=True)
class Load:
    """How busy one server is.

    `costs`: a connection to it would have to be opened and another one closed, which would not even spread them more
    evenly. `last_lent`: the number of its last hand-out, counted over all servers.
    """

    server: str
    in_use: int
    costs: bool = False
    last_lent: int = 0


def least_busy(loads: Iterable[Load]) -> str | None:
    """The server with the fewest connections in use; None if there is none.

    Of equals one that costs nothing: otherwise sixteen connections to three servers would move about for ever. Of those the
    one that was used longest ago: they take turns. Fewest in use, not fewest open: what is idle is not work.

    >>> least_busy([Load("a", in_use=3), Load("b", in_use=2, last_lent=9), Load("c", in_use=2, last_lent=4)])
    'c'
    """
    chosen = min(loads, key=lambda load: (load.in_use, load.costs, load.last_lent), default=None)
    return None if chosen is None else chosen.server
