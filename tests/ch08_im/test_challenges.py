"""Chapter 8's first challenge: right routes pass, wrong ones break a guarantee."""

import asyncio
import contextlib
import json
import time

import pytest

from mpim_lab.chapters.ch08_im.challenges import routes_without_ghosts
from mpim_lab.chapters.ch08_im.solutions import (
    ALTERNATIVES,
    SOLUTIONS,
    HashRoutes,
    OwnedRoutes,
    WatchedRoutes,
)
from tests.challenges import (
    assert_fails,
    assert_hints_come_one_at_a_time,
    assert_passes,
    first_always,
)


class NaiveRoutes(OwnedRoutes):
    """3,600 s, an unbind that does not look, and no heartbeat."""

    async def bind(self, uid, gateway, connection):
        await self.call("SET", f"route:{uid}", gateway, "EX", 3600)

    async def unbind(self, uid, gateway, connection):
        await self.call("DEL", f"route:{uid}")

    async def renew(self, uid, gateway, connection):
        pass

    async def where(self, uid):
        return await self.call("GET", f"route:{uid}")


class ComparesGatewaysOnly(OwnedRoutes):
    async def bind(self, uid, gateway, connection):
        await super().bind(uid, gateway, "")

    async def unbind(self, uid, gateway, connection):
        await super().unbind(uid, gateway, "")

    async def renew(self, uid, gateway, connection):
        await super().renew(uid, gateway, "")


class NeverUnbinds(OwnedRoutes):
    async def unbind(self, uid, gateway, connection):
        pass


class BindsAgainToRenew(OwnedRoutes):
    async def renew(self, uid, gateway, connection):
        await self.bind(uid, gateway, connection)


class LivesForAnHour(OwnedRoutes):
    def __init__(self, call, lifetime_s):
        super().__init__(call, 3600)


class NeverRenews(OwnedRoutes):
    async def renew(self, uid, gateway, connection):
        pass


class RenewsWhateverIsThere(OwnedRoutes):
    async def renew(self, uid, gateway, connection):
        await self.call("PEXPIRE", f"route:{uid}", self.ms)


class ComparesThenDeletes(OwnedRoutes):
    async def unbind(self, uid, gateway, connection):
        if await self.call("GET", f"route:{uid}") == json.dumps([gateway, connection]):
            await self.call("DEL", f"route:{uid}")


class BindsInTwoCommands(HashRoutes):
    """A hash, and then its lifetime: who dies in between leaves it for ever."""

    async def bind(self, uid, gateway, connection):
        await self.call("HSET", f"route:{uid}", "gateway", gateway, "connection", connection)
        await self.call("PEXPIRE", f"route:{uid}", self.ms)


class DeletesThenBinds(OwnedRoutes):
    """While a user moves she is nowhere."""

    async def bind(self, uid, gateway, connection):
        await self.call("DEL", f"route:{uid}")
        await super().bind(uid, gateway, connection)


class ComparesThenRenews(OwnedRoutes):
    async def renew(self, uid, gateway, connection):
        if await self.call("GET", f"route:{uid}") == json.dumps([gateway, connection]):
            await self.bind(uid, gateway, connection)


class RenewsInTwoCommands(OwnedRoutes):
    """Takes the lifetime away, and gives a new one."""

    async def renew(self, uid, gateway, connection):
        if await self.call("GET", f"route:{uid}") == json.dumps([gateway, connection]):
            await self.call("PERSIST", f"route:{uid}")
            await self.call("PEXPIRE", f"route:{uid}", self.ms)


class RenewsWhatIsOver(OwnedRoutes):
    """Sets it again if nobody else has."""

    async def renew(self, uid, gateway, connection):
        mine = json.dumps([gateway, connection])
        await self.call("SET", f"route:{uid}", mine, "NX", "PX", self.ms)
        await super().renew(uid, gateway, connection)


class BindsIfNobodyHas(OwnedRoutes):
    async def bind(self, uid, gateway, connection):
        mine = json.dumps([gateway, connection])
        await self.call("SET", f"route:{uid}", mine, "NX", "PX", self.ms)


class CountsInWholeSeconds(OwnedRoutes):
    async def bind(self, uid, gateway, connection):
        mine = json.dumps([gateway, connection])
        await self.call("SET", f"route:{uid}", mine, "EX", max(1, self.ms // 1000))


class LivesTooShort(OwnedRoutes):
    def __init__(self, call, lifetime_s):
        super().__init__(call, 0.7 * lifetime_s)


class RenewsForASecond(OwnedRoutes):
    async def renew(self, uid, gateway, connection):
        ms, self.ms = self.ms, 1000
        await super().renew(uid, gateway, connection)
        self.ms = ms


class KeepsRoutesInItsOwnMemory(OwnedRoutes):
    """What one gateway remembers, no other knows."""

    def __init__(self, call, lifetime_s):
        self.routes = {}

    async def bind(self, uid, gateway, connection):
        self.routes[uid] = gateway

    async def unbind(self, uid, gateway, connection):
        self.routes.pop(uid, None)

    async def renew(self, uid, gateway, connection):
        pass

    async def where(self, uid):
        return self.routes.get(uid)


class RemembersForASecond(OwnedRoutes):
    """A cache of what was found."""

    def __init__(self, call, lifetime_s):
        super().__init__(call, lifetime_s)
        self.cache = {}

    async def where(self, uid):
        found, until = self.cache.get(uid, (None, 0))
        if time.monotonic() > until:
            found = await super().where(uid)
            self.cache[uid] = (found, time.monotonic() + 1)
        return found


class LocksInPython(ComparesThenDeletes):
    """One lock for all objects, as if gateways were tasks of one process."""

    locks = {}

    async def bind(self, uid, gateway, connection):
        async with self.locks.setdefault("", asyncio.Lock()):
            await super().bind(uid, gateway, connection)

    async def unbind(self, uid, gateway, connection):
        async with self.locks.setdefault("", asyncio.Lock()):
            await super().unbind(uid, gateway, connection)


class LocksWithoutEnd(ComparesThenDeletes):
    """A lock on the server: who dies with it stops everybody."""

    async def locked(self, work):
        while not await self.call("SETNX", "lock", 1):
            await asyncio.sleep(0.01)
        try:
            await work
        finally:
            await self.call("DEL", "lock")

    async def bind(self, uid, gateway, connection):
        await self.locked(super().bind(uid, gateway, connection))

    async def unbind(self, uid, gateway, connection):
        await self.locked(super().unbind(uid, gateway, connection))


class SplitsAtTheSpace(OwnedRoutes):
    """The old reference."""

    async def bind(self, uid, gateway, connection):
        await self.call("SET", f"route:{uid}", f"{gateway} {connection}", "PX", self.ms)

    async def unbind(self, uid, gateway, connection):
        if await self.call("GET", f"route:{uid}") == f"{gateway} {connection}":
            await self.call("PEXPIRE", f"route:{uid}", 0)

    async def where(self, uid):
        found = await self.call("GET", f"route:{uid}")
        return found.split()[0] if found else None


class SplitsAtTheFirstColon(OwnedRoutes):
    """A gateway named host:port is found as host."""

    async def where(self, uid):
        found = await super().where(uid)
        return found and found.partition(":")[0]


class LooksAtItsOwnClock(OwnedRoutes):
    """The end is in the value; whoever finds it over deletes it, in two commands."""

    async def bind(self, uid, gateway, connection):
        value = json.dumps([gateway, connection, time.time() + self.ms / 1e3])
        await self.call("SET", f"route:{uid}", value)

    async def found(self, uid):
        found = await self.call("GET", f"route:{uid}")
        if found and json.loads(found)[2] < time.time():
            await self.call("DEL", f"route:{uid}")
            return None
        return found

    async def unbind(self, uid, gateway, connection):
        if (found := await self.found(uid)) and json.loads(found)[:2] == [gateway, connection]:
            script = 'if redis.call("GET", KEYS[1]) == ARGV[1] then redis.call("DEL", KEYS[1]) end'
            await self.call("EVAL", script, 1, f"route:{uid}", found)

    async def renew(self, uid, gateway, connection):
        if (found := await self.found(uid)) and json.loads(found)[:2] == [gateway, connection]:
            value = json.dumps([gateway, connection, time.time() + self.ms / 1e3])
            script = (
                'if redis.call("GET", KEYS[1]) == ARGV[1]'
                ' then redis.call("SET", KEYS[1], ARGV[2]) end'
            )
            await self.call("EVAL", script, 1, f"route:{uid}", found, value)

    async def where(self, uid):
        found = await self.found(uid)
        return json.loads(found)[0] if found else None


class WatchesWithoutALock(WatchedRoutes):
    """Two callers on one connection are in each other's transaction."""

    def __init__(self, call, lifetime_s):
        super().__init__(call, lifetime_s)
        self.lock = contextlib.nullcontext()


class UnbindsByTheRenewal(OwnedRoutes):
    """What has ended is not renewed, and so it is over soon."""

    def __init__(self, call, lifetime_s):
        super().__init__(call, lifetime_s)
        self.ended = set()

    async def unbind(self, uid, gateway, connection):
        self.ended.add(connection)

    async def renew(self, uid, gateway, connection):
        if connection not in self.ended:
            await super().renew(uid, gateway, connection)


class LooksBeforeItBinds(OwnedRoutes):
    """Only if it is not bound already: otherwise the route would be written for nothing."""

    async def bind(self, uid, gateway, connection):
        if await self.where(uid) != gateway:
            await super().bind(uid, gateway, connection)


class UnbindsWithoutAwait(OwnedRoutes):
    """In the background; the connection's end should not wait for it."""

    async def unbind(self, uid, gateway, connection):
        async def later():
            await asyncio.sleep(0.05)
            await OwnedRoutes.unbind(self, uid, gateway, connection)

        self.task = asyncio.create_task(later())


class SwallowsErrors(OwnedRoutes):
    async def unbind(self, uid, gateway, connection):
        with contextlib.suppress(Exception):
            await super().unbind(uid, gateway, connection)


class OneRouteForAll(OwnedRoutes):
    async def bind(self, uid, gateway, connection):
        await super().bind(uid.partition(":")[0], gateway, connection)

    async def where(self, uid):
        return await super().where(uid.partition(":")[0])


class GivesTheConnection(OwnedRoutes):
    async def where(self, uid):
        found = await self.call("GET", f"route:{uid}")
        return json.loads(found)[1] if found else None


class RaisesForNobody(OwnedRoutes):
    async def where(self, uid):
        return json.loads(await self.call("GET", f"route:{uid}"))[0]


WRONG = {
    KeepsRoutesInItsOwnMemory: 1,
    NeverUnbinds: 2,
    BindsAgainToRenew: 3,
    LivesForAnHour: 4,
    LocksWithoutEnd: (1, 3, 4, 5),
    NaiveRoutes: (2, 3, 4),
    ComparesGatewaysOnly: 3,
    NeverRenews: 4,
    RenewsWhateverIsThere: (3, 4),
    ComparesThenDeletes: 3,
    BindsInTwoCommands: (3, 4),
    DeletesThenBinds: (1, 3, 4),
    ComparesThenRenews: (2, 3, 4),
    RenewsInTwoCommands: (2, 3, 4),
    RenewsWhatIsOver: (2, 3),
    BindsIfNobodyHas: (1, 3),
    CountsInWholeSeconds: 4,
    LivesTooShort: 4,
    RenewsForASecond: 4,
    RemembersForASecond: (1, 2, 3, 4),
    LocksInPython: 3,
    SplitsAtTheSpace: (1, 2, 3, 4),
    SplitsAtTheFirstColon: 1,
    LooksAtItsOwnClock: (1, 2, 3, 4),
    WatchesWithoutALock: (0, 1, 2, 3, 4),
    UnbindsByTheRenewal: 2,
    LooksBeforeItBinds: (1, 2, 3),
    UnbindsWithoutAwait: (2, 3, 4),
    SwallowsErrors: (2, 3, 4),
    OneRouteForAll: (1, 2, 3, 4),
    GivesTheConnection: 1,
    RaisesForNobody: 0,
}


@pytest.mark.parametrize(
    "good", [SOLUTIONS["routes_without_ghosts"], *ALTERNATIVES["routes_without_ghosts"]]
)
async def test_right_routes_pass(good):
    """By a script, by WATCH, MULTI and EXEC, as text or as a hash."""
    await assert_passes(routes_without_ghosts, good)


@pytest.mark.parametrize(("bad", "guarantee"), first_always(WRONG, 5))
async def test_wrong_routes_fail(bad, guarantee):
    """Every time, with the guarantee that they break."""
    await assert_fails(routes_without_ghosts, bad, guarantee)


def test_hints_come_one_at_a_time():
    """The last one stays."""
    assert_hints_come_one_at_a_time(routes_without_ghosts())
