"""Batchers and pools for schedules; and their model."""

import asyncio
import random
from dataclasses import dataclass, field
from typing import Any

from mpim_lab.mq.batching.batcher import Batcher
from mpim_lab.mq.connection.retry import Backoff
from mpim_lab.mq.pool.pool import Pool
from mpim_lab.mq.pool.pooled_connection import PooledConnection
from mpim_lab.soak.api.world import CALL_S, LIMITS, Call, Outcome, QueueSlot, World, on, set_state

GIVE_UP_S = 1.0
BATCHED = "batched"
POOL_MAX = 2
POOL_WAIT_S = 0.3
CLOSE_BATCHER_S = GIVE_UP_S + 3 * CALL_S
CLOSE_POOL_S = LIMITS.close_timeout_s + CALL_S
MAX_BATCHERS = 2


@dataclass
class Sender:
    """One batcher to the stream `batched`."""

    number: int
    batcher: Batcher
    state: str = "opening"


@dataclass
class Senders:
    """What the model knows."""

    batchers: list[Sender] = field(default_factory=list)
    added: dict[str, bytes] = field(default_factory=dict)  # id → payload, acknowledged
    refused: set[bytes] = field(default_factory=set)
    pool: Pool | None = None
    pool_life: int = 0
    pool_state: str = "none"


def _open_batchers(w: World) -> list[Sender]:
    return [each for each in w.part(Senders).batchers if each.state == "open"]


def _open_pool(w: World) -> list[Pool]:
    part = w.part(Senders)
    return [part.pool] if part.pool is not None and part.pool_state == "open" else []


def _no_pool(w: World) -> list[Senders]:
    part = w.part(Senders)
    return [part] if part.pool_state in ("none", "closed") else []


# Batchers


@on(lambda w: w.open_slots() if len(_open_batchers(w)) < MAX_BATCHERS else [])
def batch(w: World, rng: random.Random, slot: QueueSlot) -> Call:
    """Open a batcher to a stream."""
    small = rng.random() < 0.5
    batcher = Batcher.to_stream(
        slot.queue.stream(BATCHED),
        max_pending_bytes=40 if small else 1024 * 1024,
        enqueue_timeout_s=0.3,
        delivery_timeout_s=GIVE_UP_S,
        backoff=Backoff(0.01, 0.1),
    )
    w.part(Senders).batchers.append(sender := Sender(w.next(), batcher))
    done = set_state(sender, ok="open", failed="closed")
    text = f"{slot.name}: Batcher {sender.number}, small={small}"
    return Call(text, batcher.open(), 2 * CALL_S, done, ("wait",))


@on(_open_batchers)
def publish(w: World, rng: random.Random, sender: Sender) -> Call:
    """Publish some through a batcher: one by one at the same time, or as many at once."""
    part, count = w.part(Senders), rng.choice((1, 4, 10))
    payloads = [f"{sender.number}.{w.next()}".encode() for _ in range(count)]
    many = rng.random() < 0.3

    async def one(payload: bytes) -> None:
        try:
            part.added[str(await sender.batcher.publish(payload))] = payload
        except Exception as error:
            if Outcome(error=error).is_definite:
                part.refused.add(payload)
            raise

    async def all_of_them() -> None:
        if many:
            ids = await sender.batcher.publish_many(payloads)
            part.added.update(zip(map(str, ids), payloads, strict=True))
        else:
            await all_or_first_error(*map(one, payloads))

    shown = b" ".join(payloads).decode()
    text = f"batcher {sender.number}.publish{'_many' if many else ''}({shown})"
    return Call(text, all_of_them(), 0.3 + GIVE_UP_S + 3 * CALL_S)


async def all_or_first_error(*running: Any) -> None:
    """Wait for all of them, and raise the first error."""
    for outcome in await asyncio.gather(*running, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome


@on(_open_batchers)
def flush(w: World, rng: random.Random, sender: Sender) -> Call:
    """Flush a batcher."""
    return Call(f"batcher {sender.number}.flush()", sender.batcher.flush(), CLOSE_BATCHER_S)


@on(_open_batchers)
def close_batcher(w: World, rng: random.Random, sender: Sender) -> Call:
    """Close a batcher."""
    sender.state = "closing"
    done = set_state(sender, ok="closed", failed="closing")
    text = f"batcher {sender.number}.close()"
    return Call(text, sender.batcher.close(), CLOSE_BATCHER_S, done)


# Pools


@on(_no_pool)
def open_pool(w: World, rng: random.Random, part: Senders) -> Call:
    """Open a small pool with short limits."""
    part.pool_life += 1
    w.names.add(name := f"pool{part.pool_life}")
    part.pool_state = "opening"
    part.pool = Pool(
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
    done = set_state(part, "pool_state", ok="open", failed="closed")
    return Call(f"open {name}", part.pool.__aenter__(), CALL_S, done, ("wait",))


@on(_open_pool)
def borrow(w: World, rng: random.Random, pool: Pool) -> Call:
    """Borrow a connection and use it; some borrowers raise, block, or are slow."""
    how = rng.choice(("ping", "incr", "block", "raise", "slow", "transaction"))

    async def borrowing() -> None:
        async with pool.connection() as connection:
            await _use(connection, how, f"{w.prefix}pooled")

    return Call(f"pool: {how}", borrowing(), POOL_WAIT_S + LIMITS.connect_timeout_s + 3 * CALL_S)


async def _use(connection: PooledConnection, how: str, key: str) -> None:
    if how == "transaction":
        await connection.call("WATCH", key)
        await connection.transaction([("INCR", key), ("GET", key)])
        return
    words = {"incr": ("INCR", key), "block": ("BLPOP", key + ":none", "0.05")}
    await connection.call(*words.get(how, ("PING",)))
    if how == "raise":
        raise ValueError("the borrower's own")
    if how == "slow":
        await asyncio.sleep(0.05)


@on(_open_pool)
def close_pool(w: World, rng: random.Random, pool: Pool) -> Call:
    """Close the pool, also while connections are out."""
    part = w.part(Senders)
    part.pool_state = "closing"
    done = set_state(part, "pool_state", ok="closed", failed="closing")
    return Call(f"pool{part.pool_life}.close()", pool.close(), CLOSE_POOL_S, done)


BATCH_ACTIONS = {
    "batch": (batch, 2),
    "publish_batched": (publish, 10),
    "flush": (flush, 2),
    "close_batcher": (close_batcher, 1),
}
POOL_ACTIONS = {"open_pool": (open_pool, 2), "borrow": (borrow, 12), "close_pool": (close_pool, 1)}
