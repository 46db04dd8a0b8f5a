"""Chapter 4's challenges: a reorder buffer, and a gateway that numbers in one step."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from mpim_lab.chapters.ch04_ordering.chat_scenario import ChatDesign
from mpim_lab.chapters.ch04_ordering.experiment import ChatOrdering
from mpim_lab.chapters.ch04_ordering.naive import (
    AsItComesReader,
    PatientReader,
    TwoStepConversations,
)
from mpim_lab.events import EventKind
from mpim_lab.keys import live_channel
from mpim_lab.lab.exercise.challenge import Challenge, Trial, TrialFailure, first_violation
from mpim_lab.lab.exercise.sandbox import ExitRequested
from mpim_lab.mq.connection.encoding import Message
from mpim_lab.mq.ordering.sequenced_log import AppendResult, SequencedLog, SequencedMessage
from mpim_lab.mq.pubsub.queue import MessageQueue

LIMIT = 4
ASKS_EVERY_S = 0.03


class LearnerBufferReader(AsItComesReader):
    """A reader through the learner's buffer.

    It asks now and then what is missing, and fetches that from the log.

    `times`: how often each message arrives. `first`: in which order the first numbers arrive,
    whatever their own.
    """

    def __init__(self, buffer: Any, times: int, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._log, self._buffer, self._times = arguments[0], buffer, times
        self.problem: Exception | None = None

    async def run(self) -> None:
        """Listen until `stop`, and fetch what is missing."""
        fetching = asyncio.create_task(self._fetch())
        await super().run()
        fetching.cancel()
        await asyncio.wait([fetching])

    async def _on_message(self, message: Message) -> None:
        for _ in range(self._times):
            await super()._on_message(message)

    def _take(self, numbered: SequencedMessage) -> None:
        self.queue.reporter.message(EventKind.RECEIVED, numbered.payload, self._name)
        try:
            released = list(self._buffer.add(numbered.sequence, numbered))
        except Exception as error:
            self.problem = self.problem or error
            return
        for ready in released:
            self._hand_over(ready)

    async def _fetch(self) -> None:
        while isinstance(self._log, SequencedLog):
            await asyncio.sleep(ASKS_EVERY_S)
            try:
                missing: Sequence[int] = list(self._buffer.missing())
            except Exception as error:
                self.problem = self.problem or error
                return
            if missing and self.queue.is_connected:
                for numbered in await self._log.read_range(
                    self._conversation, min(missing), max(missing)
                ):
                    self._take(numbered)


def _buffer_trial(
    fault: str, seed: int, *, times: int = 1, numbered: Callable[..., Any] = SequencedLog
) -> Trial:
    async def judge(solution: type[Any]) -> TrialFailure | None:
        readers: list[LearnerBufferReader] = []

        def reader(*arguments: Any) -> LearnerBufferReader:
            readers.append(LearnerBufferReader(solution(LIMIT), times, *arguments))
            return readers[-1]

        # One absence, and not at the end: a buffer cannot miss what nothing came after.
        duration = 1 if fault == "away" else 2
        result = await ChatOrdering(
            fault=fault, seed=seed, messages=10, duration=duration, own=ChatDesign(numbered, reader)
        ).run()
        trial = f"fault {fault!r}, seed {seed}" + (
            ", everything arrives twice" if times > 1 else ""
        )
        if readers[0].problem is not None:
            raise readers[0].problem
        return first_violation(result, trial)

    return judge


async def _overflow_trial(solution: type[Any]) -> TrialFailure | None:
    """A gap is open: the buffer may hold `LIMIT` early arrivals, and must refuse one more."""
    buffer = solution(LIMIT)
    for sequence in range(2, LIMIT + 2):
        if list(buffer.add(sequence, f"m{sequence}")):
            return TrialFailure(
                f"m{sequence} came out, and m1 never came", f"limit {LIMIT}, number 1 is missing"
            )
    try:
        buffer.add(LIMIT + 2, f"m{LIMIT + 2}")
    except ExitRequested:  # that is no refusal
        raise
    except Exception:
        released = list(buffer.add(1, "m1"))
        wanted = [f"m{number}" for number in range(1, LIMIT + 2)]
        if released == wanted:
            return None
        return TrialFailure(
            f"then m1 came, and out came {released}", f"limit {LIMIT}, {LIMIT} early arrivals"
        )
    return TrialFailure(
        f"{LIMIT + 1} early arrivals were taken in: a gap that stays open fills the memory",
        f"limit {LIMIT}",
    )


def put_in_order() -> Challenge:
    """A reorder buffer."""
    return Challenge(
        "Put in order",
        "Write a class with `__init__(self, limit)`, `add(self, sequence, item)` and\n"
        "`missing(self)`. Numbers begin at 1. `add` returns the list of items that can be shown\n"
        "now, each once, in order; more than `limit` early arrivals raise an error. `missing`\n"
        "returns the numbers of the first gap, or an empty list: they are fetched and come to\n"
        "`add`.",
        [
            _buffer_trial("none", 1),
            _buffer_trial("none", 1, times=2),
            _buffer_trial("interleave", 1, numbered=TwoStepConversations),
            _buffer_trial("away", 1),
            _buffer_trial("away", 7, times=2),
            _overflow_trial,
        ],
        [
            (
                "Keep the number you wait for. Which numbers below it may still come, and what "
                "are they?"
            ),
            (
                "A dict from number to item holds what is early; after each `add` release as "
                "long as the next number is in it."
            ),
            (
                "`missing` is range(next, lowest early number); with nothing early there is "
                "nothing to miss."
            ),
        ],
    )


class LearnerKeys:
    """The keys that a learner's gateway gets: the server, and the names that it writes to."""

    def __init__(self, queue: MessageQueue, name: str, conversation: str) -> None:
        self._queue, self._name, self._conversation = queue, name, conversation
        self.counter = queue.keys.sequence(name, conversation)
        self.channel = queue.keys.live(name, conversation)
        self.log = queue.keys.log(name, conversation)

    def sent(self, id: str) -> bytes:
        """The key where a message id can be remembered."""
        return self._queue.keys.message_id(self._name, self._conversation, id)

    async def call(self, *command: bytes | str | int) -> Any:
        """One command."""
        words = [str(word) if isinstance(word, int) else word for word in command]
        return await self._queue.context(self._name).connection.call(*words)

    async def publish(self, number: int, payload: bytes) -> int:
        """Publish "<number> <payload>" by a command of its own."""
        return await self._queue.publish(
            live_channel(self._name, self._conversation), b"%d %b" % (number, payload)
        )


def _gateway_trial(fault: str, seed: int) -> Trial:
    async def judge(solution: type[Any]) -> TrialFailure | None:
        class Own:
            def __init__(self, queue: MessageQueue, name: str) -> None:
                self.queue, self.name = queue, name

            async def append(self, conversation: str, payload: bytes, id: str) -> AppendResult:
                reporter = self.queue.reporter
                reporter.message(EventKind.ACCEPTED, payload, self.name)
                number = int(
                    await solution(LearnerKeys(self.queue, self.name, conversation)).send(
                        id, payload
                    )
                )
                reporter.message(EventKind.ADDED, payload, self.name, sequence=number)
                return AppendResult(number, is_new=True)

        result = await ChatOrdering(
            fault=fault, seed=seed, messages=10, own=ChatDesign(Own, PatientReader)
        ).run()
        return first_violation(result, f"fault {fault!r}, seed {seed}")

    return judge


def number_in_one_step() -> Challenge:
    """A gateway that numbers and publishes in one step, and knows a repeat."""
    faults = [
        ("none", 1),
        ("gateway dies", 1),
        ("answer lost", 1),
        ("interleave", 1),
        ("answer lost", 7),
    ]
    return Challenge(
        "Number in one step",
        "Write a class with `__init__(self, keys)` and `async send(self, id, payload)` that\n"
        'publishes "<number> <payload>" on `keys.channel` and returns the number. Two gateways\n'
        "run it at the same time, one may die in the middle, and a client that got no answer\n"
        "sends again with the same id. bob waits for every number. `await keys.call(…)` is any\n"
        "command; `keys.counter` and `keys.sent(id)` are keys for you.",
        [_gateway_trial(fault, seed) for fault, seed in faults],
        [
            "Whatever is two commands can be parted: by a crash, or by the other gateway.",
            (
                'keys.call("EVAL", script, 2, keys.counter, keys.sent(id), keys.channel, id, '
                "payload): INCR and PUBLISH in Lua."
            ),
            (
                "Before taking a number look whether the id has one already (GET); after it, "
                "remember it (SET … PX)."
            ),
        ],
    )
