"""ConnectionConfig: what a connection may hold and how long it may wait."""

import math
from dataclasses import dataclass, field

from mpim_lab.mq.connection.bounds import check_times, check_whole
from mpim_lab.mq.connection.retry import Backoff


@dataclass(frozen=True)
class ConnectionConfig:
    """What a connection may hold and how long it may wait.

    `max_commands` and `max_bytes` count what is written or about to be and not yet answered or
    taken by the socket; beyond them callers wait, first come, first served, for at most
    `timeout_s`. A silent line is asked for a sign of life every `heartbeat_s`. `close_timeout_s`:
    how long an end may take: of a queue, a subscription, a worker; handlers that run are waited for
    that long, and then cancelled.
    """

    timeout_s: float = 5.0
    close_timeout_s: float = 5.0
    connect_timeout_s: float = 5.0
    heartbeat_s: float = 15.0
    max_commands: int = 16_384
    max_bytes: int = 16 * 1024 * 1024
    backoff: Backoff = field(default_factory=Backoff)

    def __post_init__(self) -> None:
        check_times(timeout_s=self.timeout_s, close_timeout_s=self.close_timeout_s)
        check_times(connect_timeout_s=self.connect_timeout_s)
        check_times(math.inf, heartbeat_s=self.heartbeat_s)
        check_whole(max_commands=self.max_commands, max_bytes=self.max_bytes)
