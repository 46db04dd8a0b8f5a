"""Invariants: what must hold once the faults are over and everything has come to rest, and after everything was ended.

| name        | what the server has ...                         | must equal ...                                                  |
|-------------|-------------------------------------------------|-----------------------------------------------------------------|
| works       | an answer                                       | what every open queue gets, soon after the last fault           |
| pubsub      | PUBSUB CHANNELS, NUMSUB, NUMPAT; a probe        | the open subscriptions; each is reached exactly once            |
| streams     | XRANGE, XINFO GROUPS, dead letters              | see api_streams                                                 |
| once        | a counter for each idempotent id                | 1                                                               |
| ordered     | a list for each conversation                    | every acknowledged message once, in order                       |
| batch       | XRANGE                                          | what batchers said was added, in order                          |
| pool        | figures                                         | nobody out, nobody waits, all connections of use                |
| connections | CLIENT LIST, by name                            | the connections that queues, workers and pools believe to have  |
| keys        | KEYS                                            | only the prefix's                                               |
| consumers   | XINFO CONSUMERS                                 | nobody who left in good order                                   |
"""

import asyncio
import inspect
from collections import Counter
from collections.abc import Awaitable, Callable, Collection
from typing import Any

from mpim_lab.experiments import api_pubsub, api_senders, api_streams, api_work
from mpim_lab.experiments.api_faults import clients
from mpim_lab.experiments.api_world import CALL_S, END_S, Call, Outcome, QueueSlot, Violation, World

Bounded = Callable[[Call], Awaitable[Outcome]]
SOON_S = 5.0  # for what comes by itself: reconnecting, claims, retries


async def eventually(kind: str, what: str, holds: Callable[[], Any], within_s: float = SOON_S) -> None:
    """Wait until something holds: True, or a text that says what is wrong. Raises Violation."""
    loop = asyncio.get_running_loop()
    deadline, said = loop.time() + within_s, None
    while loop.time() < deadline:
        said = holds()
        if inspect.isawaitable(said):
            said = await said
        if said is True:
            return
        await asyncio.sleep(0.005)
    raise Violation(kind, f"{what}: {said}")


async def check_rest(w: World, bounded: Bounded, without: Collection[str]) -> None:
    """Lift what is left of the faults, let everything come to rest, and look."""
    w.server.resume()
    w.proxy.heal()
    w.proxy.release()
    w.proxy._armed.clear()  # what did not strike
    w.calm = True
    w.released.set()
    for slot in w.slots:
        if slot.state in ("closing", "opening"):
            await bounded(Call(f"{slot.name}.close() at rest", slot.queue.close(), END_S))
            slot.state = "closed"
    if not w.open_slots():
        slot = w.slots[0]
        slot.life += 1
        slot.queue, slot.state = w.new_queue(0, slot.life), "open"
        await slot.queue.open()
    for name, check in _AT_REST.items():
        if name not in without:
            await check(w, bounded)


async def _works(w: World, bounded: Bounded) -> None:
    for slot in w.open_slots():

        async def answers(slot: QueueSlot = slot) -> Any:
            outcome = await bounded(Call(f"{slot.name}.listeners() at rest", slot.queue.listeners("x")))
            return outcome.is_ok or str(outcome)

        await eventually("works", f"{slot.name} at rest", answers)


# Pub/Sub


async def _pubsub(w: World, bounded: Bounded) -> None:
    part = w.part("pubsub", api_pubsub.PubSub)
    for listener in part.listeners:
        listener.news.set()
    for slot in w.open_slots():
        for sub in part.alive(slot):
            if sub.state != "open" or sub.policy == "disconnect":
                channel, pattern = sub.key[2:]
                running = slot.queue.unsubscribe(channel, pattern=pattern)
                await bounded(Call(f"{slot.name}.unsubscribe({channel!r}) at rest", running, END_S))
                for each in part.alive(slot):
                    each.state = "closed" if each.key == sub.key else each.state
    alive = [sub for slot in w.open_slots() for sub in part.alive(slot)]

    async def agrees() -> Any:
        expected = Counter(w.prefix + sub.key[2] for sub in alive if not sub.key[3])
        channels = {name.decode() for name in await w.admin("PUBSUB", "CHANNELS", w.prefix + "*")}
        names = sorted(channels | set(expected))
        counts = await w.admin("PUBSUB", "NUMSUB", *names) if names else []
        actual = {counts[n].decode(): counts[n + 1] for n in range(0, len(counts), 2)}
        patterns = len({sub.key[2] for sub in alive if sub.key[3]})
        has = await w.admin("PUBSUB", "NUMPAT")
        ok = actual == expected and has == patterns
        return ok or f"the server has {actual}, {has} patterns; the model {dict(expected)}, {patterns}"

    await eventually("subscriptions", "at rest", agrees)
    await _probe(w, alive)


async def _probe(w: World, alive: list[api_pubsub.Sub]) -> None:
    before = {id(sub): sub.probes for sub in alive}
    for channel, pattern in api_pubsub.CHANNELS:
        if not pattern:
            await w.admin("PUBLISH", w.prefix + channel, f"{w.next()}:probe")

    def reached() -> Any:
        missed = [sub.key for sub in alive if sub.probes - before[id(sub)] < 1]
        return not missed or f"not reached: {missed}"

    await eventually("probe", "a message at rest", reached, 3.0)
    if twice := [sub.key for sub in alive if sub.probes - before[id(sub)] > 1]:
        raise Violation("probe twice", f"{twice}")


# Streams


async def _streams(w: World, bounded: Bounded) -> None:
    part = api_streams.part_of(w)
    for member in part.members:
        is_stale = member.slot.life != member.life or member.slot.state != "open"
        if member.state != "ended" and (member.kind == "consumer" or is_stale or member.state == "ending"):
            running = api_streams.end_member(w, member)
            await bounded(Call(f"{member.name} leaves at rest", running, END_S + 4 * CALL_S))
    for model in part.streams.values():
        for group in model.groups.values():
            if group.is_made:
                await _at_rest(w, bounded, group)
        await _nothing_lost(w, model)


async def _at_rest(w: World, bounded: Bounded, group: api_streams.Group) -> None:
    part = api_streams.part_of(w)
    key = w.prefix + group.stream.name
    if not any(each.group is group for each in part.running("worker")):
        slot = w.open_slots()[0]
        await bounded(Call(f"finisher of {group.name}", api_streams.start_worker(w, slot, group, "finisher"), CALL_S))

    async def is_done() -> Any:
        infos = [_pairs(raw) for raw in await w.admin("XINFO", "GROUPS", key)]
        info = next((each for each in infos if each["name"] == group.name.encode()), None)
        if info is None:
            return "the group is gone"
        last = await w.admin("XREVRANGE", key, "+", "-", "COUNT", 1)
        read_all = not last or api_streams.id_key(info["last-delivered-id"].decode()) >= api_streams.id_key(
            last[0][0].decode()
        )
        return (read_all and info["pending"] == 0) or f"{key}/{group.name}: {info}, last entry {last and last[0]}"

    await eventually("not handled", "at rest", is_done)
    await api_streams.still_deleted(w, group.stream)
    letters = (await bounded(Call("dead letters", part_letters(w, group)))).value or []
    dead = {letter.origin_id for letter in letters}
    for raw_id, _ in await w.admin("XRANGE", key, "-", "+"):
        id = raw_id.decode()
        is_claimed = id in group.stream.added and api_streams.id_key(id) > group.claims_above
        if is_claimed and not group.was_deleted and not group.handled[id] and id not in dead:
            raise Violation("never handled", f"{key}/{group.name}: {id} {group.stream.added[id]!r}")


async def part_letters(w: World, group: api_streams.Group) -> Any:
    """The dead letters of a group."""
    handle = await w.open_slots()[0].queue.stream(group.stream.name).group(group.name)
    return await handle.dead_letters.list(count=10_000)


async def _nothing_lost(w: World, model: api_streams.StreamModel) -> None:
    there = {raw[0].decode(): raw[1] for raw in await w.admin("XRANGE", w.prefix + model.name, "-", "+")}
    for id, payload in model.added.items():
        if id not in there and api_streams.id_key(id) > model.trimmed_up_to:
            raise Violation("lost", f"{model.name}: {id} {payload!r} was acknowledged")
    for parts in there.values():
        if parts[1] in model.refused:
            raise Violation("not definite", f"{model.name}: {parts[1]!r} is there, and its error said that it is not")


def _pairs(raw: list[Any]) -> dict[str, Any]:
    return {raw[n].decode(): raw[n + 1] for n in range(0, len(raw), 2)}


# Work


async def _once(w: World, bounded: Bounded) -> None:
    for id in api_work.part_of(w).ids:

        async def has_run(id: str = id) -> Any:
            outcome = await bounded(api_work.once(w, w.open_slots()[0], id, "ok"))
            return outcome.is_ok or str(outcome)

        await eventually("never done", f"{id} at rest", has_run)
        count = await w.admin("GET", f"{w.prefix}effect:{id}")
        if count != b"1":
            raise Violation("not once", f"the effect of {id} happened {count!r} times")


async def _ordered(w: World, bounded: Bounded) -> None:
    part, slot = api_work.part_of(w), w.open_slots()[0]
    if not part.sent:
        return
    for member in part.members:
        is_stale = member.slot.life != member.life or member.slot.state != "open"
        if member.state != "ended" and (is_stale or member.state == "ending"):
            await bounded(Call(f"{member.name} leaves", api_work.end_in_order(member), END_S + 4 * CALL_S))
    if not any(each.state == "running" for each in part.members):
        await bounded(Call("finisher in order", api_work.start_in_order(w, slot, "finisher", 5), CALL_S))
    stream = api_work.stream_of(slot)

    async def is_done() -> Any:
        outcome = await bounded(Call("lag at rest", stream.lag("readers"), 4 * CALL_S))
        return outcome.value == 0 or f"lag {outcome.value}, {outcome}"

    await eventually("not handled in order", "at rest", is_done)
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
    mine = {id: number for id, number in part.acknowledged.items() if part.sent[id][0] == talk}
    if missing := mine.keys() - set(told) - dead:
        raise Violation("never told", f"{talk}: {sorted(missing)}")
    numbers = [mine[id] for id in told if id in mine]
    if numbers != sorted(numbers):
        raise Violation("out of order", f"{talk}: {numbers}")


# Senders


async def _batch(w: World, bounded: Bounded) -> None:
    part = api_senders.part_of(w)
    for sender in part.batchers:
        if sender.state != "closed":
            running = sender.batcher.close()
            await bounded(Call(f"batcher {sender.number}.close() at rest", running, api_senders.CLOSE_BATCHER_S))
    entries = await w.admin("XRANGE", w.prefix + api_senders.BATCHED, "-", "+")
    there = {raw[0].decode(): raw[1][1] for raw in entries}
    for id, payload in part.added.items():
        if there.get(id) != payload:
            raise Violation("lost", f"batched {id} {payload!r} is {there.get(id)!r}")
    if wrong := part.refused & set(there.values()):
        raise Violation("not definite", f"{wrong} are there, and their errors said that they are not")
    for sender in part.batchers:
        numbers = [int(n) for who, _, n in (raw.decode().partition(".") for raw in there.values()) if who == str(sender.number)]
        if numbers != sorted(set(numbers)):
            raise Violation("out of order", f"batcher {sender.number}: {numbers}")


async def _pool(w: World, bounded: Bounded) -> None:
    part = api_senders.part_of(w)
    pool = part.pool
    if pool is None or part.pool_state != "open":
        return

    def is_idle() -> Any:
        figures = pool.figures()
        return (figures.in_use, figures.waiting) == (0, 0) or str(figures)

    await eventually("pool", "at rest", is_idle, 3.0)
    ready = asyncio.Barrier(api_senders.POOL_MAX)

    async def use() -> None:
        async with pool.connection() as connection:
            async with asyncio.timeout(1.0):
                await ready.wait()
            await connection.call("PING")

    async def all_of_use() -> Any:
        await ready.reset()
        outcomes = await asyncio.gather(*(use() for _ in range(api_senders.POOL_MAX)), return_exceptions=True)
        errors = [repr(outcome) for outcome in outcomes if outcome is not None]
        return not errors or ", ".join(errors)

    await eventually("pool", "all connections at rest", all_of_use)


# Connections


async def _connections(w: World, bounded: Bounded) -> None:
    async def agree() -> Any:
        expected = Counter({slot.name: slot.queue.lines_up for slot in w.open_slots()})
        members = [each for each in api_streams.part_of(w).members + api_work.part_of(w).members]
        expected.update(each.name for each in members if each.state == "running")
        senders = api_senders.part_of(w)
        if senders.pool is not None and senders.pool_state == "open":
            expected[f"pool{senders.pool_life}"] += senders.pool.figures().idle
        actual = Counter(line["name"] for line in await clients(w) if line["name"])
        return +expected == actual or f"the server has {dict(actual)}, the model {dict(+expected)}"

    await eventually("connections", "at rest", agree)


async def check_end(w: World, bounded: Bounded, without: Collection[str]) -> None:
    """End everything, and look at what is left."""
    for member in api_streams.part_of(w).members:
        if member.state != "ended":
            running = api_streams.end_member(w, member)
            await bounded(Call(f"{member.name} leaves at the end", running, END_S + 2 * CALL_S))
    for each in api_work.part_of(w).members:
        if each.state != "ended":
            await bounded(Call(f"{each.name} leaves at the end", api_work.end_in_order(each), END_S + 2 * CALL_S))
    for listener in w.part("pubsub", api_pubsub.PubSub).listeners:
        if listener.task is not None and not listener.task.done():
            await bounded(Call("leave at the end", api_pubsub.end_listener(listener), END_S + 3 * CALL_S))
    pool = api_senders.part_of(w).pool
    if pool is not None:
        await bounded(Call("pool.close() at the end", pool.close(), END_S))
    for slot in w.open_slots():
        outcome = await bounded(Call(f"{slot.name}.close() at the end", slot.queue.close(), END_S))
        if not outcome.is_ok:
            raise Violation("close", f"{slot.name}: {outcome}")
        slot.state = "closed"

    async def all_gone() -> Any:
        left = [line["name"] for line in await clients(w) if line["name"]]
        return not left or f"{left} are still connected"

    await eventually("socket left", "at the end", all_gone, 3.0)
    if "keys" not in without:
        keys = [key for key in await w.admin("KEYS", "*") if not key.startswith(w.prefix.encode())]
        if keys:
            raise Violation("keys", f"not under the prefix: {keys}")
    if "consumers" not in without:
        await _consumers(w)


async def _consumers(w: World) -> None:
    part = api_streams.part_of(w)
    for model in part.streams.values():
        for group in model.groups.values():
            raws = await w.admin("XINFO", "CONSUMERS", w.prefix + model.name, group.name) if group.is_made else []
            names = {_pairs(raw)["name"].decode() for raw in raws} if isinstance(raws, list) else set()
            for name in names:
                lives = [each for each in part.members if each.group is group and each.name == name]
                if lives and lives[-1].left_well:
                    raise Violation("consumers", f"{name} left {model.name}/{group.name} in good order and is still there")


_AT_REST: dict[str, Callable[[World, Bounded], Awaitable[None]]] = {
    "works": _works,
    "pubsub": _pubsub,
    "streams": _streams,
    "once": _once,
    "ordered": _ordered,
    "batch": _batch,
    "pool": _pool,
    "connections": _connections,
}
