"""ConsumerGroup: several consumers share out one stream.

Each entry is somebody's until it is acknowledged.

| state of an entry | how it gets there | where it is                                      |
|-------------------|-------------------|--------------------------------------------------|
| new               | `Stream.add`      | in the stream                                    |
| pending           | `Consumer.fetch`  | in the pending list: its consumer, idle time and |
|                   |                   | delivery count                                   |
| acknowledged      | `ack`             | in the stream only                               |
| dead              | `dead_letter`     | in the dead letters                              |

A consumer that dies leaves its entries pending. The server gives them to nobody: another consumer
must claim what has been idle for too long. The first may not be dead but slow, so an entry may be
handled twice: at least once.

What a consumer does to its own entries it does only as long as they are its own: in its name, and
delivered as often as it was told (own_entries.lua). Whoever claimed one since, a later life of the
same name too, has made that number higher.

A group that the server has lost (NOGROUP: destroyed, or a restart without persistence) is made
again where it was: at the last id that it was given as far as its members know. What was delivered
before is not delivered again; what its members have in flight is pending again; what a dead member
had in flight is lost with the list. In another stream of the same name, whose ids are lower,
everything is new.

Source: https://valkey.io/topics/streams-intro/#consumer-groups
"""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from mpim_lab.errors import CommandRejected, MpimError
from mpim_lab.events import EventKind, shown_name
from mpim_lab.keys import Name, name_bytes, name_text, same_name
from mpim_lab.mq.connection.bounds import check_whole
from mpim_lab.mq.connection.coalescer import Coalescer
from mpim_lab.mq.connection.context import StreamContext
from mpim_lab.mq.connection.lua_script import LuaScript
from mpim_lab.mq.streams.dead_letters import DeadLetterQueue
from mpim_lab.mq.streams.entries import Delivery, raw_ids

MAX_IDS = 1_000


REDELIVER_OR_RELEASE = LuaScript(
    "mq/streams/lua/own_entries.lua", "mq/streams/lua/redeliver_or_release.lua"
)
RECREATE_GROUP = LuaScript("mq/streams/lua/recreate_group.lua")


class PendingEntry(NamedTuple):
    """One entry of the pending list. `deliveries` counts how often it was handed to somebody."""

    id: str
    consumer: Name
    idle_ms: int
    deliveries: int


class ConsumerGroup:
    """One group of one stream: `await stream.group("billing")`.

    Its methods raise what `ReconnectingConnection` raises.

    Args:
        access: What the parts of the stream share.
        name: The group's name.
    """

    def __init__(self, access: StreamContext, name: Name) -> None:
        name = same_name(name, "group")
        self.context, self.name, self.dead_letters = access, name, DeadLetterQueue(access, name)
        self.raw_name = name_bytes(name, "group")
        self._link = access.connection
        self._acks: Coalescer[bytes, None] = Coalescer(self._send_acks, max_items=MAX_IDS)
        # the last id that it was given, as far as anybody here knows
        self._last_delivered_id = b"0-0"

    async def create(self, start: str = "0") -> bool:
        """Make the group, and the stream.

        Args:
            start: "0" from the first entry, "$" only what comes from now on, or an id.

        Returns:
            False if the group was there already, wherever it stands.
        """
        try:
            await self._link.call(
                "XGROUP", "CREATE", self.context.key, self.raw_name, start, "MKSTREAM"
            )
            is_new = True
        except CommandRejected as error:
            if error.code != "BUSYGROUP":
                raise
            is_new = False
        self.record_delivered((await self._info()).get(b"last-delivered-id", b"0-0"))
        return is_new

    def record_delivered(self, raw_id: bytes) -> None:
        """Note that the group was given all up to this id.

        If it must be made again, it begins after that.
        """
        if _order(raw_id) > _order(self._last_delivered_id):
            self._last_delivered_id = raw_id

    async def recreate(self, consumer: Name, in_flight: Sequence[Delivery]) -> None:
        """Make a lost group again, where it was, with what a consumer has in flight."""
        words = (self.raw_name, name_bytes(consumer), self._last_delivered_id)
        await RECREATE_GROUP.run(
            self._link, [self.context.key], *words, *with_delivery_counts(in_flight)
        )

    async def _info(self) -> dict[bytes, Any]:
        for raw in await self._link.call("XINFO", "GROUPS", self.context.key):
            if raw[b"name"] == self.raw_name:
                return dict(raw)
        return {}

    # Acknowledging

    async def ack(self, *ids: str | bytes) -> int:
        """Acknowledge entries, whoever has them.

        Args:
            *ids: Their ids.

        Returns:
            How many of them were pending.
        """
        return (
            int(await self._link.call("XACK", self.context.key, self.raw_name, *ids)) if ids else 0
        )

    def ack_coalesced(self, delivery: Delivery, *, actor: Name) -> "asyncio.Future[None]":
        """Acknowledge with all others of this event-loop iteration in one command.

        Args:
            delivery: The entry.
            actor: Who handled it, for the observer.

        Returns:
            A future, done when the server has done it.
        """
        answer = self._acks.submit(delivery.raw_id)
        if self.context.reporter.is_on:
            answer.add_done_callback(lambda done: self._on_acked(delivery, done, actor))
        return answer

    async def _send_acks(self, ids: Sequence[bytes]) -> Sequence[None]:
        await self.ack(*ids)
        return [None] * len(ids)

    def _on_acked(self, delivery: Delivery, done: "asyncio.Future[None]", actor: Name) -> None:
        if not done.cancelled() and done.exception() is None:
            self.report(EventKind.ACKED, delivery, actor=actor)

    # What is unfinished

    async def pending(
        self, *, count: int = 100, idle_ms: int = 0, consumer: Name | None = None, first: str = "-"
    ) -> list[PendingEntry]:
        """List unacknowledged entries, oldest first.

        Args:
            count: At most so many.
            idle_ms: Only those that have been idle for at least so long.
            consumer: Only this consumer's; None: everybody's.
            first: From this id on; "(id" is above it, so that one page may follow the other.

        Returns:
            The entries, with their consumer, idle time and delivery count.
        """
        check_whole(count=count)
        check_whole(0, idle_ms=idle_ms)
        idle = ("IDLE", str(idle_ms)) if idle_ms else ()
        whose = () if consumer is None else (name_bytes(consumer),)
        raws = await self._link.call(
            "XPENDING", self.context.key, self.raw_name, *idle, first, "+", str(count), *whose
        )
        return [
            PendingEntry(raw[0].decode(), name_text(raw[1]), int(raw[2]), int(raw[3]))
            for raw in raws
        ]

    async def claim(
        self, consumer: Name, *, idle_ms: int, count: int = 100, owner: Name | None = None
    ) -> list[Delivery]:
        """Take over what has been idle: its consumer is dead, or slow beyond what you allow.

        Two that claim at once do not get the same entry: claiming ends its idleness. Entries that
        were deleted meanwhile are dropped from the pending list.

        Args:
            consumer: Who takes it over.
            idle_ms: For how long it has been idle at least.
            count: At most so many.
            owner: Only this consumer's; None: everybody's.

        Returns:
            What is the consumer's now.
        """
        lines = await self.pending(count=count, idle_ms=idle_ms, consumer=owner)
        return await self.claim_ids(consumer, lines, idle_ms=idle_ms)

    async def claim_ids(
        self, consumer: Name, found: Sequence[PendingEntry], *, idle_ms: int
    ) -> list[Delivery]:
        """Claim what was found in the pending list, as far as it is still idle enough."""
        if not found:
            return []
        who, ids = name_bytes(consumer), [line.id for line in found]
        raws = await self._link.call(
            "XCLAIM", self.context.key, self.raw_name, who, str(idle_ms), *ids
        )
        return await self._claimed(raws, {line.id.encode(): line.deliveries for line in found})

    async def redeliver(
        self, consumer: Name, lines: Sequence[PendingEntry] | Sequence[Delivery]
    ) -> list[Delivery]:
        """Deliver a consumer's own entries once more, as far as they are its own and there.

        Args:
            consumer: Whose they are.
            lines: The entries.

        Returns:
            The new deliveries.
        """
        if not lines:
            return []
        raws = await self._run_own_entries("again", consumer, with_delivery_counts(lines))
        return await self._claimed(raws, {line.id.encode(): line.deliveries for line in lines})

    async def _claimed(self, raws: list[Any], before: dict[bytes, int]) -> list[Delivery]:
        claimed = [Delivery(raw[0], raw[1], before[raw[0]] + 1) for raw in raws if raw is not None]
        if len(claimed) < len(
            raws
        ):  # before version 7 the server leaves it to us to finish what was trimmed
            there = set(raw_ids(claimed))
            await self._finish_trimmed([raw_id for raw_id in before if raw_id not in there])
        return claimed

    async def _finish_trimmed(self, ids: list[bytes]) -> None:
        gone = [
            raw_id
            for raw_id in ids
            if not await self._link.call("XRANGE", self.context.key, raw_id, raw_id)
        ]
        await self.ack(*gone)

    async def release(
        self, consumer: Name, lines: Sequence[PendingEntry] | Sequence[Delivery]
    ) -> set[bytes]:
        """Give a consumer's own entries back: the next claim takes them at once.

        Args:
            consumer: Whose they are.
            lines: The entries.

        Returns:
            The ids of those that were still its own.
        """
        released: set[bytes] = set()
        for first in range(0, len(lines), MAX_IDS):
            released.update(
                await self._run_own_entries(
                    "release", consumer, with_delivery_counts(lines[first : first + MAX_IDS])
                )
            )
        return released

    async def _run_own_entries(
        self, what: str, consumer: Name, counted_ids: list[bytes | str]
    ) -> list[Any]:
        words = (self.raw_name, name_bytes(consumer), what, *counted_ids)
        return list(await REDELIVER_OR_RELEASE.run(self._link, [self.context.key], *words))

    async def dead_letter(self, delivery: Delivery, *, reason: str, error: str = "") -> bool:
        """Move an entry to the dead-letter queue, in one atomic step.

        Args:
            delivery: The entry.
            reason: Why it is given up.
            error: The last error's text.

        Returns:
            False if somebody else finished it meanwhile.
        """
        is_moved = await self.dead_letters.move(
            delivery.entry, reason=reason, error=error, deliveries=delivery.deliveries
        )
        if is_moved:
            self.report(
                EventKind.DEAD_LETTERED, delivery, detail=f"{reason}: {error}" if error else reason
            )
        return is_moved

    async def lag(self) -> int | None:
        """Count the entries that nobody in this group has been given yet.

        Returns:
            How many; None where the server cannot tell (deletions).
        """
        info = await self._info()
        lag = info.get(b"lag")  # servers before version 7 do not have it
        if not lag:
            return None if lag is None else 0
        # Redis 7.0 counts what was trimmed before it was given, for ever
        after = b"(" + info[b"last-delivered-id"]
        is_behind = await self._link.call("XRANGE", self.context.key, after, "+", "COUNT", "1")
        return (
            min(int(lag), int(await self._link.call("XLEN", self.context.key))) if is_behind else 0
        )

    def report(
        self,
        kind: EventKind,
        delivery: Delivery,
        *,
        actor: Name = "",
        detail: str = "",
        count: int | None = None,
        error: BaseException | None = None,
    ) -> None:
        """Report what happened to a delivery, under its first field's value."""
        self.context.reporter.message(
            kind,
            delivery.first_value,
            self.context.name,
            detail=detail,
            count=count,
            actor=shown_name(actor),
            error=error,
        )


def group_is_gone(error: MpimError) -> bool:
    """Whether the server said that it does not have the group, or no longer."""
    return isinstance(error, CommandRejected) and error.code in ("NOGROUP", "UNBLOCKED")


def _order(raw_id: bytes) -> tuple[int, int]:
    ms, _, number = raw_id.partition(b"-")
    return int(ms), int(number or 0)


def with_delivery_counts(lines: Iterable[PendingEntry] | Iterable[Delivery]) -> list[bytes | str]:
    """Ids, each with how often the entry was delivered, as own_entries.lua wants them."""
    return [word for line in lines for word in (line.id, str(line.deliveries))]
