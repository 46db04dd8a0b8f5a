"""Pub/Sub for schedules: subscribe, unsubscribe, publish, drain, close and open again; their model.

A message's payload says what its handler does: `17:hang`. At rest every handler behaves, and a
probe to each channel must reach each open subscription exactly once, and the server must count
exactly those.
"""

import asyncio
import contextlib
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from mpim_lab.errors import AlreadySubscribed
from mpim_lab.mq.connection.encoding import Message
from mpim_lab.soak.api.world import (
    CALL_S,
    END_S,
    LIMITS,
    Call,
    Outcome,
    QueueSlot,
    World,
    cancelled_result,
    foreign_cancellation,
    pick,
)

CHANNELS = (("a", False), ("b", False), ("c:é", False), ("c:*", True))
BEHAVIOURS = ("ok",) * 8 + ("raise", "cancelled", "slow", "hang", "leave", "close")
Key = tuple[int, int, str, bool]  # slot, life, channel, whether it is a pattern


@dataclass
class Sub:
    """A subscription, or one of a listener's channels. `state`: opening, open, unknown, closed."""

    key: Key
    policy: str
    state: str = "opening"
    probes: int = 0
    listener: "Listener | None" = None


@dataclass
class Listener:
    """A `listen`, read by a task of its own as far as `want` says."""

    slot: QueueSlot
    subs: list[Sub]
    want: int = 0
    state: str = "opening"
    may_leave: asyncio.Event = field(default_factory=asyncio.Event)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    is_reading: bool = False
    task: "asyncio.Task[None] | None" = None


@dataclass
class PubSub:
    """What the model knows."""

    subs: list[Sub] = field(default_factory=list)
    listeners: list[Listener] = field(default_factory=list)

    def alive(self, slot: QueueSlot) -> list[Sub]:
        """What is subscribed in a queue's present life that may be there."""
        return [
            sub
            for sub in self.subs
            if sub.key[:2] == (slot.number, slot.life) and sub.state != "closed"
        ]


def part_of(w: World) -> PubSub:
    """What the model knows of Pub/Sub."""
    part: PubSub = w.part("pubsub", PubSub)
    return part


# Handlers


def _received(w: World, sub: Sub, message: Message) -> str:
    """Note a message; gives how the handler is to behave."""
    if sub.state == "closed":
        w.violate("closed subscription", f"{message.payload!r} reached {sub.key} after its end")
    behaviour = message.text.partition(":")[2]
    if behaviour == "probe":
        sub.probes += 1
    return "ok" if w.calm else behaviour


def _plain(w: World, sub: Sub) -> Callable[[Message], None]:
    def handler(message: Message) -> None:
        behaviour = _received(w, sub, message)
        if behaviour == "raise":
            raise ValueError("not this one")
        if behaviour == "cancelled":
            cancelled_result()

    return handler


def _async(w: World, sub: Sub, slot: QueueSlot) -> Callable[[Message], Any]:
    async def handler(message: Message) -> None:
        behaviour = _received(w, sub, message)
        if behaviour == "raise":
            raise ValueError("not this one")
        if behaviour == "cancelled":
            await foreign_cancellation()
        elif behaviour == "slow":
            await asyncio.sleep(0.01)
        elif behaviour == "hang":
            await w.released.wait()
        elif behaviour == "leave" and sub.state in (
            "opening",
            "open",
        ):  # once: later the name may be another's
            sub.state = "unknown"
            await slot.queue.unsubscribe(sub.key[2], pattern=sub.key[3])
        elif behaviour == "close" and slot.state == "open":
            slot.state = "closing"
            for each in part_of(w).alive(slot):
                each.state = "unknown"
            try:
                async with asyncio.timeout(END_S + 1.0):
                    await slot.queue.close()
            except TimeoutError:
                w.violate("hang", "close() inside a handler did not end")

    return handler


# Actions


def subscribe(w: World, rng: random.Random) -> Call | None:
    """Subscribe a handler, plain or async, with some policy."""
    slot = pick(rng, w.open_slots())
    channel, pattern = rng.choice(CHANNELS)
    is_async = rng.random() < 0.6
    policy = rng.choice(("wait", "wait", "drop oldest", "disconnect"))
    if slot is None:
        return None
    sub = Sub((slot.number, slot.life, channel, pattern), policy)
    taken = [each for each in part_of(w).alive(slot) if each.key == sub.key]
    part_of(w).subs.append(sub)
    (gate := w.gate(sub.key)).begin()
    handler = _async(w, sub, slot) if is_async else _plain(w, sub)
    running = slot.queue.subscribe(
        channel, handler, pattern=pattern, max_buffered=rng.choice((2, 100)), overflow_policy=policy
    )
    kind = "async" if is_async else "plain"
    text = (
        f"{slot.name}.subscribe({channel!r}, {kind}, pattern={pattern}, overflow_policy={policy!r})"
    )
    return Call(
        text,
        running,
        2 * CALL_S,
        lambda outcome: judge_subscribed(w, [sub], taken, outcome, [gate]),
    )


def judge_subscribed(
    w: World, subs: list[Sub], taken: list[Sub], outcome: Outcome, gates: list[Any]
) -> None:
    """Judge a subscribe or listen that has ended, and note what is open now."""
    mixed = sum(gate.end() for gate in gates) > 0  # all of them are to end
    slot = w.slots[subs[0].key[0]]
    mixed |= slot.state != "open" or slot.life != subs[0].key[1]
    for sub in subs:
        if not outcome.is_ok:
            sub.state = "closed"
        elif mixed or sub.state != "opening":  # its handler has ended it meanwhile
            sub.state = "unknown"
        else:
            sub.state = "open"
    states = {
        sub.state for sub in taken if sub.policy != "disconnect"
    }  # a slow one may have been ended
    if isinstance(outcome.error, AlreadySubscribed) and not taken and not mixed:
        w.violate("already subscribed", f"nobody has {subs[0].key}")
    if outcome.is_ok and "open" in states and not mixed:
        w.violate("subscribed twice", f"{subs[0].key} has two handlers")


def unsubscribe(w: World, rng: random.Random) -> Call | None:
    """Unsubscribe from something, or from nothing."""
    slot = pick(rng, w.open_slots())
    if slot is None:
        return None
    alive = part_of(w).alive(slot)
    sub = pick(rng, alive)
    channel, pattern = (
        sub.key[2:] if sub is not None and rng.random() < 0.9 else rng.choice(CHANNELS)
    )
    key = (slot.number, slot.life, channel, pattern)
    ended = [each for each in alive if each.key == key]
    (gate := w.gate(key)).begin()

    def done(outcome: Outcome) -> None:
        mixed = gate.end()
        for each in ended:
            if each.state != "closed":
                each.state = "closed" if outcome.is_ok and not mixed else "unknown"

    for each in ended:
        each.state = "unknown"
    running = slot.queue.unsubscribe(channel, pattern=pattern)
    return Call(f"{slot.name}.unsubscribe({channel!r}, pattern={pattern})", running, END_S, done)


def publish(w: World, rng: random.Random) -> Call | None:
    """Publish some messages at once."""
    slot = pick(rng, w.open_slots())
    if slot is None:
        return None
    channel = rng.choice(CHANNELS[:3])[0]
    payloads = [
        f"{w.next()}:{w.behaviour(rng, BEHAVIOURS)}" for _ in range(rng.choice((1, 1, 2, 6)))
    ]

    async def all_of_them() -> None:
        for outcome in await asyncio.gather(
            *(slot.queue.publish(channel, payload) for payload in payloads), return_exceptions=True
        ):
            if isinstance(outcome, BaseException):
                raise outcome

    return Call(f"{slot.name}.publish({channel!r}, {' '.join(payloads)})", all_of_them())


def drain(w: World, rng: random.Random) -> Call | None:
    """Wait until everything is handled.

    Cancelled if that is not so soon, as it waits for handlers.
    """
    slot = pick(rng, w.open_slots())
    if slot is None:
        return None

    async def at_most() -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.05):
                await slot.queue.drain()

    return Call(f"{slot.name}.drain()", at_most())


def close_queue(w: World, rng: random.Random) -> Call | None:
    """Close a queue, whatever its handlers, listeners, workers and batchers do."""
    slot = pick(rng, w.open_slots())
    if slot is None:
        return None
    subs = part_of(w).alive(slot)
    gates = [w.gate(sub.key) for sub in subs]
    for gate in gates:
        gate.begin()
    for sub in subs:
        sub.state = "unknown"
    slot.state, life = "closing", slot.life

    def done(outcome: Outcome) -> None:
        for sub, gate in zip(subs, gates, strict=True):
            sub.state = "closed" if not gate.end() and outcome.is_ok else sub.state
        if outcome.is_ok and slot.life == life:
            slot.state = "closed"

    return Call(f"{slot.name}.close()", slot.queue.close(), END_S, done)


def open_queue(w: World, rng: random.Random) -> Call | None:
    """Open a new queue in place of one that was closed."""
    slot = pick(rng, [each for each in w.slots if each.state == "closed"])
    if slot is None:
        return None
    slot.life += 1
    slot.queue = queue = w.new_queue(slot.number, slot.life)
    slot.state = "opening"

    def done(outcome: Outcome) -> None:
        if not isinstance(
            outcome.error, asyncio.CancelledError
        ):  # else it may be open: it is closed at rest
            slot.state = "open" if outcome.is_ok else "closed"

    return Call(f"{slot.name}.open()", queue.open(), 2 * LIMITS.connect_timeout_s, done)


PUBSUB_ACTIONS = {
    "subscribe": (subscribe, 6),
    "unsubscribe": (unsubscribe, 4),
    "publish": (publish, 10),
    "drain": (drain, 1),
    "close": (close_queue, 1),
    "open": (open_queue, 2),
}
