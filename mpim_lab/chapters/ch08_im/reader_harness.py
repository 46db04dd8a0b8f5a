"""ReaderHarness: a conversation in a log, and the learner's rule for a client that reads it.

Pushes, pages and what the gateway says come to the rule in the order of a script. After each of
them it is known what must have been shown by now, and whether the rule must be asking. Nothing
depends on a clock.
"""

import inspect
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from mpim_lab.chapters.ch08_im.redis_commands import abbreviate_story
from mpim_lab.events import CHAT_LOG, SERVICE, Event, EventKind, now
from mpim_lab.keys import user_channel
from mpim_lab.lab.exercise.legacy_challenge import Trial, TrialFailure
from mpim_lab.lab.server.embedded import open_server
from mpim_lab.lab.trace.trace import Trace
from mpim_lab.mq.pubsub.queue import MessageQueue

MAX_PAGE_SIZE = 100
SENDER, NEAR, FAR, READER = "alice", "gw-1", "gw-2", "bob"
Page = tuple[list[tuple[int, str]], int]


class Violation(Exception):
    """A violation: what went wrong, and with which message.

    is_missing: a picture shows where its way ended.
    """

    def __init__(self, text: str, number: int, *, is_missing: bool = False) -> None:
        super().__init__(text)
        self.number, self.is_missing = number, is_missing


class ReaderHarness:
    """A harness around the learner's reader, with one conversation from its first message on.

    `length`: messages so far.
    """

    def __init__(self, queue: MessageQueue, name: str, solution: type[Any]) -> None:
        self.log: list[str] = []
        self.trace = Trace(sample_above_per_s=None)
        self.length = self.shown = 0
        self._commands = queue.context(name).connection
        self._log_key = queue.keys.log("reading", name)
        self._here: set[int] = set()  # what came to the rule, pushed or in a page
        self._known_last = 0
        self._asked: list[int] = []  # what the rule asks for in the call that is going on
        self._underway: int | None = None
        self._page: Page | None = None  # read for the one that is underway, and on its way
        self._own = solution(self._ask)

    @property
    def is_asking(self) -> bool:
        """An answer is to come."""
        return self._underway is not None

    # Steps

    async def append(self, count: int = 1) -> None:
        """Append so many messages to the log; whether they are pushed is another matter."""
        for _ in range(count):
            self.length += 1
            words = ("XADD", self._log_key, f"{self.length}-0", "text", f"m{self.length}")
            await self._commands.call(*words)
            self.trace(
                Event(EventKind.ACCEPTED, now(), SENDER, f"m{self.length}", user_channel(READER))
            )
            for source, target in (
                (SENDER, NEAR),
                (NEAR, SERVICE),
                (SERVICE, CHAT_LOG),
                (SERVICE, user_channel(READER)),
            ):
                self._hop(self.length, source, target)

    def push(self, number: int) -> None:
        """Push a message: in time, late, early or once more.

        Raise Violation for a wrong step of the rule.
        """
        for source, target in ((user_channel(READER), FAR), (FAR, READER)):
            self._hop(number, source, target)
        self._here.add(number)
        self._known_last = max(self._known_last, number)
        self._check(f'push({number}, "m{number}")', self._own.push(number, f"m{number}"))

    def announce_last(self) -> None:
        """Announce how far the conversation is. Raise Violation for a wrong step of the rule."""
        self._known_last = self.length
        given = self._own.last(self.length)
        self._check(f"last({self.length})", [] if given is None else given)

    async def load_page(self) -> None:
        """Read the log for the reader that asked; the page is in flight."""
        if self._underway is None:
            return
        begin = f"({self._underway}-0"
        entries = await self._commands.call(
            "XRANGE", self._log_key, begin, "+", "COUNT", str(MAX_PAGE_SIZE)
        )
        found = [int(entry[0].partition(b"-")[0]) for entry in entries]
        self._page = [(number, f"m{number}") for number in found], self.length
        self.log.append(
            f"  the gateway reads what comes after {self._underway}: "
            f"{_span(found)} of {self.length}"
        )

    async def deliver_page(self) -> None:
        """Deliver the page. Raise Violation for a wrong step of the rule."""
        if self._page is None:
            await self.load_page()
        if self._page is None:
            return
        (messages, last), self._page, self._underway = self._page, None, None
        numbers = [number for number, _ in messages]
        self._here.update(numbers)
        self._known_last = max(self._known_last, last)
        for number in numbers:
            for source, target in ((CHAT_LOG, FAR), (FAR, READER)):
                self._hop(number, source, target)
        self._check(f"page({_span(numbers)}, last={last})", self._own.page(messages, last))

    async def finish(self) -> None:
        """Announce the last number and answer as long as something is asked for.

        Then all of it must be there.
        """
        self.announce_last()
        while self.is_asking:
            await self.deliver_page()
        if self.shown < self.length:
            raise Violation(f"m{self.shown + 1} was never shown", self.shown + 1, is_missing=True)

    # Inside

    def _ask(self, after: int) -> None:
        """What the rule asks with."""
        self._asked.append(after)

    def _check(self, step: str, given: Any) -> None:
        """Check what the rule did in one step."""
        if inspect.iscoroutine(given):
            given.close()
        texts = list(given) if isinstance(given, list | tuple) else None
        asked, self._asked = self._asked, []
        asks = "".join(f", and asks ask({after})" for after in asked)
        self.log.append(
            f"{step} shows {_span_of(texts) if texts is not None else repr(given)}{asks}"
        )
        if texts is None:
            raise Violation(
                f"{step.partition('(')[0]} returned {type(given).__name__}: "
                "a list of texts was wanted",
                0,
            )
        for text in texts:
            self._show(text)
        if self.shown + 1 in self._here:
            raise Violation(
                f"m{self.shown + 1} is here and its turn has come, and it was not shown",
                self.shown + 1,
            )
        for after in asked:
            self._check_sync_request(after)
        if self.shown < self._known_last and self._underway is None:
            missing = self.shown + 1
            raise Violation(
                f"m{missing} is missing, and nobody asks for it: who shall bring it?",
                missing,
                is_missing=True,
            )

    def _show(self, text: Any) -> None:
        number = (
            int(text[1:]) if isinstance(text, str) and text[:1] == "m" and text[1:].isdigit() else 0
        )
        if number not in self._here:
            raise Violation(f"{text!r} was shown: no message that came has this text", 0)
        self.trace(Event(EventKind.EFFECT, now(), READER, f"m{number}", user_channel(READER)))
        if number <= self.shown:
            raise Violation(f"m{number} was shown twice", number)
        if number > self.shown + 1:
            raise Violation(f"m{number} was shown before m{self.shown + 1}", number)
        self.shown = number

    def _check_sync_request(self, after: int) -> None:
        missing = self.shown + 1
        if self._underway is not None:
            raise Violation(
                f"ask({after}) was called, "
                f"and the answer to ask({self._underway}) is still to come",
                missing,
            )
        if self.shown >= self._known_last:
            raise Violation(f"ask({after}) was called, and nothing is missing", self.shown)
        if after != self.shown:
            raise Violation(
                f"ask({after}) was called, and what comes after m{self.shown} is missing", missing
            )
        self._underway = after

    def _hop(self, number: int, source: str, target: str) -> None:
        self.trace(Event(EventKind.HOP, now(), source, f"m{number}", target))


def _span(numbers: Sequence[int]) -> str:
    """Numbers as names of messages.

    >>> _span([2, 3]), _span(range(1, 101)), _span([])
    ('m2, m3', 'm1 to m100', 'nothing')
    """
    return _span_of([f"m{number}" for number in numbers])


def _span_of(texts: Sequence[object]) -> str:
    if len(texts) > 4:
        return f"{texts[0]} to {texts[-1]}"
    return ", ".join(map(str, texts)) or "nothing"


def reader_trial(title: str, *scripts: Callable[[ReaderHarness], Awaitable[None]]) -> Trial:
    """Return scripts as a trial, each with a rule and a conversation of its own.

    The first that fails is reported.
    """

    async def judge(solution: type[Any]) -> TrialFailure | None:
        async with open_server() as server, MessageQueue(server.url, prefix=server.prefix) as queue:
            for place, script in enumerate(scripts):
                harness = ReaderHarness(queue, f"{place}", solution)
                try:
                    await script(harness)
                except Violation as bad:
                    name = f"m{bad.number}" if bad.number else ""
                    return TrialFailure(
                        str(bad),
                        title,
                        name,
                        abbreviate_story(harness.log),
                        harness.trace if bad.is_missing else None,
                    )
                except Exception as error:  # the learner's code may raise anything
                    text = f"your class raised {type(error).__name__}: {error}"
                    return TrialFailure(text, title, "", abbreviate_story(harness.log))
        return None

    return judge


# The cases, easiest first

Script = Callable[[ReaderHarness], Awaitable[None]]


async def in_order(harness: ReaderHarness) -> None:
    """Three pushes, and the gateway says nothing new."""
    for number in (1, 2, 3):
        await harness.append()
        harness.push(number)
    harness.announce_last()


async def twice(harness: ReaderHarness) -> None:
    """A gateway that is not sure pushes again."""
    await harness.append(2)
    for number in (1, 1, 2, 1, 2):
        harness.push(number)


async def gap(harness: ReaderHarness) -> None:
    """The push of m2 is lost, and others come after it."""
    await harness.append(5)
    for number in (1, 3, 4, 5):
        harness.push(number)
    await harness.deliver_page()


async def early(harness: ReaderHarness) -> None:
    """m2 overtakes m1; both the late push and the page bring m1."""
    await harness.append(2)
    for number in (2, 1):
        harness.push(number)
    await harness.deliver_page()


async def between(harness: ReaderHarness) -> None:
    """m4 comes after the page was read and before it arrives."""
    await harness.append(3)
    for number in (1, 3):
        harness.push(number)
    await harness.load_page()
    await harness.append()
    harness.push(4)
    await harness.deliver_page()


async def filled_late(harness: ReaderHarness) -> None:
    """The late push fills the gap.

    Another gap opens; then the page arrives, which knows nothing of that one.
    """
    await harness.append(3)
    for number in (1, 3):
        harness.push(number)
    await harness.load_page()
    harness.push(2)
    await harness.append(2)
    harness.push(5)
    await harness.deliver_page()
    await harness.deliver_page()


async def last_lost(harness: ReaderHarness) -> None:
    """The push of the last message is lost: no number after it tells of it."""
    await harness.append(3)
    for number in (1, 2):
        harness.push(number)
    harness.announce_last()
    harness.announce_last()
    await harness.deliver_page()
    harness.announce_last()


async def long_away(harness: ReaderHarness) -> None:
    """250 messages while the client was away; one more is pushed meanwhile."""
    await harness.append(250)
    harness.announce_last()
    await harness.deliver_page()
    await harness.append()
    harness.push(251)
    await harness.finish()


def random_case(length: int, seed: int) -> Script:
    """Messages are pushed in time, late, twice or never, in an order that the seed chooses."""

    async def script(harness: ReaderHarness) -> None:
        chance = random.Random(f"{seed} of {length}")
        late: list[int] = []
        while harness.length < length:
            await harness.append()
            late += chance.choice(
                [[], [harness.length], [harness.length], [harness.length, harness.length]]
            )
            while late and chance.random() < 0.6:
                harness.push(late.pop(chance.randrange(len(late))))
            step = chance.random()
            if step < 0.15:
                harness.announce_last()
            elif step < 0.4:
                await harness.load_page()
            elif step < 0.6:
                await harness.deliver_page()
        await harness.finish()
        for number in late:
            harness.push(number)

    return script


RANDOM_CASES = (
    *(random_case(length, seed) for length in (3, 5, 8, 13, 34) for seed in range(1, 9)),
    random_case(260, 1),
)
CASES: tuple[tuple[str, tuple[Script, ...]], ...] = (
    ("three pushes in order", (in_order,)),
    ("pushes come twice", (twice,)),
    ("the push of m2 is lost", (gap,)),
    ("m2 comes before m1", (early,)),
    ("the push of m2 is lost, and m4 comes before the page", (between,)),
    ("the push of m2 comes late, the page later still, and m4 is lost", (filled_late,)),
    ("the last push is lost, and the gateway says how far it is", (last_lost,)),
    ("250 messages while the client was away", (long_away,)),
    ("pushes in time, late, twice or never, mixed by a seed", RANDOM_CASES),
)
