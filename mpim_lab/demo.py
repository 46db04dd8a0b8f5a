"""Demo: `mpim-lab demo`: three gateways, four people, a group, someone away, a notice, a gateway killed; told as it happens.

Nothing is staged: every line that says what somebody reads is printed when that client is handed the message.
"""

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator

from mpim_lab.chapters.ch08_im.readers import QUICK
from mpim_lab.im.client.client import Client
from mpim_lab.im.protocol.frames import Broadcast, PresenceChanged, Sent
from mpim_lab.lab.faults.injector import until
from mpim_lab.lab.system.embedded import MpimSystem

PAUSE_S = 0.7
_COLOURS = {"alice": 36, "bob": 32, "carol": 35, "dave": 33}
_WITHIN_S = 10.0


class _Stage:
    """Who is there, and what they say of it."""

    def __init__(self, system: MpimSystem, pause_s: float) -> None:
        self.system, self._pause_s = system, pause_s
        self._begun = time.monotonic()
        self._colour = sys.stdout.isatty()
        self.read: dict[str, list[str]] = {}

    def say(self, text: str, who: str = "") -> None:
        """One line of the story, with the seconds since it began."""
        name = f"{who:>7} " if who else "        "
        if self._colour and who in _COLOURS:
            name = f"\x1b[{_COLOURS[who]}m{name}\x1b[0m"
        elif self._colour and not who:
            text = f"\x1b[1m{text}\x1b[0m"
        print(f"{time.monotonic() - self._begun:5.1f} s {name}{text}", flush=True)

    async def act(self, title: str) -> None:
        """The next scene."""
        await asyncio.sleep(self._pause_s)
        print()
        self.say(title)
        await asyncio.sleep(self._pause_s)

    @contextlib.asynccontextmanager
    async def person(self, uid: str, *gateways: str, positions: dict[str, int] | None = None) -> AsyncIterator[Client]:
        """Somebody with a client, who reads aloud."""

        def notice(told: Broadcast) -> None:
            self.say(f"sees the notice: {told.text}", uid)

        def status(told: PresenceChanged) -> None:
            self.say(f"sees that {told.uid} is {told.status}", uid)

        options = {"positions": positions, "on_broadcast": notice, "on_presence": status, "backoff": QUICK}
        async with self.system.client(uid, at=gateways, **options) as client:
            self.say(f"is connected to {client.gateway}", uid)
            reading = asyncio.create_task(self._read(uid, client))
            yield client
        await asyncio.wait([reading])

    async def _read(self, uid: str, client: Client) -> None:
        async for message in client.messages():
            self.read.setdefault(uid, []).append(message.text)
            self.say(
                f"reads “{message.text}” (number {message.sequence} of {message.conversation}, at {client.gateway})",
                uid,
            )

    async def send(self, client: Client, to: str, text: str) -> Sent:
        """Have somebody write; "#tea" is a group."""
        send = client.send_to_group(to[1:], text) if to.startswith("#") else client.send(to, text)
        sent = await send
        self.say(f"wrote “{text}” to {to}: number {sent.sequence}, {sent.status}", client.name)
        return sent

    async def has_read(self, uid: str, count: int) -> None:
        """Wait until somebody has read so many messages in all."""
        await until(lambda: len(self.read.get(uid, [])) >= count, f"{uid}'s message number {count}", _WITHIN_S)


async def demo(pause_s: float = PAUSE_S) -> int:
    """Tell the story; gives 0 if everybody read everything once."""
    async with MpimSystem(gateways=3) as system:
        stage = _Stage(system, pause_s)
        stage.say(
            "Three gateways over one server: "
            + ", ".join(f"{name} {each.url}" for name, each in system.gateways.items())
        )
        positions: dict[str, int] = {}
        async with (
            stage.person("alice", "gw-1", "gw-3") as alice,
            stage.person("bob", "gw-2", "gw-3") as bob,
            stage.person("carol", "gw-3") as carol,
        ):
            await _online(stage, alice, bob)
            await _away(stage, alice, positions)
            await _group(stage, alice, bob, positions)
            await stage.act("A system notice to everybody who is online.")
            stage.say(f"{await system.broadcast('the tea house closes at ten')} gateways have it")
            await _killed(stage, alice, bob, carol)
        return _verdict(stage)


async def _online(stage: _Stage, alice: Client, bob: Client) -> None:
    await stage.act("Alice and Bob are at different gateways; a message is pushed from one to the other.")
    await alice.watch("dave")
    await stage.send(alice, "bob", "tea at eight?")
    await stage.has_read("bob", 1)
    await stage.send(bob, "alice", "gladly")
    await stage.has_read("alice", 1)


async def _away(stage: _Stage, alice: Client, positions: dict[str, int]) -> None:
    await stage.act("Dave is away: what Alice writes waits in the offline store, and he pulls it when he comes.")
    await stage.send(alice, "dave", "bring the cups")
    await stage.send(alice, "dave", "and the sugar")
    async with stage.person("dave", "gw-2", positions=positions):
        await stage.has_read("dave", 2)
    stage.say("has left", "dave")


async def _group(stage: _Stage, alice: Client, bob: Client, positions: dict[str, int]) -> None:
    await stage.act("A group: one message is kept once, and pushed to all its members in one round trip.")
    members = await alice.create_group("tea", "bob", "carol", "dave")
    stage.say(f"made the group tea: {', '.join(members)}", "alice")
    await stage.send(alice, "#tea", "the kettle is on")
    await stage.send(bob, "#tea", "on my way")
    await asyncio.gather(stage.has_read("bob", 2), stage.has_read("carol", 2), stage.has_read("alice", 2))
    async with stage.person("dave", "gw-1", positions=positions):
        await stage.has_read("dave", 4)
    stage.say("has left", "dave")


async def _killed(stage: _Stage, alice: Client, bob: Client, carol: Client) -> None:
    await stage.act("Bob's gateway is killed while Alice goes on writing.")
    await stage.system.kill("gw-2")
    stage.say("gw-2 is gone, without a good-bye; Bob's route to it is a ghost now")
    for number in (1, 2, 3):
        await stage.send(alice, "bob", f"are you there? {number}")
    await stage.has_read("bob", 5)
    stage.say(f"is connected to {bob.gateway}", "bob")


def _verdict(stage: _Stage) -> int:
    print()
    wanted = {"alice": 2, "bob": 5, "carol": 2, "dave": 4}
    read = {uid: len(stage.read.get(uid, [])) for uid in wanted}
    twice = {uid: texts for uid, texts in stage.read.items() if len(set(texts)) != len(texts)}
    if read == wanted and not twice:
        stage.say(
            "Everybody has read everything, once and in order. Chapter 8 says why; `mpim-lab serve` is for your browser."
        )
        return 0
    stage.say(f"Not as it should be: read {read}, wanted {wanted}, twice {twice}")
    return 1
