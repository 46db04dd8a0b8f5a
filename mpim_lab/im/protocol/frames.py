"""Frames: what clients and gateways send to each other over a WebSocket. This is the specification.

Each frame is one JSON object in a text message; `t` is its type. A frame that is no such object, or
breaks a limit, is answered by `error`; unknown members are passed over, so that newer clients can
talk to older gateways.

| from client | members                     | gateway answers                                      |
|-------------|-----------------------------|------------------------------------------------------|
| `hello`     | token, device, packed, echo | `welcome`, or `error` and the end; must be the first |
|             |                             | frame                                                |
| `send`      | id, text, to or group       | `sent`, or `error` with the id; the same id again is |
|             |                             | the same message                                     |
| `ack`       | conversation, sequence      | nothing: "I have everything up to this number"       |
| `sync`      | conversation, after         | `page`: at most 100 messages after that number, or   |
|             |                             | after my last `ack`                                  |
| `presence`  | users                       | a `presence` for each, and another one whenever it   |
|             |                             | changes                                              |
| `group`     | group, action, members      | `group` with its members; action: "create" (with     |
|             |                             | members), "join", "leave", "members" (asks only)     |
| `ping`      |                             | `pong`; a client that is silent for too long is      |
|             |                             | taken for gone                                       |

| from gateway | members                                 | meaning                                 |
|--------------|-----------------------------------------|-----------------------------------------|
| `welcome`    | uid, gateway, conversations {name:      | begins; who is behind syncs             |
|              | [acked, last]}, ordered, silent_s,      |                                         |
|              | whole                                   |                                         |
| `push`       | conversation, sequence, id, sender,     | a message; acknowledge it               |
|              | text, at_ms                             |                                         |
| `sent`       | id, conversation, sequence, told        | your message is kept, under this number |
| `page`       | conversation, messages, last, missing,  | the answer to `sync`; `missing` is gone |
|              | after                                   | for good                                |
| `behind`     | conversations {name: last}              | there is more than was pushed to you:   |
|              |                                         | sync                                    |
| `presence`   | uid, status                             | "online" or "offline"                   |
| `group`      | group, members, last                    | who is in a group now, and its last     |
|              |                                         | number                                  |
| `notice`     | id, text                                | from the operator, to everybody         |
| `error`      | error, text, id, definite, transient    | `error`: a class of `errors.py`; `id`:  |
|              |                                         | a message's, or "group <name>", or      |
|              |                                         | none; `transient`: ask again later,     |
|              |                                         | with the same id                        |
| `bye`        | reason                                  | the gateway closes; connect again,      |
|              |                                         | elsewhere                               |
| `pong`       |                                         |                                         |

An `error` about a `sync` has the id "sync <conversation>". `whole` false: there are more
conversations than were named.

Limits: a frame from a client has at most 16 KiB, a text 4,000 characters (a notice 100,000),
`presence` 200 users. `ordered` false: this is the naive version, whose pushes have no numbers to
rely on. With `packed` true, the gateway may send several frames in one binary message: a batch,
compressed if that pays (`mpim_lab/mq/compression/framing.py`).

A message that I send is pushed to all my devices; with `echo` false not over the connection that
sent it, which has `sent`.

On a user's channel (`user:<uid>`) a push travels as "<id> <conversation> <sequence> <frame>", so
that a gateway can pass the frame on as it is; a notice on `system:broadcast` as "<id> <frame>".

A field of a class may have another name on the wire; `name=` says which.
"""

from collections.abc import Callable
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct, field

from mpim_lab.errors import CorruptPayload, InvalidMessage, MpimError
from mpim_lab.im.protocol.requests import ChatMessage, MessageId, Name, SequenceNumber, Text


def correlation_id(frame: object) -> str:
    """Return what a response or an error refers to.

    A message's id, "group <name>", "sync <conversation>".

    It is "" for a frame that nobody waits for.

    >>> correlation_id(Group("tea", "join")), correlation_id(Members("tea", ("alice",)))
    ('group tea', 'group tea')
    """
    if isinstance(frame, Group | Members):
        return f"group {frame.group}"
    if isinstance(frame, Sync):
        return f"sync {frame.conversation}"
    return frame.id if isinstance(frame, Send | Sent) else ""


MAX_FRAME_BYTES = 16 * 1024
MAX_WATCHED = 200
ConversationName = Annotated[str, Meta(min_length=2, max_length=130)]


class Hello(Struct, frozen=True, tag="hello", tag_field="t"):
    """The first frame.

    A token, the device, whether batches are read (`packed`) and own messages wanted (`echo`).
    """

    token: Annotated[str, Meta(max_length=2_000)]
    device: Name = "main"
    packed: bool = False
    echo: bool = True


class Send(Struct, frozen=True, tag="send", tag_field="t"):
    """A message to one user (`to`) or to one group."""

    id: MessageId
    text: Text
    to: Name | None = None
    group: Name | None = None

    def __post_init__(self) -> None:
        if (self.to is None) == (self.group is None):
            raise ValueError("a message goes to one user (`to`) or to one `group`")


class Ack(Struct, frozen=True, tag="ack", tag_field="t"):
    """I have everything of a conversation up to this number."""

    conversation: ConversationName
    sequence: SequenceNumber


class Sync(Struct, frozen=True, tag="sync", tag_field="t"):
    """What came after this number, or (None) after what I have acknowledged?"""

    conversation: ConversationName
    after: SequenceNumber | None = None


class WatchPresence(Struct, frozen=True, tag="presence", tag_field="t"):
    """Subscribe to the presence of these users."""

    users: Annotated[tuple[Name, ...], Meta(max_length=MAX_WATCHED)]


class Group(Struct, frozen=True, tag="group", tag_field="t"):
    """Create a group (of me and `members`), join it, leave it, or ask for its members."""

    group: Name
    action: Literal["create", "join", "leave", "members"]
    members: Annotated[tuple[Name, ...], Meta(max_length=MAX_WATCHED)] = ()


class Ping(Struct, frozen=True, tag="ping", tag_field="t"):
    """A heartbeat."""


class Welcome(Struct, frozen=True, tag="welcome", tag_field="t"):
    """For each conversation: how far you have acknowledged, and its last number.

    If there are many (not `whole`), the liveliest alone.
    """

    uid: str
    gateway: str
    conversations: dict[str, tuple[int, int]]
    ordered: bool = True
    # silent for so long: taken for gone
    idle_timeout_s: float = field(default=60.0, name="silent_s")
    complete: bool = field(default=True, name="whole")


class Sent(Struct, frozen=True, tag="sent", tag_field="t"):
    """Your message is kept, under this number."""

    id: str
    conversation: str
    sequence: int
    status: str = field(name="told")


class Page(Struct, frozen=True, tag="page", tag_field="t"):
    """The answer to `sync`."""

    conversation: str
    messages: tuple[ChatMessage, ...]
    last: int
    missing: tuple[int, int] | None = None
    after: int = 0


class SyncHint(Struct, frozen=True, tag="behind", tag_field="t"):
    """A hint that there is more than was pushed: sync these conversations."""

    conversations: dict[str, int]


class PresenceChanged(Struct, frozen=True, tag="presence", tag_field="t"):
    """The status of a watched user: "online" or "offline"."""

    uid: str
    status: str


class Members(Struct, frozen=True, tag="group", tag_field="t"):
    """The members of a group now; `last`: its last number, after which a new member begins."""

    group: str
    members: tuple[str, ...]
    last: int = 0


class Broadcast(Struct, frozen=True, tag="notice", tag_field="t"):
    """A system notice from the operator to everybody who is online."""

    id: str
    text: str


class ErrorFrame(Struct, frozen=True, tag="error", tag_field="t"):
    """An error: a request was not done, or (`definite` false) may not have been.

    `error` names a class of `errors.py`. transient: the same request may succeed later.
    """

    error: str
    text: str
    id: str = ""
    definite: bool = True
    transient: bool = False


class Close(Struct, frozen=True, tag="bye", tag_field="t"):
    """The gateway closes this connection."""

    reason: str


class Pong(Struct, frozen=True, tag="pong", tag_field="t"):
    """The answer to `ping`."""


FromClient = Hello | Send | Ack | Sync | WatchPresence | Group | Ping
FromGateway = (
    Welcome
    | ChatMessage
    | Sent
    | Page
    | SyncHint
    | PresenceChanged
    | Members
    | Broadcast
    | ErrorFrame
    | Close
    | Pong
)
encode = msgspec.json.Encoder().encode
_decode_client: Callable[[bytes | str], FromClient] = msgspec.json.Decoder(FromClient).decode
_decode_gateway: Callable[[bytes | str], FromGateway] = msgspec.json.Decoder(FromGateway).decode


def error_frame(error: MpimError, id: str = "") -> ErrorFrame:
    """Return the frame that reports an error.

    >>> error_frame(InvalidMessage("no"), "m1")
    ErrorFrame(error='InvalidMessage', text='no', id='m1', definite=True, transient=False)
    """
    return ErrorFrame(type(error).__name__, str(error), id, error.definite, error.transient)


def decode_client(frame: bytes | str) -> FromClient:
    """Decode a client's frame. Raises InvalidMessage, which says what is wrong.

    >>> decode_client('{"t": "send", "id": "m1", "to": "bob", "text": "hi"}')
    Send(id='m1', text='hi', to='bob', group=None)
    >>> decode_client('{"t": "send", "id": "m1", "to": "bob", "text": ""}')
    Traceback (most recent call last):
    mpim_lab.errors.InvalidMessage: Expected `str` of length >= 1 - at `$.text`
    """
    try:
        return _decode_client(frame)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        # the last: nested thousands deep
        raise InvalidMessage(str(error)) from error


def validated(frame: FromClient) -> FromClient:
    """Return a frame as a gateway would decode it. Raises InvalidMessage if it would not accept it.

    >>> validated(Send("m1", "", to="bob"))
    Traceback (most recent call last):
    mpim_lab.errors.InvalidMessage: Expected `str` of length >= 1 - at `$.text`
    """
    try:
        raw = encode(frame)
    except (UnicodeEncodeError, TypeError) as error:
        raise InvalidMessage(str(error)) from error
    if len(raw) > MAX_FRAME_BYTES:
        raise InvalidMessage(
            f"as JSON it has {len(raw):,} bytes; a frame has at most {MAX_FRAME_BYTES:,}"
        )
    read = decode_client(raw)
    if read != frame:  # bytes, dates and the like become text on the way
        raise InvalidMessage(f"a gateway would read something else than was given: {read!r:.200}")
    return read


def decode_gateway(frame: bytes | str) -> FromGateway:
    """Decode a gateway's frame. Raises CorruptPayload."""
    try:
        return _decode_gateway(frame)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CorruptPayload(str(error)) from error


def encode_push(message: ChatMessage) -> bytes:
    """Encode a message as it travels on a user's channel.

    >>> encode_push(ChatMessage("alice:bob", 3, "m1", "alice", "hi"))[:16]
    b'm1 alice:bob 3 {'
    """
    head = f"{message.id} {message.conversation} {message.sequence} "
    return head.encode() + encode(message)


def decode_push(payload: bytes) -> tuple[str, str, int, bytes]:
    """Decode a push: message id, conversation, sequence number, frame. Raises CorruptPayload."""
    try:
        message_id, conversation, sequence, frame = payload.split(b" ", 3)
        return message_id.decode(), conversation.decode(), int(sequence), frame
    except ValueError as error:
        raise CorruptPayload(f"not a push: {payload[:60]!r}") from error
