"""ConversationInbox: all conversations of one client.

It says what may be delivered, what to sync, and what to acknowledge.
"""

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
        # the others, which may be thousands, need not be looked at
        self._maybe_behind: dict[str, None] = {}
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
        if conversation not in self._sequencers:
            self._start(conversation, self._positions.get(conversation, after))
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
        """Note that the user is in a group, and reads what comes after number `last`; or is not."""
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

    def on_welcome(self, welcome: Welcome) -> None:
        """Handle the first frame of a connection.

        The read position and last number of each conversation.
        """
        self._is_ordered, self._uid = welcome.ordered, welcome.uid
        known = (*self._sequencers, *self._positions) if welcome.complete else ()
        lost = {name for name in known if group_of(name) is None}
        self._left.difference_update(welcome.conversations)
        for name, (acked, last) in (dict.fromkeys(lost, (0, 0)) | welcome.conversations).items():
            sequencer = self._sequencer(name, acked)
            # what was asked over the connection before is not answered any more
            sequencer.requested_at = None
            if sequencer.reset_if_rewound(acked, last):
                # and not what the next messages will be numbered
                self._positions[name] = sequencer.position
            else:
                sequencer.advance_last_known(last)
            if self._positions.get(name, 0) > acked:
                self._acks[name] = self._positions[name]
        for unknown in self._unknown_starts.values():
            unknown.requested_at = None

    def on_frame(self, frame: FromGateway, now: float, sent_ids: Container[str]) -> None:
        """Handle a push, a page or a sync hint; `sent_ids`: the ids of messages sent from here.

        A `Sent` counts as the push of that message: it is not pushed to us, and is skipped.
        """
        if isinstance(frame, Sent):
            if not self._is_ordered:
                return
            uid = self._uid
            frame = ChatMessage(frame.conversation, frame.sequence, frame.id, uid, "")
        if isinstance(frame, ChatMessage):
            self._on_push(frame, now, sent_ids)
        elif isinstance(frame, Page):
            if frame.conversation not in self._joining | self._left:
                self._on_page(frame, now, sent_ids)
        elif isinstance(frame, SyncHint) and self._is_ordered:
            for name, last in frame.conversations.items():
                if name in self._left or not self._start_is_known(name, math.inf, last):
                    continue
                if not self._sequencer(name).advance_last_known(last):
                    # the acknowledgement was lost, or is not due yet
                    self._acks[name] = self._positions.get(name, 0)

    def _on_push(self, message: ChatMessage, now: float, sent_ids: Container[str]) -> None:
        name, sequence = message.conversation, message.sequence
        if not self._is_ordered:
            return self._enqueue([message], sent_ids)
        if name in self._joining or name in self._left:
            return None
        sequencer = self._sequencers.get(name)
        if sequencer is None:
            if not self._start_is_known(name, sequence, sequence):
                return None
            sequencer = self._sequencer(name)
        if len(self._ready) >= self._max_buffered:
            self._maybe_behind[name] = None
            sequencer.advance_last_known(sequence)
            return None
        released = sequencer.on_push(message, now)
        if not released or sequence < sequencer.last_known:
            self._maybe_behind[name] = None
        return self._enqueue(released, sent_ids)

    def _on_page(self, page: Page, now: float, sent_ids: Container[str]) -> None:
        sequencer = self._sequencer(page.conversation, page.after)
        self._enqueue(sequencer.on_page(page.messages, page.last, page.missing, now), sent_ids)
        if not page.messages and page.missing is None:
            # there is nothing, whatever was said before: do not ask again at once
            sequencer.requested_at = now

    def _enqueue(self, messages: list[ChatMessage], sent_ids: Container[str]) -> None:
        for each in messages:
            is_own = each.id in sent_ids and each.sender == (self._uid or each.sender)
            self._ready.append((each, is_own))
        if not self._delivered_unread:
            self.mark_read()
        if self._ready:
            self._available.set()

    async def next(self) -> ChatMessage:
        """Return the next message. Raises GatewayClosed once closed."""
        self.mark_read()
        while not self._ready:
            if self._is_closed:
                raise GatewayClosed("the client is closed")
            self._available.clear()
            await self._available.wait()
        self._delivered_unread = True
        return self._ready.popleft()[0]

    def mark_read(self, message: ChatMessage | None = None) -> None:
        """Count a message as read: the position advances, and is to be acknowledged.

        What was sent from here counts as read after the messages before it.
        """
        self._delivered_unread = False
        while message is not None or (self._ready and self._ready[0][1]):
            if message is None:
                message, _ = self._ready.popleft()
            if self._is_ordered:
                name = message.conversation
                self._positions[name] = self._acks[name] = message.sequence
            message = None

    def due_syncs(self, now: float) -> Iterator[Sync]:
        """Iterate over the syncs to send now."""
        if len(self._ready) >= self._max_buffered or now < self._paused_until:
            return
        if not self._maybe_behind and not self._unknown_starts:
            return
        behind = {
            name: sequencer
            for name in self._maybe_behind
            if (sequencer := self._sequencers.get(name)) and not sequencer.is_up_to_date(now)
        }
        self._maybe_behind = dict.fromkeys(behind)
        asked = (*behind.values(), *self._unknown_starts.values())
        allowed = 1 if now < self._paused_until + _RATE_LIMIT_PAUSE_S else _MAX_PENDING_SYNCS
        room = allowed - sum(each.is_pending(now) for each in asked)
        for name, sequencer in behind.items():
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
