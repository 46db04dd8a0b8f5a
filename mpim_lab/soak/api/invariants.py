"""Invariants: what must hold once the faults are over and everything has come to rest, and after everything was ended.

| name        | what the server has ...                         | must equal ...                                             |
|-------------|-------------------------------------------------|------------------------------------------------------------|
| works       | an answer                                       | what every open queue gets, soon after the last fault      |
| pubsub      | PUBSUB CHANNELS, NUMSUB, NUMPAT; a probe        | the open subscriptions; each is reached exactly once       |
| streams     | XRANGE, XINFO GROUPS, dead letters              | see streams                                            |
| once        | a counter for each idempotent id                | 1                                                          |
| ordered     | a list for each conversation                    | every acknowledged message once, in order                  |
| batch       | XRANGE                                          | what batchers said was added, in order                     |
| pool        | figures                                         | nobody out, nobody waits, all connections of use           |
| connections | CLIENT LIST, by name                            | the connections that queues, workers and pools count       |
| keys        | KEYS                                            | only the prefix's                                          |
| consumers   | XINFO CONSUMERS                                 | nobody who left in good order                              |
"""

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from mpim_lab.soak.api import data_invariants as data
from mpim_lab.soak.api import members as api_members
from mpim_lab.soak.api import pubsub as api_pubsub
from mpim_lab.soak.api import senders as api_senders
from mpim_lab.soak.api import streams as api_streams
from mpim_lab.soak.api import work as api_work
from mpim_lab.soak.api.data_invariants import Bounded, eventually, pairs
from mpim_lab.soak.api.faults import clients
from mpim_lab.soak.api.listeners import end_listener
from mpim_lab.soak.api.world import CALL_S, END_S, Call, QueueSlot, Violation, World


async def check_rest(w: World, bounded: Bounded) -> None:
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
        if name not in w.without:
            await check(w, bounded)


async def _works(w: World, bounded: Bounded) -> None:
    for slot in w.open_slots():

        async def answers(slot: QueueSlot = slot) -> Any:
            outcome = await bounded(
                Call(f"{slot.name}.subscriber_count() at rest", slot.queue.subscriber_count("x"))
            )
            return outcome.is_ok or str(outcome)

        await eventually(w, "works", f"{slot.name} at rest", answers)


# Pub/Sub


async def _pubsub(w: World, bounded: Bounded) -> None:
    part = w.part("pubsub", api_pubsub.PubSub)
    for listener in part.listeners:
        listener.news.set()
    for slot in w.open_slots():
        for sub in part.alive(slot):
            if sub.state != "open" or sub.policy == "disconnect":
                channel, pattern = sub.key[2:]
                for each in part.alive(slot):  # by the name: whoever has it
                    each.state = "unknown" if each.key == sub.key else each.state
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
        return (
            ok or f"the server has {actual}, {has} patterns; the model {dict(expected)}, {patterns}"
        )

    await eventually(w, "subscriptions", "at rest", agrees)
    await _probe(w, alive)


async def _probe(w: World, alive: list[api_pubsub.Sub]) -> None:
    before = {id(sub): sub.probes for sub in alive}
    for channel, pattern in api_pubsub.CHANNELS:
        if not pattern:
            await w.admin("PUBLISH", w.prefix + channel, f"{w.next()}:probe")

    def reached() -> Any:
        missed = [sub.key for sub in alive if sub.probes - before[id(sub)] < 1]
        return not missed or f"not reached: {missed}"

    await eventually(w, "probe", "a message at rest", reached, 3.0)
    if twice := [sub.key for sub in alive if sub.probes - before[id(sub)] > 1]:
        raise Violation("probe twice", f"{twice}")


# Connections


async def _connections(w: World, bounded: Bounded) -> None:
    async def agree() -> Any:
        expected = Counter({slot.name: slot.queue.open_connections for slot in w.open_slots()})
        members: list[Any] = [*api_streams.part_of(w).members, *api_work.part_of(w).members]
        expected.update(each.name for each in members if each.state == "running")
        senders = api_senders.part_of(w)
        if senders.pool is not None and senders.pool_state == "open":
            expected[f"pool{senders.pool_life}"] += senders.pool.stats().idle
        actual = Counter(line["name"] for line in await clients(w) if line["name"])
        return +expected == actual or f"the server has {dict(actual)}, the model {dict(+expected)}"

    await eventually(w, "connections", "at rest", agree)


async def check_end(w: World, bounded: Bounded) -> None:
    """End everything, and look at what is left."""
    for member in api_streams.part_of(w).members:
        if member.state != "ended":
            running = api_members.end_member(w, member)
            await bounded(Call(f"{member.name} leaves at the end", running, END_S + 2 * CALL_S))
    for each in api_work.part_of(w).members:
        if each.state != "ended":
            await bounded(
                Call(
                    f"{each.name} leaves at the end",
                    api_work.end_in_order(each),
                    END_S + 2 * CALL_S,
                )
            )
    for listener in w.part("pubsub", api_pubsub.PubSub).listeners:
        if listener.task is not None and not listener.task.done():
            await bounded(Call("leave at the end", end_listener(listener), END_S + 3 * CALL_S))
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

    await eventually(w, "socket left", "at the end", all_gone, 3.0)
    if "keys" not in w.without:
        keys = [key for key in await w.admin("KEYS", "*") if not key.startswith(w.prefix.encode())]
        if keys:
            raise Violation("keys", f"not under the prefix: {keys}")
    if "consumers" not in w.without:
        await _consumers(w)


async def _consumers(w: World) -> None:
    part = api_streams.part_of(w)
    for model in part.streams.values():
        for group in model.groups.values():
            raws = (
                await w.admin("XINFO", "CONSUMERS", w.prefix + model.name, group.name)
                if group.is_made
                else []
            )
            names = (
                {pairs(raw)["name"].decode() for raw in raws} if isinstance(raws, list) else set()
            )
            for name in names:
                lives = [each for each in part.members if each.group is group and each.name == name]
                if lives and max(lives, key=lambda each: each.ended_at).left_well:
                    raise Violation(
                        "consumers",
                        f"{name} left {model.name}/{group.name} in good order and is still there",
                    )


_AT_REST: dict[str, Callable[[World, Bounded], Awaitable[None]]] = {
    "works": _works,
    "pubsub": _pubsub,
    "streams": data.streams,
    "once": data.once,
    "ordered": data.ordered,
    "batch": data.batch,
    "pool": data.pool,
    "connections": _connections,
}
