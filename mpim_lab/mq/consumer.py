"""Consumer: one member of a group. Reads ahead, within a bound, and takes over what dead members left behind.

A connection of its own, because a read that waits holds up whatever comes after it.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection, Sequence
from types import TracebackType
from typing import Any, Self

from mpim_lab.errors import CommandRejected, InvalidParameter, MpimError
from mpim_lab.events import Kind, now
from mpim_lab.keys import Name, same_name
from mpim_lab.mq.acks import MOST_IDS
from mpim_lab.mq.connection import pack
from mpim_lab.mq.entries import Delivery, deliveries_of, raw_ids_of
from mpim_lab.mq.groups import ConsumerGroup

WAIT_MS = 200  # how long one read waits: how long a stop may take, too


class Consumer:
    """Use as a context, and as an async iterator of deliveries; acknowledge each one when its work is done.

    prefetch: entries asked for at once. most_in_hand: read and not acknowledged; then reading waits for acknowledgements.
    read_ahead: the server reads the next ones while these are handled, as long as there are many: faster, and whoever dies
    leaves two prefetches behind.
    claim_idle_ms: after so long another member's entry counts as abandoned; None: never. An entry is idle from its delivery
    on, so this is longer than the handling of a whole prefetch takes.
    On leaving, what is unfinished is given back. Raises what `Link` raises; after an error the next `fetch` picks up what
    the broken line swallowed.
    """

    def __init__(
        self,
        group: ConsumerGroup,
        name: Name,
        *,
        prefetch: int = 100,
        most_in_hand: int = 1_000,
        claim_idle_ms: int | None = 30_000,
        read_ahead: bool = False,
    ) -> None:
        for what, value in (("prefetch", prefetch), ("most_in_hand", most_in_hand), ("claim_idle_ms", claim_idle_ms)):
            if value is not None and value < 1:
                raise InvalidParameter(f"{what}={value}: at least 1")
        self.group, self.name = group, same_name(name, "name of a consumer")
        self._prefetch, self._most_in_hand, self._claim_idle_ms = prefetch, most_in_hand, claim_idle_ms
        self._read_ahead = read_ahead
        self._ahead: asyncio.Future[Any] | None = None  # the reply to a read that nobody has taken yet
        self._link, self._is_reporting = group.access.dedicated(name), group.access.reporter.is_on
        self._in_hand: dict[bytes, Delivery] = {}  # by raw id
        self._room = asyncio.Event()
        self._recovering, self._claim_at = True, 0.0  # an earlier life of this name may have left something

    async def __aenter__(self) -> Self:
        await self._link.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None or issubclass(kind, Exception | asyncio.CancelledError):
                await self.give_back()
        finally:
            await self._link.close()

    # Reading

    async def __aiter__(self) -> AsyncIterator[Delivery]:
        while True:
            for delivery in await self.fetch():
                yield delivery

    async def fetch(self, within_ms: int = WAIT_MS) -> list[Delivery]:
        """What has become mine: leftovers, abandoned entries, new ones; empty if there is nothing in time, or no room."""
        room = self._most_in_hand - len(self._in_hand)
        if room <= 0:
            await self._wait_for_room(within_ms)
            return []
        try:
            deliveries = await self._next(room, within_ms)
        except MpimError as error:
            self._recovering = True
            if isinstance(error, CommandRejected) and str(error).startswith("NOGROUP"):
                await self.group.create()  # the server was restarted without what it had, or somebody deleted it
                return []
            raise
        self._in_hand.update(zip(raw_ids_of(deliveries), deliveries, strict=True))
        if self._is_reporting:
            for delivery in deliveries:
                self.group.report(Kind.RECEIVED, delivery, count=delivery.deliveries, actor=self.name)
        if self._read_ahead and len(deliveries) >= min(room, self._prefetch):
            await self._ask_ahead()
        return deliveries

    async def _next(self, room: int, within_ms: int) -> list[Delivery]:
        if self._ahead is not None:  # first of all: to the server it is mine already, `_recover` would find it, too
            return await self._take_ahead(self._ahead, within_ms)
        return await self._recover() or await self._claim(room) or await self._read(room, within_ms)

    async def _read(self, room: int, within_ms: int) -> list[Delivery]:
        return deliveries_of(await self._link.call(*self._read_command(room, within_ms)))

    def _read_command(self, room: int, within_ms: int) -> tuple[bytes | str, ...]:
        count, wait_ms = str(min(room, self._prefetch)), str(max(1, within_ms))
        words = ("XREADGROUP", "GROUP", self.group.name, self.name, "COUNT", count, "BLOCK", wait_ms)
        return (*words, "STREAMS", self.group.access.key, ">")

    async def _ask_ahead(self) -> None:
        """Ask for more before what is here is handled, and have the question leave: the server reads while we work."""
        room, connection = self._most_in_hand - len(self._in_hand), self._link.connection
        if room > 0 and not (connection.blocked or self._recovering or self._may_claim):
            self._ahead = connection.send(pack(*self._read_command(room, WAIT_MS)))
            connection.flush()
            await asyncio.sleep(0)

    async def _take_ahead(self, ahead: asyncio.Future[Any], within_ms: float) -> list[Delivery]:
        await asyncio.wait([ahead], timeout=within_ms / 1e3)  # cancelled here, the reply is left to `give_back`
        if not ahead.done():
            return []
        self._ahead = None
        return deliveries_of(ahead.result())

    async def _recover(self) -> list[Delivery]:
        """What the server says is mine and I do not have: an answer that was lost on the way, an earlier life of mine."""
        if not self._recovering:
            return []
        lines = await self.group.pending(count=self._most_in_hand, consumer=self.name)
        missing = {line.id: line.deliveries for line in lines if line.id.encode() not in self._in_hand}
        deliveries = await self.group.take(self.name, missing, idle_ms=0)
        self._recovering = False
        return deliveries

    @property
    def _may_claim(self) -> bool:
        return self._claim_idle_ms is not None and now() >= self._claim_at

    async def _claim(self, room: int) -> list[Delivery]:
        if self._claim_idle_ms is None or not self._may_claim:
            return []
        self._claim_at = now() + self._claim_idle_ms / 2e3
        lines = await self.group.pending(count=min(room, self._prefetch), idle_ms=self._claim_idle_ms)
        abandoned = {line.id: line.deliveries for line in lines if line.id.encode() not in self._in_hand}
        deliveries = await self.group.take(self.name, abandoned, idle_ms=self._claim_idle_ms)
        for delivery in deliveries:
            self.group.report(Kind.CLAIMED, delivery, count=delivery.deliveries, actor=self.name)
        return deliveries

    async def _wait_for_room(self, within_ms: int) -> None:
        self._room.clear()
        try:
            async with asyncio.timeout(within_ms / 1e3):
                await self._room.wait()
        except TimeoutError:
            return

    # Finishing

    def ack(self, delivery: Delivery) -> "asyncio.Future[None]":
        """Acknowledge; await it to know that the server has done it. All of one loop turn leave as one command."""
        self.forget(delivery)
        return self.group.ack_soon(delivery, actor=self.name)

    async def ack_all(self, deliveries: Sequence[Delivery]) -> None:
        """Acknowledge many with one command; returns when the server has done it."""
        for first in range(0, len(deliveries), MOST_IDS):
            chunk = deliveries[first : first + MOST_IDS]
            ids = raw_ids_of(chunk)
            await self.group.ack(*ids)
            for raw_id in ids:
                self._in_hand.pop(raw_id, None)
            self._room.set()
            if self._is_reporting:
                for delivery in chunk:
                    self.group.report(Kind.ACKED, delivery, actor=self.name)

    def forget(self, delivery: Delivery) -> None:
        """It is not in hand any more: acknowledged, buried, or somebody else's."""
        self._in_hand.pop(delivery.raw_id, None)
        self._room.set()

    def start_over(self, *, keep: Collection[Delivery] = ()) -> None:
        """After an error nobody works on what is in hand, save for `keep`: the next fetch asks the server what is mine."""
        self._in_hand = {key: held for key in raw_ids_of(keep) if (held := self._in_hand.get(key)) is not None}
        self._recovering = True
        self._room.set()

    async def again(self, delivery: Delivery) -> Delivery | None:
        """Count one more delivery of an entry in hand; None if it is not mine any more."""
        (line,) = await self.group.pending(first=delivery.entry.id, count=1) or (None,)
        if line is None or (line.id, line.consumer) != (delivery.entry.id, self.name):
            self.forget(delivery)
            return None
        taken = await self.group.take(self.name, {line.id: line.deliveries}, idle_ms=0)
        return taken[0] if taken else None

    async def give_back(self) -> None:
        """Give back what is in hand, for others to take at once."""
        if self._ahead is not None:
            with contextlib.suppress(MpimError):  # what a broken line swallowed must wait for a claim
                came = await self._take_ahead(self._ahead, self._link.limits.timeout_s * 1e3)
                self._in_hand.update(zip(raw_ids_of(came), came, strict=True))
        held = list(self._in_hand.values())
        self._in_hand.clear()
        await self.group.release(self.name, *raw_ids_of(held))
        for delivery in held:
            self.group.report(Kind.RELEASED, delivery, actor=self.name)
