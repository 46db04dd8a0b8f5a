"""Pub/Sub for schedules: subscribe, unsubscribe, publish, drain, close and open again; their model.

A message's payload says what its handler does: `17:hang`. At rest every handler behaves, and a
probe to each channel must reach each open subscription exactly once, and the server must count
exactly those.
"""

import asyncio
import contextlib
import random
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from mpim_lab.errors import AlreadySubscribed
from mpim_lab.mq.connection.encoding import Message
from mpim_lab.soak.api.senders import all_or_first_error
from mpim_lab.soak.api.world import (
    CALL_S,
    END_S,
    LIMITS,
    Call,
    Ended,
    Outcome,
    QueueSlot,
    World,
    behave,
    behave_plain,
    on,
)

CHANNELS = (("a", False), ("b", False), ("c:é", False), ("c:*", True))
BEHAVIOURS = ("ok",) * 8 + ("raise", "cancelled", "slow", "hang", "leave", "close")
POLICIES = ("wait", "wait", "drop oldest", "disconnect")
Key = tuple[int, int, str, bool]  # slot, life, channel, whether it is a pattern


@dataclass
class Sub:
    """A subscription, or one of a listener's channels. `state`: opening, open, unknown, closed."""

    key: Key
    policy: str
    state: str = "opening"
    probes: int = 0


@dataclass
class Subs:
    """All subscriptions."""

    all: list[Sub] = field(default_factory=list)

    def alive(self, slot: QueueSlot) -> list[Sub]:
        """Return what is subscribed in a queue's present life, or may be."""
        here = (slot.number, slot.life)
        return [sub for sub in self.all if sub.key[:2] == here and sub.state != "closed"]


def doubt(subs: Collection[Sub]) -> None:
    """Note that these may be open or not."""
    for sub in subs:
        sub.state = "closed" if sub.state == "closed" else "unknown"


def closing(w: World, subs: Collection[Sub], also: Collection[Key] = ()) -> Ended:
    """Note that a call begins that closes these; what is returned notes its end."""
    keys = list(dict.fromkeys([*(sub.key for sub in subs), *also]))
    ended = w.enter(*keys)
    doubt(subs)

    def done(outcome: Outcome) -> None:
        mixed = dict(zip(keys, ended(), strict=True))
        for sub in subs:
            if outcome.is_ok and not mixed[sub.key]:
                sub.state = "closed"

    return done


def opening(w: World, slot: QueueSlot, subs: list[Sub]) -> Ended:
    """Note that a subscribe or listen begins; what is returned judges its end."""
    part, keys = w.part(Subs), [sub.key for sub in subs]
    taken = [sub for sub in part.alive(slot) if sub.key in keys]
    part.all += subs
    ended, life = w.enter(*keys), slot.life

    def done(outcome: Outcome) -> None:
        mixed = any(ended()) or not slot.is_open_in(life)
        for sub in subs:
            if not outcome.is_ok:
                sub.state = "closed"
            else:  # unknown: its handler may have ended it meanwhile
                sub.state = "open" if sub.state == "opening" and not mixed else "unknown"
        # a slow one may have been ended
        states = {sub.state for sub in taken if sub.policy != "disconnect"}
        if isinstance(outcome.error, AlreadySubscribed) and not taken and not mixed:
            w.violate("already subscribed", f"nobody has {keys[0]}")
        if outcome.is_ok and "open" in states and not mixed:
            w.violate("subscribed twice", f"{keys[0]} has two handlers")

    return done


# Handlers


def _received(w: World, sub: Sub, message: Message) -> str:
    """Note a message; return how the handler is to behave."""
    if sub.state == "closed":
        w.violate("closed subscription", f"{message.payload!r} reached {sub.key} after its end")
    behaviour = message.text.partition(":")[2]
    sub.probes += behaviour == "probe"
    return "ok" if w.calm else behaviour


def _plain_handler(w: World, sub: Sub) -> Callable[[Message], Any]:
    return lambda message: behave_plain(_received(w, sub, message))


def _async_handler(w: World, sub: Sub, slot: QueueSlot) -> Callable[[Message], Any]:
    async def handler(message: Message) -> None:
        behaviour = _received(w, sub, message)
        if behaviour == "leave":
            if sub.state in ("opening", "open"):  # once: later the name may be another's
                sub.state = "unknown"
                await slot.queue.unsubscribe(sub.key[2], pattern=sub.key[3])
        elif behaviour == "close":
            if slot.state == "open":
                await _close_inside(w, slot)
        else:
            await behave(w, behaviour)

    return handler


async def _close_inside(w: World, slot: QueueSlot) -> None:
    slot.state = "closing"
    doubt(w.part(Subs).alive(slot))
    try:
        async with asyncio.timeout(END_S + 1.0):
            await slot.queue.close()
    except TimeoutError:
        w.violate("hang", "close() inside a handler did not end")


# Actions


@on(World.open_slots)
def subscribe(w: World, rng: random.Random, slot: QueueSlot) -> Call:
    """Subscribe a handler, plain or async, with some policy."""
    channel, pattern = rng.choice(CHANNELS)
    is_async, policy = rng.random() < 0.6, rng.choice(POLICIES)
    sub = Sub((slot.number, slot.life, channel, pattern), policy)
    done = opening(w, slot, [sub])
    handler = _async_handler(w, sub, slot) if is_async else _plain_handler(w, sub)
    max_buffered = rng.choice((2, 100))
    options: dict[str, Any] = {"max_buffered": max_buffered, "overflow_policy": policy}
    options["pattern"] = pattern
    running = slot.queue.subscribe(channel, handler, **options)
    text = f"{slot.name}.subscribe({channel!r}, {'async' if is_async else 'plain'}, {options})"
    return Call(text, running, 2 * CALL_S, done)


@on(World.open_slots)
def unsubscribe(w: World, rng: random.Random, slot: QueueSlot) -> Call:
    """Unsubscribe from something, or from nothing."""
    alive, name = w.part(Subs).alive(slot), rng.choice(CHANNELS)
    if alive and rng.random() < 0.9:
        name = rng.choice(alive).key[2:]
    running = slot.queue.unsubscribe(name[0], pattern=name[1])
    key = (slot.number, slot.life, *name)
    done = closing(w, [sub for sub in alive if sub.key == key], [key])
    return Call(f"{slot.name}.unsubscribe({name[0]!r}, pattern={name[1]})", running, END_S, done)


@on(World.open_slots)
def publish(w: World, rng: random.Random, slot: QueueSlot) -> Call:
    """Publish some messages at once."""
    channel, count = rng.choice(CHANNELS[:3])[0], rng.choice((1, 1, 2, 6))
    payloads = [f"{w.next()}:{w.behaviour(rng, BEHAVIOURS)}" for _ in range(count)]

    async def publishing() -> None:
        await all_or_first_error(*(slot.queue.publish(channel, each) for each in payloads))

    return Call(f"{slot.name}.publish({channel!r}, {' '.join(payloads)})", publishing())


@on(World.open_slots)
def drain(w: World, rng: random.Random, slot: QueueSlot) -> Call:
    """Wait until everything is handled, but not for long: it waits for handlers."""

    async def at_most() -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.05):
                await slot.queue.drain()

    return Call(f"{slot.name}.drain()", at_most())


@on(World.open_slots)
def close_queue(w: World, rng: random.Random, slot: QueueSlot) -> Call:
    """Close a queue, whatever its handlers, listeners, workers and batchers do."""
    subs_done, life = closing(w, w.part(Subs).alive(slot)), slot.life
    slot.state = "closing"

    def done(outcome: Outcome) -> None:
        subs_done(outcome)
        if outcome.is_ok and slot.life == life:
            slot.state = "closed"

    return Call(f"{slot.name}.close()", slot.queue.close(), END_S, done)


@on(lambda w: [each for each in w.slots if each.state == "closed"])
def open_queue(w: World, rng: random.Random, slot: QueueSlot) -> Call:
    """Open a new queue in place of one that was closed."""
    w.renew(slot)

    def done(outcome: Outcome) -> None:  # if it was cancelled it may be open: it is closed at rest
        if not isinstance(outcome.error, asyncio.CancelledError):
            slot.state = "open" if outcome.is_ok else "closed"

    return Call(f"{slot.name}.open()", slot.queue.open(), 2 * LIMITS.connect_timeout_s, done)


PUBSUB_ACTIONS = {
    "subscribe": (subscribe, 6),
    "unsubscribe": (unsubscribe, 4),
    "publish": (publish, 10),
    "drain": (drain, 1),
    "close": (close_queue, 1),
    "open": (open_queue, 2),
}
