"""ConsumerGroup: several consumers share out one stream; each entry is somebody's until it is acknowledged.

| state of an entry | how it gets there      | where it is                                                        |
|-------------------|------------------------|--------------------------------------------------------------------|
| new               | `Stream.add`           | in the stream                                                      |
| pending           | `Consumer.fetch`       | in the pending list: its consumer, idle time and delivery count    |
| acknowledged      | `ack`                  | in the stream only                                                 |
| dead              | `bury`                 | in the dead letters                                                |

A consumer that dies leaves its entries pending. The server gives them to nobody: another consumer must claim what has
been idle for too long. The first may not be dead but slow, so an entry may be handled twice: at least once.

Source: https://valkey.io/topics/streams-intro/#consumer-groups
"""

import asyncio
from typing import NamedTuple

from mpim_lab.errors import CommandRejected
from mpim_lab.events import Kind, shown_name
from mpim_lab.keys import Name, name_bytes, name_text, same_name
from mpim_lab.mq.access import Access
from mpim_lab.mq.acks import Acks
from mpim_lab.mq.dead_letters import DeadLetters
from mpim_lab.mq.entries import Delivery


class Pending(NamedTuple):
    """One line of the pending list. `deliveries` counts how often it was handed to somebody."""

    id: str
    consumer: Name
    idle_ms: int
    deliveries: int


class ConsumerGroup:
    """One group of one stream: `await stream.group("billing")`. Raises what `Link` raises."""

    def __init__(self, access: Access, name: Name) -> None:
        name = same_name(name, "group")
        self.access, self.name, self.dead_letters = access, name, DeadLetters(access, name)
        self._link, self._acks = access.commands, Acks(access.commands, access.key, name)

    async def create(self, start: str = "0") -> bool:
        """Make it, and the stream; False if it was there already, wherever it stands."""
        try:
            await self._link.call("XGROUP", "CREATE", self.access.key, self.name, start, "MKSTREAM")
        except CommandRejected as error:
            if not str(error).startswith("BUSYGROUP"):
                raise
            return False
        return True

    # Acknowledging

    async def ack(self, *ids: str | bytes) -> int:
        """Say that these are handled; gives how many were pending, whoever had them."""
        return int(await self._link.call("XACK", self.access.key, self.name, *ids)) if ids else 0

    def ack_soon(self, delivery: Delivery, *, actor: Name) -> "asyncio.Future[None]":
        """Acknowledge with all others of this loop turn in one command; the future is done when the server has done it."""
        answer = self._acks.add(delivery.entry.id)
        if self.access.reporter.is_on:
            answer.add_done_callback(lambda done: self._acked(delivery, done, actor))
        return answer

    def _acked(self, delivery: Delivery, done: "asyncio.Future[None]", actor: Name) -> None:
        if not done.cancelled() and done.exception() is None:
            self.report(Kind.ACKED, delivery, actor=actor)

    # What is unfinished

    async def pending(
        self, *, count: int = 100, idle_ms: int = 0, consumer: Name | None = None, first: str = "-"
    ) -> list[Pending]:
        """Unacknowledged entries, oldest first: idle for at least `idle_ms`, of one consumer or of all."""
        idle = ("IDLE", str(idle_ms)) if idle_ms else ()
        whose = () if consumer is None else (consumer,)
        raws = await self._link.call("XPENDING", self.access.key, self.name, *idle, first, "+", str(count), *whose)
        return [Pending(raw[0].decode(), name_text(raw[1]), int(raw[2]), int(raw[3])) for raw in raws]

    async def claim(self, consumer: Name, *, idle_ms: int, count: int = 100, of: Name | None = None) -> list[Delivery]:
        """Take over what has been idle for at least `idle_ms`: its consumer is dead, or slow beyond what you allow.

        Two that claim at once do not get the same entry: claiming ends its idleness. Entries that were deleted
        meanwhile are dropped from the pending list by the server.
        """
        found = {line.id: line.deliveries for line in await self.pending(count=count, idle_ms=idle_ms, consumer=of)}
        return await self.take(consumer, found, idle_ms=idle_ms)

    async def take(self, consumer: Name, found: dict[str, int], *, idle_ms: int) -> list[Delivery]:
        """Claim given entries (id → deliveries so far), as far as they are still idle enough."""
        if not found:
            return []
        raws = await self._link.call("XCLAIM", self.access.key, self.name, consumer, str(idle_ms), *found)
        return [Delivery(raw[0], raw[1], found[raw[0].decode()] + 1) for raw in raws if raw is not None]

    async def release(self, consumer: Name, *ids: str | bytes) -> None:
        """Give entries back: they count as idle for long, so that the next claim takes them at once."""
        if ids:
            words = (consumer, "0", *ids, "IDLE", "86400000", "JUSTID")
            await self._link.call("XCLAIM", self.access.key, self.name, *words)

    async def bury(self, delivery: Delivery, *, reason: str, error: str = "") -> bool:
        """Give an entry up: to the dead letters, in one step; False if somebody else finished it meanwhile."""
        buried = await self.dead_letters.bury(
            delivery.entry, reason=reason, error=error, deliveries=delivery.deliveries
        )
        if buried:
            self.report(Kind.BURIED, delivery, detail=f"{reason}: {error}" if error else reason)
        return buried

    async def lag(self) -> int | None:
        """How many entries nobody in this group has been given yet; None where the server cannot tell (deletions)."""
        for raw in await self._link.call("XINFO", "GROUPS", self.access.key):
            if raw[b"name"] == name_bytes(self.name):
                return None if raw[b"lag"] is None else int(raw[b"lag"])
        return None

    def report(
        self, kind: Kind, delivery: Delivery, *, actor: Name = "", detail: str = "", count: int | None = None
    ) -> None:
        """Report what happened to a delivery, under its first field's value."""
        self.access.reporter.message(
            kind, delivery.first_value, self.access.name, detail=detail, count=count, actor=shown_name(actor)
        )
