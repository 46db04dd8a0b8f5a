"""GatewayServices: what a gateway works with; the naive ones have the same methods.

GatewayConfig: its limits and times.
"""

from dataclasses import dataclass
from functools import partial

from mpim_lab.im.services.groups import GroupService
from mpim_lab.im.services.messages import MessageService
from mpim_lab.im.services.presence import Presence
from mpim_lab.im.services.tokens import TokenService
from mpim_lab.mq.connection.bounds import MAX_INT, check_bounds, check_times
from mpim_lab.mq.pubsub.queue import MessageQueue


@dataclass(frozen=True)
class GatewayServices:
    """The services of one gateway, over one queue of its own.

    The naive services have the same methods.

    Args:
        queue: The gateway's own queue: its pushes come over it.
        presence: Who is online, and where.
        groups: Who is in which group.
        messages: Sends, keeps and reads messages.
        tokens: Checks who a client is.
    """

    queue: MessageQueue
    presence: Presence
    groups: GroupService
    messages: MessageService
    tokens: TokenService


@dataclass(frozen=True, kw_only=True)
class GatewayConfig:
    """The limits and times of one gateway.

    A slow consumer: above `max_push_buffer_bytes` on their way to it nothing more is pushed, and it
    will pull. Its connection is closed if it has not read them for `slow_consumer_timeout_s`, or if
    the answers to its own requests pile up to `max_send_buffer_bytes`.

    Args:
        max_clients: Connections at the same time.
        handshake_timeout_s: Seconds until a new connection has said hello.
        idle_timeout_s: A client that sends nothing for so many seconds is taken for gone.
        ack_timeout_s: Seconds after which a push that is not acknowledged is hinted at again.
        max_push_buffer_bytes: Bytes on their way to a client, above which nothing is pushed.
        max_send_buffer_bytes: Bytes on their way to a client, above which it is closed.
        slow_consumer_timeout_s: Seconds that a slow consumer may take to read them.
        rate_per_s: Frames that a client may send a second, on average.
        burst: Frames that it may send at once after a rest.
        max_violations: Frames that cannot be read or come too fast, until it is closed.
        violation_decay_s: In so many seconds so many violations are forgiven.
        max_acks: Acknowledgements in one `maintenance_interval_s`; others are violations.
        maintenance_interval_s: Seconds between two rounds of checks.
        ack_flush_interval_s: Seconds for which acknowledgements are gathered.
        drain_timeout_s: Seconds for what is in flight when the gateway closes.
        close_timeout_s: Seconds for the rest then; what is not done in time is cut off.

    Raises:
        InvalidParameter: A number makes no sense.
    """

    max_clients: int = 20_000
    handshake_timeout_s: float = 10.0
    idle_timeout_s: float = 60.0
    ack_timeout_s: float = 2.0
    max_push_buffer_bytes: int = 256 * 1024
    max_send_buffer_bytes: int = 8 * 1024 * 1024
    slow_consumer_timeout_s: float = 30.0
    rate_per_s: float = 100.0
    burst: int = 200
    max_violations: int = 100
    violation_decay_s: float = 60.0
    max_acks: int = 2_000
    maintenance_interval_s: float = 0.5
    ack_flush_interval_s: float = 0.02
    drain_timeout_s: float = 5.0
    close_timeout_s: float = 5.0

    def __post_init__(self) -> None:
        for name, field in self.__dataclass_fields__.items():
            check = partial(check_bounds, 1, MAX_INT) if field.type is int else check_times
            check(**{name: getattr(self, name)})
