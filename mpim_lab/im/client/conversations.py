"""Readers: all conversations of one client: what may be handed over, what is to be asked for, what to acknowledge."""

import asyncio
import contextlib
import math
from collections import deque
from collections.abc import Container, Iterator, MutableMapping

from mpim_lab.errors import GatewayClosed, NoSuchGroup, NotAMember, TooFast
from mpim_lab.im.client.sequencer import Missing, Reader, Unplaced
from mpim_lab.im.protocol.frames import Ack, Behind, FromGateway, Page, Problem, Sent, Sync, Welcome
from mpim_lab.im.protocol.requests import ChatMessage, group_of
from mpim_lab.mq.connection.bounds import MAX_INT, check_bounds

_MOST_ASKED = 8  # conversations at once; who comes back to thousands would be refused for it
_TOO_FAST_S = 1.0  # after a refusal nothing for so long, and then for as long one at a time


class Readers:
    """positions: how far each conversation was read. limit: messages that may wait for the application; then pushes are
    let pass, and asked for again when there is room.
    """

    def __init__(self, positions: MutableMapping[str, int], limit: int) -> None:
        check_bounds(1, MAX_INT, limit=limit)
        self._positions, self._limit = positions, limit
        self._readers: dict[str, Reader] = {}
        self._unsettled: dict[str, None] = {}  # the others, which may be thousands, need not be looked at
        self._ready: deque[tuple[ChatMessage, bool]] = deque()  # and whether it was sent from here
        self._is_out = False  # one was handed over and is not read yet
        self._uid = ""
        self._some = asyncio.Event()
        self._acks: dict[str, int] = {}
        self._is_ordered, self._is_closed = True, False
        self._joining, self._left = set[str | None](), set[str]()
        self._unplaced: dict[str, Unplaced] = {}
        self._silent_until = 0.0

    @property
    def missing(self) -> list[Missing]:
        """Numbers that could not be had any more."""
        return [each for reader in self._readers.values() for each in reader.missing]

    def begin(self, conversation: str, after: int) -> None:
        """Read a conversation from number `after` on, unless it is being read, or was read further."""
        if conversation not in self._readers:
            self._place(conversation, self._positions.get(conversation, after))

    def _place(self, conversation: str, after: int) -> None:
        """What was pushed before it was known where it begins is read in any case."""
        unplaced = self._unplaced.pop(conversation, Unplaced())
        self._readers[conversation] = Reader(conversation, after=int(min(after, unplaced.first - 1)))

    def _is_placed(self, conversation: str, first: float, last: int) -> bool:
        """Whether it is known where a conversation begins. Another device of the user may have joined a group, or read."""
        if last <= 1 or conversation in self._readers or conversation in self._positions:
            return True
        unplaced = self._unplaced.setdefault(conversation, Unplaced())
        unplaced.first = min(first, unplaced.first)
        return False

    def _reader(self, conversation: str, after: int = 0) -> Reader:
        """To be told something, after which it may have something to ask for."""
        self.begin(conversation, after)
        self._unsettled[conversation] = None
        return self._readers[conversation]

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
            self._leave(conversation)
            return
        self._left.discard(conversation)
        if conversation not in self._readers:
            waiting = (each.sequence for each, _ in self._ready if each.conversation == conversation)
            self._place(conversation, max(last, self._positions.get(conversation, 0), *waiting))

    def _leave(self, conversation: str) -> None:
        """What still comes of a group after it was left is let pass."""
        self._readers.pop(conversation, None)
        self._unplaced.pop(conversation, None)
        self._left.add(conversation)

    def problem(self, problem: Problem, now: float) -> None:
        """A `sync` was refused: we are in that group no more, or asked too often."""
        what, _, conversation = problem.id.partition(" ")
        asked = self._unplaced.get(conversation) or self._readers.get(conversation)
        if what != "sync" or asked is None:
            return
        if problem.error == TooFast.__name__:
            asked.asked_at, self._silent_until = None, now + _TOO_FAST_S
        elif problem.error in (NotAMember.__name__, NoSuchGroup.__name__):
            self._leave(conversation)

    def welcome(self, welcome: Welcome, now: float) -> None:
        """What a gateway says at the beginning: how far things are."""
        self._is_ordered, self._uid = welcome.ordered, welcome.uid
        known = (*self._readers, *self._positions) if welcome.whole else ()
        lost = {name for name in known if group_of(name) is None}
        self._left.difference_update(welcome.conversations)
        for name, (acked, last) in (dict.fromkeys(lost, (0, 0)) | welcome.conversations).items():
            reader = self._reader(name, acked)
            reader.asked_at = None  # what was asked over the line before is not answered any more
            if reader.forgotten(acked, last):
                self._positions[name] = reader.position  # and not what the next messages will be numbered
            else:
                reader.told_last(last)
            if self._positions.get(name, 0) > acked:
                self._acks[name] = self._positions[name]
        for unplaced in self._unplaced.values():
            unplaced.asked_at = None

    def sent(self, sent: Sent, now: float, own: Container[str]) -> None:
        """A message from here was kept: its turn passes without its being pushed to us."""
        if self._is_ordered:
            self.take(ChatMessage(sent.conversation, sent.sequence, sent.id, self._uid, ""), now, own)

    def take(self, frame: FromGateway, now: float, own: Container[str]) -> None:
        """Take in a push, a page or word of being behind; `own`: the ids of messages sent from here."""
        if isinstance(frame, ChatMessage) and not self._is_ordered:
            self._hand_over([frame], own)
        elif isinstance(frame, ChatMessage | Page) and self._lets_pass(frame.conversation):
            return
        elif isinstance(frame, ChatMessage):
            if not self._is_placed(frame.conversation, frame.sequence, frame.sequence):
                return
            reader = self._reader(frame.conversation)
            if len(self._ready) < self._limit:
                self._hand_over(reader.push(frame, now), own)
            else:
                reader.told_last(frame.sequence)
        elif isinstance(frame, Page):
            reader = self._reader(frame.conversation, frame.after)
            self._hand_over(reader.page(frame.messages, frame.last, frame.missing, now), own)
            if not frame.messages and frame.missing is None:
                reader.asked_at = now  # there is nothing, whatever was said before: do not ask again at once
        elif isinstance(frame, Behind) and self._is_ordered:
            for name, last in frame.conversations.items():
                if name in self._left or not self._is_placed(name, math.inf, last):
                    continue
                if not self._reader(name).told_last(last):
                    self._acks[name] = self._positions.get(name, 0)  # the acknowledgement was lost, or is not due yet

    def _lets_pass(self, conversation: str) -> bool:
        return conversation in self._joining or conversation in self._left

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
        if len(self._ready) >= self._limit or now < self._silent_until:
            return
        most = 1 if now < self._silent_until + _TOO_FAST_S else _MOST_ASKED
        found = [(name, reader) for name in self._unsettled if (reader := self._readers.get(name)) is not None]
        readers = {name: reader for name, reader in found if not reader.is_settled(now)}
        self._unsettled = dict.fromkeys(readers)
        room = most - sum(asked.waits(now) for asked in (*readers.values(), *self._unplaced.values()))
        for name, reader in readers.items():
            if room <= 0:
                return
            if (after := reader.asks(now)) is not None:
                room -= 1
                yield Sync(name, after)
        for name, unplaced in list(self._unplaced.items()):
            if room > 0 and not unplaced.waits(now):
                room -= 1
                unplaced.asked_at = now
                yield Sync(name)

    def acks(self) -> list[Ack]:
        """What is to be acknowledged now; each is given once."""
        acks, self._acks = self._acks, {}
        return [Ack(name, number) for name, number in acks.items()]

    def close(self) -> None:
        """Nothing comes any more."""
        self._is_closed = True
        self._some.set()
