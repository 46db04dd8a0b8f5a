"""Invariants of what is kept: streams, effects, ordered conversations, batches; and of the pool.

What each of them compares is in the table of `invariants.py`.
"""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

from mpim_lab.soak.api import effects, senders
from mpim_lab.soak.api.effects import Effects
from mpim_lab.soak.api.members import Members, start_worker
from mpim_lab.soak.api.senders import Senders
from mpim_lab.soak.api.streams import (
    Group,
    StreamModel,
    Streams,
    add_to,
    id_key,
    pairs,
    still_deleted,
)
from mpim_lab.soak.api.world import CALL_S, Call, Outcome, Violation, World

Bounded = Callable[[Call], Awaitable[Outcome]]
SOON_S = 5.0  # for what comes by itself: reconnecting, claims, retries


async def eventually(
    w: World, kind: str, what: str, holds: Callable[[], Any], timeout_s: float = SOON_S
) -> None:
    """Wait until something holds: True, or a text that says what is wrong. Raise Violation."""
    deadline, found = w.clock() + timeout_s, None
    while w.clock() < deadline:
        found = holds()
        if inspect.isawaitable(found):
            found = await found
        if found is True:
            return
        await asyncio.sleep(0.005)
    raise Violation(kind, f"{what}: {found}")


# Streams


async def streams(w: World, bounded: Bounded) -> None:
    """Every acknowledged entry is handled, dead, or was trimmed."""
    for model in w.part(Streams).all.values():
        made = [group for group in model.groups.values() if group.is_made]
        if made:  # whoever is left must be able to go on
            call = add_to(w, w.open_slots()[0], model, [f"{w.next()}:ok".encode()])
            if not (outcome := await bounded(call)).is_ok:
                raise Violation("works", f"adding at rest: {outcome}")
        for group in made:
            await _is_handled(w, bounded, group)
        await _nothing_lost(w, model)


async def _is_handled(w: World, bounded: Bounded, group: Group) -> None:
    slot, key = w.open_slots()[0], w.prefix + group.stream.name
    if not any(each.group is group for each in w.part(Members).running("worker")):
        await bounded(Call("finisher", start_worker(w, slot, group, "finisher")))

    async def is_done() -> Any:
        infos = [pairs(raw) for raw in await w.admin("XINFO", "GROUPS", key)]
        info = next((each for each in infos if each["name"] == group.name.encode()), None)
        if info is None:
            return "the group is gone"
        last = await w.admin("XREVRANGE", key, "+", "-", "COUNT", 1)
        is_read = not last or id_key(info["last-delivered-id"]) >= id_key(last[0][0])
        return (is_read and info["pending"] == 0) or f"{group}: {info}, last entry {last}"

    await eventually(w, "not handled", "at rest", is_done)
    await still_deleted(w, group.stream)
    if group.was_deleted:
        return

    async def letters() -> Any:
        handle = await slot.queue.stream(group.stream.name).group(group.name)
        return await handle.dead_letters.list(count=10_000)

    found = (await bounded(Call("dead letters", letters()))).value
    dead = {letter.origin_id for letter in found or ()}
    for raw, _ in await w.admin("XRANGE", key, "-", "+"):
        entry = raw.decode()
        is_claimed = entry in group.stream.added and id_key(entry) > group.claims_above
        if is_claimed and not group.handled[entry] and entry not in dead:
            text = f"{group}: {entry} {group.stream.added[entry]!r}"
            raise Violation("never handled", text)


async def _nothing_lost(w: World, model: StreamModel) -> None:
    entries = await w.admin("XRANGE", w.prefix + model.name, "-", "+")
    there = {raw.decode(): parts[1] for raw, parts in entries}
    for entry, payload in model.added.items():
        if entry not in there and id_key(entry) > model.trimmed_up_to:
            raise Violation("lost", f"{model.name}: {entry} {payload!r} was acknowledged")
    _check_refused(model.name, model.refused & set(there.values()))


def _check_refused(name: str, wrong: set[bytes]) -> None:
    if wrong:
        text = f"{name}: {wrong} are there, and their errors said that they are not"
        raise Violation("not definite", text)


# Effects


async def once(w: World, bounded: Bounded) -> None:
    """Each effect has happened once."""
    for name in w.part(Effects).ids:

        async def has_run(name: str = name) -> Any:
            outcome = await bounded(effects.once(w, w.open_slots()[0], name, "ok"))
            return outcome.is_ok or str(outcome)

        await eventually(w, "never done", f"{name} at rest", has_run)
        count = await w.admin("GET", f"{w.prefix}effect:{name}")
        if count != b"1":
            raise Violation("not once", f"the effect of {name} happened {count!r} times")


async def ordered(w: World, bounded: Bounded) -> None:
    """Each acknowledged message has had its effect once, in order."""
    slot = w.open_slots()[0]
    if not w.part(Effects).sent:
        return
    if not w.part(Members).running("ordered worker"):
        await bounded(Call("finisher", effects.start_in_order(w, slot, "finisher", 5)))
    stream = effects.stream_of(slot)

    async def is_done() -> Any:
        outcome = await bounded(Call("lag at rest", stream.lag("readers"), 4 * CALL_S))
        return outcome.value == 0 or f"lag {outcome.value}, {outcome}"

    await eventually(w, "not handled in order", "at rest", is_done)
    dead = set()
    for partition in range(effects.PARTITIONS):
        letters = stream.dead_letters("readers", partition)
        outcome = await bounded(Call("dead letters", letters.list(count=10_000)))
        dead |= {letter.fields["id"].decode() for letter in outcome.value}
    for talk in effects.TALKS:
        told = [raw.decode() for raw in await w.admin("LRANGE", f"{w.prefix}told:{talk}", 0, -1)]
        _check_talk(w.part(Effects), talk, told, dead)


def _check_talk(part: Effects, talk: str, told: list[str], dead: set[str]) -> None:
    if len(set(told)) < len(told):
        raise Violation("told twice", f"{talk}: {told}")
    mine = {each: n for each, n in part.acknowledged.items() if part.sent[each][0] == talk}
    if missing := mine.keys() - set(told) - dead:
        raise Violation("never told", f"{talk}: {sorted(missing)}")
    _check_order(talk, [mine[each] for each in told if each in mine])


def _check_order(name: str, numbers: list[int]) -> None:
    if numbers != sorted(set(numbers)):
        raise Violation("out of order", f"{name}: {numbers}")


# Senders


async def batch(w: World, bounded: Bounded) -> None:
    """What batchers said was added is there, in order."""
    part = w.part(Senders)
    for sender in part.batchers:
        if sender.state != "closed":
            closing = sender.batcher.close()
            await bounded(Call("batcher.close() at rest", closing, senders.CLOSE_BATCHER_S))
    entries = await w.admin("XRANGE", w.prefix + senders.BATCHED, "-", "+")
    there = {raw.decode(): parts[1] for raw, parts in entries}
    for entry, payload in part.added.items():
        if there.get(entry) != payload:
            raise Violation("lost", f"batched {entry} {payload!r} is {there.get(entry)!r}")
    _check_refused("batched", part.refused & set(there.values()))
    sent = [raw.decode().split(".") for raw in there.values()]
    for sender in part.batchers:
        numbers = [int(number) for who, number in sent if who == str(sender.number)]
        _check_order(f"batcher {sender.number}", numbers)


async def pool(w: World, bounded: Bounded) -> None:
    """Nobody is out, and every connection is of use."""
    part = w.part(Senders)
    pool = part.pool
    if pool is None:
        return
    if part.pool_state == "closing":  # its close was cancelled, perhaps before it began
        await bounded(Call("pool.close() at rest", pool.close(), senders.CLOSE_POOL_S))
        part.pool_state = "closed"
    if part.pool_state != "open":
        return

    def is_idle() -> Any:
        stats = pool.stats()
        return (stats.in_use, stats.waiting) == (0, 0) or str(stats)

    await eventually(w, "pool", "at rest", is_idle, 3.0)
    ready = asyncio.Barrier(senders.POOL_MAX)

    async def use() -> None:
        async with pool.connection() as connection:
            async with asyncio.timeout(1.0):
                await ready.wait()
            await connection.call("PING")

    async def all_of_use() -> Any:
        await ready.reset()
        users = [use() for _ in range(senders.POOL_MAX)]
        outcomes = await asyncio.gather(*users, return_exceptions=True)
        return ", ".join(repr(each) for each in outcomes if each is not None) or True

    await eventually(w, "pool", "all connections at rest", all_of_use)
