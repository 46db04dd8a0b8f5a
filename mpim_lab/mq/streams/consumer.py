"""Consumer: one member of a group. Reads ahead, within a bound, and takes over what dead members left behind.

A connection of its own, because a read that waits holds up whatever comes after it.

An entry that a consumer has in hand takes one of its `most_in_hand` slots. Every way out gives it back:

| the entry is ...                        | noticed by                     | then the server has it                          |
|-----------------------------------------|--------------------------------|-------------------------------------------------|
| acknowledged                            | `ack`, `ack_all`               | in the stream only                              |
| a dead letter                           | `forget`                       | among the dead letters                          |
| failed and due later                    | – it keeps its slot            | pending, mine, kept alive by the heartbeat      |
| claimed by another                      | the heartbeat, or `again`      | pending, the other's                            |
| trimmed                                 | the heartbeat, or `again`      | nowhere: it is finished                         |
| in a group that is gone (NOGROUP)       | the next `fetch`               | pending, mine: the group is made again with it  |
| in doubt: a line broke, a call was      | `start_over`, or the next      | pending, mine: the next `fetch` asks for it     |
| cancelled                               | `fetch`                        |                                                 |
| in hand when the consumer leaves        | `give_back`                    | pending, idle for long: the next claim takes it |
| in hand when the process dies           | others, after `claim_idle_ms`  | pending, until it is claimed                    |
"""

import asyncio
import contextlib
import itertools
import logging
import math
import random
from collections.abc import AsyncIterator, Collection, Sequence
from types import TracebackType
from typing import Any, Self

from mpim_lab.errors import CommandRejected, InvalidParameter, LeaseLost, MpimError, QueueClosed
from mpim_lab.events import Kind, now, shown_name
from mpim_lab.keys import Name, name_bytes, same_name
from mpim_lab.mq.connection.bounds import check_whole
from mpim_lab.mq.connection.handler import LEAVING
from mpim_lab.mq.connection.resp import pack, retrieved
from mpim_lab.mq.streams.entries import Delivery, deliveries_of, raw_ids_of
from mpim_lab.mq.streams.group import MOST_IDS, ConsumerGroup, group_is_gone
from mpim_lab.mq.streams.membership import LEASE_MS, Membership
from mpim_lab.mq.streams.pending_scan import PendingScan

WAIT_MS = 200  # how long one read waits: how long a stop may take, too
_LATE_S = 0.02  # how much later than asked for the server's answer may come
_BEAT_S, _SHORTEST_BEAT_S = 1.0, 0.005  # how soon a consumer learns that another has its name
_log = logging.getLogger(__name__)


class Consumer:
    """Use as a context, and as an async iterator of deliveries; acknowledge each one when its work is done.

    name: no other living consumer's. A later one of the same name takes it over: this one's next `fetch` raises LeaseLost,
    and what it has in hand stays its own until it has left.
    prefetch: entries asked for at once. most_in_hand: read and not acknowledged; then reading waits for acknowledgements.
    read_ahead: the server reads the next ones while these are handled, as long as there are many: faster, and whoever dies
    leaves two prefetches behind.
    claim_idle_ms: after so long another member's entry counts as abandoned; None: never. The same for all members.
    heartbeat: what is in hand is kept alive, however long its work takes, so that slow is not dead, as long as the event
    loop is not blocked for longer than `claim_idle_ms`. False: an entry is idle from its delivery on; then `claim_idle_ms`
    is longer than the handling of a whole prefetch.
    On leaving, what is unfinished is given back; it may be opened again. Raises what `Link` raises; after an error, or a
    fetch that was cancelled, the next `fetch` picks up what was on its way.
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
        heartbeat: bool = True,
    ) -> None:
        check_whole(prefetch=prefetch, most_in_hand=most_in_hand)
        check_whole(claim_idle_ms=1 if claim_idle_ms is None else claim_idle_ms)
        self.group, self.name, self.shown_name = group, same_name(name, "name of a consumer"), shown_name(name)
        self.claim_idle_ms, self.heartbeat = claim_idle_ms, heartbeat
        self._raw_name = name_bytes(name, "consumer")
        self._prefetch, self._most_in_hand, self._read_ahead = prefetch, most_in_hand, read_ahead
        self._keep_s = min(claim_idle_ms or LEASE_MS, LEASE_MS) / 3e3 if heartbeat else math.inf
        self._is_reporting = group.access.reporter.is_on
        self._room = asyncio.Event()
        self._one_at_a_time = asyncio.Lock()  # whoever fetches
        self.has_lost = False  # something in hand has passed on since the last fetch: ask `has` before working on it
        self._membership: Membership | None = None
        self._beating: asyncio.Task[None] | None = None
        self._begin_anew()

    def _begin_anew(self) -> None:
        """As if never opened: a link that is not open, nothing in hand."""
        self._link = self.group.access.dedicated(self.shown_name)
        self._in_hand: dict[bytes, Delivery] = {}  # by raw id
        self._ahead: asyncio.Future[Any] | None = None  # to a read, which nobody has taken yet
        self._came: list[Delivery] = []  # in hand, but the fetch that was to give them was cancelled
        self._failed: MpimError | None = None  # what the heartbeat met: for the next fetch
        self._is_alone, self._claim_at = True, 0.0
        self._leftovers: PendingScan | None = None
        self._look_for_leftovers()  # an earlier life of this name may have left something
        self._abandoned = self._scan_of_abandoned()

    def _look_for_leftovers(self) -> None:
        """Have the next fetches ask for what the server says is mine and I do not have."""
        self._claim_at = 0.0
        if self._is_alone:
            self._leftovers = PendingScan(self.group, idle_ms=0, of=self.name)

    def _scan_of_abandoned(self) -> PendingScan | None:
        """What nobody keeps alive: whoever's; at least an earlier life's of my name that may still be at work."""
        if self.claim_idle_ms is not None:
            return PendingScan(self.group, idle_ms=self.claim_idle_ms, of=None)
        return None if self._is_alone else PendingScan(self.group, idle_ms=LEASE_MS, of=self.name)

    async def __aenter__(self) -> Self:
        if self._membership is not None:
            raise InvalidParameter(f"{self.shown_name} is open already: make a second one, with a name of its own")
        self._membership = membership = Membership(self.group, self.name)
        try:
            await self._link.open()
            try:
                await self._take_name()
            except MpimError as error:  # refused for now: the first fetch asks again
                if not error.transient:
                    raise
        except BaseException:
            await self._close()
            raise
        self._beating = asyncio.create_task(self._beat_now_and_then(membership))
        return self

    async def _take_name(self) -> None:
        if self._membership is not None and not self._membership.has_begun:
            self._is_alone = await self._membership.begin(self._link.client_id)
            if not self._is_alone:
                self._leftovers, self._abandoned = None, self._scan_of_abandoned()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None or issubclass(kind, Exception | asyncio.CancelledError):
                async with asyncio.timeout(self._link.config.close_timeout_s * LEAVING):
                    await self._stop_beating()  # a sign of life after the farewell would bring the name back
                    await self._leave()
        except (MpimError, TimeoutError) as left:
            _log.warning("%s: leaving: %s; others claim what it had", self.shown_name, left or "no answer in time")
        finally:
            await self._close()

    async def _leave(self) -> None:
        """Give back what is in hand, and the name; again if a line breaks over it. All of it may be done twice."""
        for failures in itertools.count(1):
            try:
                await self.give_back()
                if self._membership is not None:
                    await self._membership.leave()
                return
            except MpimError as error:
                if not error.transient:
                    raise
            await asyncio.sleep(self._link.config.backoff.delay_s(failures, random.random()))

    async def _close(self) -> None:
        link = self._link
        if self._ahead is not None and not self._ahead.done():
            self._ahead.add_done_callback(retrieved)
            link.connection.abort(QueueClosed("the consumer has left"))
        self._membership = None
        self._begin_anew()
        self._room.set()
        await self._stop_beating()
        await link.close()

    async def _stop_beating(self) -> None:
        beating, self._beating = self._beating, None
        if beating is not None:
            beating.cancel()
            await asyncio.wait([beating])

    # The heartbeat

    async def _beat_now_and_then(self, membership: Membership) -> None:
        keep_at = now() + self._keep_s
        while self._failed is None or isinstance(self._failed, LeaseLost):
            await asyncio.sleep(max(_SHORTEST_BEAT_S, min(self._keep_s, _BEAT_S)))
            in_hand: list[Delivery] = []
            if now() + _BEAT_S / 2 >= keep_at:
                keep_at, in_hand = now() + self._keep_s, list(self._in_hand.values())
            try:
                await self._beat(membership, in_hand)
            except MpimError as error:
                if not (error.transient or group_is_gone(error)):
                    self._failed = error
                    self._room.set()

    async def _beat(self, membership: Membership, in_hand: Sequence[Delivery] = ()) -> None:
        await self._take_name()
        for gone in await membership.beat(self._link.client_id, in_hand):
            if self._in_hand.get(gone.raw_id) is gone:
                self.has_lost = True
                self.forget(gone)
        if not membership.has_name:
            raise LeaseLost(f"another consumer began as {self.shown_name!r}: give each a name of its own")

    # Reading

    async def __aiter__(self) -> AsyncIterator[Delivery]:
        while True:
            for delivery in await self.fetch():
                yield delivery

    async def fetch(self, within_ms: int = WAIT_MS) -> list[Delivery]:
        """What has become mine: leftovers, abandoned entries, new ones; empty if there is nothing in time, or no room.

        Several tasks may ask, one after the other: each entry goes to one of them.
        """
        async with self._one_at_a_time:
            return await self._fetch(within_ms)

    async def _fetch(self, within_ms: int) -> list[Delivery]:
        until, self.has_lost = now() + within_ms / 1e3, False
        while True:
            if self._failed is not None:
                raise self._failed
            if self._came:
                came, self._came = self._came, []
                return came
            room = self._most_in_hand - len(self._in_hand)
            if room <= 0:
                await self._wait_for_room(until)
                return []
            deliveries = await self._next_or_rejoin(room, until)
            if deliveries or now() >= until:
                break
        self._in_hand.update(zip(raw_ids_of(deliveries), deliveries, strict=True))
        if self._is_reporting:
            for delivery in deliveries:
                self.group.report(Kind.RECEIVED, delivery, count=delivery.deliveries, actor=self.shown_name)
        if self._read_ahead and len(deliveries) >= min(room, self._prefetch):
            try:
                await self._ask_ahead()
            except asyncio.CancelledError:
                self._came = deliveries
                raise
        return deliveries

    async def _next_or_rejoin(self, room: int, until: float) -> list[Delivery]:
        try:
            return await self._next(room, until)
        except asyncio.CancelledError:
            self._look_for_leftovers()
            raise
        except MpimError as error:
            self._look_for_leftovers()
            if not group_is_gone(error):
                raise
            await self.group.rejoin(self.name, list(self._in_hand.values()))
            return []

    async def _next(self, room: int, until: float) -> list[Delivery]:
        if self._ahead is not None:  # first of all: to the server it is mine already, it would be found as a leftover
            return await self._take_reply(self._ahead, until)
        await self._take_name()
        found = await self._recover(room) or await self._claim(room)
        if found:
            return found
        wait_ms = min(WAIT_MS, int((until - now()) * 1e3))
        connection = self._link.connection
        if connection.blocked:
            connection = await self._link.room()
        self._ahead = connection.send_blocking(self._read_command(room, wait_ms), wait_ms / 1e3)
        return await self._take_reply(self._ahead, until + _LATE_S)

    def _read_command(self, room: int, within_ms: int) -> bytes:
        count, wait_ms = str(min(room, self._prefetch)), str(max(1, within_ms))
        words = ("XREADGROUP", "GROUP", self.group.raw_name, self._raw_name, "COUNT", count, "BLOCK", wait_ms)
        return pack(*words, "STREAMS", self.group.access.key, ">")

    async def _take_reply(self, reply: asyncio.Future[Any], until: float) -> list[Delivery]:
        """What the server has answered to a read; one that is cancelled here, or too slow, is left for the next fetch."""
        if not reply.done():
            await asyncio.wait([reply], timeout=max(0.0, until - now()))
            if not reply.done():
                return []
        self._ahead = None
        deliveries = deliveries_of(reply.result())
        if deliveries:
            self.group.delivered(deliveries[-1].raw_id)
        return deliveries

    async def _ask_ahead(self) -> None:
        """Ask for more before what is here is handled, and have the question leave: the server reads while we work."""
        room, connection = self._most_in_hand - len(self._in_hand), self._link.connection
        if room > 0 and not (connection.blocked or self._leftovers is not None or self._may_claim):
            self._ahead = connection.send_blocking(self._read_command(room, WAIT_MS), WAIT_MS / 1e3)
            connection.flush()
            await asyncio.sleep(0)

    async def _recover(self, room: int) -> list[Delivery]:
        """What the server says is mine and I do not have: an answer that was lost on the way, an earlier life of mine."""
        while (scan := self._leftovers) is not None:
            if self._membership is not None:
                await self._beat(self._membership)  # mine as long as nobody else has begun under the same name
            lines = await scan.next(room, but=self._in_hand)
            deliveries = await self.group.again(self.name, lines)
            if scan.at_end and self._leftovers is scan:
                self._leftovers = None
            if deliveries:
                return deliveries
        return []

    @property
    def _may_claim(self) -> bool:
        return self._abandoned is not None and now() >= self._claim_at

    async def _claim(self, room: int) -> list[Delivery]:
        """What has been idle for too long; a full page is followed by the next at once."""
        scan = self._abandoned
        while scan is not None and self._may_claim:
            lines = await scan.next(room, but=self._in_hand)
            if scan.at_end:
                self._claim_at = now() + scan.idle_ms / 2e3
            deliveries = await self.group.take(self.name, lines, idle_ms=scan.idle_ms)
            for delivery in deliveries:
                self.group.report(Kind.CLAIMED, delivery, count=delivery.deliveries, actor=self.shown_name)
            if self._membership is not None:
                for other in {name_bytes(line.consumer) for line in lines} - {self._raw_name}:
                    await self._membership.remove(other)
            if deliveries or scan.at_end:
                return deliveries
        return []

    async def _wait_for_room(self, until: float) -> None:
        self._room.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, until - now())):
                await self._room.wait()

    # Finishing

    def ack(self, delivery: Delivery) -> "asyncio.Future[None]":
        """Acknowledge; await it to know that the server has done it. All of one loop turn leave as one command."""
        self.forget(delivery)
        return self.group.ack_soon(delivery, actor=self.shown_name)

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
                    self.group.report(Kind.ACKED, delivery, actor=self.shown_name)

    def forget(self, delivery: Delivery) -> None:
        """It is not in hand any more: acknowledged, buried, or somebody else's."""
        self._in_hand.pop(delivery.raw_id, None)
        self._room.set()

    def has(self, delivery: Delivery) -> bool:
        """Whether it is in hand still: neither finished, nor claimed by another, nor trimmed, as far as is known."""
        return delivery.raw_id in self._in_hand

    def start_over(self, *, keep: Collection[Delivery] = ()) -> None:
        """After an error nobody works on what is in hand, save for `keep`: the next fetch asks the server what is mine."""
        self._in_hand = {key: held for key in raw_ids_of(keep) if (held := self._in_hand.get(key)) is not None}
        self._came = []
        self._look_for_leftovers()
        self._room.set()

    async def again(self, delivery: Delivery) -> Delivery | None:
        """Count one more delivery of an entry in hand; None if it is not mine any more, or not there: its slot is free."""
        try:
            taken = await self.group.again(self.name, [delivery])
        except (MpimError, asyncio.CancelledError):  # done or not: it is looked for where it is
            self.forget(delivery)
            self._look_for_leftovers()
            raise
        if not taken:
            self.forget(delivery)
            return None
        self._in_hand[delivery.raw_id] = taken[0]
        return taken[0]

    async def give_back(self) -> None:
        """Give back what is in hand, for others to take at once."""
        if self._ahead is not None:
            with contextlib.suppress(CommandRejected):  # not everybody may; then it is waited for
                if not self._ahead.done():  # it would go on waiting there, and take what comes after we have left
                    await self.group.access.commands.call("CLIENT", "UNBLOCK", str(self._link.client_id))
            with contextlib.suppress(MpimError):  # what a broken line swallowed is found below
                came = await self._take_reply(self._ahead, now() + self._link.config.timeout_s)
                self._in_hand.update(zip(raw_ids_of(came), came, strict=True))
        held = list(self._in_hand.values())
        released = await self.group.release(self.name, held)
        self._in_hand.clear()
        for delivery in held:
            if delivery.raw_id in released:
                self.group.report(Kind.RELEASED, delivery, actor=self.shown_name)
        while (scan := self._leftovers) is not None and self._membership is not None:
            await self._beat(self._membership)
            await self.group.release(self.name, await scan.next(MOST_IDS, but=()))
            if scan.at_end:
                self._leftovers = None
