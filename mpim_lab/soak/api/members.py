"""Members of groups for schedules: workers, and consumers that are led by hand.

The model is in api_streams.
"""

import asyncio
import random
from collections.abc import Callable
from typing import Any

from mpim_lab.errors import NotConnected, QueueClosed
from mpim_lab.events import now
from mpim_lab.mq.connection.retry import Backoff, RetryPolicy
from mpim_lab.mq.streams.consumer import BLOCK_MS, Consumer
from mpim_lab.mq.streams.entries import Entry
from mpim_lab.mq.streams.worker import Worker
from mpim_lab.soak.api.streams import FETCH_MS, GROUPS, Group, Member, id_key, part_of
from mpim_lab.soak.api.world import (
    CALL_S,
    END_S,
    Actor,
    Call,
    QueueSlot,
    World,
    cancelled_result,
    foreign_cancellation,
    pick,
)

NAMES = ("ann", "ben")
CLAIM_IDLE_MS = 150
RETRY = RetryPolicy(max_attempts=4, backoff=Backoff(0.02, 0.1))


def _handler(w: World, group: Group, is_async: bool) -> Callable[[Entry], Any]:
    def begin(entry: Entry) -> str:
        known = group.stream.added.get(entry.id)
        if known is not None and known != entry.data:
            w.violate("another payload", f"{entry.id} is {known!r} and came as {entry.data!r}")
        if id_key(entry.id) <= group.not_up_to:
            w.violate(
                "old entry", f"{entry.id} was there before {group.name!r} was made with start='$'"
            )
        behaviour = entry.data.decode().partition(":")[2]
        if behaviour == "poison":
            return "raise"
        if w.calm or (behaviour in ("raise", "cancelled") and group.failed[entry.data]):
            return "ok"
        return behaviour

    def failing(entry: Entry, behaviour: str) -> bool:
        if behaviour in ("raise", "cancelled"):
            group.failed[entry.data] += 1
        return behaviour == "raise"

    def plain(entry: Entry) -> None:
        if failing(entry, behaviour := begin(entry)):
            raise ValueError("not this one")
        if behaviour == "cancelled":
            cancelled_result()
        group.handled[entry.id] += 1

    async def waiting(entry: Entry) -> None:
        if failing(entry, behaviour := begin(entry)):
            raise ValueError("not this one")
        if behaviour == "cancelled":
            await foreign_cancellation()
        elif behaviour == "slow":
            await asyncio.sleep(0.01)
        elif behaviour == "hang":
            await w.released.wait()
        group.handled[entry.id] += 1

    return waiting if is_async else plain


def work(w: World, rng: random.Random) -> Call | None:
    """Start a worker; its name may be that of one that has left, or is just leaving."""
    slot = pick(rng, w.open_slots())
    made = [
        group
        for model in part_of(w).streams.values()
        for group in model.groups.values()
        if group.is_made
    ]
    group: Group | None = pick(rng, made)
    if slot is None or group is None:
        return None
    name, is_async, concurrency = rng.choice(NAMES), rng.random() < 0.6, rng.choice((1, 1, 4))
    if not is_free(w, group, name):
        return None
    in_hand = rng.choice((1, 2, 5, 100))
    options = {
        "batch_size": rng.choice((1, 5, 100)),
        "max_in_flight": in_hand,
        "prefetch": rng.random() < 0.3,
    }
    running = start_worker(
        w, slot, group, name, is_async=is_async, concurrency=concurrency, **options
    )
    shown = f"{'async' if is_async else 'plain'}, concurrency={concurrency}, {options}"
    return Call(
        f"{slot.name}: Worker({group.stream.name}/{group.name}, {name!r}, {shown})", running, CALL_S
    )


def is_free(w: World, group: Group, name: str) -> bool:
    """Whether nobody alive has a name; it is taken from now on.

    Two of one name at once are the user's mistake.
    """
    lives = [each for each in part_of(w).members if each.name == name and each.group is group]
    begun = part_of(w).begun
    if begun[group.stream.name, group.name, name] > len(lives) or any(
        each.state == "running" for each in lives
    ):
        return False
    begun[group.stream.name, group.name, name] += 1
    return True


async def start_worker(
    w: World, slot: QueueSlot, group: Group, name: str, *, is_async: bool = False, **options: Any
) -> None:
    """Join a group and start a worker."""
    handle = await slot.queue.stream(group.stream.name).group(group.name, start=GROUPS[group.name])
    handler = _handler(w, group, is_async)
    worker = Worker(handle, name, handler, retry=RETRY, claim_idle_ms=CLAIM_IDLE_MS, **options)
    member = Member("worker", name, group, slot, slot.life, worker, faults=w.faults)
    part_of(w).members.append(member)
    w.names.add(name)
    member.task = w.own(_run(w, member), f"worker {name}")


async def _run(w: World, member: Member) -> None:
    try:
        await member.part.run()
    except NotConnected:  # no first connection
        member.state = "ended"
    except QueueClosed:
        member.state = "ended"
        if member.slot.life == member.life and member.slot.state == "open":
            w.violate("worker ended", f"{member.name}: QueueClosed, and its queue is open")
    except asyncio.CancelledError:
        if member.state == "running":
            w.violate("worker ended", f"{member.name} was cancelled by nobody")
        raise
    except Exception as error:
        w.violate("worker ended", f"{member.name}: {type(error).__name__}: {error}")
    else:
        if (
            member.state == "running"
            and member.slot.life == member.life
            and member.slot.state == "open"
        ):
            w.violate("worker ended", f"{member.name}: run() returned by itself")
    finally:
        member.state, member.ended_at = "ended", now()


def stop(w: World, rng: random.Random) -> Call | None:
    """Stop a worker, or cancel it."""
    member: Member | None = pick(rng, part_of(w).running("worker"))
    if member is None:
        return None
    cancel = rng.random() < 0.4
    member.state = "ending"
    text = f"{'cancel' if cancel else 'stop'} worker {member.name} of {member.group.stream.name}/{member.group.name}"
    limit_s = END_S + 2 * CALL_S + BLOCK_MS / 1e3
    return Call(text, end_member(w, member, cancel=cancel), limit_s, modes=("wait", "aside"))


async def end_member(w: World, member: Member, *, cancel: bool = False) -> None:
    """Have it leave, and wait until it has."""
    assert member.task is not None
    member.state = "ending" if member.state == "running" else member.state
    well = (
        w.faults == member.faults
        and not w.is_armed
        and member.slot.life == member.life
        and member.slot.state == "open"
    )
    well = well and member.slot.queue.is_connected
    if cancel:
        member.task.cancel()
    elif member.kind == "worker":
        await member.part.stop()
    elif member.actor is not None:
        await member.actor.ask("leave")
    await asyncio.wait([member.task])
    still = member.slot.life == member.life and member.slot.state == "open"
    member.left_well = well and still and w.faults == member.faults and not cancel


# Consumers by hand


def consume(w: World, rng: random.Random) -> Call | None:
    """Begin to consume by hand."""
    slot = pick(rng, w.open_slots())
    made = [
        group
        for model in part_of(w).streams.values()
        for group in model.groups.values()
        if group.is_made
    ]
    group: Group | None = pick(rng, made)
    if slot is None or group is None:
        return None
    name = f"hand-{rng.choice(NAMES)}"
    if not is_free(w, group, name):
        return None
    in_hand = rng.choice((1, 2, 5, 100))

    async def starting() -> None:
        handle = await slot.queue.stream(group.stream.name).group(
            group.name, start=GROUPS[group.name]
        )
        consumer = Consumer(
            handle, name, batch_size=5, max_in_flight=in_hand, claim_idle_ms=CLAIM_IDLE_MS
        )
        member = Member(
            "consumer",
            name,
            group,
            slot,
            slot.life,
            consumer,
            actor=(actor := Actor(name)),
            faults=w.faults,
        )
        part_of(w).members.append(member)
        w.names.add(name)
        member.task = actor.task = w.own(_lead(w, member), f"consumer {name}")

    text = f"{slot.name}: Consumer({group.stream.name}/{group.name}, {name!r}, max_in_flight={in_hand})"
    return Call(text, starting(), CALL_S)


async def _lead(w: World, member: Member) -> None:
    assert member.actor is not None
    try:
        async with member.part as consumer:
            while True:
                what, answer = await member.actor.asked.get()
                if what == "leave":
                    break
                try:
                    result = await what(consumer)
                except Exception as error:
                    if not answer.done():
                        answer.set_exception(error)
                else:
                    if not answer.done():
                        answer.set_result(result)
    except Exception as error:
        w.part("errors of consumers", list).append(error)
    finally:
        member.state, member.ended_at = "ended", now()


def fetch(w: World, rng: random.Random) -> Call | None:
    """Fetch by hand; some of what is held is acknowledged first."""
    member: Member | None = pick(rng, part_of(w).running("consumer"))
    if member is None or member.actor is None:
        return None
    share = rng.choice((0.0, 0.5, 1.0))
    group = member.group

    async def step(consumer: Consumer) -> int:
        keep = int(len(member.held) * (1 - share))
        member.held, done = member.held[:keep], member.held[keep:]
        for delivery in done:
            group.handled[delivery.entry.id] += 1
        await consumer.ack_all(done)
        came = await consumer.fetch(FETCH_MS)
        for delivery in came:
            if id_key(delivery.entry.id) <= group.not_up_to:
                w.violate(
                    "old entry",
                    f"{delivery.entry.id} was there before {group.name!r} was made with start='$'",
                )
        member.held += came
        return len(came)

    text = f"{member.name} of {group.stream.name}/{group.name}: ack {share:.0%}, fetch"
    return Call(text, member.actor.ask(step), 4 * CALL_S + FETCH_MS / 1e3, modes=("wait", "aside"))


def end_consumer(w: World, rng: random.Random) -> Call | None:
    """Leave, or be cancelled."""
    member: Member | None = pick(rng, part_of(w).running("consumer"))
    if member is None:
        return None
    cancel = rng.random() < 0.4
    member.state = "ending"
    text = f"{'cancel' if cancel else 'leave'} consumer {member.name} of {member.group.stream.name}/{member.group.name}"
    return Call(
        text, end_member(w, member, cancel=cancel), END_S + 4 * CALL_S, modes=("wait", "aside")
    )


MEMBER_ACTIONS = {
    "work": (work, 5),
    "stop": (stop, 3),
    "consume": (consume, 2),
    "fetch": (fetch, 4),
    "end_consumer": (end_consumer, 1),
}
