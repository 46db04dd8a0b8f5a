"""What can be read off a pool at any moment.

PoolStats, and the small histogram of how long callers waited.
"""

import math
from collections import Counter
from dataclasses import dataclass, field

_STEP = math.log(1.1)  # a bucket is 10% wide
_MIN_S = 1e-5
# Why a connection was closed that mean: it was of no use when somebody was to have it
REPLACED = frozenset({"ended by the server", "no sign of life", "unasked reply"})


@dataclass(frozen=True)
class CheckedOut:
    """A connection that is in use.

    By which task, for how long, to which server ("" while it is being looked for).
    """

    task: str
    seconds: float
    server: str


@dataclass(frozen=True)
class ServerStats:
    """One server's share.

    `is_circuit_open`: connecting failed, and the time to try again has not come.
    """

    in_use: int
    idle: int
    opened: int
    closed: dict[str, int] = field(default_factory=dict)
    failed: int = 0
    is_circuit_open: bool = False


@dataclass(frozen=True)
class PoolStats:
    """A pool's state at one moment, and what has happened since it was made.

    in_use: slots taken, those that are connecting included. opened - sum(closed.values()) = idle +
        connections in use.
    closed: how many, by why. replaced: of those, found unusable when somebody was to have them.
    waits: all who got a slot, those who did not have to wait included (0 ms); p50 and p99 to 10%.
    timed_out, refused: PoolTimeout, QueueFull.
    overdue: out for longer than `leak_warning_s`, longest first: this is where a leak is seen.
    """

    in_use: int
    idle: int
    waiting: int
    opened: int
    closed: dict[str, int]
    replaced: int
    waits: int
    wait_p50_ms: float
    wait_p99_ms: float
    wait_max_ms: float
    timed_out: int
    refused: int
    overdue: tuple[CheckedOut, ...]
    servers: dict[str, ServerStats]


class WaitHistogram:
    """How long callers waited: a histogram of constant size, quantiles to 10%.

    >>> waits = WaitHistogram()
    >>> for ms in range(1, 101):
    ...     waits.record(ms / 1000)
    >>> waits.count, 50 <= waits.quantile_ms(0.5) <= 55, waits.max_ms
    (100, True, 100.0)
    >>> WaitHistogram().quantile_ms(0.5)
    0.0
    """

    def __init__(self) -> None:
        self.count, self.max_ms = 0, 0.0
        self._buckets: Counter[int] = Counter()

    def record(self, seconds: float) -> None:
        """Add one wait."""
        self.count += 1
        self.max_ms = max(self.max_ms, seconds * 1000)
        self._buckets[
            0 if seconds <= _MIN_S else math.ceil(math.log(seconds / _MIN_S) / _STEP)
        ] += 1

    def quantile_ms(self, share: float) -> float:
        """The wait in milliseconds that this share of all did not exceed; 0 when there was none."""
        seen = 0
        for bucket in sorted(self._buckets):
            seen += self._buckets[bucket]
            if seen >= share * self.count:
                return (
                    0.0
                    if bucket == 0
                    else min(self.max_ms, _MIN_S * math.exp(bucket * _STEP) * 1000)
                )
        return 0.0


@dataclass(frozen=True)
class QueueStats:
    """What the slot queue contributes."""

    in_use: int
    waiting: int
    timed_out: int
    refused: int
    overdue: tuple[CheckedOut, ...] = ()


def pool_stats(
    line: QueueStats, waits: WaitHistogram, servers: dict[str, ServerStats]
) -> PoolStats:
    """Put a pool's stats together."""
    closed: Counter[str] = sum((Counter(server.closed) for server in servers.values()), Counter())
    return PoolStats(
        in_use=line.in_use,
        idle=sum(server.idle for server in servers.values()),
        waiting=line.waiting,
        opened=sum(server.opened for server in servers.values()),
        closed=dict(closed),
        replaced=sum(count for why, count in closed.items() if why in REPLACED),
        waits=waits.count,
        wait_p50_ms=waits.quantile_ms(0.5),
        wait_p99_ms=waits.quantile_ms(0.99),
        wait_max_ms=waits.max_ms,
        timed_out=line.timed_out,
        refused=line.refused,
        overdue=line.overdue,
        servers=servers,
    )
