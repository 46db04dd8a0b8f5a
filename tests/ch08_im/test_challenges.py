"""Chapter 8's first challenge: right solutions pass, every known-bad one is caught."""

import asyncio
import contextvars

from mpim_lab.chapters.ch08_im.challenges import routes_without_ghosts
from mpim_lab.chapters.ch08_im.solutions import OwnedRoutes
from tests.legacy_challenges import (
    assert_all_pass,
    assert_each_fails,
    assert_hints_come_one_at_a_time,
)
from tests.support import REPEATS

LUA_HASH = (
    'if redis.call("HGET", KEYS[1], "connection") == ARGV[1] then redis.call("DEL", KEYS[1]) end'
)
LUA_KEEP = (
    'if redis.call("HGET", KEYS[1], "connection") == ARGV[1] '
    'then redis.call("PEXPIRE", KEYS[1], ARGV[2]) end'
)


class WatchedRoutes(OwnedRoutes):
    """As right as the reference: the transaction is void if somebody came in between."""

    async def unbind(self, uid, gateway, connection):
        await self.if_mine(uid, f"{gateway} {connection}", "DEL", f"route:{uid}")

    async def renew(self, uid, gateway, connection):
        await self.if_mine(uid, f"{gateway} {connection}", "PEXPIRE", f"route:{uid}", self.ms)

    async def if_mine(self, uid, mine, *command):
        await self.call("WATCH", f"route:{uid}")
        if await self.call("GET", f"route:{uid}") != mine:
            await self.call("UNWATCH")
            return
        await self.call("MULTI")
        await self.call(*command)
        await self.call("EXEC")


class NaiveRoutes(OwnedRoutes):
    """The naive twin: 3,600 s, an unbind that does not look, and no heartbeat."""

    async def bind(self, uid, gateway, connection):
        await self.call("SET", f"route:{uid}", gateway, "EX", 3600)

    async def unbind(self, uid, gateway, connection):
        await self.call("DEL", f"route:{uid}")

    async def renew(self, uid, gateway, connection):
        pass


class ComparesGatewaysOnly(NaiveRoutes):
    async def unbind(self, uid, gateway, connection):
        if await self.call("GET", f"route:{uid}") == gateway:
            await self.call("DEL", f"route:{uid}")


class NeverUnbinds(OwnedRoutes):
    """The lifetime will see to it."""

    async def unbind(self, uid, gateway, connection):
        pass


class BindsAgainToRenew(OwnedRoutes):
    """The old gateway's heartbeat takes the route back."""

    async def renew(self, uid, gateway, connection):
        await self.bind(uid, gateway, connection)


class LivesForAnHour(OwnedRoutes):
    """As the notes have it."""

    def __init__(self, call, lifetime_s):
        super().__init__(call, 3600)


class NeverRenews(OwnedRoutes):
    async def renew(self, uid, gateway, connection):
        pass


class RenewsWhateverIsThere(OwnedRoutes):
    """So that the heartbeat of an old gateway keeps a dead one's route."""

    async def renew(self, uid, gateway, connection):
        await self.call("PEXPIRE", f"route:{uid}", self.ms)


class ComparesThenDeletes(OwnedRoutes):
    """In two commands."""

    async def unbind(self, uid, gateway, connection):
        if await self.call("GET", f"route:{uid}") == f"{gateway} {connection}":
            await self.call("DEL", f"route:{uid}")


class BindsInTwoCommands(OwnedRoutes):
    """A hash, and then its lifetime: who dies in between leaves it for ever."""

    async def bind(self, uid, gateway, connection):
        await self.call("HSET", f"route:{uid}", "gateway", gateway, "connection", connection)
        await self.call("PEXPIRE", f"route:{uid}", self.ms)

    async def unbind(self, uid, gateway, connection):
        await self.call("EVAL", LUA_HASH, 1, f"route:{uid}", connection)

    async def renew(self, uid, gateway, connection):
        await self.call("EVAL", LUA_KEEP, 1, f"route:{uid}", connection, self.ms)

    async def where(self, uid):
        return await self.call("HGET", f"route:{uid}", "gateway")


class ComparesThenRenews(OwnedRoutes):
    """In two commands."""

    async def renew(self, uid, gateway, connection):
        if await self.call("GET", f"route:{uid}") == f"{gateway} {connection}":
            await self.bind(uid, gateway, connection)


class RenewsInTwoCommands(OwnedRoutes):
    """Takes the lifetime away, and gives a new one."""

    async def renew(self, uid, gateway, connection):
        if await self.call("GET", f"route:{uid}") == f"{gateway} {connection}":
            await self.call("PERSIST", f"route:{uid}")
            await self.call("PEXPIRE", f"route:{uid}", self.ms)


class CountsInWholeSeconds(OwnedRoutes):
    async def bind(self, uid, gateway, connection):
        await self.call("SET", f"route:{uid}", f"{gateway} {connection}", "EX", self.ms // 1000)


class LivesTooShort(OwnedRoutes):
    """A gateway that renews in time comes too late."""

    def __init__(self, call, lifetime_s):
        super().__init__(call, 0.7 * lifetime_s)


class KeepsRoutesInItsOwnMemory(OwnedRoutes):
    """What one gateway remembers, no other knows."""

    def __init__(self, call, lifetime_s):
        self.routes = {}

    async def bind(self, uid, gateway, connection):
        self.routes[uid] = gateway

    async def where(self, uid):
        return self.routes.get(uid)


class LocksInPython(OwnedRoutes):
    """One lock for all objects.

    As if gateways were tasks of one process, and none of them ever died.
    """

    lock = contextvars.ContextVar("lock")  # one for each check, of which several run at once here

    def __init__(self, call, lifetime_s):
        super().__init__(call, lifetime_s)
        if self.lock.get(None) is None:
            self.lock.set(asyncio.Lock())

    async def bind(self, uid, gateway, connection):
        async with self.lock.get():
            await super().bind(uid, gateway, connection)

    async def unbind(self, uid, gateway, connection):
        async with self.lock.get():
            if await self.call("GET", f"route:{uid}") == f"{gateway} {connection}":
                await self.call("DEL", f"route:{uid}")


async def test_right_solutions_pass_every_time(lab_server):
    """What is judged is what comes of it, not how it is written."""
    for _ in range(REPEATS):
        await assert_all_pass(
            *(routes_without_ghosts().check(each) for each in (OwnedRoutes, WatchedRoutes))
        )


async def test_routes_that_leave_ghosts_or_lose_users_fail_every_time(lab_server):
    """The outcome says who is where, and what the routes say."""
    complaints = {
        NaiveRoutes: "gw-1's late unbind was of c1, and deleted c2's route",
        ComparesGatewaysOnly: "the late unbind was of c1, and deleted c2's route",
        NeverUnbinds: "bob is a ghost: where() returned 'gw-1', and its connection was unbound",
        BindsAgainToRenew: "gw-1's late renew of c1 took the route back",
        LivesForAnHour: "its gateway was silent for more than a lifetime",
        NeverRenews: "its gateway renewed it in time",
        RenewsWhateverIsThere: "what gw-1 renewed was c1, not c2",
        ComparesThenDeletes: "gw-1's unbind of c1 and gw-2's bind met",
    }
    await assert_each_fails(routes_without_ghosts, complaints)


async def test_routes_that_are_nearly_right_fail_every_time(lab_server):
    """In two steps, in whole seconds, or for one process only."""
    complaints = {
        BindsInTwoCommands: "gw-1 died in the middle of its bind, more than a lifetime ago",
        ComparesThenRenews: "gw-1's renew of c1 and gw-2's bind met",
        RenewsInTwoCommands: "gw-1 died in the middle of its renew, more than a lifetime ago",
        CountsInWholeSeconds: "your class raised CommandRejected",
        LivesTooShort: "a quarter of its lifetime is left",
        KeepsRoutesInItsOwnMemory: "where() returned None: it was bound just now",
        LocksInPython: (
            "bind at gw-2 did not return within 3 s, "
            "while gw-1 is held up in the middle of its unbind"
        ),
    }
    await assert_each_fails(routes_without_ghosts, complaints)


async def test_a_class_that_cannot_be_used_is_told_so(lab_server):
    """Whatever it raises is the complaint."""
    assert "your class raised TypeError" in repr(await routes_without_ghosts().check(int))


def test_hints_come_one_at_a_time():
    """The last one stays."""
    assert_hints_come_one_at_a_time(routes_without_ghosts())
