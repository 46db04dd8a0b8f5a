"""Listeners for schedules: listen to several names, read some of it, leave."""

import asyncio
import random
from dataclasses import dataclass, field
from typing import Any

from mpim_lab.errors import QueueClosed, SlowSubscriber
from mpim_lab.mq.connection.encoding import Message
from mpim_lab.soak.api.pubsub import CHANNELS, POLICIES, Sub, closing, doubt, opening
from mpim_lab.soak.api.world import CALL_S, END_S, Call, Outcome, QueueSlot, World, on


@dataclass(eq=False)
class Listener:
    """A `listen`, read by a task of its own as far as `want` says."""

    slot: QueueSlot
    subs: list[Sub]
    want: int = 0
    state: str = "opening"
    is_reading: bool = False
    may_leave: bool = False
    task: "asyncio.Task[None] | None" = None
    news: asyncio.Event = field(default_factory=asyncio.Event)
    entered: asyncio.Event = field(default_factory=asyncio.Event)

    def __str__(self) -> str:
        return f"{self.slot.name}.listen({', '.join(sub.key[2] for sub in self.subs)})"


@dataclass
class Listeners:
    """All listeners."""

    all: list[Listener] = field(default_factory=list)


def _open_listeners(w: World) -> list[Listener]:
    return [each for each in w.part(Listeners).all if each.state == "open"]


@on(World.open_slots)
def listen(w: World, rng: random.Random, slot: QueueSlot) -> Call:
    """Begin to listen to one, two or three names."""
    names = rng.sample(CHANNELS, rng.choice((1, 2, 2, 3)))
    max_buffered, policy = rng.choice((2, 2, 100)), rng.choice(POLICIES)
    listener = Listener(slot, [Sub((slot.number, slot.life, *name), policy) for name in names])
    judge = opening(w, slot, listener.subs)
    w.part(Listeners).all.append(listener)
    channels, patterns = ([n for n, p in names if p is kind] for kind in (False, True))
    options: dict[str, Any] = {"max_buffered": max_buffered, "overflow_policy": policy}
    options["patterns"] = patterns
    context = slot.queue.listen(*channels, **options)

    def done(outcome: Outcome) -> None:
        listener.state = "open" if outcome.is_ok else "closed"
        judge(outcome)

    running = _begin_listening(w, listener, context)
    return Call(f"{listener}, {options}", running, (len(names) + 1) * CALL_S, done)


async def _begin_listening(w: World, listener: Listener, context: Any) -> None:
    task = listener.task = w.own(_read(w, listener, context), "listener")
    waiting = asyncio.ensure_future(listener.entered.wait())
    try:
        await asyncio.wait([waiting, task], return_when=asyncio.FIRST_COMPLETED)
    except asyncio.CancelledError:
        task.cancel()
        await asyncio.wait([task])
        raise
    finally:
        waiting.cancel()
    if not listener.entered.is_set():
        await task


async def _read(w: World, listener: Listener, context: Any) -> None:
    try:
        async with context as messages:
            listener.entered.set()
            while not listener.may_leave:
                if not (listener.want or w.calm):
                    listener.news.clear()
                    await listener.news.wait()
                    continue
                listener.want = max(0, listener.want - 1)
                listener.is_reading = True
                message = await anext(messages, None)
                listener.is_reading = False
                if message is None:
                    return _ended(w, listener)
                _deliver(listener, message)
    except SlowSubscriber:
        doubt(listener.subs)
    finally:
        listener.is_reading = False
        if listener.entered.is_set():
            listener.state = "closed"


def _ended(w: World, listener: Listener) -> None:
    for sub in listener.subs:
        if sub.state == "open" and listener.slot.is_open_in(sub.key[1]):
            w.violate("listen ended", f"its channel {sub.key[2]!r} is open")


def _deliver(listener: Listener, message: Message) -> None:
    name = message.channel if message.pattern is None else message.pattern
    for sub in listener.subs:
        is_its = sub.key[2:] == (name, message.pattern is not None)
        sub.probes += is_its and message.text.endswith(":probe")


@on(_open_listeners)
def read_some(w: World, rng: random.Random, listener: Listener) -> Call:
    """Have a listener read on for a few messages."""
    listener.want += rng.choice((1, 2, 5, 100))
    listener.news.set()
    return Call(f"{listener}: read {listener.want}", asyncio.sleep(0), modes=("wait",))


@on(_open_listeners)
def leave(w: World, rng: random.Random, listener: Listener) -> Call:
    """Leave a listen: after a message, or cancelled while it waits for one."""
    done, limit_s = closing(w, listener.subs), END_S + len(listener.subs) * CALL_S
    return Call(f"leave {listener}", end_listener(listener), limit_s, done, ("wait", "aside"))


async def end_listener(listener: Listener) -> None:
    """Have it leave, and wait until it has."""
    assert listener.task is not None
    listener.may_leave = True
    listener.news.set()
    if listener.is_reading:
        listener.task.cancel()
    (outcome,) = await asyncio.gather(listener.task, return_exceptions=True)
    if isinstance(outcome, Exception) and not isinstance(outcome, QueueClosed):
        raise outcome


LISTEN_ACTIONS = {"listen": (listen, 3), "read": (read_some, 2), "leave": (leave, 2)}
