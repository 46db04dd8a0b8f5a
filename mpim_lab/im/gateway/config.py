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
    """The services of one gateway, over one queue of its own."""

    queue: MessageQueue
    presence: Presence
    groups: GroupService
    messages: MessageService
    tokens: TokenService


@dataclass(frozen=True, kw_only=True)
class GatewayConfig:
    """The limits and times of one gateway. Times are in seconds. Raises InvalidParameter.

    A slow consumer: above `max_push_buffer_bytes` on their way to it nothing more is pushed, and it
    will pull. Its connection is closed if it has not read them for `slow_consumer_timeout_s`, or if
    the answers to its own requests pile up to `max_send_buffer_bytes`.
    """

    max_clients: int = 20_000
    handshake_timeout_s: float = 10.0  # until a new connection has said hello
    idle_timeout_s: float = 60.0  # a client that says nothing for so long is taken for gone
    ack_timeout_s: float = (
        2.0  # what was pushed and is not acknowledged for so long is hinted at again
    )
    max_push_buffer_bytes: int = 256 * 1024
    max_send_buffer_bytes: int = 8 * 1024 * 1024
    slow_consumer_timeout_s: float = 30.0
    rate_per_s: float = 100.0  # frames a client may send on average
    burst: int = 200
    max_violations: int = (
        100  # frames that cannot be read or come too fast, until the connection is closed
    )
    violation_decay_s: float = 60.0  # in so long so many violations are forgiven
    max_acks: int = 2_000  # in one `maintenance_interval_s`; each beyond them is a violation
    maintenance_interval_s: float = 0.5
    ack_flush_interval_s: float = 0.02  # acknowledgements are gathered for so long
    drain_timeout_s: float = 5.0  # for what is under way when the gateway closes
    close_timeout_s: float = 5.0  # for everything else then; what is not done in time is cut off

    def __post_init__(self) -> None:
        for name, field in self.__dataclass_fields__.items():
            check = partial(check_bounds, 1, MAX_INT) if field.type is int else check_times
            check(**{name: getattr(self, name)})
