"""Chapter 4's challenges: a reorder buffer, and a gateway that numbers in one atomic step."""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from hypothesis import strategies as st

from mpim_lab.errors import MpimError
from mpim_lab.events import Event, EventKind
from mpim_lab.keys import live_channel
from mpim_lab.lab.exercise.actors import Actor
from mpim_lab.lab.exercise.challenge import Challenge
from mpim_lab.lab.exercise.explorer import Explorer
from mpim_lab.lab.exercise.model_check import ModelCheck
from mpim_lab.lab.exercise.schedule_run import ScheduleRun
from mpim_lab.lab.exercise.schedules import DIES, IS_HELD, LOSES_CONNECTION, SERVER_STOPS
from mpim_lab.lab.exercise.solution import Violation, finished
from mpim_lab.lab.trace.trace import Trace
from mpim_lab.mq.connection.encoding import Message
from mpim_lab.mq.pubsub.queue import MessageQueue

NAME = "chat"
MAX_ATTEMPTS = 40
PAYLOADS = (b"hi", b"", b"two words", b"0 and \r\n \xff\x00", b"long " * 4_000)


class ReorderBuffer(Protocol):
    """What a solution of `put_in_order` looks like."""

    def __init__(self, limit: int) -> None: ...

    def add(self, sequence: int, item: Any) -> list[Any]:
        """Take in a message; return what can be shown now, in order."""
        ...

    def missing(self) -> Iterable[int]:
        """Return the sequence numbers of the first gap."""
        ...


class _BufferModel:
    """A learner's buffer beside what it must do."""

    def __init__(self, buffer: Any, limit: int, name: str) -> None:
        self.buffer, self.limit, self.name = buffer, limit, name
        self.shown, self.early = 0, set[int]()

    @property
    def _state(self) -> str:
        return f"{self.name} has shown up to {self.shown} and holds {sorted(self.early)}"

    def add(self, number: int) -> None:
        """Add a number to both, and compare."""
        is_new = number > self.shown and number not in self.early
        is_refused = is_new and number != self.shown + 1 and len(self.early) >= self.limit
        text = f"{self._state}; add({number})"
        try:
            released = list(self.buffer.add(number, (self.name, number)))
        except Exception as error:
            if is_refused:
                return
            said = f"{text} raised {type(error).__name__}: {error}"
            raise Violation(said, 3, error=error) from error
        if is_refused:
            raise Violation(f"{text} raised nothing, and the limit is {self.limit}", 3)
        if is_new:
            self.early.add(number)
        wanted = []
        while self.shown + 1 in self.early:
            self.shown += 1
            self.early.remove(self.shown)
            wanted.append((self.name, self.shown))
        if released != wanted:
            number_of = 1 if sorted(released, key=repr) == sorted(wanted, key=repr) else 2
            text = f"{text} gave {released!r:.80} instead of {wanted!r:.80}"
            raise Violation(text, number_of)

    def compare_missing(self) -> None:
        """Compare the first gap."""
        wanted = list(range(self.shown + 1, min(self.early, default=self.shown + 1)))
        try:
            found = sorted(self.buffer.missing())
        except Exception as error:
            text = f"missing() raised {type(error).__name__}: {error}"
            raise Violation(text, 4, error=error) from error
        if found != wanted:
            text = f"{self._state}; missing() gave {found!r:.60} instead of {wanted!r:.60}"
            raise Violation(text, 4)


Arrivals = tuple[int, Sequence[tuple[int, int]]]


def play_buffer(solution: type[Any], given: Arrivals, trace: Trace) -> None:
    """Add numbers to the buffers of two readers, as they come; compare after each of them."""
    limit, arrivals = given
    models: dict[int, _BufferModel] = {}
    for reader, number in arrivals:
        name = f"reader {reader}"
        if reader not in models:
            models[reader] = _BufferModel(solution(limit), limit, name)
        trace(Event(EventKind.RECEIVED, float(len(trace)), name, str(number), NAME))
        models[reader].add(number)
        models[reader].compare_missing()


_ARRIVALS = st.tuples(
    st.integers(1, 5),
    st.lists(st.tuples(st.sampled_from((1, 1, 1, 2)), st.integers(1, 12)), max_size=24),
)
_KNOWN: list[Arrivals] = [
    (4, [(1, number) for number in (1, 2, 3)]),
    (4, [(1, number) for number in (2, 1, 1, 2, 3)]),
    (4, [(1, number) for number in (1, 9)]),
    (4, [(1, number) for number in (1, 3, 3, 3, 5, 5, 2, 4)]),
    (4, [(1, number) for number in (2, 3, 4, 5, 6, 1, 6)]),
    (2, [(1, 2), (2, 1), (2, 2), (1, 1)]),
]


def put_in_order() -> Challenge:
    """A reorder buffer."""
    return Challenge(
        "Put in order",
        "Write a class with `__init__(self, limit)`, `add(self, sequence, item)` and `missing(self)`:\n"
        "the reorder buffer of one reader. Sequence numbers begin at 1. `add` takes in a message and\n"
        "returns the list of items that can be shown now. Messages come early, late, and more than\n"
        "once. What `missing` returns is fetched from the log, and comes to `add` like the others.",
        examiner=ModelCheck(play_buffer, _ARRIVALS, always=_KNOWN, budget=1_500),
        interface=ReorderBuffer,
        module=__name__,
        name="put_in_order",
        guarantees=(
            "Items are shown in the order of their sequence numbers.",
            "Each is shown once, as soon as all before it are.",
            "At most `limit` different messages are held early. `add` raises an error for one more,\n"
            "   whichever number it has, and holds what it held. The next number is always taken in.",
            "`missing` returns the numbers of the first gap, all of them and no others; nothing if\n"
            "   nothing is early.",
        ),
        hints=[
            "Keep the number you wait for. Which numbers below it may still come, and what are they?",
            "A dict from number to item holds what is early; after each `add` release as long as the\n"
            "next number is in it.",
            "`missing` is range(next, lowest early number); with nothing early there is no gap.",
        ],
        difficulty=1,
        minutes=15,
    )


# A gateway


class LearnerKeys:
    """The keys that a learner's gateway gets: the server, and the names that it writes to."""

    def __init__(self, queue: MessageQueue, conversation: str) -> None:
        self._queue, self._conversation = queue, conversation
        self.counter = queue.keys.sequence(NAME, conversation)
        self.channel = queue.keys.live(NAME, conversation)
        self.log = queue.keys.log(NAME, conversation)

    def sent(self, id: str) -> bytes:
        """Return the key where a message id can be remembered."""
        return self._queue.keys.message_id(NAME, self._conversation, id)

    async def call(self, *command: bytes | str | int) -> Any:
        """Run one command."""
        words = [str(word) if isinstance(word, int) else word for word in command]
        return await self._queue.context(NAME).connection.call(*words)

    async def publish(self, number: int, payload: bytes) -> int:
        """Publish "<number> <payload>" by a command of its own."""
        channel = live_channel(NAME, self._conversation)
        return await self._queue.publish(channel, b"%d %b" % (number, payload))


class Gateway(Protocol):
    """What a solution of `number_in_one_step` looks like: one for each conversation."""

    def __init__(self, keys: LearnerKeys) -> None: ...

    async def send(self, id: str, payload: bytes) -> int:
        """Number the message, publish it, return its number."""
        ...


class GatewayRun(ScheduleRun):
    """Two gateways. A client sends through one; without an answer again, through the other."""

    workloads = (
        "one gateway",
        "two gateways in turn",
        "two at once",
        "a late repeat",
        "two conversations",
    )
    actions = (DIES, IS_HELD, LOSES_CONNECTION, SERVER_STOPS)
    pairs = 40

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        two = self.workload == "two conversations"
        self.conversations = ("alice:bob", "a b{c}é") if two else ("alice:bob",)
        self.heard: dict[str, list[tuple[int, bytes]]] = {each: [] for each in self.conversations}
        self.sent: dict[str, dict[str, bytes]] = {each: {} for each in self.conversations}
        self.answers: dict[tuple[str, str], set[int]] = {}
        self._gateways: dict[str, tuple[Actor, dict[str, Any]]] = {}
        self._calls: list[tuple[Actor, asyncio.Task[bool]]] = []

    async def play(self) -> None:
        """Send messages as the workload says; wait until all calls have ended; hear what came."""
        listener = await self.queue(self.server, "bob")
        for conversation in self.conversations:

            def hear(message: Message, conversation: str = conversation) -> None:
                number, _, payload = message.payload.partition(b" ")
                self.heard[conversation].append((int(number), payload))
                self.report(EventKind.RECEIVED, "bob", payload.partition(b" ")[0].decode())

            await listener.subscribe(live_channel(NAME, conversation), hear)
        for name in ("gateway-1", "gateway-2"):
            actor = await self.actor(name)
            kind, own = self.solution.load(), {}
            for each in self.conversations:  # a connection each: MULTI is for whoever has one
                own[each] = kind(LearnerKeys(await self.queue(actor.url, name), each))
            self._gateways[name] = (actor, own)
        await self._send_all()
        for actor, call in self._calls:
            if not await self.until(lambda a=actor, c=call: a.is_dead or c.done()):  # type: ignore[misc]
                raise Violation(f"{actor.name}: `send` does not come to an end", 4)
        await listener.drain()

    async def _send_all(self) -> None:
        first, last = self.conversations[0], self.conversations[-1]
        sends = [(each, f"m{n}", n) for n in range(1, 4) for each in self.conversations]
        if self.workload == "two at once":
            await asyncio.gather(*(self._send(where, name, n) for where, name, n in sends))
            await asyncio.gather(self._send(first, "m2", 1), self._send(first, "m2", 2))
            return
        for where, name, n in sends:
            await self._send(where, name, 1 if self.workload == "one gateway" else n)
        if self.workload == "a late repeat":
            await asyncio.sleep(1.0)
        if self.workload != "one gateway":
            await self._send(last, "m1", 2)
            await self._send(last, "m4", 1)

    async def _send(self, conversation: str, id: str, gateway: int) -> None:
        """Send until there is an answer, each time through the other gateway."""
        payload = id.encode() + b" " + PAYLOADS[int(id[1:]) % len(PAYLOADS)]
        self.sent[conversation][id] = payload
        self.report(EventKind.ACCEPTED, "alice", id)
        for attempt in range(MAX_ATTEMPTS):
            actor, own = self._gateways[f"gateway-{1 + (gateway + attempt + 1) % 2}"]
            if actor.is_dead:
                continue
            call = actor.spawn(self._call(actor, own[conversation], conversation, id, payload))
            self._calls.append((actor, call))
            await self.until(lambda c=call, a=actor: c.done() or a.is_dead, self.hold_s / 2)  # type: ignore[misc]
            if call.done() and not call.cancelled() and await call:
                return
        raise Violation(f"`send` has not answered for {id}, {MAX_ATTEMPTS} times", 4, id)

    async def _call(
        self, actor: Actor, own: Any, conversation: str, id: str, payload: bytes
    ) -> bool:
        try:
            given: Any = await finished("send", own.send(id, payload))
            number = int(given)
        except Violation:
            raise
        except MpimError as error:
            if not self.schedule.disturbances:
                raise _raised(actor, error) from error
            await asyncio.sleep(0.01)
            return False
        except Exception as error:
            raise _raised(actor, error) from error
        self.answers.setdefault((conversation, id), set()).add(number)
        self.report(EventKind.ADDED, actor.name, id, sequence=number)
        return True

    async def judge(self) -> None:
        """Look at what bob has heard, and at the answers."""
        for conversation, sent in self.sent.items():
            heard = self.heard[conversation]
            for number, payload in heard:
                if payload not in sent.values():
                    raise Violation(f"bob heard {number} {payload!r:.40}, which nobody sent", 1)
            for name, payload in sent.items():
                numbers = sorted(number for number, each in heard if each == payload)
                answers = sorted(self.answers.get((conversation, name), ()))
                if not numbers:
                    raise Violation(f"{name} was never published", 1, name)
                if len(numbers) > 1:
                    raise Violation(f"{name} was published as {numbers}", 2, name)
                if answers != numbers:
                    text = f"{name} was published as {numbers[0]}, and `send` returned {answers}"
                    raise Violation(text, 4, name)
            if (got := sorted(number for number, _ in heard)) != [*range(1, len(sent) + 1)]:
                raise Violation(f"the {len(sent)} messages have the numbers {got}", 3)


def _raised(actor: Actor, error: BaseException) -> Violation:
    return Violation(f"{actor.name}: `send` raised {type(error).__name__}: {error}", error=error)


def number_in_one_step() -> Challenge:
    """A gateway that numbers and publishes in one atomic step, and knows a repeat."""
    return Challenge(
        "Number in one step",
        "Write a class with `__init__(self, keys)` and `async send(self, id, payload)`, which\n"
        'publishes "<number> <payload>" on `keys.channel` and returns the number. Two gateways have\n'
        "one each, at the same time. A gateway may die at any moment, be slow, or lose its\n"
        "connection. A client that gets no answer sends again, with the same id, through either\n"
        "gateway. `await keys.call(…)` is any command; `keys.counter` and `keys.sent(id)` are keys\n"
        "for you. If the server cannot be reached, `send` may raise what `keys.call` raises.",
        examiner=Explorer(GatewayRun, budget=260),
        interface=Gateway,
        module=__name__,
        name="number_in_one_step",
        guarantees=(
            "Each message is published, with its whole payload.",
            "It is published once, however often its id comes, and however late: within a day.",
            "The numbers of a conversation are 1, 2, 3 …, without a gap, each for one message.",
            "`send` returns the number of the message, also to a repeat.",
        ),
        hints=[
            "Whatever is two commands can be parted: by a crash, or by the other gateway.",
            'keys.call("EVAL", script, 2, keys.counter, keys.sent(id), keys.channel, id, payload):\n'
            "INCR and PUBLISH in Lua.",
            "Before taking a number look whether the id has one already (GET); after it, remember it\n"
            "(SET … PX).",
        ],
        difficulty=2,
        minutes=25,
    )
