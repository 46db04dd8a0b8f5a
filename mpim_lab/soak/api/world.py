"""World: the objects of one schedule, what the model says about them, and how a call is judged.

An action chooses its objects, notes in the model that it begins, and gives a `Call`. The runner
awaits, cancels or leaves it; how it ended goes back to the model by `Call.ended`.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Collection, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import hiredis

from mpim_lab.errors import MpimError
from mpim_lab.lab.faults.proxy import FaultProxy
from mpim_lab.lab.server.embedded import EmbeddedServer
from mpim_lab.mq.connection.config import ConnectionConfig
from mpim_lab.mq.connection.resp import encode_command
from mpim_lab.mq.connection.retry import Backoff
from mpim_lab.mq.pubsub.queue import MessageQueue

TIMEOUT_S = 0.5
LIMITS = ConnectionConfig(
    timeout_s=TIMEOUT_S,
    close_timeout_s=0.5,
    connect_timeout_s=0.5,
    heartbeat_s=0.5,
    backoff=Backoff(0.01, 0.1),
)
CALL_S = 2 * TIMEOUT_S  # a place in line, then an answer
# handlers finish or are cancelled, then the last command
END_S = 2 * LIMITS.close_timeout_s + CALL_S
_BEAT_S = 0.02
Ended = Callable[["Outcome"], None]
T = TypeVar("T")


class Violation(Exception):
    """An invariant does not hold. `kind`: a word by which two runs of a schedule are compared."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind = kind


@dataclass(frozen=True)
class Outcome:
    """How a call ended: a value or an error; CancelledError if the runner cancelled it."""

    value: Any = None
    error: BaseException | None = None

    @property
    def is_ok(self) -> bool:
        """It returned."""
        return self.error is None

    @property
    def is_definite(self) -> bool:
        """It failed, and certainly did nothing."""
        known = isinstance(self.error, MpimError) and self.error.definite
        return known or isinstance(self.error, ValueError | TypeError)

    def __str__(self) -> str:
        return "ok" if self.error is None else f"{type(self.error).__name__}: {self.error}"[:160]


@dataclass
class Call:
    """One call of the public API. `limit_s`: how long it may take by its own limits."""

    text: str
    running: Coroutine[Any, Any, Any]
    limit_s: float = CALL_S
    ended: Ended = lambda outcome: None
    modes: tuple[str, ...] = ("wait", "cancel", "aside")
    is_judged: bool = True  # False: not a call of the API, its errors are nobody's fault


class Admin:
    """Commands to the server past everything that is tested, each over a connection of its own."""

    def __init__(self, server: EmbeddedServer) -> None:
        self._path = server.unix_url.removeprefix("unix://").partition("?")[0]

    async def __call__(self, *words: str | bytes | int) -> Any:
        """Send one command. Raises OSError or TimeoutError while the server is away."""
        async with asyncio.timeout(5):
            reader, writer = await asyncio.open_unix_connection(self._path)
            with contextlib.closing(writer):
                writer.write(encode_command(*map(_as_word, words)))
                parser = hiredis.Reader()
                while (reply := parser.gets()) is False:
                    if not (data := await reader.read(65_536)):
                        raise ConnectionError("the server hung up")
                    parser.feed(data)
        return reply


def _as_word(word: str | bytes | int) -> str | bytes:
    return str(word) if isinstance(word, int) else word


@dataclass
class Gate:
    """Calls in flight on one name. `mixed`: two at the same time, whose end nobody can foretell."""

    calls: int = 0
    mixed: bool = False

    def begin(self) -> None:
        """Note that a call begins."""
        self.mixed |= self.calls > 0
        self.calls += 1

    def end(self) -> bool:
        """Note that a call has ended; return whether another one was in flight meanwhile."""
        self.calls -= 1
        mixed = self.mixed
        self.mixed = mixed and self.calls > 0
        return mixed


@dataclass
class QueueSlot:
    """One queue, and its life: a closed one is followed by a new one under the same number."""

    number: int
    queue: MessageQueue
    life: int = 0
    state: str = "open"  # or "opening", "closing", "closed"

    @property
    def name(self) -> str:
        """The client's name on the server."""
        return self.queue.name

    def is_open_in(self, life: int) -> bool:
        """Return whether the queue of that life is open."""
        return (self.state, self.life) == ("open", life)


class Clock:
    """Our loop's time, less the time for which it stood still: nobody's limit covers that.

    What holds up this process on a busy machine holds up the server as well; so it counts twice.
    """

    def __init__(self) -> None:
        self.stalled_s = 0.0

    def __call__(self) -> float:
        """Seconds."""
        return asyncio.get_running_loop().time() - 2 * self.stalled_s

    async def measure(self) -> None:
        """Measure how long the loop stands still, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            before = loop.time()
            await asyncio.sleep(_BEAT_S)
            self.stalled_s += max(0.0, loop.time() - before - 2 * _BEAT_S)


class World:
    """Everything of one schedule. Use as a context.

    without: names of checks, and of handlers' behaviours, that are left out.
    """

    def __init__(
        self, server: EmbeddedServer, seed: int, clock: Clock, without: Collection[str] = ()
    ) -> None:
        self.server, self.admin, self.prefix = server, Admin(server), f"s{seed}:"
        self.clock, self.without = clock, without
        self.proxy = FaultProxy(server.url)
        self.calm = False  # at rest: handlers behave
        self.released = asyncio.Event()  # handlers that hang wait for it
        self.fault = ""  # a fault of the server that lasts
        self.faults = 0  # that began, of any kind
        self.is_armed = False  # a fault of one connection waits for its command
        self.violations: list[Violation] = []
        self.slots: list[QueueSlot] = []
        self.gates: dict[Any, Gate] = {}
        self.names: set[str] = set()  # all client names ever used
        self.parts: dict[type[Any], Any] = {}  # what the areas keep
        self.owned: set[asyncio.Task[Any]] = set()
        self._counter = 0

    async def __aenter__(self) -> "World":
        await self.proxy.__aenter__()
        for number in range(2):
            self.slots.append(QueueSlot(number, self.new_queue(number, 0)))
            await self.slots[-1].queue.open()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.proxy.__aexit__()

    def new_queue(self, number: int, life: int) -> MessageQueue:
        """A queue that is not open yet; the second one speaks to the server through the proxy."""
        self.names.add(name := f"q{number}.{life}")
        url = self.proxy.url if number else self.server.url
        return MessageQueue(url, name=name, prefix=self.prefix, config=LIMITS)

    def renew(self, slot: QueueSlot) -> None:
        """Put a new queue, which is not open yet, in place of a closed one."""
        slot.life += 1
        slot.queue = self.new_queue(slot.number, slot.life)
        slot.state = "opening"

    def behaviour(self, rng: random.Random, behaviours: Sequence[str]) -> str:
        """How a handler is to behave."""
        return rng.choice([each for each in behaviours if each not in self.without])

    def part(self, kind: type[T]) -> T:
        """Return what an area keeps, made when it is first asked for."""
        if kind not in self.parts:
            self.parts[kind] = kind()
        part: T = self.parts[kind]
        return part

    def open_slots(self) -> list[QueueSlot]:
        """Queues that may be used."""
        return [slot for slot in self.slots if slot.state == "open"]

    def enter(self, *keys: Any) -> Callable[[], list[bool]]:
        """Note that one call begins on some names.

        What is returned ends it, and gives for each name whether another call was in flight.
        """
        gates = [self.gates.setdefault(key, Gate()) for key in keys]
        for gate in gates:
            gate.begin()
        return lambda: [gate.end() for gate in gates]

    def next(self) -> int:
        """A number that is not used yet in this schedule."""
        self._counter += 1
        return self._counter

    def id_now(self, later_ms: int = 1) -> tuple[int, int]:
        """Return an id above all that are there, by the server's clock, which is this machine's."""
        return int(time.time() * 1e3) + later_ms, 0

    def violate(self, kind: str, text: str) -> None:
        """Note that an invariant does not hold; the runner ends the schedule at the next step."""
        self.violations.append(Violation(kind, text))

    def own(self, running: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Begin a task of the world's own."""
        task = asyncio.create_task(running, name=name)
        self.owned.add(task)
        task.add_done_callback(self.owned.discard)
        return task


Action = Callable[[World, random.Random], Call | None]


def on(choose: Callable[[World], Sequence[Any]]) -> Callable[[Callable[..., Call | None]], Action]:
    """Make an action upon one of what `choose` gives; there is none where that is empty."""

    def decorate(action: Callable[..., Call | None]) -> Action:
        def upon_one(w: World, rng: random.Random) -> Call | None:
            found = choose(w)
            return action(w, rng, rng.choice(found)) if found else None

        return upon_one

    return decorate


def set_state(thing: Any, name: str = "state", *, ok: str, failed: str) -> Ended:
    """Have a call's end set an attribute."""
    return lambda outcome: setattr(thing, name, ok if outcome.is_ok else failed)


# How handlers behave


async def foreign_cancellation() -> None:
    """Await what somebody else cancels."""
    inner = asyncio.ensure_future(asyncio.sleep(10))
    asyncio.get_running_loop().call_soon(inner.cancel)
    await inner


def behave_plain(behaviour: str) -> None:
    """Behave as a plain handler: raise, read the result of a cancelled future, or return."""
    if behaviour == "raise":
        raise ValueError("not this one")
    if behaviour == "cancelled":
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.cancel()
        future.result()


async def behave(w: World, behaviour: str) -> None:
    """Behave as an async handler."""
    if behaviour == "cancelled":
        await foreign_cancellation()
    elif behaviour == "slow":
        await asyncio.sleep(0.01)
    elif behaviour == "hang":
        await w.released.wait()
    else:
        behave_plain(behaviour)
