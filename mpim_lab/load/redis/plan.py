"""LoadPlan: what one load run does, as it travels to the load processes."""

import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from mpim_lab.errors import InvalidParameter

Publish = Callable[[str, Any], Awaitable[Any]]  # channel, and a payload or a list of them
OnPayload = Callable[[bytes], Any]
GROUP = "load"
BATCH_SIZE = 500
# A payload begins with its sequence number and the moment it was due, in monotonic seconds.
HEAD = struct.Struct("<Qd")
NO_SAMPLE = 1 << 62  # a `sample_rate` that no sequence number but 0 is a multiple of


def sequence_of(payload: bytes) -> int:
    """The sequence number of a payload."""
    return int.from_bytes(payload[:8], "little")


BOUNDS = {
    "tasks": (1, 10_000),
    "messages": (1, 20_000_000),
    "seconds": (0.01, 600.0),
    "payload_bytes": (HEAD.size, 1_048_576),
    "offered_per_s": (1.0, 2_000_000.0),
    "channels": (1, 100_000),
    "subscribers": (1, 5_000),
}


@dataclass(frozen=True, kw_only=True)
class LoadPlan:
    """One run: it ends after `messages` messages or `seconds` seconds, whichever comes first.

    Without `offered_per_s` the loop is closed: each of `tasks` tasks awaits one publish after
    another. With it the loop is open: messages are due at that rate whatever the answers do, and at
    most `tasks` publishes are unanswered. With several `channels` each message goes to one of them,
    by chance, and the receiver subscribes to all; with several `subscribers` each of them gets
    every message, and one counts as received once the last has it. `prefix` goes before every name
    of the candidates that are told of it; for the others it is in `channel`. One message in
    `sample_rate` is followed through its whole life. `report_every_s` of 0 asks for the summary
    only. Raises InvalidParameter when a number is outside its bounds.
    """

    url: str = field(repr=False)  # it may carry a password
    who: str
    channel: str
    tasks: int
    messages: int
    seconds: float
    offered_per_s: float | None = None
    payload_bytes: int = 100
    channels: int = 1
    subscribers: int = 1
    prefix: str = ""
    sample_rate: int = NO_SAMPLE
    report_every_s: float = 0.0

    def __post_init__(self) -> None:
        for name, (low, high) in BOUNDS.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise InvalidParameter(f"{name}={value!r}: must be from {low:,} to {high:,}")

    @property
    def limit_s(self) -> float:
        """How long a process may live in all, start and clean-up included.

        Channels are left one by one.
        """
        return self.seconds + 30.0 + self.channels / 2_000
