"""Invariants of what is kept: streams, effects, ordered conversations, batches; and of the pool.

Table: api_invariants.
"""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

from mpim_lab.soak.api import members as api_members
from mpim_lab.soak.api import senders as api_senders
from mpim_lab.soak.api import streams as api_streams
from mpim_lab.soak.api import work as api_work
from mpim_lab.soak.api.world import CALL_S, END_S, LIMITS, Call, Outcome, Violation, World

Bounded = Callable[[Call], Awaitable[Outcome]]
SOON_S = 5.0  # for what comes by itself: reconnecting, claims, retries


async def eventually(
    w: World, kind: str, what: str, holds: Callable[[], Any], timeout_s: float = SOON_S
) -> None:
    """Wait until something holds: True, or a text that says what is wrong. Raises Violation."""
    deadline, said = w.clock() + timeout_s, None
    while w.clock() < deadline:
        said = holds()
        if inspect.isawaitable(said):
            said = await said
        if said is True:
            return
        await asyncio.sleep(0.005)
    raise Violation(kind, f"{what}: {said}")


# Streams


async def streams(w: World, bounded: Bounded) -> None:
    """Every acknowledged entry is handled, dead, or was trimmed."""
    part = api_streams.part_of(w)
    for member in part.members:
        is_stale = member.slot.life != member.life or member.slot.state != "open"
        if member.state != "ended" and (
            member.kind == "consumer" or is_stale or member.state == "ending"
        ):
            running = api_members.end_member(w, member)
            await bounded(Call(f"{member.name} leaves at rest", running, END_S + 4 * CALL_S))
    for model in part.streams.values():
        if any(
            group.is_made for group in model.groups.values()
        ):  # whoever is left must be able to go on
            call = api_streams.add_to(w, w.open_slots()[0], model, [f"{w.next()}:ok".encode()])
            if not (outcome := await bounded(call)).is_ok:
                raise Violation("works", f"adding at rest: {outcome}")
        for group in model.groups.values():
            if group.is_made:
                await _at_rest(w, bounded, group)
        await _nothing_lost(w, model)


async def _at_rest(w: World, bounded: Bounded, group: api_streams.Group) -> None:
    part = api_streams.part_of(w)
    key = w.prefix + group.stream.name
    if not any(each.group is group for each in part.running("worker")):
        slot = w.open_slots()[0]
        await bounded(
            Call(
                f"finisher of {group.name}",
                api_members.start_worker(w, slot, group, "finisher"),
                CALL_S,
            )
        )

    async def is_done() -> Any:
        infos = [pairs(raw) for raw in await w.admin("XINFO", "GROUPS", key)]
        info = next((each for each in infos if each["name"] == group.name.encode()), None)
        if info is None:
            return "the group is gone"
        last = await w.admin("XREVRANGE", key, "+", "-", "COUNT", 1)
        read_all = not last or api_streams.id_key(
            info["last-delivered-id"].decode()
        ) >= api_streams.id_key(last[0][0].decode())
        return (
            read_all and info["pending"] == 0
        ) or f"{key}/{group.name}: {info}, last entry {last and last[0]}"

    await eventually(w, "not handled", "at rest", is_done)
    await api_streams.still_deleted(w, group.stream)
    letters = (await bounded(Call("dead letters", part_letters(w, group)))).value or []
    dead = {letter.origin_id for letter in letters}
    for raw, _ in await w.admin("XRANGE", key, "-", "+"):
        entry = raw.decode()
        is_claimed = entry in group.stream.added and api_streams.id_key(entry) > group.claims_above
        if is_claimed and not group.was_deleted and not group.handled[entry] and entry not in dead:
            raise Violation(
                "never handled", f"{key}/{group.name}: {entry} {group.stream.added[entry]!r}"
            )


async def part_letters(w: World, group: api_streams.Group) -> Any:
    """The dead letters of a group."""
    handle = await w.open_slots()[0].queue.stream(group.stream.name).group(group.name)
    return await handle.dead_letters.list(count=10_000)


async def _nothing_lost(w: World, model: api_streams.StreamModel) -> None:
    there = {
        raw[0].decode(): raw[1] for raw in await w.admin("XRANGE", w.prefix + model.name, "-", "+")
    }
    for entry, payload in model.added.items():
        if entry not in there and api_streams.id_key(entry) > model.trimmed_up_to:
            raise Violation("lost", f"{model.name}: {entry} {payload!r} was acknowledged")
    for parts in there.values():
        if parts[1] in model.refused:
            raise Violation(
                "not definite",
                f"{model.name}: {parts[1]!r} is there, and its error said that it is not",
            )


def pairs(raw: list[Any]) -> dict[str, Any]:
    """A reply of names and values as a dict."""
    return {raw[n].decode(): raw[n + 1] for n in range(0, len(raw), 2)}


# Work


async def once(w: World, bounded: Bounded) -> None:
    """Each effect has happened once."""
    for name in api_work.part_of(w).ids:

        async def has_run(name: str = name) -> Any:
            outcome = await bounded(api_work.once(w, w.open_slots()[0], name, "ok"))
            return outcome.is_ok or str(outcome)

        await eventually(w, "never done", f"{name} at rest", has_run)
        count = await w.admin("GET", f"{w.prefix}effect:{name}")
        if count != b"1":
            raise Violation("not once", f"the effect of {name} happened {count!r} times")


async def ordered(w: World, bounded: Bounded) -> None:
    """Each acknowledged message has had its effect once, in order."""
    part, slot = api_work.part_of(w), w.open_slots()[0]
    if not part.sent:
        return
    for member in part.members:
        is_stale = member.slot.life != member.life or member.slot.state != "open"
        if member.state != "ended" and (is_stale or member.state == "ending"):
            await bounded(
                Call(f"{member.name} leaves", api_work.end_in_order(member), END_S + 4 * CALL_S)
            )
    if not any(each.state == "running" for each in part.members):
        await bounded(
            Call("finisher in order", api_work.start_in_order(w, slot, "finisher", 5), CALL_S)
        )
    stream = api_work.stream_of(slot)

    async def is_done() -> Any:
        outcome = await bounded(Call("lag at rest", stream.lag("readers"), 4 * CALL_S))
        return outcome.value == 0 or f"lag {outcome.value}, {outcome}"

    await eventually(w, "not handled in order", "at rest", is_done)
    dead = set()
    for partition in range(api_work.PARTITIONS):
        letters = stream.dead_letters("readers", partition)
        outcome = await bounded(Call("dead letters", letters.list(count=10_000)))
        dead |= {letter.fields["id"].decode() for letter in outcome.value}
    for talk in api_work.TALKS:
        told = [raw.decode() for raw in await w.admin("LRANGE", f"{w.prefix}told:{talk}", 0, -1)]
        _check_talk(part, talk, told, dead)


def _check_talk(part: api_work.Work, talk: str, told: list[str], dead: set[str]) -> None:
    if len(set(told)) < len(told):
        raise Violation("told twice", f"{talk}: {told}")
    mine = {
        each: number for each, number in part.acknowledged.items() if part.sent[each][0] == talk
    }
    if missing := mine.keys() - set(told) - dead:
        raise Violation("never told", f"{talk}: {sorted(missing)}")
    numbers = [mine[each] for each in told if each in mine]
    if numbers != sorted(numbers):
        raise Violation("out of order", f"{talk}: {numbers}")


# Senders


async def batch(w: World, bounded: Bounded) -> None:
    """What batchers said was added is there, in order."""
    part = api_senders.part_of(w)
    for sender in part.batchers:
        if sender.state != "closed":
            running = sender.batcher.close()
            await bounded(
                Call(
                    f"batcher {sender.number}.close() at rest", running, api_senders.CLOSE_BATCHER_S
                )
            )
    entries = await w.admin("XRANGE", w.prefix + api_senders.BATCHED, "-", "+")
    there = {raw[0].decode(): raw[1][1] for raw in entries}
    for entry, payload in part.added.items():
        if there.get(entry) != payload:
            raise Violation("lost", f"batched {entry} {payload!r} is {there.get(entry)!r}")
    if wrong := part.refused & set(there.values()):
        raise Violation(
            "not definite", f"{wrong} are there, and their errors said that they are not"
        )
    for sender in part.batchers:
        numbers = [
            int(n)
            for who, _, n in (raw.decode().partition(".") for raw in there.values())
            if who == str(sender.number)
        ]
        if numbers != sorted(set(numbers)):
            raise Violation("out of order", f"batcher {sender.number}: {numbers}")


async def pool(w: World, bounded: Bounded) -> None:
    """Nobody is out, and every connection is of use."""
    part = api_senders.part_of(w)
    pool = part.pool
    if (
        pool is not None and part.pool_state == "closing"
    ):  # its close was cancelled, perhaps before it began
        running = pool.close()
        await bounded(
            Call(f"pool{part.pool_life}.close() at rest", running, LIMITS.close_timeout_s + CALL_S)
        )
        part.pool_state = "closed"
    if pool is None or part.pool_state != "open":
        return

    def is_idle() -> Any:
        figures = pool.stats()
        return (figures.in_use, figures.waiting) == (0, 0) or str(figures)

    await eventually(w, "pool", "at rest", is_idle, 3.0)
    ready = asyncio.Barrier(api_senders.POOL_MAX)

    async def use() -> None:
        async with pool.connection() as connection:
            async with asyncio.timeout(1.0):
                await ready.wait()
            await connection.call("PING")

    async def all_of_use() -> Any:
        await ready.reset()
        outcomes = await asyncio.gather(
            *(use() for _ in range(api_senders.POOL_MAX)), return_exceptions=True
        )
        errors = [repr(outcome) for outcome in outcomes if outcome is not None]
        return not errors or ", ".join(errors)

    await eventually(w, "pool", "all connections at rest", all_of_use)
