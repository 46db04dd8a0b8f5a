"""Demo: `mpim-lab demo`: three gateways, four people, a group, a notice, and a gateway killed.

Nothing is staged: every line that says what somebody reads is printed when that client is handed
the message.
"""

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator

from mpim_lab.chapters.ch08_im.readers import QUICK
from mpim_lab.im.client.client import Client
from mpim_lab.im.protocol.frames import Broadcast, PresenceChanged, Sent
from mpim_lab.lab.faults.injector import wait_until
from mpim_lab.lab.system.embedded import MpimSystem

PAUSE_S = 0.7
_COLOURS = {"alice": 36, "bob": 32, "carol": 35, "dave": 33}
_TIMEOUT_S = 10.0


class _Narrator:
    """The users with their clients, and a line for each thing that happens to them."""

    def __init__(self, system: MpimSystem, pause_s: float) -> None:
        self.system, self._pause_s = system, pause_s
        self._begun = time.monotonic()
        self._colour = sys.stdout.isatty()
        self.read: dict[str, list[str]] = {}

    def print(self, text: str, who: str = "") -> None:
        """Print one line of the story, with the seconds since it began."""
        name = f"{who:>7} " if who else "        "
        if self._colour and who in _COLOURS:
            name = f"\x1b[{_COLOURS[who]}m{name}\x1b[0m"
        elif self._colour and not who:
            text = f"\x1b[1m{text}\x1b[0m"
        print(f"{time.monotonic() - self._begun:5.1f} s {name}{text}", flush=True)

    async def step(self, title: str) -> None:
        """Begin the next step."""
        await asyncio.sleep(self._pause_s)
        print()
        self.print(title)
        await asyncio.sleep(self._pause_s)

    @contextlib.asynccontextmanager
    async def add_user(
        self, uid: str, *gateways: str, positions: dict[str, int] | None = None
    ) -> AsyncIterator[Client]:
        """Connect a user with a client; print what the user reads."""

        def notice(frame: Broadcast) -> None:
            self.print(f"sees the notice: {frame.text}", uid)

        def status(frame: PresenceChanged) -> None:
            self.print(f"sees that {frame.uid} is {frame.status}", uid)

        async with self.system.client(
            uid,
            at=gateways,
            positions=positions,
            on_broadcast=notice,
            on_presence=status,
            backoff=QUICK,
        ) as client:
            self.print(f"is connected to {client.gateway}", uid)
            reading = asyncio.create_task(self._read(uid, client))
            yield client
        await asyncio.wait([reading])

    async def _read(self, uid: str, client: Client) -> None:
        async for message in client.messages():
            self.read.setdefault(uid, []).append(message.text)
            where = f"number {message.sequence} of {message.conversation}, at {client.gateway}"
            self.print(f"reads “{message.text}” ({where})", uid)

    async def send(self, client: Client, to: str, text: str) -> Sent:
        """Send a message from a user; "#tea" is a group."""
        send = client.send_to_group(to[1:], text) if to.startswith("#") else client.send(to, text)
        sent = await send
        self.print(f"wrote “{text}” to {to}: number {sent.sequence}, {sent.status}", client.name)
        return sent

    async def wait_read(self, uid: str, count: int) -> None:
        """Wait until a user has read so many messages in all."""
        await wait_until(
            lambda: len(self.read.get(uid, [])) >= count,
            f"{uid}'s message number {count}",
            _TIMEOUT_S,
        )


async def demo(pause_s: float = PAUSE_S) -> int:
    """Run the demo; return 0 if every user read everything once."""
    async with MpimSystem(gateways=3) as system:
        narrator = _Narrator(system, pause_s)
        narrator.print(
            "Three gateways over one server: "
            + ", ".join(f"{name} {each.url}" for name, each in system.gateways.items())
        )
        positions: dict[str, int] = {}
        async with (
            narrator.add_user("alice", "gw-1", "gw-3") as alice,
            narrator.add_user("bob", "gw-2", "gw-3") as bob,
            narrator.add_user("carol", "gw-3") as carol,
        ):
            await _online(narrator, alice, bob)
            await _away(narrator, alice, positions)
            await _group(narrator, alice, bob, positions)
            await narrator.step("A system notice to everybody who is online.")
            narrator.print(
                f"{await system.broadcast('the tea house closes at ten')} gateways have it"
            )
            await _killed(narrator, alice, bob, carol)
        return _verdict(narrator)


async def _online(narrator: _Narrator, alice: Client, bob: Client) -> None:
    await narrator.step(
        "Alice and Bob are at different gateways; a message is pushed from one to the other."
    )
    await alice.watch("dave")
    await narrator.send(alice, "bob", "tea at eight?")
    await narrator.wait_read("bob", 1)
    await narrator.send(bob, "alice", "gladly")
    await narrator.wait_read("alice", 1)


async def _away(narrator: _Narrator, alice: Client, positions: dict[str, int]) -> None:
    await narrator.step(
        "Dave is away: what Alice writes waits in the offline store, and he pulls it when he comes."
    )
    await narrator.send(alice, "dave", "bring the cups")
    await narrator.send(alice, "dave", "and the sugar")
    async with narrator.add_user("dave", "gw-2", positions=positions):
        await narrator.wait_read("dave", 2)
    narrator.print("has left", "dave")


async def _group(
    narrator: _Narrator, alice: Client, bob: Client, positions: dict[str, int]
) -> None:
    await narrator.step(
        "A group: one message is kept once, and pushed to all its members in one round trip."
    )
    members = await alice.create_group("tea", "bob", "carol", "dave")
    narrator.print(f"made the group tea: {', '.join(members)}", "alice")
    await narrator.send(alice, "#tea", "the kettle is on")
    await narrator.send(bob, "#tea", "on my way")
    await asyncio.gather(
        narrator.wait_read("bob", 2), narrator.wait_read("carol", 2), narrator.wait_read("alice", 2)
    )
    async with narrator.add_user("dave", "gw-1", positions=positions):
        await narrator.wait_read("dave", 4)
    narrator.print("has left", "dave")


async def _killed(narrator: _Narrator, alice: Client, bob: Client, carol: Client) -> None:
    await narrator.step("Bob's gateway is killed while Alice goes on writing.")
    await narrator.system.kill("gw-2")
    narrator.print("gw-2 is gone, without a good-bye; Bob's route to it is a ghost now")
    for number in (1, 2, 3):
        await narrator.send(alice, "bob", f"are you there? {number}")
    await narrator.wait_read("bob", 5)
    narrator.print(f"is connected to {bob.gateway}", "bob")


def _verdict(narrator: _Narrator) -> int:
    print()
    wanted = {"alice": 2, "bob": 5, "carol": 2, "dave": 4}
    read = {uid: len(narrator.read.get(uid, [])) for uid in wanted}
    twice = {uid: texts for uid, texts in narrator.read.items() if len(set(texts)) != len(texts)}
    if read == wanted and not twice:
        narrator.print(
            "Everybody has read everything, once and in order. "
            "Chapter 8 says why; `mpim-lab serve` is for your browser."
        )
        return 0
    narrator.print(f"Not as it should be: read {read}, wanted {wanted}, twice {twice}")
    return 1
