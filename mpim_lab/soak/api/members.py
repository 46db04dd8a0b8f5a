"""Members for schedules: workers, ordered workers, and consumers that are led by hand.

One model for all three. It says when a member may end, and what it must have left behind.
"""

import asyncio
import functools
import math
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from mpim_lab.errors import NotConnected, QueueClosed
from mpim_lab.events import now
from mpim_lab.mq.connection.retry import Backoff, RetryPolicy
from mpim_lab.mq.streams.consumer import BLOCK_MS, Consumer
from mpim_lab.mq.streams.entries import Entry
from mpim_lab.mq.streams.worker import Worker
from mpim_lab.soak.api.streams import GROUPS, Group, Streams
from mpim_lab.soak.api.world import (
    CALL_S,
    END_S,
    Action,
    Call,
    QueueSlot,
    World,
    behave,
    behave_plain,
    on,
)

NAMES = ("ann", "ben")
CLAIM_IDLE_MS = 150
FETCH_MS = 50
RETRY = RetryPolicy(max_attempts=4, backoff=Backoff(0.02, 0.1))
END_MEMBER_S = END_S + 4 * CALL_S  # by its own limits, also while the server is away
_WORKER_S = END_S + 2 * CALL_S + BLOCK_MS / 1e3
_STOP_S = {"worker": _WORKER_S, "ordered worker": _WORKER_S, "consumer": END_MEMBER_S}


@dataclass
class Member:
    """A "worker", an "ordered worker", or a "consumer". `state`: running, ending, ended."""

    kind: str
    name: str
    slot: QueueSlot
    part: Any
    group: Any = None
    faults: int = 0  # that there had been when it began
    state: str = "running"
    held: list[Any] = field(default_factory=list)
    ended_at: float = math.inf
    left_well: bool = False  # it left in good order, and never met a fault

    def __post_init__(self) -> None:
        self.life = self.slot.life
        self.asked: asyncio.Queue[tuple[Any, asyncio.Future[Any]]] = asyncio.Queue()
        self.task: asyncio.Task[Any]

    def __str__(self) -> str:
        return f"{self.kind} {self.name}{f' of {self.group}' if self.group else ''}"

    @property
    def is_stale(self) -> bool:
        """Its queue was closed."""
        return not self.slot.is_open_in(self.life)

    async def ask(self, what: Any) -> Any:
        """Have a consumer do something in its own task; return None if that has ended."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.asked.put_nowait((what, answer))
        await asyncio.wait([answer, self.task], return_when=asyncio.FIRST_COMPLETED)
        return answer.result() if answer.done() else None


@dataclass
class Members:
    """All members of a schedule. `begun`: how many were started, by group and name."""

    all: list[Member] = field(default_factory=list)
    begun: Counter[tuple[str, str]] = field(default_factory=Counter)

    def running(self, kind: str) -> list[Member]:
        """Return the members that nobody has asked to leave."""
        return [each for each in self.all if (each.kind, each.state) == (kind, "running")]

    def is_free(self, group: Group, name: str) -> bool:
        """Return whether nobody alive has a name; it is taken from now on.

        Two of one name at once are the user's mistake.
        """
        lives = [each for each in self.all if (each.name, each.group) == (name, group)]
        key = (str(group), name)
        if self.begun[key] > len(lives) or any(each.state == "running" for each in lives):
            return False
        self.begun[key] += 1
        return True


def begin(w: World, member: Member) -> Member:
    """Start a member in a task of its own."""
    member.faults = w.faults
    w.part(Members).all.append(member)
    w.names.add(member.name)
    member.task = w.own(_run(w, member), str(member))
    return member


async def _run(w: World, member: Member) -> None:
    try:
        await (_lead(member) if member.kind == "consumer" else member.part.run())
    except asyncio.CancelledError:
        if member.state == "running":
            w.violate("worker ended", f"{member} was cancelled by nobody")
        raise
    except Exception as error:
        no_connection = isinstance(error, NotConnected)  # no first one
        closed = isinstance(error, QueueClosed) and member.is_stale
        if not (no_connection or closed or member.kind == "consumer"):
            w.violate("worker ended", f"{member}: {type(error).__name__}: {error}")
    else:
        if member.state == "running" and not member.is_stale:
            w.violate("worker ended", f"{member}: run() returned by itself")
    finally:
        member.state, member.ended_at = "ended", now()


async def _lead(member: Member) -> None:
    async with member.part as consumer:
        while True:
            what, answer = await member.asked.get()
            if what == "leave":
                break
            try:
                result = await what(consumer)
            except Exception as error:
                answer.set_exception(error)
            else:
                answer.set_result(result)


async def end(w: World, member: Member, *, cancel: bool = False) -> None:
    """Have a member leave, and wait until it has."""
    member.state = "ending" if member.state == "running" else member.state

    def is_well() -> bool:
        return w.faults == member.faults and not member.is_stale

    well = is_well() and not w.is_armed and member.slot.queue.is_connected
    if cancel:
        member.task.cancel()
    else:
        await (member.ask("leave") if member.kind == "consumer" else member.part.stop())
    await asyncio.wait([member.task])
    member.left_well = well and is_well() and not cancel


def ending(kind: str) -> Action:
    """Make the action that stops a member of a kind, or cancels it."""

    @on(lambda w: w.part(Members).running(kind))
    def leave(w: World, rng: random.Random, member: Member) -> Call:
        cancel = rng.random() < 0.4
        member.state = "ending"
        text = f"{'cancel' if cancel else 'stop'} {member}"
        running = end(w, member, cancel=cancel)
        return Call(text, running, _STOP_S[kind], modes=("wait", "aside"))

    return leave


# Workers


def _handler(w: World, group: Group, is_async: bool) -> Callable[[Entry], Any]:
    def begun(entry: Entry) -> str:
        known = group.stream.added.get(entry.id)
        if known is not None and known != entry.data:
            w.violate("another payload", f"{entry.id} is {known!r} and came as {entry.data!r}")
        group.check_is_new(w, entry.id)
        behaviour = entry.data.decode().partition(":")[2]
        if behaviour == "poison":
            return "raise"
        if w.calm or group.failed[entry.data]:
            return "ok"
        group.failed[entry.data] += behaviour in ("raise", "cancelled")
        return behaviour

    def plain(entry: Entry) -> None:
        behave_plain(begun(entry))
        group.handled[entry.id] += 1

    async def waiting(entry: Entry) -> None:
        await behave(w, begun(entry))
        group.handled[entry.id] += 1

    return waiting if is_async else plain


def _choose(w: World, rng: random.Random, names: tuple[str, ...]) -> tuple[Group, str] | None:
    """Choose a group, and a name in it, perhaps of one that has left or is just leaving."""
    made = w.part(Streams).made()
    if not made:
        return None
    group, name = rng.choice(made), rng.choice(names)
    return (group, name) if w.part(Members).is_free(group, name) else None


@on(World.open_slots)
def work(w: World, rng: random.Random, slot: QueueSlot) -> Call | None:
    """Start a worker."""
    if (chosen := _choose(w, rng, NAMES)) is None:
        return None
    options: dict[str, Any] = {
        "is_async": rng.random() < 0.6,
        "concurrency": rng.choice((1, 1, 4)),
        "max_in_flight": rng.choice((1, 2, 5, 100)),
        "batch_size": rng.choice((1, 5, 100)),
        "prefetch": rng.random() < 0.3,
    }
    group, name = chosen
    text = f"{slot.name}: Worker({group}, {name!r}, {options})"
    return Call(text, start_worker(w, slot, group, name, **options), CALL_S)


async def start_worker(
    w: World, slot: QueueSlot, group: Group, name: str, *, is_async: bool = False, **options: Any
) -> None:
    """Join a group and start a worker."""
    handle = await slot.queue.stream(group.stream.name).group(group.name, start=GROUPS[group.name])
    options |= {"retry": RETRY, "claim_idle_ms": CLAIM_IDLE_MS}
    worker = Worker(handle, name, _handler(w, group, is_async), **options)
    begin(w, Member("worker", name, slot, worker, group))


# Consumers by hand


@on(World.open_slots)
def consume(w: World, rng: random.Random, slot: QueueSlot) -> Call | None:
    """Begin to consume by hand."""
    if (chosen := _choose(w, rng, tuple(f"hand-{name}" for name in NAMES))) is None:
        return None
    group, name = chosen
    options: dict[str, Any] = {"batch_size": 5, "max_in_flight": rng.choice((1, 2, 5, 100))}

    async def starting() -> None:
        stream = slot.queue.stream(group.stream.name)
        handle = await stream.group(group.name, start=GROUPS[group.name])
        consumer = Consumer(handle, name, claim_idle_ms=CLAIM_IDLE_MS, **options)
        begin(w, Member("consumer", name, slot, consumer, group))

    return Call(f"{slot.name}: Consumer({group}, {name!r}, {options})", starting(), CALL_S)


@on(lambda w: w.part(Members).running("consumer"))
def fetch(w: World, rng: random.Random, member: Member) -> Call:
    """Fetch by hand; some of what is held is acknowledged first."""
    share = rng.choice((0.0, 0.5, 1.0))
    running = member.ask(functools.partial(_fetch, w, member, share))
    limit_s = 4 * CALL_S + FETCH_MS / 1e3
    return Call(f"{member}: ack {share:.0%}, fetch", running, limit_s, modes=("wait", "aside"))


async def _fetch(w: World, member: Member, share: float, consumer: Consumer) -> None:
    keep = int(len(member.held) * (1 - share))
    member.held, done = member.held[:keep], member.held[keep:]
    member.group.handled.update(delivery.entry.id for delivery in done)
    await consumer.ack_all(done)
    for delivery in await consumer.fetch(FETCH_MS):
        member.group.check_is_new(w, delivery.entry.id)
        member.held.append(delivery)


MEMBER_ACTIONS = {
    "work": (work, 5),
    "stop": (ending("worker"), 3),
    "consume": (consume, 2),
    "fetch": (fetch, 4),
    "end_consumer": (ending("consumer"), 1),
}
