"""The rules of MPIM, without server or network.

Whatever a network does, a client reads each message once and in order.
"""

import asyncio
import datetime
import typing
import uuid

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mpim_lab.errors import CorruptPayload, GatewayClosed, InvalidMessage, InvalidParameter
from mpim_lab.im.client.conversations import ConversationInbox
from mpim_lab.im.client.sequencer import ConversationSequencer, MissingRange
from mpim_lab.im.gateway.session import TokenBucket
from mpim_lab.im.protocol import frames as wire
from mpim_lab.im.protocol.frames import Ack, ErrorFrame, Page, Sync, SyncHint, Welcome
from mpim_lab.im.protocol.requests import MAX_TEXT_CHARS, ChatMessage, checked_name
from mpim_lab.im.services.messages import _contiguous_prefix

TALKS = ("alice:bob", "#tea")
ME = "bob"


def message(number, conversation=TALKS[0], sender="alice", id=None):
    return ChatMessage(conversation, number, id or f"{sender}-{number}", sender, "hi", 1)


def messages(*numbers):
    return tuple(message(number) for number in numbers)


def numbers(some):
    return [each.sequence for each in some]


# TokenBucket


@given(st.floats(0.1, 1_000), st.integers(1, 50), st.lists(st.floats(0, 5), max_size=100))
def test_no_window_of_time_lets_more_through_than_burst_and_rate(rate, burst, pauses):
    """And whoever asks at less than the rate is never refused."""
    bucket, moment, passed = TokenBucket(rate_per_s=rate, burst=burst), 0.0, []
    for pause in pauses:
        moment += pause
        if bucket.try_acquire(moment):
            passed.append(moment)
        else:
            assert pause < 1 / rate + 1e-6
    for begin, first in enumerate(passed):
        for end in range(begin, len(passed)):
            assert end - begin + 1 <= burst + (passed[end] - first) * rate + 1e-6


def test_a_rest_gives_a_burst_and_no_more():
    """A year of silence is not saved up."""
    bucket = TokenBucket(rate_per_s=1, burst=3)
    assert [bucket.try_acquire(3e7) for _ in range(4)] == [True, True, True, False]


# ConversationSequencer


class Server:
    """The logs of conversations, and what of them nothing has any more."""

    def __init__(self):
        self.logs = {name: [] for name in TALKS}
        self.gone = {name: set() for name in TALKS}

    def say(self, name, sender="alice", id=None):
        self.logs[name].append(message(len(self.logs[name]) + 1, name, sender, id))
        return self.logs[name][-1]

    def last(self, name):
        return len(self.logs[name])

    def page(self, name, after, limit):
        """As `MessageService.pull_offline` answers."""
        left = [each for each in self.logs[name][after:] if each.sequence not in self.gone[name]]
        return Page(name, *_contiguous_prefix(left[:limit], after + 1, self.last(name)))


class ReaderAndNetwork(RuleBasedStateMachine):
    """One conversation.

    Pushes come early, late, twice or never; pages late, twice or never; some numbers are lost.
    """

    name = TALKS[0]

    @initialize(limit=st.integers(1, 6), page=st.integers(1, 4), after=st.integers(0, 2))
    def begin(self, limit, page, after):
        self.server, self.pushes, self.requests, self.pages, self.now = Server(), [], [], [], 0.0
        for _ in range(after):
            self.server.say(self.name)
        self.limit, self.after = page, after
        self.reader, self.handed = (
            ConversationSequencer(self.name, after=after, max_buffered=limit),
            [],
        )

    def take(self, some):
        self.handed += numbers(some)

    @rule(copies=st.integers(0, 3))
    def say(self, copies):
        self.pushes += [self.server.say(self.name)] * copies

    @precondition(lambda self: self.pushes)
    @rule(data=st.data(), stays=st.booleans())
    def push_arrives(self, data, stays):
        place = data.draw(st.integers(0, len(self.pushes) - 1))
        arrived = self.pushes[place] if stays else self.pushes.pop(place)
        self.take(self.reader.on_push(arrived, self.now))

    @rule(seconds=st.sampled_from([0.0, 0.1, 0.3, 5.0]), at_once=st.booleans())
    def look(self, seconds, at_once):
        self.now += seconds
        after = self.reader.next_sync(self.now, at_once=at_once)
        if after is not None:
            assert after == self.reader.position and self.reader.last_known > after
            self.requests.append(after)
            assert self.reader.next_sync(self.now + 1.9, at_once=True) is None  # one is under way

    @precondition(lambda self: self.requests)
    @rule(data=st.data(), stays=st.booleans())
    def server_answers(self, data, stays):
        place = data.draw(st.integers(0, len(self.requests) - 1))
        after = self.requests[place] if stays else self.requests.pop(place)
        self.pages.append(self.server.page(self.name, after, self.limit))

    @precondition(lambda self: self.pages)
    @rule(data=st.data(), stays=st.booleans())
    def page_arrives(self, data, stays):
        place = data.draw(st.integers(0, len(self.pages) - 1))
        page = self.pages[place] if stays else self.pages.pop(place)
        self.take(self.reader.on_page(page.messages, page.last, page.missing, self.now))

    @rule(back=st.integers(0, 3))
    def told_how_far_it_is(self, back):
        self.reader.advance_last_known(max(0, self.server.last(self.name) - back))

    @precondition(lambda self: self.server.last(self.name) > self.reader.position)
    @rule(data=st.data())
    def a_number_is_lost_for_good(self, data):
        place = data.draw(st.integers(self.reader.position + 1, self.server.last(self.name)))
        self.server.gone[self.name].add(place)

    @invariant()
    def each_number_is_handed_over_or_missing_once_and_in_order(self):
        if not hasattr(self, "reader"):
            return
        missing = [n for each in self.reader.missing for n in range(each.first, each.last + 1)]
        assert self.handed == sorted({*self.handed})
        assert sorted(self.handed + missing) == [*range(self.after + 1, self.reader.position + 1)]
        assert {*missing} <= self.server.gone[self.name]

    def teardown(self):
        """The network behaves from now on.

        All is read, at once, and each page costs one question.
        """
        if not hasattr(self, "reader"):
            return
        last, rounds = self.server.last(self.name), 0
        self.now += 10
        self.reader.advance_last_known(last)
        while self.reader.position < last:
            after, rounds = self.reader.next_sync(self.now, at_once=rounds == 0), rounds + 1
            assert after is not None and rounds <= last
            page = self.server.page(self.name, after, self.limit)
            self.take(self.reader.on_page(page.messages, page.last, page.missing, self.now))
            self.now += 0.3 if page.missing else 0.0
        self.each_number_is_handed_over_or_missing_once_and_in_order()
        assert self.reader.next_sync(self.now + 10, at_once=True) is None


TestReaderAndNetwork = ReaderAndNetwork.TestCase
TestReaderAndNetwork.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_a_gap_is_asked_about_after_a_moment_and_not_again_while_that_is_under_way():
    """Pushes that overtake each other cost nothing; an answer that is lost is asked for again."""
    reader = ConversationSequencer(TALKS[0], after=0)
    assert reader.on_push(message(3), now=0.0) == [] and reader.next_sync(now=0.19) is None
    assert (
        reader.next_sync(now=0.2) == 0
        and reader.next_sync(now=2.19) is None
        and reader.next_sync(now=2.2) == 0
    )


def test_a_page_that_brings_something_is_followed_by_the_next_at_once():
    """Also while pushes come: whoever was long away does not wait a moment for each page."""
    reader = ConversationSequencer(TALKS[0], after=0)
    reader.on_push(message(500), now=0.0)
    assert reader.next_sync(now=0.2) == 0
    assert numbers(reader.on_page(messages(1, 2), last=500, missing=None, now=0.3)) == [1, 2]
    assert reader.next_sync(now=0.3) == 2 and reader.next_sync(now=0.3) is None
    assert (
        reader.on_page((), last=500, missing=None, now=0.4) == []
        and reader.next_sync(now=0.4) is None
    )


def test_more_early_arrivals_than_are_kept_come_by_page():
    """They are not an error, and not lost."""
    reader = ConversationSequencer(TALKS[0], after=0, max_buffered=2)
    for number in (2, 3, 4, 5):
        assert reader.on_push(message(number), now=0.0) == []
    assert numbers(reader.on_page(messages(1), last=5, missing=None, now=0.1)) == [1, 2, 3]
    assert reader.next_sync(now=0.1) == 3


def test_a_server_that_lost_what_it_had_is_followed_back():
    """Where it is now is where reading goes on, and what was lost is named."""
    reader = ConversationSequencer(TALKS[0], after=0)
    for number in range(1, 11):
        reader.on_push(message(number), now=0.0)
    assert not reader.reset_if_rewound(acked=10, last=10)
    assert reader.reset_if_rewound(acked=4, last=6) and reader.missing == [
        MissingRange(TALKS[0], 7, 10)
    ]
    assert reader.next_sync(now=0.0) == 4


# ConversationInbox


class ReadersAndNetwork(RuleBasedStateMachine):
    """Two conversations, with messages of one's own, and a slow application that crashes."""

    @initialize(limit=st.integers(1, 5), page=st.integers(1, 4))
    def begin(self, limit, page):
        self.runner, self.server = asyncio.Runner(), Server()
        self.limit, self.page_limit, self.now = limit, page, 0.0
        self.own, self.positions, self.read, self.acked = set(), {}, [], {}
        self.pushes, self.requests, self.pages = [], [], []
        self.come_back()

    @rule()
    def come_back(self):
        """A new process: what was handed over and not read is handed over again."""
        self.readers, self.out = ConversationInbox(self.positions, self.limit), None
        self.reconnect()

    @rule()
    def reconnect(self):
        """What was on its way is lost, with the line."""
        self.requests.clear()
        self.pages.clear()
        self.welcome(TALKS)

    @rule(names=st.sets(st.sampled_from(TALKS)), anew=st.booleans())
    def reconnect_and_not_be_told_of_all(self, names, anew):
        if anew:
            self.readers, self.out = ConversationInbox(self.positions, self.limit), None
        self.requests.clear()
        self.pages.clear()
        self.welcome(names)

    def welcome(self, names):
        conversations = {name: (self.acked.get(name, 0), self.server.last(name)) for name in names}
        self.readers.on_welcome(
            Welcome(ME, "gw-1", conversations, complete=set(names) == set(TALKS))
        )

    @rule(
        name=st.sampled_from(TALKS),
        is_mine=st.booleans(),
        copies=st.integers(0, 2),
        same_id=st.booleans(),
    )
    def say(self, name, is_mine, copies, same_id):
        """Sometimes somebody else's message has the id of one of mine."""
        said = self.server.say(
            name, ME if is_mine else "alice", f"{name}-{self.server.last(name) + 1}"
        )
        if is_mine or same_id:
            self.own.add(said.id)
        self.pushes += [said] * copies

    @precondition(lambda self: self.pushes)
    @rule(data=st.data(), stays=st.booleans())
    def push_arrives(self, data, stays):
        place = data.draw(st.integers(0, len(self.pushes) - 1))
        self.readers.on_frame(
            self.pushes[place] if stays else self.pushes.pop(place), self.now, self.own
        )

    @rule(seconds=st.sampled_from([0.0, 0.3, 5.0]))
    def look(self, seconds):
        self.now += seconds
        self.requests += list(self.readers.due_syncs(self.now))

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def server_answers(self, data):
        sync = self.requests.pop(data.draw(st.integers(0, len(self.requests) - 1)))
        self.pages.append(self.page(sync))

    def page(self, sync):
        after = self.acked.get(sync.conversation, 0) if sync.after is None else sync.after
        return msgspec.structs.replace(
            self.server.page(sync.conversation, after, self.page_limit), after=after
        )

    @precondition(lambda self: self.pages)
    @rule(data=st.data(), stays=st.booleans())
    def page_arrives(self, data, stays):
        place = data.draw(st.integers(0, len(self.pages) - 1))
        self.readers.on_frame(
            self.pages[place] if stays else self.pages.pop(place), self.now, self.own
        )

    @rule()
    def told_how_far_it_is(self):
        self.readers.on_frame(
            SyncHint({name: self.server.last(name) for name in TALKS}), self.now, self.own
        )

    @rule(arrive=st.booleans())
    def acknowledge(self, arrive):
        for ack in self.readers.due_acks():
            assert ack.sequence <= self.positions.get(ack.conversation, 0)
            if arrive:
                self.acked[ack.conversation] = max(
                    ack.sequence, self.acked.get(ack.conversation, 0)
                )

    @precondition(lambda self: self.out is None)
    @rule()
    def take_one(self):
        self.out = self.runner.run(self._next())

    @precondition(lambda self: self.out is not None)
    @rule()
    def has_read(self):
        self.readers.mark_read(self.out)
        self.read.append((self.out.conversation, self.out.sequence))
        self.out = None

    async def _next(self):
        waiting = asyncio.ensure_future(self.readers.next())
        await asyncio.sleep(0)
        if waiting.done():
            return waiting.result()
        waiting.cancel()

    @invariant()
    def what_is_read_is_a_beginning_and_positions_are_not_beyond_it(self):
        if not hasattr(self, "readers"):
            return
        for name in TALKS:
            theirs = [each.sequence for each in self.server.logs[name] if each.sender != ME]
            read = [number for where, number in self.read if where == name]
            assert read == theirs[: len(read)]
            position = self.positions.get(name, 0)
            assert [each for each in theirs if each <= position] == read
            assert self.acked.get(name, 0) <= position <= self.server.last(name)
        assert len(self.readers._ready) <= self.limit + self.server.last(
            TALKS[0]
        ) + self.server.last(TALKS[1])

    def teardown(self):
        """The network behaves from now on: everything is read, and acknowledged."""
        if not hasattr(self, "readers"):
            return
        everything = sum(self.server.last(name) for name in TALKS)
        self.reconnect()
        for _ in range(4 * everything + 4):
            self.now += 5
            for sync in self.readers.due_syncs(self.now):
                self.readers.on_frame(self.page(sync), self.now, self.own)
            self.out = self.out or self.runner.run(self._next())
            if self.out is not None:
                self.has_read()
        self.acknowledge(True)
        self.what_is_read_is_a_beginning_and_positions_are_not_beyond_it()
        said = [
            (name, each.sequence)
            for name in TALKS
            for each in self.server.logs[name]
            if each.sender != ME
        ]
        assert sorted(self.read) == sorted(said)
        assert {name: self.acked.get(name, 0) for name in TALKS} == {
            name: self.server.last(name) for name in TALKS
        }
        self.runner.close()


TestReadersAndNetwork = ReadersAndNetwork.TestCase
TestReadersAndNetwork.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)


async def test_what_is_in_hand_is_not_counted_as_read_by_what_comes_after_it():
    """While the application works on a message, one of its own arrives.

    If it dies now, it gets the first one again.
    """
    readers = ConversationInbox(positions := {}, max_buffered=10)
    readers.on_frame(message(1), 0.0, set())
    in_hand = await readers.next()
    readers.on_frame(message(2, sender=ME), 0.0, {f"{ME}-2"})
    assert positions == {} and readers.due_acks() == []
    readers.mark_read(in_hand)
    assert positions == {TALKS[0]: 2} and readers.due_acks() == [Ack(TALKS[0], 2)]


async def test_any_number_of_ones_own_messages_is_passed_over():
    """Two thousand in a row behind one that the application had not asked for yet."""
    readers, own = (
        ConversationInbox(positions := {}, max_buffered=10_000),
        {f"{ME}-{n}" for n in range(2, 2_002)},
    )
    readers.on_frame(message(1), 0.0, own)
    for n in range(2, 2_002):
        readers.on_frame(message(n, sender=ME), 0.0, own)
    readers.mark_read(await readers.next())
    assert positions == {TALKS[0]: 2_001}


async def test_after_a_server_lost_messages_the_next_ones_are_not_taken_for_read():
    """The position goes back with the server's numbers.

    It is not acknowledged what has not been said yet.
    """
    readers = ConversationInbox(positions := {TALKS[0]: 10}, max_buffered=10)
    readers.on_welcome(Welcome(ME, "gw-1", {TALKS[0]: (7, 7)}))
    assert (
        positions == {TALKS[0]: 7}
        and readers.missing == [MissingRange(TALKS[0], 8, 10)]
        and readers.due_acks() == []
    )
    readers.on_frame(message(8, id="new"), 0.0, set())
    assert (await readers.next()).id == "new"


async def test_a_full_reader_lets_pushes_pass_and_asks_for_them_when_there_is_room():
    """What waits for the application is bounded."""
    readers = ConversationInbox({}, max_buffered=3)
    for n in range(1, 50):
        readers.on_frame(message(n), 0.0, set())
    assert list(readers.due_syncs(9.0)) == []
    for n in (1, 2, 3):
        readers.mark_read(read := await readers.next())
        assert read.sequence == n
    assert (
        list(readers.due_syncs(9.0)) == [Sync(TALKS[0], 3)] and list(readers.due_syncs(9.0)) == []
    )


def test_only_conversations_in_which_something_is_missing_are_looked_at(monkeypatch):
    """A user of a thousand conversations pays for the one that moves."""
    looked_at, asks = [], ConversationSequencer.next_sync
    monkeypatch.setattr(
        ConversationSequencer,
        "next_sync",
        lambda reader, now: looked_at.append(reader.conversation) or asks(reader, now),
    )
    readers, talks = (
        ConversationInbox({}, max_buffered=10_000),
        [f"user-{n}:zoe" for n in range(1_000)],
    )
    readers.on_welcome(Welcome("zoe", "gw-1", dict.fromkeys(talks, (0, 0))))
    assert list(readers.due_syncs(now=0.0)) == looked_at == []
    readers.on_frame(message(1, talks[7]), now=0.1, sent_ids=())
    readers.on_frame(message(3, talks[8]), now=0.1, sent_ids=())
    assert list(readers.due_syncs(now=0.4)) == [Sync(talks[8], 0)]
    assert looked_at == [talks[8]]
    readers.on_frame(
        Page(talks[8], (message(1, talks[8]), message(2, talks[8])), 3), now=0.5, sent_ids=()
    )
    assert list(readers.due_syncs(now=0.5)) == []
    assert looked_at == [talks[8]]


def unplaced(name, *pushes):
    """Readers who were told of no conversation, and then heard of one in the middle of it."""
    readers = ConversationInbox({}, max_buffered=10)
    readers.on_welcome(Welcome(ME, "gw-1", {}))
    for number in pushes:
        readers.on_frame(message(number, name), now=0.0, sent_ids=())
    assert (
        list(readers.due_syncs(now=0.0)) == [Sync(name, None)]
        and list(readers.due_syncs(now=0.0)) == []
    )
    return readers


async def test_what_was_pushed_here_is_read_here_whatever_another_device_has_acknowledged():
    """The first push says the most where to begin, the answer the least."""
    readers = unplaced("#tea", 5, 6)
    readers.on_frame(Page("#tea", (message(7, "#tea"),), 7, after=6), now=0.1, sent_ids=())
    assert list(readers.due_syncs(now=0.5)) == [Sync("#tea", 4)]
    readers.on_frame(
        Page("#tea", (message(5, "#tea"), message(6, "#tea")), 7, after=4), now=0.6, sent_ids=()
    )
    assert numbers([await readers.next() for _ in range(3)]) == [5, 6, 7]


async def test_after_a_word_of_being_behind_it_begins_where_the_answer_says():
    """Nothing was pushed: nothing says that it begins before what was acknowledged."""
    readers = ConversationInbox({}, max_buffered=10)
    readers.on_welcome(Welcome(ME, "gw-1", {}))
    readers.on_frame(SyncHint({"#tea": 9}), now=0.0, sent_ids=())
    assert list(readers.due_syncs(now=0.0)) == [Sync("#tea", None)]
    readers.on_frame(Page("#tea", (message(9, "#tea"),), 9, after=8), now=0.1, sent_ids=())
    assert numbers([await readers.next()]) == [9] and readers.missing == []


@pytest.mark.parametrize(
    ("error", "asked"), [("TooFast", [Sync("#tea", None)]), ("NotAMember", [])]
)
def test_where_it_begins_is_asked_again_after_a_refusal_unless_that_is_final(error, asked):
    """Too fast: after a pause. No member any more: never."""
    readers = unplaced("#tea", 5)
    readers.on_error(ErrorFrame(error, "no", "sync #tea"), now=0.1)
    assert list(readers.due_syncs(now=0.5)) == []
    assert list(readers.due_syncs(now=1.5)) == asked


def test_where_it_begins_is_asked_again_over_the_next_line_and_when_no_answer_comes():
    """At once over a new line, otherwise after two seconds."""
    readers = unplaced("#tea", 5)
    readers.on_welcome(Welcome(ME, "gw-2", {}, complete=False))
    assert list(readers.due_syncs(now=0.1)) == [Sync("#tea", None)]
    assert list(readers.due_syncs(now=2.0)) == []
    assert list(readers.due_syncs(now=2.1)) == [Sync("#tea", None)]


async def test_who_waits_is_told_when_it_ends():
    """GatewayClosed, after what was there."""
    readers = ConversationInbox({}, max_buffered=3)
    readers.on_frame(message(1), 0.0, set())
    readers.close()
    assert (await readers.next()).sequence == 1
    with pytest.raises(GatewayClosed):
        await readers.next()


# Wire frames

CLIENT, GATEWAY = typing.get_args(wire.FromClient), typing.get_args(wire.FromGateway)
NAMES = st.text("abcXYZ019_.-", min_size=1, max_size=64)
IDS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=64)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=100)
WORDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=2, max_size=60)
NUMBERS = st.integers(0, 2**53)
PUSHES = st.builds(ChatMessage, WORDS, NUMBERS, IDS, NAMES, TEXTS, NUMBERS)
FRAMES = {
    wire.Hello: st.builds(wire.Hello, TEXTS, NAMES, st.booleans()),
    wire.Send: st.builds(wire.Send, IDS, TEXTS, NAMES)
    | st.builds(wire.Send, IDS, TEXTS, group=NAMES),
    wire.Ack: st.builds(wire.Ack, WORDS, NUMBERS),
    wire.Sync: st.builds(wire.Sync, WORDS, NUMBERS),
    wire.WatchPresence: st.builds(wire.WatchPresence, st.lists(NAMES, max_size=9).map(tuple)),
    wire.Group: st.builds(
        wire.Group, NAMES, st.sampled_from(["create", "join", "leave"]), st.tuples(NAMES, NAMES)
    ),
    wire.Ping: st.just(wire.Ping()),
    wire.Page: st.builds(
        wire.Page,
        WORDS,
        st.tuples(PUSHES, PUSHES),
        NUMBERS,
        st.none() | st.tuples(NUMBERS, NUMBERS),
    ),
    wire.ChatMessage: PUSHES,  # type: ignore[attr-defined]
    wire.Welcome: st.builds(
        wire.Welcome,
        NAMES,
        NAMES,
        st.dictionaries(WORDS, st.tuples(NUMBERS, NUMBERS)),
        st.booleans(),
        st.floats(0.1, 1e6),
    ),
    wire.SyncHint: st.builds(wire.SyncHint, st.dictionaries(WORDS, NUMBERS)),
    wire.Members: st.builds(wire.Members, NAMES, st.tuples(NAMES, NAMES), NUMBERS),
    wire.Sent: st.builds(
        wire.Sent, IDS, WORDS, NUMBERS, st.sampled_from(["pushed", "stored", "known"])
    ),
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4)
    ),
)
TAGS = [
    "hello",
    "send",
    "ack",
    "sync",
    "presence",
    "group",
    "ping",
    "welcome",
    "push",
    "page",
    "behind",
    "bye",
    "?",
]


@given(st.one_of(FRAMES[kind] for kind in CLIENT))
def test_a_clients_frame_is_read_as_it_was_written(frame):
    """Each kind, within its limits."""
    assert (
        wire.decode_client(wire.encode(frame))
        == frame
        == wire.decode_client(wire.encode(frame).decode())
    )


@given(st.one_of(FRAMES[kind] if kind in FRAMES else st.from_type(kind) for kind in GATEWAY))
def test_a_gateways_frame_is_read_as_it_was_written(frame):
    """Each kind."""
    assert wire.decode_gateway(wire.encode(frame)) == frame


@given(st.one_of(st.binary(), st.text(), JSON.map(msgspec.json.encode)))
def test_whatever_is_no_frame_is_refused_by_name(raw):
    """By both sides, and with nothing else than that error."""
    for read, error in (
        (wire.decode_client, InvalidMessage),
        (wire.decode_gateway, CorruptPayload),
    ):
        with pytest.raises(error):
            read(raw)


@given(
    st.sampled_from(TAGS),
    st.dictionaries(st.sampled_from([*"abcdefg", "id", "text", "to", "group", "sequence"]), JSON),
)
def test_a_frame_with_the_wrong_members_is_refused_by_name_or_read_within_its_limits(tag, members):
    """A right tag does not help."""
    try:
        frame = wire.decode_client(msgspec.json.encode({"t": tag} | members))
    except InvalidMessage:
        return
    assert isinstance(frame, CLIENT) and wire.decode_client(wire.encode(frame)) == frame


@pytest.mark.parametrize(
    "raw",
    [
        '{"t":"send","id":"m1","text":"x"}',
        '{"t":"send","id":"m1","text":"x","to":"bob","group":"tea"}',
        '{"t":"send","id":"m1","text":"","to":"bob"}',
        '{"t":"send","id":"m1","text":"%s","to":"bob"}' % ("x" * (MAX_TEXT_CHARS + 1)),
        '{"t":"send","id":"","text":"x","to":"bob"}',
        '{"t":"send","id":"a b","text":"x","to":"bob"}',
        '{"t":"send","id":"m1\\n","text":"x","to":"bob"}',
        '{"t":"send","id":"茶","text":"x","to":"bob"}',
        '{"t":"send","id":"%s","text":"x","to":"bob"}' % ("x" * 65),
        '{"t":"send","id":"m1","text":"x","to":"bob\\n"}',
        '{"t":"send","id":"m1","text":"x","to":"bob:eve"}',
        '{"t":"send","id":"m1","text":"x","to":"#tea"}',
        '{"t":"send","id":"m1","text":"\\ud800","to":"bob"}',
        '{"t":"send","id":1,"text":"x","to":"bob"}',
        '{"t":"ack","conversation":"alice:bob","sequence":-1}',
        '{"t":"ack","conversation":"alice:bob","sequence":9007199254740993}',
        '{"t":"ack","conversation":"alice:bob","sequence":1.5}',
        '{"t":"ack","conversation":"alice:bob","sequence":"1"}',
        '{"t":"ack","conversation":"alice:bob","sequence":true}',
        '{"t":"sync","conversation":"%s","after":0}' % ("x" * 131),
        '{"t":"presence","users":[' + '"u",' * 200 + '"u"]}',
        '{"t":"group","group":"tea","action":"burn"}',
        '{"t":"hello","token":"%s"}' % ("x" * 2_001),
        '{"t":"ping","deep":%s}' % ("[" * 5_000),
        '{"t":"ping"} {"t":"ping"}',
        '{"t":"ping"',
        '{"t":"pong"}',
        "[]",
        "",
        b"\xff\xfe",
    ],
)
def test_a_frame_that_breaks_a_limit_is_refused_by_name(raw):
    """Each limit of the table, and some that are nobody's business."""
    with pytest.raises(InvalidMessage):
        wire.decode_client(raw)


def test_unknown_members_are_passed_over():
    """Newer clients can talk to older gateways."""
    assert wire.decode_client('{"t":"ping","newer":{"a":[1,2,{}]}}') == wire.Ping()


@given(IDS, st.sampled_from(TALKS), NUMBERS, TEXTS)
def test_a_push_is_read_as_it_was_written(id, conversation, number, text):
    """Its head, which a gateway reads, and its frame, which it passes on."""
    sent = ChatMessage(conversation, number, id, "alice", text, 7)
    *head, frame = wire.decode_push(wire.encode_push(sent))
    assert head == [id, conversation, number] and wire.decode_gateway(frame) == sent


@given(st.binary(max_size=40))
def test_whatever_is_no_push_is_refused_by_name(payload):
    """Anybody who has the server can publish anything."""
    try:
        sequence = wire.decode_push(payload)[2]
    except CorruptPayload:
        return
    assert len(payload.split(b" ", 3)) == 4 and isinstance(sequence, int)


@pytest.mark.parametrize(
    "name", ["", "a b", "a:b", "#a", "alice\n", "\nalice", "a" * 65, "é", "a/b", None, b"alice", 7]
)
def test_what_is_no_name_is_refused(name):
    """A newline at its end, too."""
    with pytest.raises(InvalidParameter, match="uid"):
        checked_name("uid", name)


@pytest.mark.parametrize(
    "value",
    [b"hi", bytearray(b"hi"), uuid.UUID(int=7), datetime.date(2026, 1, 1)],
    ids=lambda value: type(value).__name__,
)
def test_what_would_arrive_as_something_else_is_refused(value):
    """JSON makes a text of bytes, dates and the like: not the one that was meant."""
    with pytest.raises(InvalidMessage):
        wire.validated(wire.Send("m1", value, to="bob"))
