"""Requests and responses of MPIM's services, and the message they carry.

An operator sends the last kind; gateways send the others.

| request                         | handled by                          | what it does             |
|---------------------------------|-------------------------------------|--------------------------|
| `BindRouteRequest`              | `Presence.bind_route`               | stores where a device    |
|                                 |                                     | connects                 |
| `DeliverRequest`                | `Presence.deliver`                  | pushes to a user's       |
|                                 |                                     | channel                  |
| `SendMessageRequest`            | `MessageService.send_message`       | numbers, stores and      |
|                                 |                                     | pushes                   |
| `SendGroupMessageRequest`       | `MessageService.send_group_message` | the same, to a group's   |
|                                 |                                     | members                  |
| `PullOfflineRequest`            | `MessageService.pull_offline`       | returns what follows a   |
|                                 |                                     | number                   |
| `AckRequest`                    | `MessageService.ack`                | moves the read position  |
| `BroadcastSystemMessageRequest` | `.broadcast_system_message`         | a notice to all online   |

A user's id (`uid`), a device and a group are names of 1 to 64 letters, digits, "_", "." or "-". A
conversation is "alice:bob" (the two ids, sorted) or "#tea" (a group). A message's id is made once,
by the client that sends it.
"""

import re
from functools import lru_cache
from typing import Annotated

from msgspec import Meta, Struct

from mpim_lab.errors import InvalidMessage, InvalidParameter

MAX_TEXT_CHARS = 4_000  # characters
MAX_BROADCAST_CHARS = 100_000  # likewise, of a system notice
MAX_ID_CHARS = 64
NAME_PATTERN = r"^[A-Za-z0-9_.\-]{1,64}\Z"
Name = Annotated[str, Meta(pattern=NAME_PATTERN)]
MESSAGE_ID_PATTERN = r"^[!-~]{1,64}\Z"
# printable, no blank: it is the first word on a channel
MessageId = Annotated[str, Meta(pattern=MESSAGE_ID_PATTERN)]
Text = Annotated[str, Meta(min_length=1, max_length=MAX_TEXT_CHARS)]
# what JSON's numbers hold exactly in every language
SequenceNumber = Annotated[int, Meta(ge=0, le=2**53)]
_NAME, _MESSAGE_ID = re.compile(NAME_PATTERN), re.compile(MESSAGE_ID_PATTERN)


class ChatMessage(Struct, frozen=True, tag="push", tag_field="t"):
    """One message of a conversation.

    Args:
        conversation: Its name: "alice:bob" (two users, sorted) or "#tea" (a group).
        sequence: Its number in the conversation, from 1; 0 before it has one.
        id: Its id, made once by the client that sends it.
        sender: The user who sent it.
        text: 1 to 4,000 characters.
        at_ms: When the server numbered it, in milliseconds since 1970.
    """

    conversation: str
    sequence: int
    id: str
    sender: str
    text: str
    at_ms: int = 0


class BindRouteRequest(Struct, frozen=True):
    """Where one device of a user is connected.

    `connection` is unique: a route is unbound by this name alone.
    """

    uid: str
    device: str
    gateway: str
    connection: str


class BindRouteResponse(Struct, frozen=True):
    """The routes that were replaced, to be closed.

    "gateway connection" of each older connection of the device.
    """

    replaced: tuple[str, ...] = ()


class DeliverRequest(Struct, frozen=True):
    """A message for one user, as it travels on the user's channel."""

    to: str
    payload: bytes


class DeliverResponse(Struct, frozen=True):
    """How many gateways the server handed the message to.

    0: nobody listens, whatever the route says.
    """

    gateways: int


class SendMessageRequest(Struct, frozen=True):
    """A message from one user to another. The same `id` again is the same message."""

    id: str
    sender: str
    to: str
    text: str

    @property
    def message(self) -> ChatMessage:
        """The message to send, not numbered yet."""
        return ChatMessage(
            direct_conversation(self.sender, self.to), 0, self.id, self.sender, self.text
        )


class SendMessageResponse(Struct, frozen=True):
    """The outcome of a direct message.

    `status`: "pushed" (a gateway of the receiver has it), "stored" (it waits), "known" (the id was
    sent before).
    """

    id: str
    conversation: str
    sequence: int
    status: str


class SendGroupMessageRequest(Struct, frozen=True):
    """A message from a member to the members of a group.

    The same `id` again is the same message.
    """

    id: str
    sender: str
    group: str
    text: str

    @property
    def message(self) -> ChatMessage:
        """The message to send, not numbered yet."""
        return ChatMessage(group_conversation(self.group), 0, self.id, self.sender, self.text)


class SendGroupMessageResponse(Struct, frozen=True):
    """The outcome of a group's message: how many members' gateways have it, for how many it waits.

    `failed`: to whom it could not be pushed yet; it will be.
    """

    id: str
    conversation: str
    sequence: int
    status: str
    pushed: int = 0
    stored: int = 0
    failed: tuple[str, ...] = ()


class PullOfflineRequest(Struct, frozen=True):
    """A request for the messages of a conversation after number `after`, at most `limit`."""

    uid: str
    conversation: str
    after: int
    limit: int = 100


class PullOfflineResponse(Struct, frozen=True):
    """A page, in order.

    `last`: the number of the conversation's last message. `missing`: numbers that are lost for
    good.
    """

    messages: tuple[ChatMessage, ...]
    last: int
    missing: tuple[int, int] | None = None  # first and last


class AckRequest(Struct, frozen=True):
    """`uid` has everything of a conversation up to `sequence`."""

    uid: str
    conversation: str
    sequence: int


class AckResponse(Struct, frozen=True):
    """The read position of the user now: a late acknowledgement does not move it back."""

    sequence: int


class BroadcastSystemMessageRequest(Struct, frozen=True):
    """A notice to everybody who is online."""

    id: str
    text: str


class BroadcastSystemMessageResponse(Struct, frozen=True):
    """How many gateways have it."""

    gateways: int


def is_name(name: str) -> bool:
    """Return whether it may name a user, a device or a group.

    >>> is_name("alice"), is_name("alice bob")
    (True, False)
    """
    return _NAME.match(name) is not None


def checked_name(what: str, name: str) -> str:
    """Return the name of a user, a device or a group. Raises InvalidParameter.

    >>> checked_name("uid", "alice")
    'alice'
    """
    if not isinstance(name, str) or not is_name(name):
        raise InvalidParameter(f'{what}={name!r}: 1 to 64 letters, digits, "_", "." or "-"')
    return name


def checked_id(id: str) -> str:
    """Return the id of a message: 1 to 64 printable characters without a blank.

    Raises InvalidMessage.

    >>> checked_id("018f-7a:1")
    '018f-7a:1'
    """
    if not isinstance(id, str) or _MESSAGE_ID.match(id) is None:
        raise InvalidMessage(
            f"a message id is 1 to {MAX_ID_CHARS} printable ASCII characters without a blank, "
            f"not {id!r:.100}"
        )
    return id


def checked_text(text: str, max_chars: int = MAX_TEXT_CHARS) -> str:
    """Return the text of a message: 1 to `max_chars` characters that UTF-8 can encode.

    Raises InvalidMessage.

    >>> checked_text("hi")
    'hi'
    """
    if not isinstance(text, str) or not 1 <= len(text) <= max_chars:
        raise InvalidMessage(f"a text is 1 to {max_chars:,} characters, not {text!r:.100}")
    if not text.isascii() and any("\ud800" <= each <= "\udfff" for each in text):
        raise InvalidMessage("the text holds half a character: it cannot be written as UTF-8")
    return text


@lru_cache(16_384)
def direct_conversation(one: str, other: str) -> str:
    """Name the conversation of two users, whoever writes first.

    No other two have it: a user's id holds no ":".

    Args:
        one: A user.
        other: Another one, or the same.

    Returns:
        The two names, sorted, with ":" between them.

    Raises:
        InvalidParameter: One of them is no name.

    >>> direct_conversation("bob", "alice")
    'alice:bob'
    """
    return ":".join(sorted((checked_name("uid", one), checked_name("uid", other))))


def group_conversation(group: str) -> str:
    """Name the conversation of a group.

    Args:
        group: The group's name.

    Returns:
        The name after "#".

    Raises:
        InvalidParameter: It is no name.

    >>> group_conversation("tea")
    '#tea'
    """
    return "#" + checked_name("group", group)


def group_of(conversation: str) -> str | None:
    """Return the group whose conversation it is; None for a direct conversation.

    >>> group_of("#tea"), group_of("alice:bob")
    ('tea', None)
    """
    return conversation[1:] if conversation.startswith("#") else None


def takes_part(uid: str, conversation: str) -> bool:
    """Return whether it is a group's, or a direct conversation of this user.

    The one rule of who may read and acknowledge.

    Whether a user is a member of the group is for `GroupService` to say.

    >>> takes_part("bob", "alice:bob"), takes_part("eve", "alice:bob"), takes_part("eve", "#tea")
    (True, False, True)
    >>> takes_part("bob", "bob:alice")
    False
    """
    group = group_of(conversation)
    if group is not None:
        return is_name(group)
    one, _, other = conversation.partition(":")
    return uid in (one, other) and one <= other and is_name(one) and is_name(other)
