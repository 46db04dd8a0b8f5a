"""Consumer: one member of a group.

Reads ahead, within a bound, and takes over what dead members left behind.

A connection of its own, because a read that waits holds up whatever comes after it.

An entry that is in flight takes one of its `max_in_flight` slots. Every way out gives it back:

| the entry is ...            | noticed by                    | then the server has it          |
|-----------------------------|-------------------------------|---------------------------------|
| acknowledged                | `ack`, `ack_all`              | in the stream only              |
| a dead letter               | `discard`                     | among the dead letters          |
| failed and due later        | – it keeps its slot           | pending, mine, kept alive by    |
|                             |                               | the heartbeat                   |
| claimed by another          | the heartbeat, or `redeliver` | pending, the other's            |
| trimmed                     | the heartbeat, or `redeliver` | nowhere: it is finished         |
| in a group that is gone     | the next `fetch`              | pending, mine: the group is     |
| (NOGROUP)                   |                               | made again with it              |
| in doubt: a line or a call  | `reset`, or the next `fetch`  | pending, mine: the next `fetch` |
| broke                       |                               | asks for it                     |
| in flight when the consumer | `release_all`                 | pending, idle for long: the     |
| leaves                      |                               | next claim takes it             |
| in flight when the process  | others, after `claim_idle_ms` | pending, until it is claimed    |
| dies                        |                               |                                 |
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
from mpim_lab.events import EventKind, now, shown_name
from mpim_lab.keys import Name, name_bytes, same_name
from mpim_lab.mq.connection.bounds import check_whole
from mpim_lab.mq.connection.handler import RELEASE_SHARE
from mpim_lab.mq.connection.resp import encode_command, ignore_result
from mpim_lab.mq.streams.entries import Delivery, parse_deliveries, raw_ids
from mpim_lab.mq.streams.group import MAX_IDS, ConsumerGroup, group_is_gone
from mpim_lab.mq.streams.membership import LEASE_MS, Membership
from mpim_lab.mq.streams.pending_scan import PendingScan

BLOCK_MS = 200  # how long one read waits: how long a stop may take, too
_ANSWER_GRACE_S = 0.02  # how much later than asked for the server's answer may come
_NAME_CHECK_S, _MIN_HEARTBEAT_S = 1.0, 0.005  # how soon a consumer learns that another has its name
_log = logging.getLogger(__name__)


class Consumer:
    """One member of a group: a context, and an async iterator of deliveries.

    Acknowledge each one when its work is done. On leaving, what is unfinished is released; it may
    be opened again. After an error, or a fetch that was cancelled, the next `fetch` picks up what
    was on its way.

    Args:
        group: The group to join.
        name: No other living consumer's. A later one of the same name takes it over: this one's
            next `fetch` raises LeaseLost, and what it has in flight stays its own until it has
            left.
        batch_size: How many entries are asked for at once.
        max_in_flight: How many may be read and not acknowledged; then reading waits.
        claim_idle_ms: After so long another member's entry counts as abandoned; None: never. The
            same for all members.
        prefetch: The server reads the next ones while these are handled, as long as there are many:
            faster, and whoever dies leaves two batches behind.
        heartbeat: What is in flight is kept alive, however long its work takes, as long as the
            event loop is not blocked for longer than `claim_idle_ms`. False: an entry is idle from
            its delivery on; then `claim_idle_ms` is longer than the handling of a whole batch.

    Raises:
        InvalidParameter: A number is out of bounds, or it is open already.
        MpimError: What `ReconnectingConnection` raises.
    """

    def __init__(
        self,
        group: ConsumerGroup,
        name: Name,
        *,
        batch_size: int = 100,
        max_in_flight: int = 1_000,
        claim_idle_ms: int | None = 30_000,
        prefetch: bool = False,
        heartbeat: bool = True,
    ) -> None:
        check_whole(batch_size=batch_size, max_in_flight=max_in_flight)
        check_whole(claim_idle_ms=1 if claim_idle_ms is None else claim_idle_ms)
        self.group, self.shown_name = group, shown_name(name)
        self.name = same_name(name, "name of a consumer")
        self.claim_idle_ms, self.heartbeat = claim_idle_ms, heartbeat
        self._raw_name = name_bytes(name, "consumer")
        self._batch_size, self._max_in_flight, self._prefetch = batch_size, max_in_flight, prefetch
        self._heartbeat_s = (
            min(claim_idle_ms or LEASE_MS, LEASE_MS) / 3e3 if heartbeat else math.inf
        )
        self._is_reporting = group.context.reporter.is_on
        self._has_capacity = asyncio.Event()
        self._fetch_lock = asyncio.Lock()  # whoever fetches
        # something in flight has passed on since the last fetch: ask `holds` before working on it
        self.has_lost = False
        self._membership: Membership | None = None
        self._heartbeat_task: asyncio.Task[None] | None = None
        self._reset_state()

    def _reset_state(self) -> None:
        """As if never opened: a link that is not open, nothing in flight."""
        self._link = self.group.context.new_connection(self.shown_name)
        self._in_flight: dict[bytes, Delivery] = {}  # by raw id
        self._requested: asyncio.Future[Any] | None = None  # to a read, which nobody has taken yet
        # In flight, but the fetch that was to give them was cancelled.
        self._undelivered: list[Delivery] = []
        self._error: MpimError | None = None  # what the heartbeat met: for the next fetch
        self._is_alone, self._claim_at = True, 0.0
        self._own_pending: PendingScan | None = None
        self._rescan_own_pending()  # an earlier life of this name may have left something
        self._abandoned = self._scan_of_abandoned()

    def _rescan_own_pending(self) -> None:
        """Have the next fetches ask for what the server says is mine and I do not have."""
        self._claim_at = 0.0
        if self._is_alone:
            self._own_pending = PendingScan(self.group, idle_ms=0, owner=self.name)

    def _scan_of_abandoned(self) -> PendingScan | None:
        """What nobody keeps alive: whoever's.

        At least an earlier life's of my name that may still be at work.
        """
        if self.claim_idle_ms is not None:
            return PendingScan(self.group, idle_ms=self.claim_idle_ms, owner=None)
        return (
            None if self._is_alone else PendingScan(self.group, idle_ms=LEASE_MS, owner=self.name)
        )

    async def __aenter__(self) -> Self:
        if self._membership is not None:
            raise InvalidParameter(
                f"{self.shown_name} is open already: make a second one, with a name of its own"
            )
        self._membership = membership = Membership(self.group, self.name)
        try:
            await self._link.open()
            try:
                await self._acquire_name()
            except MpimError as error:  # refused for now: the first fetch asks again
                if not error.transient:
                    raise
        except BaseException:
            await self._close()
            raise
        self._heartbeat_task = asyncio.create_task(self._send_heartbeats(membership))
        return self

    async def _acquire_name(self) -> None:
        if self._membership is not None and not self._membership.has_joined:
            self._is_alone = await self._membership.join(self._link.client_id)
            if not self._is_alone:
                self._own_pending, self._abandoned = None, self._scan_of_abandoned()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None or issubclass(kind, Exception | asyncio.CancelledError):
                async with asyncio.timeout(self._link.config.close_timeout_s * RELEASE_SHARE):
                    # Before the farewell: a sign of life after it would bring the name back.
                    await self._stop_heartbeats()
                    await self._release_and_leave()
        except (MpimError, TimeoutError) as left:
            _log.warning(
                "%s: leaving: %s; others claim what it had",
                self.shown_name,
                left or "no answer in time",
            )
        finally:
            await self._close()

    async def _release_and_leave(self) -> None:
        """Give back what is in flight, and the name; again if a line breaks over it.

        All of it may be done twice.
        """
        for failures in itertools.count(1):
            try:
                await self.release_all()
                if self._membership is not None:
                    await self._membership.leave()
                return
            except MpimError as error:
                if not error.transient:
                    raise
            await asyncio.sleep(self._link.config.backoff.delay_s(failures, random.random()))

    async def _close(self) -> None:
        link = self._link
        if self._requested is not None and not self._requested.done():
            self._requested.add_done_callback(ignore_result)
            link.connection.abort(QueueClosed("the consumer has left"))
        self._membership = None
        self._reset_state()
        self._has_capacity.set()
        await self._stop_heartbeats()
        await link.close()

    async def _stop_heartbeats(self) -> None:
        beating, self._heartbeat_task = self._heartbeat_task, None
        if beating is not None:
            beating.cancel()
            await asyncio.wait([beating])

    # The heartbeat

    async def _send_heartbeats(self, membership: Membership) -> None:
        keep_at = now() + self._heartbeat_s
        while self._error is None or isinstance(self._error, LeaseLost):
            await asyncio.sleep(max(_MIN_HEARTBEAT_S, min(self._heartbeat_s, _NAME_CHECK_S)))
            in_hand: list[Delivery] = []
            if now() + _NAME_CHECK_S / 2 >= keep_at:
                keep_at, in_hand = now() + self._heartbeat_s, list(self._in_flight.values())
            try:
                await self._send_heartbeat(membership, in_hand)
            except MpimError as error:
                if not (error.transient or group_is_gone(error)):
                    self._error = error
                    self._has_capacity.set()

    async def _send_heartbeat(
        self, membership: Membership, in_flight: Sequence[Delivery] = ()
    ) -> None:
        await self._acquire_name()
        for gone in await membership.heartbeat(self._link.client_id, in_flight):
            if self._in_flight.get(gone.raw_id) is gone:
                self.has_lost = True
                self.discard(gone)
        if not membership.owns_name:
            raise LeaseLost(
                f"another consumer began as {self.shown_name!r}: give each a name of its own"
            )

    # Reading

    async def __aiter__(self) -> AsyncIterator[Delivery]:
        while True:
            for delivery in await self.fetch():
                yield delivery

    async def fetch(self, timeout_ms: int = BLOCK_MS) -> list[Delivery]:
        """Fetch what has become mine: leftovers, abandoned entries, new ones.

        Several tasks may ask, one after the other: each entry goes to one of them.

        Args:
            timeout_ms: How long to wait for the first entry.

        Returns:
            The deliveries; none if there is nothing in time, or no room.

        Raises:
            LeaseLost: Another consumer has begun under the same name.
            MpimError: What `ReconnectingConnection` raises.
        """
        async with self._fetch_lock:
            return await self._fetch(timeout_ms)

    async def _fetch(self, timeout_ms: int) -> list[Delivery]:
        until, self.has_lost = now() + timeout_ms / 1e3, False
        while True:
            if self._error is not None:
                raise self._error
            if self._undelivered:
                came, self._undelivered = self._undelivered, []
                return came
            room = self._max_in_flight - len(self._in_flight)
            if room <= 0:
                await self._wait_for_capacity(until)
                return []
            deliveries = await self._next_or_rejoin(room, until)
            if deliveries or now() >= until:
                break
        self._in_flight.update(zip(raw_ids(deliveries), deliveries, strict=True))
        if self._is_reporting:
            for delivery in deliveries:
                self.group.report(
                    EventKind.RECEIVED, delivery, count=delivery.deliveries, actor=self.shown_name
                )
        if self._prefetch and len(deliveries) >= min(room, self._batch_size):
            try:
                await self._request_next()
            except asyncio.CancelledError:
                self._undelivered = deliveries
                raise
        return deliveries

    async def _next_or_rejoin(self, room: int, until: float) -> list[Delivery]:
        try:
            return await self._next(room, until)
        except asyncio.CancelledError:
            self._rescan_own_pending()
            raise
        except MpimError as error:
            self._rescan_own_pending()
            if not group_is_gone(error):
                raise
            await self.group.recreate(self.name, list(self._in_flight.values()))
            return []

    async def _next(self, room: int, until: float) -> list[Delivery]:
        if self._requested is not None:
            # First of all: to the server it is mine already, it would be found as a leftover.
            return await self._await_requested(self._requested, until)
        await self._acquire_name()
        found = await self._recover_pending(room) or await self._claim(room)
        if found:
            return found
        wait_ms = min(BLOCK_MS, int((until - now()) * 1e3))
        connection = self._link.connection
        if connection.is_blocked:
            connection = await self._link.acquire_slot()
        self._requested = connection.send_blocking(self._read_command(room, wait_ms), wait_ms / 1e3)
        return await self._await_requested(self._requested, until + _ANSWER_GRACE_S)

    def _read_command(self, capacity: int, block_ms: int) -> bytes:
        count, wait_ms = str(min(capacity, self._batch_size)), str(max(1, block_ms))
        words = ("XREADGROUP", "GROUP", self.group.raw_name, self._raw_name, "COUNT", count)
        return encode_command(*words, "BLOCK", wait_ms, "STREAMS", self.group.context.key, ">")

    async def _await_requested(self, reply: asyncio.Future[Any], until: float) -> list[Delivery]:
        """What the server has answered to a read.

        One that is cancelled here, or too slow, is left for the next fetch.
        """
        if not reply.done():
            await asyncio.wait([reply], timeout=max(0.0, until - now()))
            if not reply.done():
                return []
        self._requested = None
        deliveries = parse_deliveries(reply.result())
        if deliveries:
            self.group.record_delivered(deliveries[-1].raw_id)
        return deliveries

    async def _request_next(self) -> None:
        """Ask for more before what is here is handled, and have the question leave.

        The server reads while we work.
        """
        room, connection = self._max_in_flight - len(self._in_flight), self._link.connection
        if room > 0 and not (
            connection.is_blocked or self._own_pending is not None or self._may_claim
        ):
            self._requested = connection.send_blocking(
                self._read_command(room, BLOCK_MS), BLOCK_MS / 1e3
            )
            connection.flush()
            await asyncio.sleep(0)

    async def _recover_pending(self, room: int) -> list[Delivery]:
        """What the server says is mine and I do not have.

        An answer that was lost on the way, an earlier life of mine.
        """
        while (scan := self._own_pending) is not None:
            if self._membership is not None:
                # Mine as long as nobody else has begun under the same name.
                await self._send_heartbeat(self._membership)
            lines = await scan.next_page(room, exclude=self._in_flight)
            deliveries = await self.group.redeliver(self.name, lines)
            if scan.at_end and self._own_pending is scan:
                self._own_pending = None
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
            lines = await scan.next_page(room, exclude=self._in_flight)
            if scan.at_end:
                self._claim_at = now() + scan.idle_ms / 2e3
            deliveries = await self.group.claim_ids(self.name, lines, idle_ms=scan.idle_ms)
            for delivery in deliveries:
                self.group.report(
                    EventKind.CLAIMED, delivery, count=delivery.deliveries, actor=self.shown_name
                )
            if self._membership is not None:
                for other in {name_bytes(line.consumer) for line in lines} - {self._raw_name}:
                    await self._membership.remove(other)
            if deliveries or scan.at_end:
                return deliveries
        return []

    async def _wait_for_capacity(self, until: float) -> None:
        self._has_capacity.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, until - now())):
                await self._has_capacity.wait()

    # Finishing

    def ack(self, delivery: Delivery) -> "asyncio.Future[None]":
        """Acknowledge; all of one event-loop iteration leave as one command.

        Args:
            delivery: An entry in flight.

        Returns:
            A future, done when the server has done it.
        """
        self.discard(delivery)
        return self.group.ack_coalesced(delivery, actor=self.shown_name)

    async def ack_all(self, deliveries: Sequence[Delivery]) -> None:
        """Acknowledge many with one command; returns when the server has done it.

        Args:
            deliveries: Entries in flight.
        """
        for first in range(0, len(deliveries), MAX_IDS):
            chunk = deliveries[first : first + MAX_IDS]
            ids = raw_ids(chunk)
            await self.group.ack(*ids)
            for raw_id in ids:
                self._in_flight.pop(raw_id, None)
            self._has_capacity.set()
            if self._is_reporting:
                for delivery in chunk:
                    self.group.report(EventKind.ACKED, delivery, actor=self.shown_name)

    def discard(self, delivery: Delivery) -> None:
        """Give up an entry's slot: acknowledged, dead-lettered, or somebody else's.

        Args:
            delivery: An entry in flight.
        """
        self._in_flight.pop(delivery.raw_id, None)
        self._has_capacity.set()

    def holds(self, delivery: Delivery) -> bool:
        """Return whether an entry is in flight still.

        Args:
            delivery: What was fetched.

        Returns:
            False if it is known to be finished, claimed by another, or trimmed.
        """
        return delivery.raw_id in self._in_flight

    def reset(self, *, keep: Collection[Delivery] = ()) -> None:
        """Forget what is in flight after an error: the next fetch asks the server what is mine.

        Args:
            keep: Deliveries that somebody still works on.
        """
        self._in_flight = {
            key: held for key in raw_ids(keep) if (held := self._in_flight.get(key)) is not None
        }
        self._undelivered = []
        self._rescan_own_pending()
        self._has_capacity.set()

    async def redeliver(self, delivery: Delivery) -> Delivery | None:
        """Count one more delivery of an entry in flight.

        Args:
            delivery: The entry as it was delivered last.

        Returns:
            The new delivery; None if it is not mine any more, or not there: its slot is free.
        """
        try:
            taken = await self.group.redeliver(self.name, [delivery])
        except (MpimError, asyncio.CancelledError):  # done or not: it is looked for where it is
            self.discard(delivery)
            self._rescan_own_pending()
            raise
        if not taken:
            self.discard(delivery)
            return None
        self._in_flight[delivery.raw_id] = taken[0]
        return taken[0]

    async def release_all(self) -> None:
        """Give back what is in flight, for others to take at once."""
        if self._requested is not None:
            with contextlib.suppress(CommandRejected):  # not everybody may; then it is waited for
                # It would go on waiting there, and take what comes after we have left.
                if not self._requested.done():
                    await self.group.context.connection.call(
                        "CLIENT", "UNBLOCK", str(self._link.client_id)
                    )
            with contextlib.suppress(MpimError):  # what a broken line swallowed is found below
                came = await self._await_requested(
                    self._requested, now() + self._link.config.timeout_s
                )
                self._in_flight.update(zip(raw_ids(came), came, strict=True))
        held = list(self._in_flight.values())
        released = await self.group.release(self.name, held)
        self._in_flight.clear()
        for delivery in held:
            if delivery.raw_id in released:
                self.group.report(EventKind.RELEASED, delivery, actor=self.shown_name)
        while (scan := self._own_pending) is not None and self._membership is not None:
            await self._send_heartbeat(self._membership)
            await self.group.release(self.name, await scan.next_page(MAX_IDS, exclude=()))
            if scan.at_end:
                self._own_pending = None
