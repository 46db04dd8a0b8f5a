"""Every Redis key and channel of the system: name, type, lifetime, who writes it, who reads it.

| name                  | type    | lifetime            | written by             | read by                |
|-----------------------|---------|---------------------|------------------------|------------------------|
| `user:<uid>`          | channel | none                | senders                | the queue of that user |
| `confirm:<uid>`       | channel | none                | the queue of that user | who sends to that user |
| `<name>`              | stream  | until trimmed       | `Stream.add`           | its consumer groups    |
| `<name>:dead:<group>` | stream  | replayed or dropped | `ConsumerGroup.bury`   | a person               |

A channel keeps nothing: what is published while nobody listens is gone. A stream keeps what it was given. On a server
that is not the lab's own, every name carries the run's prefix (`MessageQueue(url, prefix="lab-7f3a:")`).
"""


def user_channel(uid: str) -> str:
    """Name the channel on which one user's messages travel.

    >>> user_channel("1001")
    'user:1001'
    """
    return f"user:{uid}"


def confirm_channel(uid: str) -> str:
    """Name the channel on which a user's receiver says which messages it has handled.

    >>> confirm_channel("1001")
    'confirm:1001'
    """
    return f"confirm:{uid}"


def is_confirmation(channel: str) -> bool:
    """Whether a channel carries confirmations instead of messages."""
    return channel.startswith("confirm:")
