"""FanoutHarness: a group's members, some online and some away, and the learner's fan-out.

Counted are round trips and calls of the store; what each member received is what her own
subscription brought.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Self

from mpim_lab.chapters.ch08_im.redis_commands import (
    abbreviate_story,
    command_words,
    decode_reply,
    join_names,
    prefix_keys,
)
from mpim_lab.errors import MpimError, QueueFull, StoreFailed
from mpim_lab.events import OFFLINE_STORE, SERVICE, Event, EventKind, now
from mpim_lab.keys import user_channel
from mpim_lab.lab.exercise.legacy_challenge import Trial, TrialFailure
from mpim_lab.lab.server.embedded import EmbeddedServer, open_server
from mpim_lab.lab.server.external import ExternalServer
from mpim_lab.lab.trace.trace import Trace
from mpim_lab.mq.connection.encoding import Message
from mpim_lab.mq.connection.reconnecting import call_many
from mpim_lab.mq.connection.resp import encode_command
from mpim_lab.mq.pubsub.queue import MessageQueue

WORDS = ("pushed", "stored", "failed")
STUCK_AFTER_S = 10.0
SENDER, NEAR, FAR = "alice", "gw-1", "gw-2"


class Violation(Exception):
    """A violation: what went wrong, for which message and member."""

    def __init__(self, text: str, message: str = "", member: str = "") -> None:
        super().__init__(text)
        self.message, self.member = message, member


class FanoutHarness:
    """A harness around the learner's fan-out: members, pipeline, store.

    Use as a context; then `connect`, `send`.
    """

    def __init__(self, server: EmbeddedServer | ExternalServer, solution: type[Any]) -> None:
        self.log: list[str] = []
        self.failing: set[str] = set()  # members whose PUBLISH fails
        self.store_fails = False
        self.round_trips = self.store_calls = 0  # of the last `send`
        self._commands = MessageQueue(server.url, name=SERVICE, prefix=server.prefix)
        self._listener = MessageQueue(server.url, name=FAR, prefix=server.prefix)
        self._here: set[str] = set()
        # (message, member) → how often she received it, how often it was stored.
        self._got: Counter[tuple[str, str]] = Counter()
        self._kept: Counter[tuple[str, str]] = Counter()
        self._tried: list[str] = []  # to whom the last `send` published
        self._events: list[tuple[str, Event]] = []  # member, event
        self._own = solution(self.pipeline, self.store)

    async def __aenter__(self) -> Self:
        await self._commands.open()
        await self._listener.open()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await asyncio.gather(self._commands.close(), self._listener.close())

    # What the learner's class is given

    async def pipeline(self, commands: Iterable[Sequence[Any]]) -> list[Any]:
        """Run many commands in one round trip.

        Return a reply for each, an error in the place of one that failed.
        """
        wanted = [command_words(command) for command in commands]
        self.round_trips += 1
        members = [_member_of(words) for words in wanted]
        packed = [
            encode_command(*prefix_keys(words, self._commands.keys))
            for words, uid in zip(wanted, members, strict=True)
            if uid not in self.failing
        ]
        answers = iter(await call_many(self._commands.context("group").connection, packed))
        replies = [
            decode_reply(next(answers)) if uid not in self.failing else QueueFull("no room for it")
            for uid in members
        ]
        self._tried += [uid for uid in members if uid]
        answered = (_answered(w, r) for w, r in zip(wanted, replies, strict=True))
        self.log.append(f"  one round trip: {join_names(answered)}")
        for words, uid, reply in zip(wanted, members, replies, strict=True):
            if uid and len(words) > 2:
                self._report_push(_id(words[2]), uid, reply)
        return replies

    async def store(self, uids: Iterable[str], message: str) -> None:
        """Keep a message for those who are away, in one transaction.

        Raises StoreFailed: nothing was kept.
        """
        members = [uids] if isinstance(uids, str) else list(uids)
        self.store_calls += 1
        self.log.append(
            f"  store: {join_names(members)}{', which fails' if self.store_fails else ''}"
        )
        await asyncio.sleep(0)
        if self.store_fails:
            raise StoreFailed("the database is away; nothing was kept")
        for uid in members:
            self._kept[_id(message), uid] += 1
            self._hop(_id(message), uid, SERVICE, OFFLINE_STORE)

    # Steps

    async def connect(self, *members: str) -> None:
        """Have these members online from now on."""
        self._here.update(members)
        await asyncio.gather(
            *(self._listener.subscribe(user_channel(uid), self._on_push) for uid in members)
        )

    async def disconnect(self, member: str) -> None:
        """Have this member away from now on."""
        self.log.append(f"{member} leaves")
        self._here.discard(member)
        await self._listener.unsubscribe(user_channel(member))

    async def send(self, message: str, members: Sequence[str]) -> None:
        """Have the learner's class send.

        Then compare what happened, and what it reports, with what must be.

        Raise Violation if they differ.
        """
        name = _id(message)
        self.round_trips = self.store_calls = 0
        self._tried.clear()
        before = {uid for uid in members if self._got[name, uid] or self._kept[name, uid]}
        self.log.append(f"send {name} to {join_names(members)}{' once more' if before else ''}")
        for uid in members:
            self._event(
                uid, Event(EventKind.ACCEPTED, now(), SENDER, f"{name}→{uid}", user_channel(uid))
            )
            self._hop(name, uid, SENDER, NEAR)
            self._hop(name, uid, NEAR, SERVICE)
        report = await self._send(name, members, message)
        await self._listener.drain()
        # Who received it twice comes first.
        for uid in sorted(members, key=lambda uid: -self._got[name, uid]):
            self._check_delivery(name, uid)
        for uid in self._tried:
            if uid in before:
                raise Violation(f"{uid} had {name} already, and was tried once more", name, uid)
        self._check_report(name, members, report, before)

    def trace(self, message: str, member: str) -> Trace:
        """One member's copy of one message, for the picture."""
        trace = Trace(sample_above_per_s=None)
        for uid, event in self._events:
            if uid == member and event.message_id == f"{message}→{member}":
                trace(event)
        return trace

    # Inside

    async def _send(self, name: str, members: Sequence[str], message: str) -> Any:
        try:
            async with asyncio.timeout(STUCK_AFTER_S):
                report = await self._own.send(list(members), message)
        except TimeoutError:
            raise Violation(f"send({name}) did not return within {STUCK_AFTER_S:g} s") from None
        except StoreFailed:
            raise Violation(
                f"send raised StoreFailed, and nobody knows who received {name}", name
            ) from None
        # If it is no report, that is found out below.
        with contextlib.suppress(AttributeError, TypeError):
            said = [f"{word}: {join_names(report.get(word, ()))}" for word in WORDS]
            self.log.append(f"send says {'; '.join(said)}")
        return report

    def _on_push(self, message: Message) -> None:
        name, uid = _id(message.text), str(message.channel).partition(":")[2]
        self._got[name, uid] += 1
        self._hop(name, uid, user_channel(uid), FAR)
        self._hop(name, uid, FAR, uid)
        self._event(uid, Event(EventKind.EFFECT, now(), uid, f"{name}→{uid}", user_channel(uid)))

    def _check_delivery(self, id: str, uid: str) -> None:
        got, kept = self._got[id, uid], self._kept[id, uid]
        if got > 1:
            raise Violation(f"{uid} received {id} {got} times", id, uid)
        if kept > 1:
            raise Violation(f"{id} was stored for {uid} {kept} times", id, uid)
        if got and kept:
            raise Violation(
                f"{uid} received {id}, and it was stored as well: it will come twice", id, uid
            )
        if uid in self.failing and kept:
            raise Violation(
                f"{uid}'s PUBLISH failed, and {id} was stored: only who is away has it stored",
                id,
                uid,
            )
        if got or kept or uid in self.failing or (self.store_fails and uid not in self._here):
            return
        if uid in self._here:
            raise Violation(f"{uid} is online, and did not receive {id}", id, uid)
        raise Violation(f"{id} is lost for {uid}: nobody listened, and it was not stored", id, uid)

    def _check_report(self, id: str, members: Sequence[str], report: Any, before: set[str]) -> None:
        with contextlib.suppress(AttributeError, TypeError):
            said = [(uid, word) for word in WORDS for uid in report.get(word, ())]
            words = dict(said)
            for uid in members:
                became = (
                    "pushed"
                    if self._got[id, uid]
                    else "stored"
                    if self._kept[id, uid]
                    else "failed"
                )
                if uid not in words and uid not in before:
                    raise Violation(
                        f"send does not say what became of {id} for {uid}: it {_was(became)}",
                        id,
                        uid,
                    )
                if words.get(uid, became) != became:
                    raise Violation(
                        f"{id} {_was(became)} for {uid}, and send says {words[uid]}", id, uid
                    )
            for uid, count in Counter(uid for uid, _ in said).items():
                if count > 1 or uid not in members:
                    raise Violation(f"send names {uid} {count} times", id, uid)
            return
        raise Violation(
            f"send returned {report!r}: a dict of three lists was wanted, {', '.join(WORDS)}", id
        )

    def _report_push(self, id: str, uid: str, reply: Any) -> None:
        if isinstance(reply, MpimError):
            return
        self._hop(id, uid, SERVICE, user_channel(uid), count=int(reply))

    def _hop(self, id: str, uid: str, source: str, target: str, count: int | None = None) -> None:
        self._event(uid, Event(EventKind.HOP, now(), source, f"{id}→{uid}", target, "", count))

    def _event(self, uid: str, event: Event) -> None:
        self._events.append((uid, event))


def _id(message: str) -> str:
    return message.split(" ", 1)[0]


def _member_of(words: Sequence[str]) -> str:
    """Whom a command publishes to; empty: it is another command."""
    is_push = words[0].upper() == "PUBLISH" and len(words) == 3 and words[1].startswith("user:")
    return words[1].partition(":")[2] if is_push else ""


def _answered(words: Sequence[str], reply: Any) -> str:
    name = _member_of(words) or words[0].upper()
    return f"{name} {type(reply).__name__ if isinstance(reply, Exception) else reply}"


def _was(became: str) -> str:
    return "failed" if became == "failed" else f"was {became}"


def fanout_trial(title: str, script: Callable[[FanoutHarness], Awaitable[None]]) -> Trial:
    """A script as a trial of a challenge."""

    async def judge(solution: type[Any]) -> TrialFailure | None:
        async with open_server() as server, FanoutHarness(server, solution) as harness:
            try:
                await script(harness)
            except Violation as bad:
                trace = harness.trace(bad.message, bad.member) if bad.member else None
                name = f"{bad.message}→{bad.member}" if bad.member else bad.message
                return TrialFailure(str(bad), title, name, abbreviate_story(harness.log), trace)
            except Exception as error:  # the learner's code may raise anything
                return TrialFailure(
                    f"your class raised {type(error).__name__}: {error}",
                    title,
                    "",
                    abbreviate_story(harness.log),
                )
        return None

    return judge


# The cases, easiest first

THREE = ("bob", "carol", "dave")
FOUR = (*THREE, "erin")
M1, M2 = "m1 tea at eight?", "m2 or at nine?"
MANY = tuple(f"u{number}" for number in range(1, 501))


async def all_here(harness: FanoutHarness) -> None:
    """Three members online, and nothing to store."""
    await harness.connect(*THREE)
    await harness.send(M1, THREE)
    if harness.store_calls:
        raise Violation("nobody is away, and the store was called: a transaction for nothing", "m1")


async def one_away(harness: FanoutHarness) -> None:
    """Nobody listens for carol."""
    await harness.connect("bob", "dave")
    await harness.send(M1, THREE)


async def two_messages(harness: FanoutHarness) -> None:
    """Who was away for the first is back for the second."""
    await harness.connect("bob", "dave")
    await harness.send(M1, THREE)
    await harness.connect("carol")
    await harness.send(M2, THREE)


async def many(harness: FanoutHarness) -> None:
    """A hundred times as many members cost as many round trips, and one transaction."""
    await harness.connect(*MANY[1:5], *MANY[100:])
    await harness.send(M1, MANY[:5])
    few = harness.round_trips
    await harness.send(M2, MANY)
    if harness.round_trips > few:
        raise Violation(
            f"{harness.round_trips} round trips for {len(MANY)} members, and {few} for 5", "m2"
        )
    if harness.store_calls > 1:
        raise Violation(
            f"the store was called {harness.store_calls} times for one message: a transaction each",
            "m2",
        )


async def push_fails(harness: FanoutHarness) -> None:
    """One of the commands in the pipeline fails; it fails alone."""
    await harness.connect("bob", "dave", "erin")
    harness.failing = {"dave"}
    await harness.send(M1, FOUR)


async def tried_again(harness: FanoutHarness) -> None:
    """After a failure the same message is sent again, to the same members, twice.

    Another one comes in between.
    """
    await harness.connect("bob", "dave", "erin")
    harness.failing = {"bob", "dave"}
    await harness.send(M1, FOUR)
    harness.failing = {"bob"}
    await harness.send(M1, FOUR)
    harness.failing = set()
    await harness.send(M2, FOUR)
    await harness.send(M1, FOUR)


async def leaves_meanwhile(harness: FanoutHarness) -> None:
    """She whose PUBLISH failed is away when it is tried again."""
    await harness.connect(*FOUR)
    harness.failing = {"erin"}
    await harness.send(M1, FOUR)
    harness.failing = set()
    await harness.disconnect("erin")
    await harness.send(M1, FOUR)


async def store_fails(harness: FanoutHarness) -> None:
    """Those who are online have it all the same."""
    await harness.connect("bob", "dave")
    harness.store_fails = True
    await harness.send(M1, FOUR)


async def store_comes_back(harness: FanoutHarness) -> None:
    """The store's failures are made good, and nobody receives it twice."""
    await harness.connect("bob", "dave")
    harness.store_fails, harness.failing = True, {"dave"}
    await harness.send(M1, FOUR)
    harness.store_fails, harness.failing = False, set()
    await harness.send(M1, FOUR)


CASES = (
    ("three members, all of them online", all_here),
    ("three members, carol is away", one_away),
    ("two messages; carol is away for the first", two_messages),
    ("a group of 5, a group of 500, some of them away", many),
    ("four members, carol is away, dave's PUBLISH fails", push_fails),
    ("bob's and dave's PUBLISH fail; the message is sent again", tried_again),
    ("erin's PUBLISH fails; she leaves, and the message is sent again", leaves_meanwhile),
    ("four members, carol and erin are away, the store fails", store_fails),
    ("the store and dave's PUBLISH fail; the message is sent again", store_comes_back),
)
