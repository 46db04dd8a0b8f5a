"""Idempotency and ordered streams for schedules; and their model.

Effects are written by the code under test in one step with its records, on keys of the world's own:
`effect:<id>` is counted up once for each id; `told:<conversation>` is a list, with each message
once, in the order of their numbers.
"""

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from mpim_lab.errors import NotConnected, QueueClosed
from mpim_lab.mq.connection.retry import Backoff, RetryPolicy
from mpim_lab.mq.idempotency.effects import AtomicEffects
from mpim_lab.mq.idempotency.store import IdempotencyStore
from mpim_lab.mq.ordering.ordered_worker import OrderedWorker
from mpim_lab.mq.ordering.partitioned_stream import PartitionedStream, PartitionEntry
from mpim_lab.mq.streams.consumer import BLOCK_MS
from mpim_lab.soak.api.world import (
    CALL_S,
    END_S,
    Call,
    Outcome,
    QueueSlot,
    World,
    foreign_cancellation,
    pick,
)

LEASE_MS = 300
BEHAVIOURS = ("ok",) * 6 + ("raise", "cancelled", "slow", "hang")
RETRY = RetryPolicy(max_attempts=4, backoff=Backoff(0.02, 0.1))
TALKS = ("t:1", "t", "1")
PARTITIONS = 2


@dataclass
class Work:
    """What the model knows.

    `ids`: of idempotent runs, with whether one has returned; `sent`: id → conversation, payload.
    """

    ids: dict[str, bool] = field(default_factory=dict)
    sent: dict[str, tuple[str, str]] = field(default_factory=dict)
    acknowledged: dict[str, int] = field(default_factory=dict)  # id → number
    failed: Counter[bytes] = field(default_factory=Counter)
    members: list["OrderedMember"] = field(default_factory=list)


@dataclass
class OrderedMember:
    """An ordered worker."""

    name: str
    slot: QueueSlot
    life: int
    worker: OrderedWorker
    task: "asyncio.Task[None] | None" = None
    state: str = "running"


def part_of(w: World) -> Work:
    """What the model knows."""
    part: Work = w.part("work", Work)
    return part


# Idempotent work


def run_once(w: World, rng: random.Random) -> Call | None:
    """Run idempotent work, under an id of its own or one that was used before."""
    slot, part = pick(rng, w.open_slots()), part_of(w)
    if slot is None:
        return None
    fresh = not part.ids or rng.random() < 0.6
    name = f"{w.next()}:x" if fresh else rng.choice(list(part.ids))
    part.ids.setdefault(name, False)
    return once(w, slot, name, w.behaviour(rng, BEHAVIOURS))


def once(w: World, slot: QueueSlot, id: str, behaviour: str) -> Call:
    """Run idempotent work that behaves in some way."""
    store, expected = (
        IdempotencyStore(slot.queue, "pay", lease_ms=LEASE_MS),
        f"result of {id}".encode(),
    )

    async def work(effects: AtomicEffects) -> bytes:
        effects.add("INCRBY", f"effect:{id}", 1)
        if behaviour == "raise":
            raise ValueError("not this time")
        if behaviour == "cancelled":
            await foreign_cancellation()
        elif behaviour == "slow":
            await asyncio.sleep(0.02)
        elif behaviour == "hang":  # for longer than its lease
            await asyncio.sleep(1.5 * LEASE_MS / 1e3)
        return expected

    def done(outcome: Outcome) -> None:
        part_of(w).ids[id] |= outcome.is_ok
        if outcome.is_ok and outcome.value != expected:
            w.violate("another result", f"{id} got {outcome.value!r}")

    async def running() -> bytes:
        try:
            return await store.run(id, work, wait_timeout_s=1.0)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if behaviour == "cancelled" and task is not None and not task.cancelling():
                raise ValueError("the work met somebody else's cancellation") from None
            raise

    text = f"{slot.name}: IdempotencyStore('pay').run({id!r}), {behaviour}"
    return Call(text, running(), 1.0 + 3 * CALL_S + 2 * LEASE_MS / 1e3, done)


# Ordered streams


def stream_of(slot: QueueSlot) -> PartitionedStream:
    """The ordered stream of all schedules."""
    return PartitionedStream(slot.queue, "talks", partitions=PARTITIONS)


def append(w: World, rng: random.Random) -> Call | None:
    """Append to a conversation: a new message, or one whose outcome is not known, with its id."""
    slot, part = pick(rng, w.open_slots()), part_of(w)
    if slot is None:
        return None
    unsure = [each for each in part.sent if each not in part.acknowledged]
    if unsure and rng.random() < 0.5:
        sent_id = rng.choice(unsure)
        talk, payload = part.sent[sent_id]
    else:
        sent_id, talk = f"{w.next()}:m", rng.choice(TALKS)
        payload = f"{sent_id}:{w.behaviour(rng, BEHAVIOURS)}"
        part.sent[sent_id] = (talk, payload)

    def done(outcome: Outcome) -> None:
        if (
            outcome.is_ok
            and part.acknowledged.setdefault(sent_id, outcome.value.sequence)
            != outcome.value.sequence
        ):
            w.violate(
                "two numbers",
                f"{sent_id} has {part.acknowledged[sent_id]} and {outcome.value.sequence}",
            )

    running = stream_of(slot).append(talk, payload, sent_id)
    return Call(
        f"{slot.name}: append({talk!r}, {payload!r}, {sent_id!r})", running, 2 * CALL_S, done
    )


def _handler(w: World, part: Work) -> Any:
    async def handler(entry: PartitionEntry, effects: AtomicEffects) -> None:
        talk, payload = part.sent[str(entry.id)]
        if (entry.conversation, entry.data.decode()) != (talk, payload):
            w.violate("another payload", f"{entry} was sent as {talk!r}, {payload!r}")
        effects.add("RPUSH", f"told:{talk}", entry.id)
        behaviour = payload.rpartition(":")[2]
        if behaviour in ("raise", "cancelled"):
            part.failed[entry.data] += 1
        if w.calm or (behaviour in ("raise", "cancelled") and part.failed[entry.data] > 1):
            return
        if behaviour == "raise":
            raise ValueError("not this one")
        if behaviour == "cancelled":
            await foreign_cancellation()
        elif behaviour == "slow":
            await asyncio.sleep(0.01)
        elif behaviour == "hang":
            await w.released.wait()

    return handler


def work_in_order(w: World, rng: random.Random) -> Call | None:
    """Start an ordered worker."""
    slot, part = pick(rng, w.open_slots()), part_of(w)
    name = f"ordered-{rng.choice(('ann', 'ben'))}"
    if slot is None or any(each.name == name for each in part.members if each.state == "running"):
        return None
    text = f"{slot.name}: OrderedWorker('talks', {name!r})"
    return Call(
        text, start_in_order(w, slot, name, rng.choice((1, 5, 100))), CALL_S, modes=("wait",)
    )


async def start_in_order(w: World, slot: QueueSlot, name: str, batch_size: int) -> OrderedMember:
    """Start an ordered worker."""
    part = part_of(w)
    worker = OrderedWorker(
        stream_of(slot),
        "readers",
        name,
        _handler(w, part),
        retry=RETRY,
        batch_size=batch_size,
        lease_ms=LEASE_MS,
    )
    member = OrderedMember(name, slot, slot.life, worker)
    part.members.append(member)
    w.names.add(name)
    member.task = w.own(_run(w, member), f"ordered worker {name}")
    return member


async def _run(w: World, member: OrderedMember) -> None:
    try:
        await member.worker.run()
    except (NotConnected, QueueClosed):
        pass
    except asyncio.CancelledError:
        if member.state == "running":
            w.violate("ordered worker ended", f"{member.name} was cancelled by nobody")
        raise
    except Exception as error:
        w.violate("ordered worker ended", f"{member.name}: {type(error).__name__}: {error}")
    else:
        if (
            member.state == "running"
            and member.slot.life == member.life
            and member.slot.state == "open"
        ):
            w.violate("ordered worker ended", f"{member.name}: run() returned by itself")
    finally:
        member.state = "ended"


def stop_in_order(w: World, rng: random.Random) -> Call | None:
    """Stop an ordered worker, or cancel it."""
    member = pick(rng, [each for each in part_of(w).members if each.state == "running"])
    if member is None:
        return None
    cancel = rng.random() < 0.4
    member.state = "ending"
    text = f"{'cancel' if cancel else 'stop'} {member.name}"
    limit_s = END_S + 2 * CALL_S + BLOCK_MS / 1e3
    return Call(text, end_in_order(member, cancel=cancel), limit_s, modes=("wait", "aside"))


async def end_in_order(member: OrderedMember, *, cancel: bool = False) -> None:
    """Have it leave, and wait until it has."""
    assert member.task is not None
    member.state = "ending" if member.state == "running" else member.state
    if cancel:
        member.task.cancel()
    else:
        await member.worker.stop()
    await asyncio.wait([member.task])


ONCE_ACTIONS = {"run_once": (run_once, 10)}
ORDERED_ACTIONS = {
    "append": (append, 10),
    "work_in_order": (work_in_order, 4),
    "stop_in_order": (stop_in_order, 2),
}
