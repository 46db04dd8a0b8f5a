"""MPIM's frames, as one client says and hears them.

The table of both protocols is in `client_protocol.py`.

It keeps the rules of `mpim_lab.im.client.client`: it reads packed frames, knows the last number of
each conversation, hands a message on once and in order, asks for what lacks, and acknowledges what
it has, gathered for a while.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from mpim_lab.im.protocol.frames import (
    MAX_WATCHED,
    Ack,
    Broadcast,
    Close,
    ErrorFrame,
    Group,
    Hello,
    Members,
    Page,
    Ping,
    Send,
    Sent,
    Sync,
    SyncHint,
    Welcome,
    decode_gateway,
    encode,
)
from mpim_lab.im.protocol.requests import ChatMessage
from mpim_lab.im.services.tokens import TokenService
from mpim_lab.load.gateway.client_protocol import FrameKind, ReceivedEvent
from mpim_lab.mq.compression.codec import Codec
from mpim_lab.mq.compression.framing import decode_messages

MAX_BATCH_BYTES = 4 * 1024 * 1024
_NOTHING = ReceivedEvent(FrameKind.NOTHING)
_PING = encode(Ping())


class MpimProtocol:
    """One client's. codec: unpacks batches, one for all clients of a process.

    Without it the client asks for none.
    """

    path: str = "/ws"

    def __init__(self, uid: str, tokens: TokenService, codec: Codec | None = None) -> None:
        self._uid, self._token, self._codec = uid, tokens.issue(uid), codec
        self._last: dict[str, int] = {}
        self._asked: set[str] = set()
        self._acks: dict[str, int] = {}

    def hello(self) -> bytes:
        """Who I am."""
        return encode(Hello(self._token, packed=self._codec is not None, echo=False))

    def keepalive(self) -> bytes:
        """A gateway takes who is silent for a minute for gone."""
        return _PING

    def flush(self) -> list[bytes]:
        """Acknowledgements, each once."""
        acks, self._acks = self._acks, {}
        return [encode(Ack(name, number)) for name, number in acks.items()]

    def send(self, id: str, to: str, text: str) -> bytes:
        """A message to another client."""
        return encode(Send(id, text, to=to))

    def send_group(self, id: str, group: str, text: str) -> bytes:
        """A message to a group."""
        return encode(Send(id, text, group=group))

    def create_group(self, group: str, members: Sequence[str]) -> tuple[bytes, int]:
        """Make a group with the first of its members, as many as a frame may name."""
        first = tuple(members[:MAX_WATCHED])
        return encode(Group(group, "create", first)), len(first)

    def join_group(self, group: str) -> bytes:
        """Become a member."""
        return encode(Group(group, "join"))

    def unpack(self, batch: bytes) -> Sequence[bytes]:
        """The frames of a binary message. Raises CorruptPayload."""
        codec = self._codec or Codec(max_bytes=MAX_BATCH_BYTES)
        return decode_messages(codec.decompress(batch))

    def receive(self, frame: bytes) -> Sequence[ReceivedEvent]:
        """Understand one frame; a message is handed on once, in the order of its number.

        Raises CorruptPayload.
        """
        heard = decode_gateway(frame)
        if isinstance(heard, ChatMessage):
            return (self._in_order(heard),)
        if isinstance(heard, Page):
            return tuple(self._paged(heard))
        if isinstance(heard, SyncHint):
            return tuple(self._behind(name, last) for name, last in heard.conversations.items())
        if isinstance(heard, Welcome):
            self._last.update({name: acked for name, (acked, _) in heard.conversations.items()})
            return (ReceivedEvent(FrameKind.READY),)
        if isinstance(heard, Sent):
            return (self._sent(heard),)
        if isinstance(heard, Members):
            return (ReceivedEvent(FrameKind.ANSWERED),)
        return (_OTHERS.get(type(heard), lambda heard: _NOTHING)(heard),)

    def _sent(self, sent: Sent) -> ReceivedEvent:
        """What I have sent is not pushed to me: its number is had.

        If others lack, the next push will show it.
        """
        if sent.sequence == self._last.get(sent.conversation, 0) + 1:
            self._last[sent.conversation] = self._acks[sent.conversation] = sent.sequence
        return ReceivedEvent(FrameKind.ANSWERED)

    def _in_order(self, message: ChatMessage) -> ReceivedEvent:
        name, number = message.conversation, message.sequence
        last = self._last.get(name, 0)
        if number == last + 1:
            return self._taken(message)
        return _NOTHING if number <= last else self._ask(name)

    def _taken(self, message: ChatMessage) -> ReceivedEvent:
        """The next one.

        What a client sent itself comes to its other devices, and so to itself, too: that is no
        message.
        """
        self._last[message.conversation] = self._acks[message.conversation] = message.sequence
        return (
            ReceivedEvent(FrameKind.PUSHED, message.text)
            if message.sender != self._uid
            else _NOTHING
        )

    def _paged(self, page: Page) -> Iterator[ReceivedEvent]:
        name = page.conversation
        self._asked.discard(name)
        if page.missing is not None:
            yield ReceivedEvent(FrameKind.FAILED, f"{page.missing} of {name} is gone")
        for message in page.messages:
            if message.sequence > self._last.get(name, 0):
                yield self._taken(message)
        if page.messages and self._last[name] < page.last:
            yield self._ask(name)

    def _behind(self, name: str, last: int) -> ReceivedEvent:
        if last > self._last.get(name, 0):
            return self._ask(name)
        self._acks[name] = self._last[name]  # the acknowledgement was lost, or is on its way
        return _NOTHING

    def _ask(self, name: str) -> ReceivedEvent:
        """Sync, unless that is on its way already."""
        if name in self._asked:
            return _NOTHING
        self._asked.add(name)
        return ReceivedEvent(FrameKind.NOTHING, reply=encode(Sync(name, self._last.get(name, 0))))


_OTHERS: dict[type, Callable[[Any], ReceivedEvent]] = {
    Broadcast: lambda notice: ReceivedEvent(FrameKind.NOTICE, notice.text),
    ErrorFrame: lambda problem: ReceivedEvent(FrameKind.FAILED, f"{problem.error}: {problem.text}"),
    Close: lambda bye: ReceivedEvent(FrameKind.FAILED, f"the gateway closed: {bye.reason}"),
}
