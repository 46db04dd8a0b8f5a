"""Invariants: what must hold once everything has come to rest, and after everything was ended.

| name        | what the server has ...                  | must equal ...                      |
|-------------|------------------------------------------|-------------------------------------|
| works       | an answer                                | what every open queue gets          |
| pubsub      | PUBSUB CHANNELS, NUMSUB, NUMPAT; a probe | open subscriptions; each gets one   |
| streams     | XRANGE, XINFO GROUPS, dead letters       | see `streams.py`                    |
| once        | a counter for each idempotent id         | 1                                   |
| ordered     | a list for each conversation             | what was acknowledged, in order     |
| batch       | XRANGE                                   | what batchers said, in order        |
| pool        | metrics                                  | nobody out or waiting; all of use   |
| connections | CLIENT LIST, by name                     | what queues, workers, pools count   |
| keys        | KEYS                                     | only the prefix's                   |
| consumers   | XINFO CONSUMERS                          | nobody who left in good order       |
"""

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from mpim_lab.soak.api import data_invariants as data
from mpim_lab.soak.api.data_invariants import Bounded, eventually
from mpim_lab.soak.api.faults import clients
from mpim_lab.soak.api.listeners import Listeners, end_listener
from mpim_lab.soak.api.members import END_MEMBER_S, Member, Members, end
from mpim_lab.soak.api.pubsub import CHANNELS, Sub, Subs, doubt
from mpim_lab.soak.api.senders import Senders
from mpim_lab.soak.api.streams import Streams, pairs
from mpim_lab.soak.api.world import CALL_S, END_S, Call, QueueSlot, Violation, World


async def check_rest(w: World, bounded: Bounded) -> None:
    """Lift what is left of the faults, let everything come to rest, and look."""
    w.server.resume()
    w.proxy.heal()
    w.proxy.release()
    w.proxy.disarm()
    w.calm = True
    w.released.set()
    for slot in w.slots:
        if slot.state in ("closing", "opening"):
            await bounded(Call(f"{slot.name}.close() at rest", slot.queue.close(), END_S))
            slot.state = "closed"
    if not w.open_slots():
        w.renew(slot := w.slots[0])
        await slot.queue.open()
        slot.state = "open"
    for name, check in _AT_REST.items():
        if name not in w.without:
            await check(w, bounded)


async def _works(w: World, bounded: Bounded) -> None:
    for slot in w.open_slots():

        async def answers(slot: QueueSlot = slot) -> Any:
            asking = slot.queue.subscriber_count("x")
            outcome = await bounded(Call(f"{slot.name}.subscriber_count() at rest", asking))
            return outcome.is_ok or str(outcome)

        await eventually(w, "works", f"{slot.name} at rest", answers)


# Pub/Sub


async def _pubsub(w: World, bounded: Bounded) -> None:
    part = w.part(Subs)
    for listener in w.part(Listeners).all:
        listener.news.set()
    for slot in w.open_slots():
        for sub in part.alive(slot):
            if sub.state != "open" or sub.policy == "disconnect":
                # by the name: whoever has it
                ended = [each for each in part.alive(slot) if each.key == sub.key]
                doubt(ended)
                running = slot.queue.unsubscribe(sub.key[2], pattern=sub.key[3])
                await bounded(Call(f"{slot.name}.unsubscribe at rest", running, END_S))
                for each in ended:
                    each.state = "closed"
    alive = [sub for slot in w.open_slots() for sub in part.alive(slot)]

    async def agrees() -> Any:
        expected = Counter(w.prefix + sub.key[2] for sub in alive if not sub.key[3])
        channels = {name.decode() for name in await w.admin("PUBSUB", "CHANNELS", w.prefix + "*")}
        names = sorted(channels | set(expected))
        actual = pairs(await w.admin("PUBSUB", "NUMSUB", *names) if names else [])
        patterns = len({sub.key[2] for sub in alive if sub.key[3]})
        found, wanted = (actual, await w.admin("PUBSUB", "NUMPAT")), (dict(expected), patterns)
        return found == wanted or f"channels and patterns: the server {found}, the model {wanted}"

    await eventually(w, "subscriptions", "at rest", agrees)
    await _probe(w, alive)


async def _probe(w: World, alive: list[Sub]) -> None:
    for sub in alive:
        sub.probes = 0
    for channel, pattern in CHANNELS:
        if not pattern:
            await w.admin("PUBLISH", w.prefix + channel, f"{w.next()}:probe")

    def reached() -> Any:
        missed = [sub.key for sub in alive if not sub.probes]
        return not missed or f"not reached: {missed}"

    await eventually(w, "probe", "a message at rest", reached, 3.0)
    if twice := [sub.key for sub in alive if sub.probes > 1]:
        raise Violation("probe twice", f"{twice}")


# Members and connections


async def _end_members(w: World, bounded: Bounded, which: Callable[[Member], bool]) -> None:
    for member in w.part(Members).all:
        if member.state != "ended" and which(member):
            await bounded(Call(f"{member} leaves", end(w, member), END_MEMBER_S))


async def _members(w: World, bounded: Bounded) -> None:
    def is_to_go(member: Member) -> bool:
        return member.kind == "consumer" or member.is_stale or member.state == "ending"

    await _end_members(w, bounded, is_to_go)


async def _connections(w: World, bounded: Bounded) -> None:
    async def agree() -> Any:
        expected = Counter({slot.name: slot.queue.open_connections for slot in w.open_slots()})
        members = w.part(Members).all
        expected.update(each.name for each in members if each.state == "running")
        senders = w.part(Senders)
        if senders.pool is not None and senders.pool_state == "open":
            expected[f"pool{senders.pool_life}"] += senders.pool.stats().idle
        actual = Counter(line["name"] for line in await clients(w) if line["name"])
        return +expected == actual or f"the server has {dict(actual)}, the model {dict(+expected)}"

    await eventually(w, "connections", "at rest", agree)


# The end


async def check_end(w: World, bounded: Bounded) -> None:
    """End everything, and look at what is left."""
    await _end_members(w, bounded, lambda member: True)
    for listener in w.part(Listeners).all:
        if listener.task is not None and not listener.task.done():
            await bounded(Call("leave at the end", end_listener(listener), END_S + 3 * CALL_S))
    if (pool := w.part(Senders).pool) is not None:
        await bounded(Call("pool.close() at the end", pool.close(), END_S))
    for slot in w.open_slots():
        outcome = await bounded(Call(f"{slot.name}.close() at the end", slot.queue.close(), END_S))
        if not outcome.is_ok:
            raise Violation("close", f"{slot.name}: {outcome}")
        slot.state = "closed"

    async def all_gone() -> Any:
        left = [line["name"] for line in await clients(w) if line["name"]]
        return not left or f"{left} are still connected"

    await eventually(w, "socket left", "at the end", all_gone, 3.0)
    for name, check in {"keys": _keys, "consumers": _consumers}.items():
        if name not in w.without:
            await check(w)


async def _keys(w: World) -> None:
    keys = [key for key in await w.admin("KEYS", "*") if not key.startswith(w.prefix.encode())]
    if keys:
        raise Violation("keys", f"not under the prefix: {keys}")


async def _consumers(w: World) -> None:
    members = w.part(Members).all
    for group in w.part(Streams).made():
        raws = await w.admin("XINFO", "CONSUMERS", w.prefix + group.stream.name, group.name)
        names = [pairs(raw)["name"].decode() for raw in raws] if isinstance(raws, list) else []
        for name in names:
            lives = [each for each in members if each.group is group and each.name == name]
            if lives and max(lives, key=lambda each: each.ended_at).left_well:
                text = f"{name} left {group} in good order and is still there"
                raise Violation("consumers", text)


_AT_REST: dict[str, Callable[[World, Bounded], Awaitable[None]]] = {
    "works": _works,
    "pubsub": _pubsub,
    "members": _members,
    "streams": data.streams,
    "once": data.once,
    "ordered": data.ordered,
    "batch": data.batch,
    "pool": data.pool,
    "connections": _connections,
}
