"""Faults for schedules: each begins at its step and lasts for a moment, while the next steps go on.

At most one fault of the whole server at a time. At rest all of them are over.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

from mpim_lab.lab.faults.proxy import Match
from mpim_lab.soak.api.world import Action, Call, Outcome, World

_LAST_S = (0.005, 0.03, 0.03, 0.12, 0.12, 0.6)  # the last: longer than a time-out
_DROPS = ("drop_request", "drop_reply")
_COMMANDS = (None, "XADD", "EVALSHA", "XREADGROUP", "SUBSCRIBE", "XACK")
# name → weight, how it begins, how it ends
_LASTING: dict[str, tuple[int, Callable[[World], Any], Callable[[World], Any]]] = {
    "kill": (2, lambda w: w.server.kill(), lambda w: w.server.start()),
    "pause": (3, lambda w: w.server.pause(), lambda w: w.server.resume()),
    "partition": (2, lambda w: w.proxy.partition(), lambda w: w.proxy.heal()),
    "readonly": (
        2,
        lambda w: w.admin("REPLICAOF", "127.0.0.1", 1),
        lambda w: w.admin("REPLICAOF", "NO", "ONE"),
    ),
    "oom": (
        1,
        lambda w: w.admin("CONFIG", "SET", "maxmemory", 1),
        lambda w: w.admin("CONFIG", "SET", "maxmemory", 0),
    ),
}


def _lasting(name: str, begin: Callable[[World], Any], end: Callable[[World], Any]) -> Action:
    """Make an action: begin, and end after a moment."""

    def action(w: World, rng: random.Random) -> Call | None:
        lasts_s = rng.choice(_LAST_S)
        if w.fault:
            return None
        w.fault = name
        w.faults += 1

        async def fault() -> None:
            try:
                await _done(begin(w))
                await asyncio.sleep(lasts_s)
            finally:
                await _done(end(w))

        def over(outcome: Outcome) -> None:
            w.fault = ""

        text = f"FAULT {name} for {lasts_s * 1e3:.0f} ms"
        return Call(text, fault(), 12.0, over, ("aside",), is_judged=False)

    return action


async def _done(begun: Any) -> None:
    if isinstance(begun, Awaitable):
        await begun


def cut(w: World, rng: random.Random) -> Call | None:
    """Cut one connection of ours (CLIENT KILL), or all of them."""
    number, everything = rng.randrange(1_000), rng.random() < 0.2
    if w.fault:
        return None

    async def cutting() -> None:
        w.faults += 1
        ours = [each for each in await clients(w) if each["name"] in w.names]
        ids = sorted((each["name"], each["id"]) for each in ours)
        ids = ids[number % len(ids) :] if ids else []
        for _, client_id in ids if everything else ids[:1]:
            await w.admin("CLIENT", "KILL", "ID", client_id)

    text = f"FAULT cut {'all' if everything else number}"
    return Call(text, cutting(), 5.0, modes=("wait",), is_judged=False)


async def clients(w: World) -> list[dict[str, str]]:
    """Read CLIENT LIST, without the asking connection."""
    text = (await w.admin("CLIENT", "LIST")).decode()
    lines = [
        dict(word.partition("=")[::2] for word in line.split(" ")) for line in text.split("\n")
    ]
    return [line for line in lines if "name" in line and "client" not in line.get("cmd", "")]


def lose(w: World, rng: random.Random) -> Call:
    """Break the second queue's line at one of its next commands.

    Before the server has it, or before its answer.
    """
    which, command = rng.choice(_DROPS), rng.choice(_COMMANDS)
    w.is_armed = True
    getattr(w.proxy, which)(Match(command))
    return Call(f"FAULT proxy.{which}({command})", asyncio.sleep(0), modes=("wait",))


def release(w: World, rng: random.Random) -> Call:
    """Let handlers go on that hang."""
    w.released.set()
    w.released = asyncio.Event()
    return Call("release the handlers that hang", asyncio.sleep(0), modes=("wait",))


FAULT_ACTIONS: dict[str, tuple[Action, int]] = {
    **{name: (_lasting(name, begin, end), n) for name, (n, begin, end) in _LASTING.items()},
    "cut": (cut, 4),
    "lose": (lose, 3),
    "release": (release, 2),
}
