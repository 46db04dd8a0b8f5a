"""Reference solutions of chapter 8's challenges."""

import asyncio
import heapq
import json
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from mpim_lab.errors import StoreFailed

UNBIND = 'if redis.call("GET", KEYS[1]) == ARGV[1] then redis.call("DEL", KEYS[1]) end'
RENEW = 'if redis.call("GET", KEYS[1]) == ARGV[1] then redis.call("PEXPIRE", KEYS[1], ARGV[2]) end'
BIND_HASH = """
redis.call("DEL", KEYS[1])
redis.call("HSET", KEYS[1], "gateway", ARGV[1], "connection", ARGV[2])
redis.call("PEXPIRE", KEYS[1], ARGV[3])
"""
IF_MINE = """
local found = redis.call("HMGET", KEYS[1], "gateway", "connection")
if found[1] == ARGV[1] and found[2] == ARGV[2] then redis.call("PEXPIRE", KEYS[1], ARGV[3]) end
"""
Call = Callable[..., Awaitable[Any]]


class OwnedRoutes:
    """The solution of `routes_without_ghosts`: the value says whose route it is.

    The server compares and changes it in one command. The value is JSON: whatever is in a name, no
    two pairs of gateway and connection look the same.
    """

    def __init__(self, call: Call, lifetime_s: float) -> None:
        self.call, self.ms = call, int(lifetime_s * 1000)

    async def bind(self, uid: str, gateway: str, connection: str) -> None:
        """Set the user's route, with a lifetime."""
        await self.call("SET", f"route:{uid}", json.dumps([gateway, connection]), "PX", self.ms)

    async def unbind(self, uid: str, gateway: str, connection: str) -> None:
        """Delete the route if it is still this connection's."""
        await self.call("EVAL", UNBIND, 1, f"route:{uid}", json.dumps([gateway, connection]))

    async def renew(self, uid: str, gateway: str, connection: str) -> None:
        """Renew the route's lifetime if it is still this connection's."""
        mine = json.dumps([gateway, connection])
        await self.call("EVAL", RENEW, 1, f"route:{uid}", mine, self.ms)

    async def where(self, uid: str) -> str | None:
        """Return the gateway where the user is connected, or None."""
        found = await self.call("GET", f"route:{uid}")
        return json.loads(found)[0] if found else None


class WatchedRoutes(OwnedRoutes):
    """Another solution of `routes_without_ghosts`: a transaction, void if somebody came in between.

    Then it looks again: it may have been a renew of the same route. A transaction belongs to the
    connection, not to the caller, so a lock keeps the other callers of this object out.
    """

    def __init__(self, call: Call, lifetime_s: float) -> None:
        super().__init__(call, lifetime_s)
        self.lock = asyncio.Lock()

    async def bind(self, uid: str, gateway: str, connection: str) -> None:
        """As the reference, while no transaction is open."""
        async with self.lock:
            await super().bind(uid, gateway, connection)

    async def unbind(self, uid: str, gateway: str, connection: str) -> None:
        """Delete the route if it is mine, and stays so until it is deleted."""
        await self.if_mine(uid, gateway, connection, "DEL", f"route:{uid}")

    async def renew(self, uid: str, gateway: str, connection: str) -> None:
        """Renew the route's lifetime if it is mine, and stays so until then."""
        await self.if_mine(uid, gateway, connection, "PEXPIRE", f"route:{uid}", self.ms)

    async def where(self, uid: str) -> str | None:
        """As the reference, while no transaction is open."""
        async with self.lock:
            return await super().where(uid)

    async def if_mine(self, uid: str, gateway: str, connection: str, *command: Any) -> None:
        """Run a command if the route is this connection's."""
        async with self.lock:
            while True:
                await self.call("WATCH", f"route:{uid}")
                if await self.call("GET", f"route:{uid}") != json.dumps([gateway, connection]):
                    await self.call("UNWATCH")
                    return
                await self.call("MULTI")
                await self.call(*command)
                if await self.call("EXEC") is not None:
                    return


class HashRoutes:
    """Another solution of `routes_without_ghosts`: a hash, which people can read in a terminal.

    It needs a script for the bind, too: a hash and its lifetime are two commands.
    """

    def __init__(self, call: Call, lifetime_s: float) -> None:
        self.call, self.ms = call, round(lifetime_s * 1000)

    async def bind(self, uid: str, gateway: str, connection: str) -> None:
        """Write the hash and its lifetime."""
        await self.call("EVAL", BIND_HASH, 1, f"route:{uid}", gateway, connection, self.ms)

    async def unbind(self, uid: str, gateway: str, connection: str) -> None:
        """End the lifetime if it is mine."""
        await self.call("EVAL", IF_MINE, 1, f"route:{uid}", gateway, connection, 0)

    async def renew(self, uid: str, gateway: str, connection: str) -> None:
        """Begin the lifetime anew if it is mine."""
        await self.call("EVAL", IF_MINE, 1, f"route:{uid}", gateway, connection, self.ms)

    async def where(self, uid: str) -> str | None:
        """Read one field."""
        found: str | None = await self.call("HGET", f"route:{uid}", "gateway")
        return found


Pipeline = Callable[[Iterable[Sequence[Any]]], Awaitable[list[Any]]]
Store = Callable[[Iterable[str], str], Awaitable[None]]


class GroupFanOut:
    """The solution of `tell_the_whole_group`: each member's outcome is kept until all have it."""

    def __init__(self, pipeline: Pipeline, store: Store) -> None:
        self.pipeline, self.store = pipeline, store
        self.became: dict[str, dict[str, str]] = {}

    async def send(self, members: Sequence[str], message: str) -> dict[str, list[str]]:
        """Push to every member that does not have the message, store it for those away.

        Return who got it how.
        """
        everybody = list(dict.fromkeys(members))  # each once, also who is listed twice
        became = self.became.setdefault(message, {})
        rest = [uid for uid in everybody if became.get(uid, "failed") == "failed"]
        replies = await self.pipeline([("PUBLISH", f"user:{uid}", message) for uid in rest])
        for uid, reply in zip(rest, replies, strict=True):
            if isinstance(reply, Exception):
                became[uid] = "failed"
            else:
                became[uid] = "pushed" if reply else "away"
        await self.keep(became, message)
        if all(became[uid] != "failed" for uid in everybody):
            del self.became[message]
        return {
            word: [uid for uid in everybody if became[uid] == word]
            for word in ("pushed", "stored", "failed")
        }

    async def keep(self, became: dict[str, str], message: str) -> None:
        """Store the message for those away, in one transaction."""
        away = [uid for uid in became if became[uid] == "away"]
        if not away:
            return
        try:
            await self.store(away, message)
            became.update(dict.fromkeys(away, "stored"))
        except StoreFailed:
            became.update(dict.fromkeys(away, "failed"))


class RememberingFanOut:
    """Another solution of `tell_the_whole_group`: a set of who has the message, and no word of how.

    It is smaller; a repeat reports only what this very call has done.
    """

    def __init__(self, pipeline: Pipeline, store: Store) -> None:
        self.pipeline, self.store = pipeline, store
        self.has: dict[str, set[str]] = {}

    async def send(self, members: Sequence[str], message: str) -> dict[str, set[str]]:
        """Push to those who are not in the set."""
        has = self.has.setdefault(message, set())
        rest = [*{*members} - has]
        if not rest:
            return {"pushed": set(), "stored": set(), "failed": set()}
        replies = await self.pipeline(("PUBLISH", "user:" + uid, message) for uid in rest)
        answers = dict(zip(rest, replies, strict=True))
        failed = {uid for uid in rest if not isinstance(answers[uid], int)}
        pushed = {uid for uid in {*rest} - failed if answers[uid] > 0}
        stored = {*rest} - failed - pushed
        if stored:
            try:
                await self.store(stored, message)
            except StoreFailed:
                failed, stored = failed | stored, set()
        has |= pushed | stored
        return {"pushed": pushed, "stored": stored, "failed": failed}


class OrderedClientReader:
    """The solution of `read_in_order`: two numbers, and what came early."""

    def __init__(self, ask: Callable[[int], None]) -> None:
        self.ask, self.shown, self.known, self.is_asking = ask, 0, 0, False
        self.early: dict[int, str] = {}

    def push(self, number: int, text: str) -> list[str]:
        """Receive a push; return the texts to show now."""
        return self.receive([(number, text)], number)

    def page(self, messages: Sequence[tuple[int, str]], last: int) -> list[str]:
        """Receive the answer to `ask`; return the texts to show now."""
        self.is_asking = False
        return self.receive(messages, last)

    def last(self, number: int) -> None:
        """Note how far the conversation is."""
        self.receive([], number)

    def receive(self, messages: Sequence[tuple[int, str]], last: int) -> list[str]:
        """Keep what is new, and return what can be shown in order."""
        self.known = max(self.known, last)
        self.early.update((number, text) for number, text in messages if number > self.shown)
        ready = []
        while self.shown + 1 in self.early:
            self.shown += 1
            ready.append(self.early.pop(self.shown))
        self.ask_for_missing()
        return ready

    def ask_for_missing(self) -> None:
        """Ask once for what is missing; the page is the answer."""
        if self.known > self.shown and not self.is_asking:
            self.is_asking = True
            self.ask(self.shown)


class HeapReader:
    """Another solution of `read_in_order`: a heap, and what is asked for in place of a flag.

    A heap keeps repeats; they are thrown away when their turn comes.
    """

    def __init__(self, ask: Callable[[int], None]) -> None:
        self.ask, self.next, self.end = ask, 1, 1
        self.heap: list[tuple[int, str]] = []
        self.asked_for: int | None = None

    def push(self, number: int, text: str) -> list[str]:
        """Take in one message."""
        return self.receive(((number, text),), number)

    def page(self, messages: Sequence[tuple[int, str]], last: int) -> list[str]:
        """Take in many; nothing is asked for any more."""
        self.asked_for = None
        return self.receive(messages, last)

    def last(self, number: int) -> None:
        """Take in none."""
        self.receive((), number)

    def receive(self, messages: Sequence[tuple[int, str]], last: int) -> list[str]:
        """Push all, pop what is late or next, ask for the rest."""
        self.end = max(self.end, last + 1)
        for each in messages:
            heapq.heappush(self.heap, each)
        ready = []
        while self.heap and self.heap[0][0] <= self.next:
            number, text = heapq.heappop(self.heap)
            if number == self.next:
                ready.append(text)
                self.next += 1
        if self.next < self.end and self.asked_for is None:
            self.asked_for = self.next
            self.ask(self.next - 1)
        return ready


SOLUTIONS: dict[str, type[Any]] = {
    "routes_without_ghosts": OwnedRoutes,
    "tell_the_whole_group": GroupFanOut,
    "read_in_order": OrderedClientReader,
}
ALTERNATIVES: dict[str, tuple[type[Any], ...]] = {
    "routes_without_ghosts": (WatchedRoutes, HashRoutes),
    "tell_the_whole_group": (RememberingFanOut,),
    "read_in_order": (HeapReader,),
}
