"""Batchers and pools for schedules; and their model."""

import asyncio
import random
from dataclasses import dataclass, field
from typing import Any

from mpim_lab.mq.batching.batcher import Batcher
from mpim_lab.mq.connection.retry import Backoff
from mpim_lab.mq.pool.pool import Pool
from mpim_lab.mq.pool.pooled_connection import PooledConnection
from mpim_lab.soak.api.world import CALL_S, LIMITS, Call, Outcome, QueueSlot, World, pick

GIVE_UP_S = 1.0
BATCHED = "batched"
POOL_MAX = 2
POOL_WAIT_S = 0.3
CLOSE_BATCHER_S = GIVE_UP_S + 3 * CALL_S


@dataclass
class Sender:
    """One batcher to the stream `batched`. `in_order`: payloads as they were taken in."""

    number: int
    slot: QueueSlot
    batcher: Batcher
    state: str = "open"


@dataclass
class Senders:
    """What the model knows."""

    batchers: list[Sender] = field(default_factory=list)
    added: dict[str, bytes] = field(default_factory=dict)  # id → payload, acknowledged
    refused: set[bytes] = field(default_factory=set)
    pool: Pool | None = None
    pool_life: int = 0
    pool_state: str = "none"


def part_of(w: World) -> Senders:
    """What the model knows."""
    part: Senders = w.part("senders", Senders)
    return part


# Batchers


def batch(w: World, rng: random.Random) -> Call | None:
    """Open a batcher to a stream."""
    slot, part = pick(rng, w.open_slots()), part_of(w)
    if slot is None or len([each for each in part.batchers if each.state == "open"]) >= 2:
        return None
    small = rng.random() < 0.5
    batcher = Batcher.to_stream(
        slot.queue.stream(BATCHED),
        max_pending_bytes=40 if small else 1024 * 1024,
        enqueue_timeout_s=0.3,
        delivery_timeout_s=GIVE_UP_S,
        backoff=Backoff(0.01, 0.1),
    )
    sender = Sender(w.next(), slot, batcher, "opening")
    part.batchers.append(sender)

    def done(outcome: Outcome) -> None:
        sender.state = "open" if outcome.is_ok else "closed"

    return Call(
        f"{slot.name}: Batcher {sender.number}, small={small}",
        batcher.open(),
        2 * CALL_S,
        done,
        ("wait",),
    )


def publish(w: World, rng: random.Random) -> Call | None:
    """Publish some through a batcher: one by one at the same time, or as many at once."""
    part = part_of(w)
    sender: Sender | None = pick(rng, [each for each in part.batchers if each.state == "open"])
    if sender is None:
        return None
    payloads = [f"{sender.number}.{w.next()}".encode() for _ in range(rng.choice((1, 4, 10)))]
    whole = rng.random() < 0.3

    def note(payload: bytes, outcome: Outcome) -> None:
        if outcome.is_ok:
            part.added[str(outcome.value)] = payload
        elif outcome.is_definite:
            part.refused.add(payload)

    async def one(payload: bytes) -> None:
        try:
            note(payload, Outcome(await sender.batcher.publish(payload)))
        except Exception as error:
            note(payload, Outcome(error=error))
            raise

    async def all_of_them() -> None:
        if whole:
            ids = await sender.batcher.publish_many(payloads)
            part.added.update(zip(map(str, ids), payloads, strict=True))
            return
        outcomes = await asyncio.gather(*map(one, payloads), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    limit_s = 0.3 + GIVE_UP_S + 3 * CALL_S
    shown = (
        f"batcher {sender.number}.publish{'_many' if whole else ''}({b' '.join(payloads).decode()})"
    )
    return Call(shown, all_of_them(), limit_s)


def flush(w: World, rng: random.Random) -> Call | None:
    """Flush a batcher."""
    sender = pick(rng, [each for each in part_of(w).batchers if each.state == "open"])
    if sender is None:
        return None
    return Call(f"batcher {sender.number}.flush()", sender.batcher.flush(), CLOSE_BATCHER_S)


def close_batcher(w: World, rng: random.Random) -> Call | None:
    """Close a batcher."""
    sender = pick(rng, [each for each in part_of(w).batchers if each.state == "open"])
    if sender is None:
        return None
    sender.state = "closing"

    def done(outcome: Outcome) -> None:
        sender.state = "closed" if outcome.is_ok else "closing"

    return Call(f"batcher {sender.number}.close()", sender.batcher.close(), CLOSE_BATCHER_S, done)


# Pools


def new_pool(w: World) -> Pool:
    """A small pool with short limits."""
    part = part_of(w)
    part.pool_life += 1
    w.names.add(name := f"pool{part.pool_life}")
    return Pool(
        w.server.url,
        max_connections=POOL_MAX,
        max_waiting=3,
        acquire_timeout_s=POOL_WAIT_S,
        call_timeout_s=LIMITS.timeout_s,
        connect_timeout_s=LIMITS.connect_timeout_s,
        check_idle_after_s=0.05,
        close_timeout_s=LIMITS.close_timeout_s,
        name=name,
        backoff=Backoff(0.01, 0.1),
    )


def open_pool(w: World, rng: random.Random) -> Call | None:
    """Open a pool."""
    part = part_of(w)
    if part.pool_state not in ("none", "closed"):
        return None
    part.pool = new_pool(w)
    part.pool_state = "opening"

    def done(outcome: Outcome) -> None:
        part.pool_state = "open" if outcome.is_ok else "closed"

    return Call(f"open pool{part.pool_life}", part.pool.__aenter__(), CALL_S, done, ("wait",))


def borrow(w: World, rng: random.Random) -> Call | None:
    """Borrow a connection and use it; some borrowers raise, block, or are slow."""
    part = part_of(w)
    pool, how = part.pool, rng.choice(("ping", "incr", "block", "raise", "slow", "transaction"))
    if pool is None or part.pool_state != "open":
        return None

    async def borrowing() -> None:
        async with pool.connection() as connection:
            await _use(w, connection, how)

    return Call(f"pool: {how}", borrowing(), POOL_WAIT_S + LIMITS.connect_timeout_s + 3 * CALL_S)


async def _use(w: World, connection: PooledConnection, how: str) -> None:
    key = f"{w.prefix}pooled"
    words: dict[str, tuple[Any, ...]] = {
        "incr": ("INCR", key),
        "block": ("BLPOP", key + ":none", "0.05"),
    }
    if how == "transaction":
        await connection.call("WATCH", key)
        await connection.transaction([("INCR", key), ("GET", key)])
        return
    await connection.call(*words.get(how, ("PING",)))
    if how == "raise":
        raise ValueError("the borrower's own")
    if how == "slow":
        await asyncio.sleep(0.05)


def close_pool(w: World, rng: random.Random) -> Call | None:
    """Close the pool, also while connections are out."""
    part = part_of(w)
    if part.pool is None or part.pool_state != "open":
        return None
    part.pool_state = "closing"

    def done(outcome: Outcome) -> None:
        part.pool_state = "closed" if outcome.is_ok else "closing"

    return Call(
        f"pool{part.pool_life}.close()", part.pool.close(), LIMITS.close_timeout_s + CALL_S, done
    )


BATCH_ACTIONS = {
    "batch": (batch, 2),
    "publish_batched": (publish, 10),
    "flush": (flush, 2),
    "close_batcher": (close_batcher, 1),
}
POOL_ACTIONS = {"open_pool": (open_pool, 2), "borrow": (borrow, 12), "close_pool": (close_pool, 1)}
