"""Reference solutions of chapter 8's challenges."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from mpim_lab.errors import StoreFailed

UNBIND = 'if redis.call("GET", KEYS[1]) == ARGV[1] then redis.call("DEL", KEYS[1]) end'
RENEW = 'if redis.call("GET", KEYS[1]) == ARGV[1] then redis.call("PEXPIRE", KEYS[1], ARGV[2]) end'


class OwnedRoutes:
    """The solution of `routes_without_ghosts`: the value says whose route it is.

    The server compares it.
    """

    def __init__(self, call: Callable[..., Awaitable[Any]], lifetime_s: float) -> None:
        self.call, self.ms = call, int(lifetime_s * 1000)

    async def bind(self, uid: str, gateway: str, connection: str) -> None:
        """Set the user's route, with a lifetime."""
        await self.call("SET", f"route:{uid}", f"{gateway} {connection}", "PX", self.ms)

    async def unbind(self, uid: str, gateway: str, connection: str) -> None:
        """Delete the route if it is still this connection's."""
        await self.call("EVAL", UNBIND, 1, f"route:{uid}", f"{gateway} {connection}")

    async def renew(self, uid: str, gateway: str, connection: str) -> None:
        """Renew the route's lifetime if it is still this connection's."""
        await self.call("EVAL", RENEW, 1, f"route:{uid}", f"{gateway} {connection}", self.ms)

    async def where(self, uid: str) -> str | None:
        """Return the gateway where the user is connected, or None."""
        found: str | None = await self.call("GET", f"route:{uid}")
        return found.split()[0] if found else None


class GroupFanOut:
    """The solution of `tell_the_whole_group`: the outcome of each member is kept."""

    def __init__(
        self,
        pipeline: Callable[[Iterable[Sequence[Any]]], Awaitable[list[Any]]],
        store: Callable[[Iterable[str], str], Awaitable[None]],
    ) -> None:
        self.pipeline, self.store = pipeline, store
        self.became: dict[str, dict[str, str]] = {}

    async def send(self, members: Sequence[str], message: str) -> dict[str, list[str]]:
        """Push to every member that does not have the message, store it for those away.

        Return who got it how.
        """
        became = self.became.setdefault(message, {})
        rest = [uid for uid in members if became.get(uid, "failed") == "failed"]
        replies = await self.pipeline([("PUBLISH", f"user:{uid}", message) for uid in rest])
        for uid, reply in zip(rest, replies, strict=True):
            became[uid] = (
                "failed" if isinstance(reply, Exception) else "pushed" if reply else "away"
            )
        await self.keep(became, message)
        if "failed" not in became.values():
            del self.became[message]
        return {
            word: [uid for uid in members if became[uid] == word]
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


SOLUTIONS: dict[str, type[Any]] = {
    "routes_without_ghosts": OwnedRoutes,
    "tell_the_whole_group": GroupFanOut,
    "read_in_order": OrderedClientReader,
}
