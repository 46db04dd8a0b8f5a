"""Services: what a gateway works with, and its limits. The naive ones have the same methods."""

from dataclasses import dataclass
from functools import partial

from mpim_lab.im.services.groups import Groups
from mpim_lab.im.services.messages import Messages
from mpim_lab.im.services.presence import Presence
from mpim_lab.im.services.tokens import Tokens
from mpim_lab.mq.connection.bounds import MAX_INT, check_bounds, check_times
from mpim_lab.mq.pubsub.queue import MessageQueue


@dataclass(frozen=True)
class Services:
    """The services of one gateway, over one queue of its own."""

    queue: MessageQueue
    presence: Presence
    groups: Groups
    messages: Messages
    tokens: Tokens


@dataclass(frozen=True, kw_only=True)
class GatewayLimits:
    """What one gateway allows. Times in seconds. Raises InvalidParameter.

    A client that is slow: above `outbox_bytes` on their way to it nothing more is pushed (it will pull); if it has not read
    them for `slow_s`, or if its own requests' answers pile up to `most_bytes`, its connection is ended.
    """

    most_clients: int = 20_000
    hello_s: float = 10.0  # until a new connection has said hello
    silent_s: float = 60.0  # a client that says nothing for so long is taken for gone
    resend_s: float = 2.0  # what was pushed and is not acknowledged for so long is told of again
    outbox_bytes: int = 256 * 1024
    most_bytes: int = 8 * 1024 * 1024
    slow_s: float = 30.0
    rate_per_s: float = 100.0  # frames a client may send on average
    burst: int = 200
    most_faults: int = 100  # frames that cannot be read or come too fast, until the connection is ended
    forgive_s: float = 60.0  # in so long so many faults are forgiven
    most_acks: int = 2_000  # in one `sweep_s`; each beyond them is a fault
    sweep_s: float = 0.5
    ack_every_s: float = 0.02  # acknowledgements are gathered for so long
    drain_s: float = 5.0  # for what is under way when the gateway closes
    close_timeout_s: float = 5.0  # for everything else then; what is not done in time is cut off

    def __post_init__(self) -> None:
        for name, field in self.__dataclass_fields__.items():
            check = partial(check_bounds, 1, MAX_INT) if field.type is int else check_times
            check(**{name: getattr(self, name)})
