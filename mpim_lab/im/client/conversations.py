"""ConversationInbox: all conversations of one client: what may be delivered, what to sync, what to acknowledge."""

import asyncio
import contextlib
import math
from collections import deque
from collections.abc import Container, Iterator, MutableMapping

from mpim_lab.errors import GatewayClosed, NoSuchGroup, NotAMember, TooFast
from mpim_lab.im.client.sequencer import ConversationSequencer, MissingRange, UnknownStart
from mpim_lab.im.protocol.frames import (
    Ack,
    ErrorFrame,
    FromGateway,
    Page,
    Sent,
    Sync,
    SyncHint,
    Welcome,
)
from mpim_lab.im.protocol.requests import ChatMessage, group_of
from mpim_lab.mq.connection.bounds import MAX_INT, check_bounds

_MAX_PENDING_SYNCS = 8  # conversations at once; who comes back to thousands would be refused for it
_RATE_LIMIT_PAUSE_S = 1.0  # after a refusal nothing for so long, and then for as long one at a time


class ConversationInbox:
    """The conversations of one client, and the messages that wait for its application.

    positions: how far each was read. max_buffered: messages that may wait; beyond it pushes are
    dropped, and synced later.
    """

    def __init__(self, positions: MutableMapping[str, int], max_buffered: int) -> None:
        check_bounds(1, MAX_INT, max_buffered=max_buffered)
        self._positions, self._max_buffered = positions, max_buffered
        self._sequencers: dict[str, ConversationSequencer] = {}
        self._maybe_behind: dict[
            str, None
        ] = {}  # the others, which may be thousands, need not be looked at
        self._ready: deque[tuple[ChatMessage, bool]] = deque()  # and whether it was sent from here
        self._delivered_unread = False  # one was delivered and is not read yet
        self._uid = ""
        self._available = asyncio.Event()
        self._acks: dict[str, int] = {}
        self._is_ordered, self._is_closed = True, False
        self._joining, self._left = set[str | None](), set[str]()
        self._unknown_starts: dict[str, UnknownStart] = {}
        self._paused_until = 0.0

    @property
    def missing(self) -> list[MissingRange]:
        """Sequence numbers that are lost for good."""
        return [each for sequencer in self._sequencers.values() for each in sequencer.missing]

    def start(self, conversation: str, after: int) -> None:
        """Read a conversation from number `after` on, unless it is being read, or was read further."""
        if conversation not in self._sequencers:
            self._start(conversation, self._positions.get(conversation, after))

    def _start(self, conversation: str, after: int) -> None:
        """Begin after number `after`, or before the lowest number that was pushed meanwhile."""
        unknown = self._unknown_starts.pop(conversation, UnknownStart())
        self._sequencers[conversation] = ConversationSequencer(
            conversation, after=int(min(after, unknown.first - 1))
        )

    def _start_is_known(self, conversation: str, first: float, last: int) -> bool:
        """Return whether it is known where a conversation begins.

        Another device may have joined a group, or read.
        """
        if last <= 1 or conversation in self._sequencers or conversation in self._positions:
            return True
        unknown = self._unknown_starts.setdefault(conversation, UnknownStart())
        unknown.first = min(first, unknown.first)
        return False

    def _sequencer(self, conversation: str, after: int = 0) -> ConversationSequencer:
        """Return the sequencer of a conversation, which may have something to sync afterwards."""
        self.start(conversation, after)
        self._maybe_behind[conversation] = None
        return self._sequencers[conversation]

    @contextlib.contextmanager
    def joining(self, conversation: str | None) -> Iterator[None]:
        """Ignore a group's messages while the request to join it is in flight. None: no group."""
        self._joining.add(conversation)
        try:
            yield
        finally:
            self._joining.discard(conversation)

    def on_membership(self, conversation: str, last: int, *, is_in: bool) -> None:
        """Take note that the user is in a group, and reads what comes after its number `last`; or is in it no more."""
        self._joining.discard(conversation)
        if not is_in:
            self._leave(conversation)
            return
        self._left.discard(conversation)
        if conversation not in self._sequencers:
            waiting = (
                each.sequence for each, _ in self._ready if each.conversation == conversation
            )
            self._start(conversation, max(last, self._positions.get(conversation, 0), *waiting))

    def _leave(self, conversation: str) -> None:
        """Ignore what still comes of a group that was left."""
        self._sequencers.pop(conversation, None)
        self._unknown_starts.pop(conversation, None)
        self._left.add(conversation)

    def on_error(self, frame: ErrorFrame, now: float) -> None:
        """Handle a `sync` that was refused: we are in that group no more, or asked too often."""
        what, _, conversation = frame.id.partition(" ")
        asked = self._unknown_starts.get(conversation) or self._sequencers.get(conversation)
        if what != "sync" or asked is None:
            return
        if frame.error == TooFast.__name__:
            asked.requested_at, self._paused_until = None, now + _RATE_LIMIT_PAUSE_S
        elif frame.error in (NotAMember.__name__, NoSuchGroup.__name__):
            self._leave(conversation)

    def on_welcome(self, welcome: Welcome, now: float) -> None:
        """Handle the first frame of a connection.

        The read position and last number of each conversation.
        """
        self._is_ordered, self._uid = welcome.ordered, welcome.uid
        known = (*self._sequencers, *self._positions) if welcome.complete else ()
        lost = {name for name in known if group_of(name) is None}
        self._left.difference_update(welcome.conversations)
        for name, (acked, last) in (dict.fromkeys(lost, (0, 0)) | welcome.conversations).items():
            sequencer = self._sequencer(name, acked)
            sequencer.requested_at = (
                None  # what was asked over the connection before is not answered any more
            )
            if sequencer.reset_if_rewound(acked, last):
                self._positions[name] = (
                    sequencer.position
                )  # and not what the next messages will be numbered
            else:
                sequencer.advance_last_known(last)
            if self._positions.get(name, 0) > acked:
                self._acks[name] = self._positions[name]
        for unknown in self._unknown_starts.values():
            unknown.requested_at = None

    def on_sent(self, sent: Sent, now: float, sent_ids: Container[str]) -> None:
        """Skip a message that was sent from here and is stored: it is not pushed to us."""
        if self._is_ordered:
            self.on_frame(
                ChatMessage(sent.conversation, sent.sequence, sent.id, self._uid, ""), now, sent_ids
            )

    def on_frame(self, frame: FromGateway, now: float, sent_ids: Container[str]) -> None:
        """Handle a push, a page or a sync hint; `sent_ids`: the ids of messages sent from here."""
        if isinstance(frame, ChatMessage) and not self._is_ordered:
            self._enqueue([frame], sent_ids)
        elif isinstance(frame, ChatMessage | Page) and self._should_ignore(frame.conversation):
            return
        elif isinstance(frame, ChatMessage):
            if not self._start_is_known(frame.conversation, frame.sequence, frame.sequence):
                return
            sequencer = self._sequencer(frame.conversation)
            if len(self._ready) < self._max_buffered:
                self._enqueue(sequencer.on_push(frame, now), sent_ids)
            else:
                sequencer.advance_last_known(frame.sequence)
        elif isinstance(frame, Page):
            sequencer = self._sequencer(frame.conversation, frame.after)
            self._enqueue(
                sequencer.on_page(frame.messages, frame.last, frame.missing, now), sent_ids
            )
            if not frame.messages and frame.missing is None:
                sequencer.requested_at = (
                    now  # there is nothing, whatever was said before: do not ask again at once
                )
        elif isinstance(frame, SyncHint) and self._is_ordered:
            for name, last in frame.conversations.items():
                if name in self._left or not self._start_is_known(name, math.inf, last):
                    continue
                if not self._sequencer(name).advance_last_known(last):
                    self._acks[name] = self._positions.get(
                        name, 0
                    )  # the acknowledgement was lost, or is not due yet

    def _should_ignore(self, conversation: str) -> bool:
        return conversation in self._joining or conversation in self._left

    def _enqueue(self, messages: list[ChatMessage], sent_ids: Container[str]) -> None:
        self._ready += [(each, self._is_own(each, sent_ids)) for each in messages]
        if not self._delivered_unread:
            self._skip_own()
        if self._ready:
            self._available.set()

    def _is_own(self, message: ChatMessage, sent_ids: Container[str]) -> bool:
        return message.id in sent_ids and message.sender == (self._uid or message.sender)

    def _skip_own(self) -> None:
        """Skip what was sent from here: it counts as read after the messages before it."""
        while self._ready and self._ready[0][1]:
            self._advance(self._ready.popleft()[0])

    async def next(self) -> ChatMessage:
        """Return the next message. Raises GatewayClosed once closed."""
        self._delivered_unread = False
        self._skip_own()
        while not self._ready:
            if self._is_closed:
                raise GatewayClosed("the client is closed")
            self._available.clear()
            await self._available.wait()
        self._delivered_unread = True
        return self._ready.popleft()[0]

    def mark_read(self, message: ChatMessage) -> None:
        """Count a message as read: the position advances, and is to be acknowledged."""
        self._delivered_unread = False
        self._advance(message)
        self._skip_own()

    def _advance(self, message: ChatMessage) -> None:
        if self._is_ordered:
            self._positions[message.conversation] = self._acks[message.conversation] = (
                message.sequence
            )

    def due_syncs(self, now: float) -> Iterator[Sync]:
        """Iterate over the syncs to send now."""
        if len(self._ready) >= self._max_buffered or now < self._paused_until:
            return
        allowed = 1 if now < self._paused_until + _RATE_LIMIT_PAUSE_S else _MAX_PENDING_SYNCS
        found = [
            (name, sequencer)
            for name in self._maybe_behind
            if (sequencer := self._sequencers.get(name)) is not None
        ]
        sequencers = {
            name: sequencer for name, sequencer in found if not sequencer.is_up_to_date(now)
        }
        self._maybe_behind = dict.fromkeys(sequencers)
        room = allowed - sum(
            asked.is_pending(now)
            for asked in (*sequencers.values(), *self._unknown_starts.values())
        )
        for name, sequencer in sequencers.items():
            if room <= 0:
                return
            if (after := sequencer.next_sync(now)) is not None:
                room -= 1
                yield Sync(name, after)
        for name, unknown in list(self._unknown_starts.items()):
            if room > 0 and not unknown.is_pending(now):
                room -= 1
                unknown.requested_at = now
                yield Sync(name)

    def due_acks(self) -> list[Ack]:
        """Return the acknowledgements to send now, each once."""
        acks, self._acks = self._acks, {}
        return [Ack(name, number) for name, number in acks.items()]

    def close(self) -> None:
        """Wake whoever waits for a message: nothing comes any more."""
        self._is_closed = True
        self._available.set()
