"""FanoutModel: a group's members, and what a learner's fan-out does to each of them.

Time is virtual and nothing is on a network: a pipeline answers as the input says.
"""

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from hypothesis import strategies as st

from mpim_lab.errors import CommandRejected, MpimError, NotConnected, QueueFull, StoreFailed
from mpim_lab.events import OFFLINE_STORE, SERVICE, Event, EventKind
from mpim_lab.keys import user_channel
from mpim_lab.lab.exercise.solution import Violation, finished
from mpim_lab.lab.exercise.virtual_time import Deadlock, run_virtual
from mpim_lab.lab.trace.trace import Trace

WORDS = ("pushed", "stored", "failed")
MAX_ROUND_TRIPS = 3
REACHED, ONCE, TRUE, CHEAP = 1, 2, 3, 4  # the guarantees
LIMIT_S = 60.0
ROUND_TRIP_S, STORE_S = 0.002, 0.005
MESSAGES = ("m1 tea at eight?", "m1 tea", "", "三点见 \r\n", "long " * 2_000)
NAMES = ("bob", "carol", "a:b", "user:bob", "Zoë 1", "dave")
ERRORS = (QueueFull("no room"), CommandRejected("ERR no"), NotConnected("away"), MpimError("?"))

Send = tuple[int, int, str, int, int, bool, bool]
"""Which object, which message, a sign for each member ("0", "1", "2": how many listen, "x": the
PUBLISH fails, "-": is no member now), how often these signs are repeated, how many of the first
members are listed twice, whether the store works, whether the next send begins at the same time."""


def name_of(place: int) -> str:
    """Return a member's name."""
    return NAMES[place] if place < len(NAMES) else f"u{place}"


class _World:
    """The members of one object's groups, and what has become of each message for each of them."""

    def __init__(self, solution: type[Any], trace: Trace) -> None:
        self.trace = trace
        self.sends: dict[str, _Sending] = {}  # going on, by message
        self.pushed, self.stored = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
        self.finished: set[str] = set()  # messages that nobody failed to get
        self.violation: Violation | None = None  # which the class may have swallowed
        try:
            self.own = solution(self.pipeline, self.store)
        except Exception as error:
            text = f"`__init__` raised {type(error).__name__}: {error}"
            raise Violation(text, error=error) from error

    async def pipeline(self, commands: Iterable[Sequence[Any]]) -> list[Any]:
        """Answer each command; a publish by the signs of its message."""
        words = [[_text(word) for word in command] for command in commands]
        sending = {self.sends.get(each[2]) for each in words if len(each) == 3} - {None}
        for each in sending or set(self.sends.values()):
            if each is not None:
                each.round_trips += 1
        await asyncio.sleep(ROUND_TRIP_S)
        return [self._answer(each) for each in words]

    def _answer(self, words: list[str]) -> Any:
        if len(words) != 3 or words[0].upper() != "PUBLISH":
            return CommandRejected(f"ERR only PUBLISH is known here, not {words!r:.60}")
        _, channel, message = words
        uid, sending = channel.removeprefix("user:"), self.sends.get(message)
        if sending is None or not channel.startswith("user:") or uid not in sending.signs:
            raise self._seen(f"{message!r:.30} was published to {channel!r:.40}: for whom?", ONCE)
        sending.tried.add(uid)
        self._report(message, uid, EventKind.PUBLISHED)
        if (sign := sending.signs[uid]) == "x":
            return ERRORS[len(uid) % len(ERRORS)]
        if int(sign):
            self.pushed[message, uid] += 1
            self._report(message, uid, EventKind.RECEIVED)
        return int(sign)

    async def store(self, uids: Iterable[str], message: str) -> None:
        """Keep a message for some; fail if the input says so."""
        members, sending = [uids] if isinstance(uids, str) else list(uids), self.sends.get(message)
        if sending is None:
            raise self._seen(f"{message!r:.30} was stored while nobody sends it", ONCE)
        if not members:
            raise self._seen(
                "nobody is away, and `store` was called: a transaction for nothing", CHEAP
            )
        await asyncio.sleep(STORE_S)
        sending.store_calls += 1
        if not sending.store_works:
            raise StoreFailed("the database is away; nothing was kept")
        sending.transactions += 1
        for uid in members:
            if sending.signs.get(uid) != "0" or uid not in sending.tried:
                why = "nobody had asked, by a PUBLISH, whether she listens"
                if uid in sending.tried:
                    why = "PUBLISH did not say that nobody listens"
                raise self._seen(f"it was stored for {uid}: {why}", REACHED, uid)
            self.stored[message, uid] += 1
            self._report(message, uid, EventKind.ADDED)

    def _seen(self, text: str, guarantee: int, uid: str = "") -> Violation:
        self.violation = self.violation or Violation(text, guarantee, uid)
        return self.violation

    def _report(self, message: str, uid: str, kind: EventKind) -> None:
        where = {EventKind.PUBLISHED: SERVICE, EventKind.ADDED: OFFLINE_STORE}.get(kind, uid)
        at = float(len(self.trace))
        self.trace(Event(kind, at, where, uid, user_channel(uid), detail=repr(message)[:30]))


class _Sending:
    """One `send` of one message."""

    def __init__(self, world: _World, send: Send) -> None:
        _, number, signs, repeats, again, self.store_works, _ = send
        self.world, self.message = world, MESSAGES[number]
        listed = [(name_of(place), sign) for place, sign in enumerate(signs * repeats)]
        self.signs = {uid: sign for uid, sign in listed if sign != "-"}
        self.members = [*self.signs, *[*self.signs][:again]]
        self.round_trips = self.store_calls = self.transactions = 0
        self.tried: set[str] = set()
        self.had = {uid for uid in self.signs if self._became(uid) != "failed"}

    async def play(self) -> None:
        """Have it sent; look at what became of each member, and at what is said."""
        self.world.sends[self.message] = self
        try:
            report: Any = await finished(
                "send", self.world.own.send(list(self.members), self.message)
            )
        except Violation:
            raise
        except Exception as error:
            text = f"`send` raised {type(error).__name__}: {error}; nobody knows who has it"
            raise Violation(text, TRUE, error=error) from error
        del self.world.sends[self.message]
        if self.world.violation is not None:
            raise self.world.violation
        self._check_effects()
        self._check_costs()
        said = self._check_report(report)
        if "failed" not in said.values():
            self.world.finished.add(self.message)

    def _became(self, uid: str) -> str:
        for word, counted in (("pushed", self.world.pushed), ("stored", self.world.stored)):
            if counted[self.message, uid]:
                return word
        return "failed"

    def _check_effects(self) -> None:
        for uid, sign in self.signs.items():
            pushes, stores = (
                self.world.pushed[self.message, uid],
                self.world.stored[self.message, uid],
            )
            if pushes + stores > 1:
                text = f"{uid} has it {pushes + stores} times: pushed {pushes}, stored {stores}"
                raise Violation(text, ONCE, uid)
            if uid in self.had & self.tried:
                raise Violation(f"{uid} had it already, and was tried once more", ONCE, uid)
            if uid not in self.had and uid not in self.tried:
                raise Violation(f"{uid} does not have it, and was not tried", REACHED, uid)
            if sign == "0" and self._became(uid) == "failed" and not self.store_calls:
                text = f"nobody listened for {uid}, and it was not stored"
                raise Violation(text, REACHED, uid)
            if sign == "0" and self._became(uid) == "failed" and self.store_works:
                raise Violation(f"it was not stored for {uid}", REACHED, uid)

    def _check_costs(self) -> None:
        if self.round_trips > MAX_ROUND_TRIPS:
            text = f"{self.round_trips} round trips for {len(self.members)} members"
            raise Violation(text, CHEAP)
        if self.transactions > 1 or self.store_calls > MAX_ROUND_TRIPS:
            raise Violation(f"`store` was called {self.store_calls} times for one `send`", CHEAP)

    def _check_report(self, report: Any) -> dict[str, str]:
        try:
            lists = {word: list(report[word]) for word in WORDS}
        except Exception as error:
            text = f"`send` gave {report!r:.60}, no dict of three lists: {', '.join(WORDS)}"
            raise Violation(text, TRUE) from error
        said: dict[str, str] = {}
        for word, uids in lists.items():
            for uid in uids:
                if uid not in self.signs:
                    raise Violation(f"`send` says that {uid!r} {word}: no member now", TRUE)
                if said.setdefault(uid, word) != word:
                    raise Violation(f"`send` says {word} and {said[uid]} of {uid}", TRUE, uid)
        for uid in self.signs:
            became = self._became(uid)
            if said.get(uid, became if uid in self.had else "nothing") != became:
                text = f"{uid} is {became}, and `send` says {said.get(uid, 'nothing')}"
                raise Violation(text, TRUE, uid)
        return said


def _text(word: Any) -> str:
    return word.decode("utf-8", "replace") if isinstance(word, bytes) else str(word)


def play_fanout(solution: type[Any], sends: Sequence[Send], trace: Trace) -> None:
    """Play some sends, one after the other or two at a time, through one object or two."""
    try:
        run_virtual(_play(solution, sends, trace), limit_s=LIMIT_S)
    except (Deadlock, TimeoutError) as error:
        raise Violation(f"`send` does not come to an end: {error}", 0) from error


async def _play(solution: type[Any], sends: Sequence[Send], trace: Trace) -> None:
    worlds: dict[int, _World] = {}
    together: list[_Sending] = []
    for send in sends:
        world = worlds.get(send[0]) or worlds.setdefault(send[0], _World(solution, trace))
        # What everybody has is not sent again, nor is one message sent twice at the same time.
        message = MESSAGES[send[1]]
        if message in world.finished:
            continue
        if any(each.world is world and each.message == message for each in together):
            continue
        together.append(_Sending(world, send))
        if not send[-1]:
            await _send_together(together)
    await _send_together(together)


async def _send_together(together: list[_Sending]) -> None:
    playing = [asyncio.create_task(each.play()) for each in together]
    together.clear()
    try:
        for each in playing:
            await each
    finally:
        for each in playing:
            each.cancel()


SENDS = st.lists(
    st.tuples(
        st.sampled_from((1, 1, 1, 2)),
        st.sampled_from((0, 0, 0, 1, 2, 3, 4)),
        st.text(alphabet="0012xx-", min_size=1, max_size=6),
        st.sampled_from((1, 1, 1, 1, 3)),
        st.sampled_from((0, 0, 0, 1, 2)),
        st.sampled_from((True, True, False)),
        st.sampled_from((False, False, True)),
    ),
    min_size=1,
    max_size=7,
)
KNOWN: list[Sequence[Send]] = [
    [(1, 0, "111", 1, 0, True, False)],
    [(1, 0, "101", 1, 0, True, False)],
    [(1, 0, "12", 1, 0, True, False)],
    [(1, 0, "000", 1, 0, True, False)],
    [(1, 0, "101x", 1, 0, True, False)],
    [(1, 0, "101", 1, 0, True, False), (1, 1, "111", 1, 0, True, False)],
    [(1, 0, "x0x1", 1, 0, True, False), (1, 0, "10x1", 1, 0, True, False)],
    [(1, 0, "111x", 1, 0, True, False), (1, 0, "1110", 1, 0, True, False)],
    [(1, 0, "1010", 1, 0, False, False), (1, 0, "1011", 1, 0, True, False)],
    [(1, 0, "10x", 1, 0, False, False), (1, 0, "101", 1, 0, False, False)],
    [(1, 0, "10x", 1, 2, True, False)],
    [(1, 0, "1x", 1, 0, True, True), (1, 1, "x1", 1, 0, True, False)],
    [(1, 0, "1x", 1, 0, True, False), (2, 0, "11", 1, 0, True, False)],
    [(1, 0, "1x-", 1, 0, True, False), (1, 0, "-10", 1, 0, True, False)],
    [(1, 0, "10121", 100, 0, True, False)],
    [(1, 0, "1", 500, 0, True, False), (1, 1, "0", 500, 0, True, False)],
]
