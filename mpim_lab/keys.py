"""Every Redis key and channel of the system: name, type, lifetime, who writes it, who reads it.

| name | type | lifetime | written by | read by |
|---|---|---|---|---|
| `user:<uid>` | channel | none | senders | the queue of that user |
| `confirm:<uid>` | channel | none | the queue of that user | who sends to that user |
| `batches:<sender>` | channel | none | receivers of batches | the batcher of that sender |
| `<stream>` | stream | until trimmed | `Stream.add` | its consumer groups |
| `stream:{<stream>}:dead:<group>` | stream | until redriven | `ConsumerGroup` | a person |
| `stream:{<stream>}:life:<group>:<consumer>` | string | its heartbeats | `Consumer` | `Consumer` |
| `once:{<scope>}:id:<id>` | hash | `ttl_s` | `IdempotencyStore` | `IdempotencyStore` |
| `once:{<scope>}:tokens` | counter | for ever | `IdempotencyStore` | `IdempotencyStore` |
| `conv:{<name>:<conv>}:seq` | string | for ever | append.lua (a counter) | append.lua |
| `conv:{<name>:<conv>}:sent:<id>` | string | `id_ttl_s` | append.lua | append.lua |
| `conv:{<name>:<conv>}:log` | stream | until trimmed | `SequencedLog.append` | `OrderedReader` |
| `conv:{<name>:<conv>}:live` | channel | none | `SequencedLog.append` | `OrderedReader` |
| `part:{<name>:<n>}:log` | stream | until trimmed | `PartitionedStream.append` | `OrderedWorker` |
| `part:{<name>:<n>}:seq:<conv>` | string | for ever | append.lua (a counter) | append.lua |
| `part:{<name>:<n>}:sent:<conv>:<id>` | string | `id_ttl_s` | append.lua | append.lua |
| `part:{<name>:<n>}:owner:<group>`| hash | for ever | heartbeat.lua, commit.lua | the same |
| `part:{<name>:<n>}:dead:<group>` | stream | redriven or dropped | commit.lua | a person |
| `part:{<name>}:members:<group>` | zset | their heartbeats | heartbeat.lua | heartbeat.lua |
| `route:<uid>` | zset | the longest route's | `Presence` | `Presence` |
| `user:status:<uid>` | channel | none | `Presence` | gateways, for who watches |
| `gateway:<gateway>` | channel | none | `Presence` | that gateway |
| `system:broadcast` | channel | none | an operator | every gateway |
| `conv:{chat:<conv>}:seq` | string | for ever | append_and_push.lua | append_and_push.lua |
| `conv:{chat:<conv>}:log` | stream | until trimmed | append_and_push.lua | `MessageService` |
| `conv:{chat:<conv>}:sent:<uid>:<id>` | string | an hour | append_and_push.lua | the same |
| `chat:{<uid>}:talks` | set | for ever | append_and_push.lua | `MessageService` |
| `chat:{<uid>}:acked` | hash | for ever | acknowledge.lua | `MessageService`, `OutboxWorker` |
| `chat:{outbox}` | stream | until done | append_and_push.lua | `OutboxWorker` |
| `members:{<group>}` | string | `cache_ttl_s` | `GroupService` | `GroupService` |
| `members:{<group>}:version` | string | a day after a change | `GroupService` | `GroupService` |
| `token:{<id>}` | string | the token's | `TokenService` | `TokenService` |
| `mpim:layout` | string | for ever | the first who uses keys | every queue that uses keys |

A channel keeps nothing: what is published while nobody listens is gone. A stream keeps what it was
given. On a server that is not the lab's own, every name carries the run's prefix
(`MessageQueue(url, prefix="lab-7f3a:")`).

**One root for each atomic step.** What stands in braces is the hash tag: a cluster puts all keys
with the same one into the same slot. `<stream>` in braces is the stream's own key, prefix included,
so its dead letters are where the stream is.

**Names are names.** A name is any non-empty text that UTF-8 can encode, or bytes. In a key `%`, `{`
and `}` are written as `%25`, `%7B` and `%7D`, and in a name that is joined to others `:` is `%3A`.
So two different lists of names never give the same key, no name can be taken for a hash tag, and a
stream of the user's is never one of the keys with braces (a stream called `route:…` or `mpim:…` is
written `route%3A…`). Channels are no keys: they are the prefix and the name, unchanged.
"""

import re

from mpim_lab.errors import InvalidMessage, InvalidParameter, MpimError

Name = str | bytes
LAYOUT = "2"
BROADCAST_CHANNEL = "system:broadcast"

_IN_A_KEY = re.compile(rb"[%{}]")
_JOINED = re.compile(rb"[%{}:]")
_OURS = re.compile(rb"^(route|mpim):")  # keys without braces that are not the user's
_ROOT = re.compile(rb"\{[^}]*\}")
_GLOB = re.compile(rb"[*?\[\]\\]")


def name_bytes(name: Name, what: str = "name", *, error: type[MpimError] = InvalidMessage) -> bytes:
    r"""Return a name as the server has it. Raise `error` for what is no name.

    >>> name_bytes("user:1001"), name_bytes(b"\xff")
    (b'user:1001', b'\xff')
    """
    if type(name) is bytes:
        raw = name
    elif isinstance(name, str):
        try:
            raw = str.encode(name)  # of a subclass, too: what it is, not what it would like to be
        except UnicodeEncodeError as unwritable:
            raise error(
                f"the {what} {str.__repr__(name):.200} cannot be written as UTF-8"
            ) from unwritable
    elif isinstance(name, bytes):
        raw = bytes(memoryview(name))
    else:
        raise error(f"a {what} is a non-empty text, or bytes, not {name!r:.200}")
    if not raw:
        raise error(f"a {what} is a non-empty text, or bytes, not {name!r}")
    return raw


def name_text(raw: bytes) -> Name:
    """Return a name as text; one that is not UTF-8 stays bytes, so that no two become the same."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw


def same_name(name: Name, what: str = "name", *, error: type[MpimError] = InvalidMessage) -> Name:
    r"""Return a name in the one form in which two that the server takes for the same are equal.

    Raise as `name_bytes`.

    >>> same_name(b"bob"), same_name("bob"), same_name(b"\xff")
    ('bob', 'bob', b'\xff')
    """
    return name_text(name_bytes(name, what, error=error))


def joined(*names: Name) -> bytes:
    """Join names so that no other list of names gives the same bytes.

    >>> joined("payments", "eu:42"), joined("payments:eu", "42")
    (b'payments:eu%3A42', b'payments%3Aeu:42')
    """
    return b":".join([joinable(name) for name in names])


def joinable(name: Name) -> bytes:
    """Return one name as it is joined to others, or put after what a key begins with."""
    raw = name_bytes(name)
    if raw.isalnum() or len(raw.translate(None, b"%{}:")) == len(
        raw
    ):  # a fifth of what the expression takes
        return raw
    return _JOINED.sub(_escaped, raw)


def _escaped(found: re.Match[bytes]) -> bytes:
    return b"%%%02X" % found[0][0]


class Keys:
    """The keys and channels of one queue, each as the server has it.

    Every method raises InvalidMessage for what is no name.

    >>> keys = Keys("lab-7f3a:")
    >>> keys.stream("orders"), keys.dead_letters(keys.stream("orders"), "billing")
    (b'lab-7f3a:orders', b'lab-7f3a:stream:{lab-7f3a:orders}:dead:billing')
    >>> keys.idempotency_record("payments", "eu:42")
    b'lab-7f3a:once:{payments}:id:eu%3A42'
    """

    def __init__(self, prefix: Name = "") -> None:
        """Begin all keys and channels with `prefix`. Raise InvalidParameter."""
        is_empty = prefix in ("", b"")
        self.prefix = b"" if is_empty else name_bytes(prefix, "prefix", error=InvalidParameter)
        self._prefix = _IN_A_KEY.sub(_escaped, self.prefix)

    # Channels

    def channel(self, name: Name) -> bytes:
        """Name a channel: the prefix and the name, unchanged."""
        return self.prefix + name_bytes(name, "channel")

    def pattern(self, name: Name) -> bytes:
        """Name a pattern of channels: whatever the prefix holds stands for itself."""
        return _GLOB.sub(rb"\\\g<0>", self.prefix) + name_bytes(name, "pattern")

    def channel_name(self, raw: bytes) -> Name:
        """Return the name of a channel that the server has as `raw`."""
        return name_text(raw.removeprefix(self.prefix))

    def live(self, name: Name, conversation: Name) -> bytes:
        """Name the channel on which one conversation's messages travel as they are written."""
        return self.channel(live_channel(name, conversation))

    # Streams and their groups

    def stream(self, name: Name) -> bytes:
        """Name a stream, or any other key of the user's own."""
        raw = name_bytes(name)
        if len(raw.translate(None, b"%{}")) < len(raw):
            raw = _IN_A_KEY.sub(_escaped, raw)
        return self._prefix + (
            _OURS.sub(rb"\1%3A", raw) if raw.startswith((b"route:", b"mpim:")) else raw
        )

    def dead_letters(self, stream_key: bytes, group: Name) -> bytes:
        """Name the stream of what a group gave up, in the slot of the stream `stream_key`."""
        return self._of_stream(stream_key, b"dead:" + joined(group))

    def consumer_lease(self, stream_key: bytes, group: Name, consumer: Name) -> bytes:
        """Name the lease of a consumer's name, in the slot of the stream `stream_key`.

        >>> Keys().consumer_lease(b"orders", "billing", "w 1")
        b'stream:{orders}:life:billing:w 1'
        """
        return self._of_stream(stream_key, b"life:" + joined(group, consumer))

    def _of_stream(self, stream_key: bytes, role: bytes) -> bytes:
        partition = _ROOT.search(stream_key)
        root = b"part:%b" % partition[0] if partition else b"stream:{%b}" % stream_key
        return self._prefix + b"%b:%b" % (root, role)

    # Idempotency

    def idempotency_record(self, scope: Name, id: Name) -> bytes:
        """Name the idempotency record of one message."""
        return self.idempotency_record_prefix(scope) + joinable(id)

    def idempotency_record_prefix(self, scope: Name) -> bytes:
        """Return what the idempotency records of one scope begin with.

        The id follows, `joinable`.
        """
        return self._prefix + b"once:{%b}:id:" % joined(scope)

    def fencing_tokens(self, scope: Name) -> bytes:
        """Name the counter of fencing tokens of one scope."""
        return self._prefix + b"once:{%b}:tokens" % joined(scope)

    # Conversations

    def sequence(self, name: Name, conversation: Name) -> bytes:
        """Name the counter of one conversation's sequence numbers."""
        return self._prefix + b"conv:{%b}:seq" % joined(name, conversation)

    def message_id(self, name: Name, conversation: Name, *id: Name) -> bytes:
        """Name the record of a sender's message id: its sequence number in its conversation."""
        return self._prefix + b"conv:{%b}:sent:%b" % (joined(name, conversation), joined(*id))

    def log(self, name: Name, conversation: Name) -> bytes:
        """Name the stream that keeps one conversation, by sequence number."""
        return self._prefix + b"conv:{%b}:log" % joined(name, conversation)

    # Partitions

    def partition(self, name: Name, partition: int) -> bytes:
        """Name the stream of one partition."""
        return self._part(name, partition, b"log")

    def partition_sequence(self, name: Name, partition: int, conversation: Name) -> bytes:
        """Name the counter of one conversation's sequence numbers in its partition."""
        return self.partition_prefixes(name, partition)[0] + joinable(conversation)

    def partition_message_id(
        self, name: Name, partition: int, conversation: Name, id: Name
    ) -> bytes:
        """Name the record of a sender's message id in its partition."""
        return self.partition_prefixes(name, partition)[1] + joined(conversation, id)

    def partition_prefixes(self, name: Name, partition: int) -> tuple[bytes, bytes]:
        """Return what counters and id records of one partition begin with.

        The names follow, `joined`.
        """
        return self._part(name, partition, b"seq:"), self._part(name, partition, b"sent:")

    def assignment(self, name: Name, partition: int, group: Name) -> bytes:
        """Name the hash of one partition's assignment: its owner, the fencing token, the offset."""
        return self._part(name, partition, b"owner:" + joined(group))

    def members(self, name: Name, group: Name) -> bytes:
        """Name the set of a group's members and the time until which each counts as alive."""
        return self._prefix + b"part:{%b}:members:%b" % (joined(name), joined(group))

    def _part(self, name: Name, partition: int, role: bytes) -> bytes:
        return self._prefix + b"part:{%b:%d}:%b" % (joined(name), partition, role)

    # MPIM, whose users, devices, groups and gateways have narrow names (`im.protocol`)

    def route(self, uid: str) -> bytes:
        """Name the set of a user's routes, each with the time at which it ends."""
        return self._prefix + b"route:" + joined(uid)

    def direct_conversations(self, uid: str) -> bytes:
        """Name the set of the direct conversations in which one user takes part."""
        return self._prefix + b"chat:{%b}:talks" % joined(uid)

    def acked(self, uid: str) -> bytes:
        """Name the hash that says how far one user has acknowledged each conversation."""
        return self._prefix + b"chat:{%b}:acked" % joined(uid)

    @property
    def outbox(self) -> bytes:
        """Name the stream of what is still to be done for messages."""
        return self._prefix + b"chat:{outbox}"

    def cached_members(self, group: str) -> bytes:
        """Name the copy of a group's members that is kept for a while."""
        return self._prefix + b"members:{%b}" % joined(group)

    def members_version(self, group: str) -> bytes:
        """Name the counter of a group's changes, which says whether a copy is still true."""
        return self._prefix + b"members:{%b}:version" % joined(group)

    def used_token(self, id: str) -> bytes:
        """Name the record of a token that was used."""
        return self._prefix + b"token:{%b}" % joined(id)

    # The layout

    @property
    def layout(self) -> bytes:
        """Name the key that says which layout this is: `LAYOUT`."""
        return self._prefix + b"mpim:layout"


def live_channel(name: Name, conversation: Name) -> Name:
    """Name the channel on which one conversation's messages travel as they are written.

    >>> live_channel("chat", "alice:bob")
    'conv:{chat:alice%3Abob}:live'
    """
    return name_text(b"conv:{%b}:live" % joined(name, conversation))


class AckChannel(str):
    """A channel that carries acknowledgements instead of messages.

    Known by this type, for any channel may be spelled so.
    """

    __slots__ = ()


def is_ack_channel(channel: str) -> bool:
    """Return whether a channel carries acknowledgements instead of messages.

    >>> is_ack_channel(ack_channel("1001")), is_ack_channel("confirm:1001")
    (True, False)
    """
    return isinstance(channel, AckChannel)


def user_channel(uid: str) -> str:
    """Name the channel on which one user's messages travel.

    >>> user_channel("1001")
    'user:1001'
    """
    return "user:" + uid


def ack_channel(uid: str) -> AckChannel:
    """Name the channel on which a user's receiver acknowledges the messages it has handled.

    >>> ack_channel("1001")
    'confirm:1001'
    """
    return AckChannel("confirm:" + uid)


def batch_ack_channel(sender: str) -> AckChannel:
    """Name the channel on which receivers acknowledge one sender's batches."""
    return AckChannel("batches:" + sender)


def status_channel(uid: str) -> str:
    """Name the channel of one user's presence changes."""
    return "user:status:" + uid


def gateway_channel(gateway: str) -> str:
    """Name the channel of one gateway: what concerns its connections."""
    return "gateway:" + gateway
