"""Readers: all conversations of one client: what may be handed over, what is to be asked for, what to acknowledge."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Container, Iterator, MutableMapping

from mpim_lab.errors import GatewayClosed
from mpim_lab.im.protocol import ChatMessage, group_of
from mpim_lab.im.reader import Missing, Reader
from mpim_lab.im.wire import Ack, Behind, FromGateway, Page, Sent, Sync, Welcome


class Readers:
    """positions: how far each conversation was read. limit: messages that may wait for the application; then pushes are
    let pass, and asked for again when there is room.
    """

    def __init__(self, positions: MutableMapping[str, int], limit: int) -> None:
        self._positions, self._limit = positions, limit
        self._readers: dict[str, Reader] = {}
        self._ready: deque[tuple[ChatMessage, bool]] = deque()  # and whether it was sent from here
        self._is_out = False  # one was handed over and is not read yet
        self._uid = ""
        self._some = asyncio.Event()
        self._acks: dict[str, int] = {}
        self._is_ordered, self._is_closed = True, False
        self._joining = set[str | None]()

    @property
    def missing(self) -> list[Missing]:
        """Numbers that could not be had any more."""
        return [each for reader in self._readers.values() for each in reader.missing]

    def begin(self, conversation: str, after: int) -> None:
        """Read a conversation from number `after` on, unless it is being read."""
        if conversation not in self._readers:
            self._readers[conversation] = Reader(conversation, after=self._positions.get(conversation, after))

    @contextlib.contextmanager
    def joining(self, conversation: str | None) -> Iterator[None]:
        """While it is asked to join a group: its messages cannot be placed yet, and are let pass. None: no such group."""
        self._joining.add(conversation)
        try:
            yield
        finally:
            self._joining.discard(conversation)

    def member(self, conversation: str, last: int, *, is_in: bool) -> None:
        """The user is in a group now, and if it was not, reads what comes after its number `last`; or is not any more."""
        self._joining.discard(conversation)
        if not is_in:
            self._readers.pop(conversation, None)
        elif conversation not in self._readers:
            after = max(last, self._positions.get(conversation, 0))
            self._readers[conversation] = Reader(conversation, after=after)

    def welcome(self, welcome: Welcome, now: float) -> None:
        """What a gateway says at the beginning: how far things are."""
        self._is_ordered, self._uid = welcome.ordered, welcome.uid
        lost = {name for name in (*self._readers, *self._positions) if group_of(name) is None}
        for name, (acked, last) in (dict.fromkeys(lost, (0, 0)) | welcome.conversations).items():
            self.begin(name, acked)
            reader = self._readers[name]
            reader.asked_at = None  # what was asked over the line before is not answered any more
            if reader.forgotten(acked, last):
                self._positions[name] = reader.position  # and not what the next messages will be numbered
            else:
                reader.told_last(last)
            if self._positions.get(name, 0) > acked:
                self._acks[name] = self._positions[name]

    def sent(self, sent: Sent, now: float, own: Container[str]) -> None:
        """A message from here was kept: its turn passes without its being pushed to us."""
        if self._is_ordered:
            self.take(ChatMessage(sent.conversation, sent.sequence, sent.id, self._uid, ""), now, own)

    def take(self, frame: FromGateway, now: float, own: Container[str]) -> None:
        """Take in a push, a page or word of being behind; `own`: the ids of messages sent from here."""
        if isinstance(frame, ChatMessage) and not self._is_ordered:
            self._hand_over([frame], own)
        elif isinstance(frame, ChatMessage):
            if frame.conversation in self._joining:
                return
            self.begin(frame.conversation, 0)
            if len(self._ready) < self._limit:
                self._hand_over(self._readers[frame.conversation].push(frame, now), own)
            else:
                self._readers[frame.conversation].told_last(frame.sequence)
        elif isinstance(frame, Page):
            self.begin(frame.conversation, 0)
            reader = self._readers[frame.conversation]
            self._hand_over(reader.page(frame.messages, frame.last, frame.missing, now), own)
            if not frame.messages and frame.missing is None:
                reader.asked_at = now  # there is nothing, whatever was said before: do not ask again at once
        elif isinstance(frame, Behind) and self._is_ordered:
            for name, last in frame.conversations.items():
                self.begin(name, 0)
                if not self._readers[name].told_last(last):
                    self._acks[name] = self._positions.get(name, 0)  # the acknowledgement was lost, or is not due yet

    def _hand_over(self, messages: list[ChatMessage], own: Container[str]) -> None:
        self._ready += [(each, self._is_own(each, own)) for each in messages]
        if not self._is_out:
            self._pass_own()
        if self._ready:
            self._some.set()

    def _is_own(self, message: ChatMessage, own: Container[str]) -> bool:
        return message.id in own and message.sender == (self._uid or message.sender)

    def _pass_own(self) -> None:
        """What was sent from here is not handed over; it counts as read when its turn comes, after those before it."""
        while self._ready and self._ready[0][1]:
            self._note(self._ready.popleft()[0])

    async def next(self) -> ChatMessage:
        """The next message to hand over. Raises GatewayClosed once closed."""
        self._is_out = False
        self._pass_own()
        while not self._ready:
            if self._is_closed:
                raise GatewayClosed("the client is closed")
            self._some.clear()
            await self._some.wait()
        self._is_out = True
        return self._ready.popleft()[0]

    def read(self, message: ChatMessage) -> None:
        """A message counts as read: the position is one further, and to be acknowledged."""
        self._is_out = False
        self._note(message)
        self._pass_own()

    def _note(self, message: ChatMessage) -> None:
        if self._is_ordered:
            self._positions[message.conversation] = self._acks[message.conversation] = message.sequence

    def syncs(self, now: float) -> Iterator[Sync]:
        """What is to be asked for now."""
        if len(self._ready) >= self._limit:
            return
        for name, reader in self._readers.items():
            after = reader.asks(now)
            if after is not None:
                yield Sync(name, after)

    def acks(self) -> list[Ack]:
        """What is to be acknowledged now; each is given once."""
        acks, self._acks = self._acks, {}
        return [Ack(name, number) for name, number in acks.items()]

    def close(self) -> None:
        """Nothing comes any more."""
        self._is_closed = True
        self._some.set()
