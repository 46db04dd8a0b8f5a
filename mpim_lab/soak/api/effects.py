"""Idempotency and ordered streams for schedules; and their model.

Effects are written by the code under test in one step with its records, on keys of the world's own:
`effect:<id>` is counted up once for each id; `told:<conversation>` is a list, with each message
once, in the order of their numbers.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from mpim_lab.mq.idempotency.effects import AtomicEffects
from mpim_lab.mq.idempotency.store import IdempotencyStore
from mpim_lab.mq.ordering.ordered_worker import OrderedWorker
from mpim_lab.mq.ordering.partitioned_stream import PartitionedStream, PartitionEntry
from mpim_lab.soak.api.members import RETRY, Member, Members, begin, ending
from mpim_lab.soak.api.world import CALL_S, Call, Outcome, QueueSlot, World, behave, on

LEASE_MS = 300
BEHAVIOURS = ("ok",) * 6 + ("raise", "cancelled", "slow", "hang")
TALKS = ("t:1", "t", "1")
PARTITIONS = 2


@dataclass
class Effects:
    """What the model knows.

    `ids`: of idempotent runs, with whether one has returned; `sent`: id → conversation, payload.
    """

    ids: dict[str, bool] = field(default_factory=dict)
    sent: dict[str, tuple[str, str]] = field(default_factory=dict)
    acknowledged: dict[str, int] = field(default_factory=dict)  # id → number
    failed: Counter[bytes] = field(default_factory=Counter)


# Idempotent work


@on(World.open_slots)
def run_once(w: World, rng: random.Random, slot: QueueSlot) -> Call:
    """Run idempotent work, under an id of its own or one that was used before."""
    ids = w.part(Effects).ids
    is_new = not ids or rng.random() < 0.6
    name = f"{w.next()}:x" if is_new else rng.choice(list(ids))
    ids.setdefault(name, False)
    return once(w, slot, name, w.behaviour(rng, BEHAVIOURS))


def once(w: World, slot: QueueSlot, id: str, behaviour: str) -> Call:
    """Run idempotent work that behaves in some way."""
    store = IdempotencyStore(slot.queue, "pay", lease_ms=LEASE_MS)
    expected = f"result of {id}".encode()

    async def work(effects: AtomicEffects) -> bytes:
        effects.add("INCRBY", f"effect:{id}", 1)
        if behaviour == "hang":  # for longer than its lease
            await asyncio.sleep(1.5 * LEASE_MS / 1e3)
        else:
            await behave(w, behaviour)
        return expected

    def done(outcome: Outcome) -> None:
        w.part(Effects).ids[id] |= outcome.is_ok
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
    """Return the ordered stream of all schedules."""
    return PartitionedStream(slot.queue, "talks", partitions=PARTITIONS)


@on(World.open_slots)
def append(w: World, rng: random.Random, slot: QueueSlot) -> Call:
    """Append to a conversation: a new message, or one whose outcome is not known, with its id."""
    part = w.part(Effects)
    unsure = [each for each in part.sent if each not in part.acknowledged]
    if unsure and rng.random() < 0.5:
        sent_id = rng.choice(unsure)
    else:
        sent_id, talk = f"{w.next()}:m", rng.choice(TALKS)
        part.sent[sent_id] = (talk, f"{sent_id}:{w.behaviour(rng, BEHAVIOURS)}")
    talk, payload = part.sent[sent_id]

    def done(outcome: Outcome) -> None:
        if outcome.is_ok:
            numbers = {outcome.value.sequence, part.acknowledged.get(sent_id)} - {None}
            part.acknowledged.setdefault(sent_id, outcome.value.sequence)
            if len(numbers) > 1:
                w.violate("two numbers", f"{sent_id} has {numbers}")

    text = f"{slot.name}: append({talk!r}, {payload!r}, {sent_id!r})"
    return Call(text, stream_of(slot).append(talk, payload, sent_id), 2 * CALL_S, done)


def _handler(w: World) -> Callable[[PartitionEntry, AtomicEffects], Awaitable[None]]:
    part = w.part(Effects)

    async def handler(entry: PartitionEntry, effects: AtomicEffects) -> None:
        talk, payload = part.sent[str(entry.id)]
        if (entry.conversation, entry.data.decode()) != (talk, payload):
            w.violate("another payload", f"{entry} was sent as {talk!r}, {payload!r}")
        effects.add("RPUSH", f"told:{talk}", entry.id)
        behaviour = payload.rpartition(":")[2]
        if not (w.calm or part.failed[entry.data]):
            part.failed[entry.data] += behaviour in ("raise", "cancelled")
            await behave(w, behaviour)

    return handler


@on(World.open_slots)
def work_in_order(w: World, rng: random.Random, slot: QueueSlot) -> Call | None:
    """Start an ordered worker."""
    name, batch_size = f"ordered-{rng.choice(('ann', 'ben'))}", rng.choice((1, 5, 100))
    if any(each.name == name for each in w.part(Members).running("ordered worker")):
        return None
    running = start_in_order(w, slot, name, batch_size)
    return Call(f"{slot.name}: OrderedWorker('talks', {name!r})", running, modes=("wait",))


async def start_in_order(w: World, slot: QueueSlot, name: str, batch_size: int) -> None:
    """Start an ordered worker."""
    options: dict[str, Any] = {"retry": RETRY, "batch_size": batch_size, "lease_ms": LEASE_MS}
    worker = OrderedWorker(stream_of(slot), "readers", name, _handler(w), **options)
    begin(w, Member("ordered worker", name, slot, worker))


ONCE_ACTIONS = {"run_once": (run_once, 10)}
ORDERED_ACTIONS = {
    "append": (append, 10),
    "work_in_order": (work_in_order, 4),
    "stop_in_order": (ending("ordered worker"), 2),
}
