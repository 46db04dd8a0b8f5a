"""Listeners for schedules: listen to several names, read some of it, leave."""

import asyncio
import random
from typing import Any

from mpim_lab.errors import QueueClosed, SlowSubscriber
from mpim_lab.mq.connection.encoding import Message
from mpim_lab.soak.api.pubsub import CHANNELS, Listener, Sub, judge_subscribed, part_of
from mpim_lab.soak.api.world import CALL_S, END_S, Call, Outcome, World, pick


def listen(w: World, rng: random.Random) -> Call | None:
    """Begin to listen to one, two or three names."""
    slot = pick(rng, w.open_slots())
    names = rng.sample(CHANNELS, rng.choice((1, 2, 2, 3)))
    max_buffered, policy = (
        rng.choice((2, 2, 100)),
        rng.choice(("wait", "wait", "drop oldest", "disconnect")),
    )
    if slot is None:
        return None
    listener = Listener(slot, [Sub((slot.number, slot.life, *name), policy) for name in names])
    for sub in listener.subs:
        sub.listener = listener
    keys = [sub.key for sub in listener.subs]
    taken = [sub for sub in part_of(w).alive(slot) if sub.key in keys]
    part_of(w).subs += listener.subs
    part_of(w).listeners.append(listener)
    gates = [w.gate(key) for key in keys]
    for gate in gates:
        gate.begin()
    channels, patterns = [n for n, p in names if not p], [n for n, p in names if p]
    context = slot.queue.listen(
        *channels, patterns=patterns, max_buffered=max_buffered, overflow_policy=policy
    )

    def done(outcome: Outcome) -> None:
        listener.state = "open" if outcome.is_ok else "closed"
        judge_subscribed(w, listener.subs, taken, outcome, gates)

    text = f"{slot.name}.listen({', '.join(channels + patterns)}, max_buffered={max_buffered}, overflow_policy={policy!r})"
    return Call(text, _begin_listening(w, listener, context), (len(names) + 1) * CALL_S, done)


async def _begin_listening(w: World, listener: Listener, context: Any) -> None:
    entered = asyncio.Event()
    task = listener.task = w.own(_read(w, listener, context, entered), "listener")
    waiting = asyncio.ensure_future(entered.wait())
    try:
        await asyncio.wait([waiting, task], return_when=asyncio.FIRST_COMPLETED)
    except asyncio.CancelledError:
        task.cancel()
        await asyncio.wait([task])
        raise
    finally:
        waiting.cancel()
    if not entered.is_set():
        await task


async def _read(w: World, listener: Listener, context: Any, entered: asyncio.Event) -> None:
    try:
        async with context as messages:
            entered.set()
            while not listener.may_leave.is_set():
                if not (listener.want or w.calm):
                    listener.news.clear()
                    await listener.news.wait()
                    continue
                listener.want = max(0, listener.want - 1)
                listener.is_reading = True
                message = await anext(messages, None)
                listener.is_reading = False
                if message is None:
                    _ended(w, listener)
                    break
                _deliver(w, listener, message)
    except SlowSubscriber:
        for sub in listener.subs:
            sub.state = sub.state if sub.state == "closed" else "unknown"
    finally:
        listener.is_reading = False
        if entered.is_set():
            listener.state = "closed"


def _ended(w: World, listener: Listener) -> None:
    slot = listener.slot
    for sub in listener.subs:
        if sub.state == "open" and slot.state == "open" and sub.key[:2] == (slot.number, slot.life):
            w.violate("listen ended", f"its channel {sub.key[2]!r} is open")


def _deliver(w: World, listener: Listener, message: Message) -> None:
    name = message.channel if message.pattern is None else message.pattern
    for sub in listener.subs:
        if sub.key[2:] == (name, message.pattern is not None) and message.text.endswith(":probe"):
            sub.probes += 1


def read_some(w: World, rng: random.Random) -> Call | None:
    """Have a listener read on for a few messages."""
    listener = pick(rng, [each for each in part_of(w).listeners if each.state == "open"])
    if listener is None:
        return None
    listener.want += rng.choice((1, 2, 5, 100))
    listener.news.set()
    return Call(
        f"read {listener.want} from a listener of {listener.slot.name}",
        asyncio.sleep(0),
        modes=("wait",),
    )


def leave(w: World, rng: random.Random) -> Call | None:
    """Leave a listen: after a message, or cancelled while it waits for one."""
    listener = pick(rng, [each for each in part_of(w).listeners if each.state == "open"])
    if listener is None:
        return None
    gates = [w.gate(sub.key) for sub in listener.subs]
    for gate in gates:
        gate.begin()
    for sub in listener.subs:
        sub.state = sub.state if sub.state == "closed" else "unknown"

    def done(outcome: Outcome) -> None:
        for sub, gate in zip(listener.subs, gates, strict=True):
            if not gate.end() and outcome.is_ok:
                sub.state = "closed"

    text = f"leave the listen of {listener.slot.name} ({', '.join(sub.key[2] for sub in listener.subs)})"
    limit_s = END_S + len(gates) * CALL_S
    return Call(text, end_listener(listener), limit_s, done, modes=("wait", "aside"))


async def end_listener(listener: Listener) -> None:
    """Have it leave, and wait until it has."""
    task = listener.task
    assert task is not None
    listener.may_leave.set()
    listener.news.set()
    if listener.is_reading:
        task.cancel()
    await asyncio.wait([task])
    if (
        not task.cancelled()
        and (error := task.exception()) is not None
        and not isinstance(error, QueueClosed)
    ):
        raise error


LISTEN_ACTIONS = {"listen": (listen, 3), "read": (read_some, 2), "leave": (leave, 2)}
