"""Faults for schedules: each begins at its step and lasts for a moment, while the next steps go on.

At most one fault of the whole server at a time. At rest all of them are over.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

from mpim_lab.lab.faults.proxy import Match
from mpim_lab.soak.api.world import Call, World, pick

_LAST_S = (0.005, 0.03, 0.03, 0.12, 0.12, 0.6)  # the last: longer than a time-out


def _lasting(
    name: str, begin: Callable[[World], Any], end: Callable[[World], Any]
) -> Callable[..., Call | None]:
    """An action: begin, and end after a moment."""

    def action(w: World, rng: random.Random) -> Call | None:
        lasts_s = rng.choice(_LAST_S)
        if w.fault:
            return None
        w.fault = name
        w.faults += 1

        async def fault() -> None:
            try:
                if isinstance(begun := begin(w), Awaitable):
                    await begun
                await asyncio.sleep(lasts_s)
            finally:
                if isinstance(ended := end(w), Awaitable):
                    await ended

        def done(outcome: Any) -> None:
            w.fault = ""

        return Call(
            f"FAULT {name} for {lasts_s * 1e3:.0f} ms",
            fault(),
            12.0,
            done,
            modes=("aside",),
            is_judged=False,
        )

    return action


def cut(w: World, rng: random.Random) -> Call | None:
    """Cut one connection of ours (CLIENT KILL), or all of them."""
    number, everything = rng.randrange(1_000), rng.random() < 0.2
    if w.fault:
        return None

    async def cutting() -> None:
        w.faults += 1
        ids = sorted(
            (each["name"], each["id"]) for each in await clients(w) if each["name"] in w.names
        )
        ids = ids[number % len(ids) :] if ids else []
        for _, client_id in ids if everything else ids[:1]:
            await w.admin("CLIENT", "KILL", "ID", client_id)

    return Call(
        f"FAULT cut {'all' if everything else number}",
        cutting(),
        5.0,
        modes=("wait",),
        is_judged=False,
    )


async def clients(w: World) -> list[dict[str, str]]:
    """CLIENT LIST, without the asking connection."""
    text = (await w.admin("CLIENT", "LIST")).decode()
    lines = [
        dict(word.partition("=")[::2] for word in line.split(" ")) for line in text.splitlines()
    ]
    return [line for line in lines if "client" not in line.get("cmd", "")]


def lose(w: World, rng: random.Random) -> Call | None:
    """Break the second queue's line at one of its next commands.

    Before the server has it, or before its answer.
    """
    which = rng.choice(("drop_request", "drop_reply"))
    name = rng.choice((None, "XADD", "EVALSHA", "XREADGROUP", "SUBSCRIBE", "XACK"))
    w.is_armed = True
    getattr(w.proxy, which)(Match(name))
    return Call(f"FAULT proxy.{which}({name})", asyncio.sleep(0), modes=("wait",))


def release(w: World, rng: random.Random) -> Call | None:
    """Let handlers go on that hang."""
    if pick(rng, [True, False]) is None:
        return None
    w.released.set()
    w.released = asyncio.Event()
    return Call("release the handlers that hang", asyncio.sleep(0), modes=("wait",))


def _no_more(w: World) -> Any:
    return w.admin("REPLICAOF", "NO", "ONE")


FAULT_ACTIONS = {
    "kill": (_lasting("kill", lambda w: w.server.kill(), lambda w: w.server.start()), 2),
    "pause": (_lasting("pause", lambda w: w.server.pause(), lambda w: w.server.resume()), 3),
    "readonly": (_lasting("readonly", lambda w: w.admin("REPLICAOF", "127.0.0.1", 1), _no_more), 2),
    "oom": (
        _lasting(
            "oom",
            lambda w: w.admin("CONFIG", "SET", "maxmemory", 1),
            lambda w: w.admin("CONFIG", "SET", "maxmemory", 0),
        ),
        1,
    ),
    "partition": (
        _lasting("partition", lambda w: w.proxy.partition(), lambda w: w.proxy.heal()),
        2,
    ),
    "cut": (cut, 4),
    "lose": (lose, 3),
    "release": (release, 2),
}
