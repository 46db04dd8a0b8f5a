"""What can be read off a pool at any moment."""

from collections import Counter
from dataclasses import dataclass, field

from mpim_lab.latency_histogram import LatencyHistogram

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
    waits: all who got a slot, those who did not have to wait included (0 ms); p50 and p99 to 1 %.
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


@dataclass(frozen=True)
class QueueStats:
    """What the slot queue contributes."""

    in_use: int
    waiting: int
    timed_out: int
    refused: int
    overdue: tuple[CheckedOut, ...] = ()


def pool_stats(
    line: QueueStats, waits: LatencyHistogram, servers: dict[str, ServerStats]
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
        wait_p50_ms=waits.percentile_ms(0.5) or 0.0,
        wait_p99_ms=waits.percentile_ms(0.99) or 0.0,
        wait_max_ms=waits.max_s * 1e3,
        timed_out=line.timed_out,
        refused=line.refused,
        overdue=line.overdue,
        servers=servers,
    )
