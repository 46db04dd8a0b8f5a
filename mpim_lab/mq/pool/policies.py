"""The pool's rules: when a connection is too old, which server is passed over or next."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from mpim_lab.errors import NotConnected
from mpim_lab.mq.connection.bounds import check_bounds, check_times
from mpim_lab.mq.connection.retry import Backoff


@dataclass(frozen=True)
class IdlePolicy:
    """The policy for idle connections: when one is health-checked, and when it is closed.

    A server's `timeout`, a firewall's table and a load balancer all forget idle connections, mostly
    without a word: keep `max_idle_s` below theirs. `max_lifetime_s` spreads the load anew after a
    server was added, and bounds what leaks there.

        >>> policy = IdlePolicy(check_idle_after_s=5, max_idle_s=60, max_lifetime_s=1800)
        >>> policy.expiry_reason(opened_at=0, idle_since=100, now=161)
        'idle too long'
        >>> policy.expiry_reason(opened_at=0, idle_since=1790, now=1800)
        'too old'
        >>> policy.expiry_reason(opened_at=0, idle_since=100, now=106)
        ''
        >>> policy.needs_health_check(idle_since=100, now=106)
        True
    """

    check_idle_after_s: float = 5.0
    max_idle_s: float = 60.0
    max_lifetime_s: float = 1800.0

    def __post_init__(self) -> None:
        check_bounds(0.0, math.inf, check_idle_after_s=self.check_idle_after_s)  # 0: always
        check_times(math.inf, max_idle_s=self.max_idle_s, max_lifetime_s=self.max_lifetime_s)

    def expiry_reason(self, opened_at: float, idle_since: float, now: float) -> str:
        """Return why it is to be closed; "" if it may stay."""
        if now - opened_at >= self.max_lifetime_s:
            return "too old"
        return "idle too long" if now - idle_since >= self.max_idle_s else ""

    def needs_health_check(self, idle_since: float, now: float) -> bool:
        """Return whether to check it before it is handed out."""
        return now - idle_since >= self.check_idle_after_s


@dataclass
class CircuitBreaker:
    """A circuit breaker.

    Open after a failed attempt, for a while that grows with each further one (Backoff).

    While it is open its server is passed over.

    When the while is over (half open) one caller may try; the next while begins with the attempt,
    so that the others do not all run into the same wall, and an attempt that is given up half way
    leaves nothing to be undone. Attempts that were under way at the same time count as one.

        >>> breaker = CircuitBreaker(Backoff(initial_s=1.0, max_s=8.0))
        >>> one, other = (breaker.on_attempt(now=9.0, jitter=1.0) for _ in range(2))
        >>> breaker.record_failure(one, NotConnected("refused"), now=10.0, jitter=1.0)
        >>> breaker.record_failure(other, NotConnected("refused"), now=10.0, jitter=1.0)
        >>> breaker.failures, breaker.is_open(now=10.9), breaker.is_open(now=11.0)
        (1, True, False)
        >>> one = breaker.on_attempt(now=11.0, jitter=1.0)     # one tries ...
        >>> breaker.is_open(now=11.0)                        # ... the others pass it over
        True
        >>> breaker.record_success()
        >>> breaker.is_open(now=11.0)
        False
    """

    backoff: Backoff = field(default_factory=Backoff)
    failures: int = 0
    open_until: float = 0.0
    cause: NotConnected | None = None

    def is_open(self, now: float) -> bool:
        """Whether to pass the server over."""
        return self.failures > 0 and now < self.open_until

    def on_attempt(self, now: float, jitter: float) -> int:
        """Note that an attempt begins; return its number, for `record_failure`."""
        if self.failures:
            self.open_until = now + self.backoff.delay_s(self.failures, jitter)
        return self.failures

    def record_failure(self, attempt: int, cause: NotConnected, now: float, jitter: float) -> None:
        """Record that the attempt failed."""
        self.cause = cause
        if attempt == self.failures:
            self.failures += 1
            self.open_until = now + self.backoff.delay_s(self.failures, jitter)

    def record_success(self) -> None:
        """Record that the attempt succeeded: the circuit is closed."""
        self.failures, self.open_until, self.cause = 0, 0.0, None


@dataclass(frozen=True)
class ServerLoad:
    """How busy one server is.

    `needs_eviction`: a connection to it would have to be opened and another one closed, which would
    not even spread them more evenly. `last_acquired`: the number of its last hand-out, counted over
    all servers.
    """

    server: str
    in_use: int
    needs_eviction: bool = False
    last_acquired: int = 0


def least_loaded(loads: Iterable[ServerLoad]) -> str | None:
    """The server with the fewest connections in use; None if there is none.

    Of equals one that costs nothing: otherwise sixteen connections to three servers would move
    about for ever. Of those the one that was used longest ago: they take turns. Fewest in use, not
    fewest open: what is idle is not work.

    >>> busy, other = ServerLoad("a", in_use=3), ServerLoad("b", in_use=2, last_acquired=9)
    >>> least_loaded([busy, other, ServerLoad("c", in_use=2, last_acquired=4)])
    'c'
    """
    chosen = min(
        loads, key=lambda load: (load.in_use, load.needs_eviction, load.last_acquired), default=None
    )
    return None if chosen is None else chosen.server
