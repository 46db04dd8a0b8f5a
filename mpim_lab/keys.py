"""Every Redis key and channel of the system: name, type, lifetime, who writes it, who reads it.

| name                     | type    | lifetime             | written by                 | read by                    |
|--------------------------|---------|----------------------|----------------------------|----------------------------|
| `user:<uid>`             | channel | none                 | senders                    | the queue of that user     |
| `confirm:<uid>`          | channel | none                 | the queue of that user     | who sends to that user     |
| `batches:<sender>`       | channel | none                 | receivers of batches       | the batcher of that sender |
| `<name>`                 | stream  | until trimmed        | `Stream.add`               | its consumer groups        |
| `<name>:dead:<group>`    | stream  | replayed or dropped  | `ConsumerGroup.bury`       | a person                   |
| `once:<scope>:<id>`      | hash    | `keep_s`             | `Idempotency`              | `Idempotency`              |
| `tokens:<scope>`         | string  | for ever             | `Idempotency` (a counter)  | `Idempotency`              |
| `<name>:seq:<conv>`      | string  | for ever             | append.lua (a counter)     | append.lua                 |
| `<name>:sent:<conv>:<id>`| string  | `keep_s`             | append.lua                 | append.lua                 |
| `<name>:log:<conv>`      | stream  | until trimmed        | `Conversations.append`     | `ConversationReader`       |
| `<name>:live:<conv>`     | channel | none                 | `Conversations.append`     | `ConversationReader`       |
| `<name>:<partition>`     | stream  | until trimmed        | `PartitionedStream.append` | `OrderedWorker`            |
| `<name>:<group>:<part.>` | hash    | for ever             | seat.lua, commit.lua       | seat.lua, commit.lua       |
| `<name>:<group>:members` | zset    | their heartbeats     | seat.lua                   | seat.lua                   |
| `route:<uid>`            | zset    | the longest route's  | `Presence`                 | `Presence`                 |
| `user:status:<uid>`      | channel | none                 | `Presence`                 | gateways, for who watches  |
| `gateway:<gateway>`      | channel | none                 | `Presence`                 | that gateway               |
| `system:broadcast`       | channel | none                 | an operator                | every gateway              |
| `chat:seq|sent|log:…`    | as `<name>:seq|sent|log:…` above | send.lua            | `Messages`, `Archive`      |
| `chat:talks:<uid>`       | set     | for ever             | send.lua                   | `Messages`                 |
| `chat:acked:<uid>`       | hash    | for ever             | ack.lua                    | `Messages`, `Archive`      |
| `chat:outbox`            | stream  | until done           | send.lua                   | `Outbox`                   |
| `members:<group>`        | string  | `cache_s`            | `Groups`                   | `Groups`                   |
| `members:<group>:version`| string  | a day after a change | `Groups`                   | `Groups`                   |
| `token:<id>`             | string  | the token's          | `Tokens`                   | `Tokens`                   |

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
    """Whether a channel carries confirmations, of messages or of batches, instead of messages."""
    return channel.startswith(("confirm:", "batches:"))


def batches_channel(sender: str) -> str:
    """Name the channel on which receivers say which of one sender's batches they took in."""
    return f"batches:{sender}"


def mark_key(scope: str, id: str) -> str:
    """Name the mark that says what became of one message."""
    return f"once:{scope}:{id}"


def token_key(scope: str) -> str:
    """Name the counter of one scope's fencing tokens."""
    return f"tokens:{scope}"


def sequence_key(name: str, conversation: str) -> str:
    """Name the counter of one conversation's sequence numbers."""
    return f"{name}:seq:{conversation}"


def sent_key(name: str, conversation: str, id: str) -> str:
    """Name the mark that keeps a sender's message id, and which number it was given in its conversation."""
    return f"{name}:sent:{conversation}:{id}"


def log_key(name: str, conversation: str) -> str:
    """Name the stream that keeps one conversation, by sequence number."""
    return f"{name}:log:{conversation}"


def live_channel(name: str, conversation: str) -> str:
    """Name the channel on which one conversation's messages travel as they are written."""
    return f"{name}:live:{conversation}"


def partition_key(name: str, partition: int) -> str:
    """Name the stream of one partition."""
    return f"{name}:{partition}"


def seat_key(name: str, group: str, partition: int) -> str:
    """Name the hash that says who has one partition, with which token, and how far it is."""
    return f"{name}:{group}:{partition}"


def members_key(name: str, group: str) -> str:
    """Name the set of a group's members and the time until which each counts as alive."""
    return f"{name}:{group}:members"


def route_key(uid: str) -> str:
    """Name the set of a user's routes, each with the time at which it ends."""
    return f"route:{uid}"


def status_channel(uid: str) -> str:
    """Name the channel on which it is told that a user came or went."""
    return f"user:status:{uid}"


def gateway_channel(gateway: str) -> str:
    """Name the channel on which one gateway is told what concerns its connections."""
    return f"gateway:{gateway}"


BROADCAST_CHANNEL = "system:broadcast"


def talks_key(uid: str) -> str:
    """Name the set of the users' conversations in which one user takes part."""
    return f"chat:talks:{uid}"


def acked_key(uid: str) -> str:
    """Name the hash that says how far one user has acknowledged each conversation."""
    return f"chat:acked:{uid}"


OUTBOX_KEY = "chat:outbox"


def cached_members_key(group: str) -> str:
    """Name the copy of a group's members that is kept for a while."""
    return f"members:{group}"


def members_version_key(group: str) -> str:
    """Name the counter of a group's changes, which says whether a copy is still true."""
    return f"members:{group}:version"


def used_token_key(id: str) -> str:
    """Name the mark of a token that was used."""
    return f"token:{id}"
