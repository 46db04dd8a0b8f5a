"""PartitionAssignments: the partitions of one member of a group, and the commit.

A partition's lease is acquired and kept by heartbeats (heartbeat.lua); a member that is silent for
longer than its lease loses it to another. Then its token is not the last one any more, and its
commits are refused (commit.lua): two workers may both believe that they have a partition, but only
one of them can write.
"""

import asyncio
import logging
from dataclasses import dataclass, field
from types import TracebackType
from typing import NamedTuple, Self

from mpim_lab.errors import CommandRejected, LeaseLost, MpimError, QueueClosed
from mpim_lab.events import now, shown_name
from mpim_lab.keys import Name, same_name
from mpim_lab.mq.connection.bounds import check_whole
from mpim_lab.mq.connection.encoding import new_message_id
from mpim_lab.mq.connection.handler import RELEASE_SHARE
from mpim_lab.mq.connection.lua_script import LuaScript
from mpim_lab.mq.idempotency.effects import AtomicEffects, encode_effects
from mpim_lab.mq.ordering.partitioned_stream import PartitionedStream, PartitionEntry, parse_entry
from mpim_lab.mq.streams.entries import Entry

# however long the lease: a partition that was released is acquired as soon as that
MAX_HEARTBEAT_INTERVAL_S = 0.2
_log = logging.getLogger(__name__)
HEARTBEAT = LuaScript("mq/ordering/lua/heartbeat.lua")
COMMIT = LuaScript(
    "mq/connection/lua/call.lua", "mq/idempotency/lua/effects.lua", "mq/ordering/lua/commit.lua"
)


@dataclass
class PartitionLease:
    """One member's lease of a partition. `in_flight`: read and not committed, oldest first."""

    partition: int
    token: int
    offset: str
    attempts: int
    in_flight: list[PartitionEntry] = field(default_factory=list)
    failures: int = 0  # of the first entry in flight, by this member
    retry_at: float = 0.0  # when it is to be tried again
    # so many entries may have been in flight when an owner died: one at a time
    suspect_count: int = 0

    @property
    def last_read_id(self) -> str:
        """Return the id of the last entry that was read."""
        return self.in_flight[-1].entry_id if self.in_flight else self.offset


class CompletedEntry(NamedTuple):
    """An entry whose handler has returned, with the effects to be committed with it."""

    entry: PartitionEntry
    effects: AtomicEffects


class PartitionAssignments:
    """The partitions assigned to one member.

    Use as a context; at its end they are free for others at once.

    Raises what `ReconnectingConnection` raises, and LeaseLost when a partition has passed on.
    """

    def __init__(
        self,
        stream: PartitionedStream,
        group: Name,
        member: Name,
        *,
        lease_ms: int,
        batch_size: int,
    ) -> None:
        check_whole(3, lease_ms=lease_ms)
        self.group, self.member = same_name(group, "group"), same_name(member, "name of a member")
        self._stream, self._lease_ms, self._batch_size = stream, lease_ms, batch_size
        access = stream.queue.context(stream.name)
        self._access = access
        self._commands = access.connection
        self._reads = access.new_connection(member)
        self._keys = stream.assignment_keys(group)
        self._assigned: dict[int, PartitionLease] = {}
        self._heartbeat_at = 0.0
        self._heartbeat_interval_s = min(lease_ms / 3e3, MAX_HEARTBEAT_INTERVAL_S)
        self._incarnation = ""
        self.owns_name = True  # no later member has begun under the same name
        self.limits = self._commands.config

    @property
    def assigned(self) -> list[PartitionLease]:
        """Return the leases this member has, as far as it knows."""
        return list(self._assigned.values())

    async def __aenter__(self) -> Self:
        try:
            await self._reads.open()
        except BaseException:
            await self._close()
            raise
        self._incarnation, self.owns_name = "", True
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.reset()
        try:
            # a process that dies leaves nothing in order
            if (
                self._incarnation
                and self.owns_name
                and (kind is None or issubclass(kind, Exception | asyncio.CancelledError))
            ):
                async with asyncio.timeout(self.limits.close_timeout_s * RELEASE_SHARE):
                    await self._send_heartbeat(0)
        except (MpimError, TimeoutError) as left:  # they pass on after the lease
            _log.warning("%s: leaving: %s", self.member, left or "no answer in time")
        finally:
            await self._close()

    async def _close(self) -> None:
        reads, self._reads = self._reads, self._access.new_connection(self.member)
        if reads.is_connected:
            reads.connection.abort(
                QueueClosed("the member has left")
            )  # a read that still waits ends here
        await reads.close()

    def heartbeat_due(self) -> bool:
        """Return whether a heartbeat is due."""
        return now() >= self._heartbeat_at

    def reset(self) -> None:
        """Forget all leases after an error.

        The next heartbeat brings them, with their offsets, from the server.
        """
        self._assigned.clear()
        self._heartbeat_at = 0.0

    async def heartbeat(self) -> None:
        """Send a heartbeat if one is due, and learn which partitions this member has."""
        if not self.heartbeat_due():
            return
        self._heartbeat_at = now() + self._heartbeat_interval_s
        answers = await self._send_heartbeat(self._lease_ms)
        before, self._assigned = self._assigned, {}
        for partition, token, offset, attempts in answers:
            known = before.get(partition)
            if known is None or known.token != token:
                known = PartitionLease(partition, token, offset.decode(), attempts)
                known.suspect_count = self._batch_size if attempts > 1 else 0
            self._assigned[partition] = known

    async def mark_started(self, lease: PartitionLease) -> None:
        """Record that the first entry in flight is started, if an owner may have died over it.

        Then this member's death over it counts as one more attempt; and its death over something
        else does not.
        """
        if lease.attempts > 1:
            await self._commands.call(
                "HSET", self._keys[1 + lease.partition], "begun", str(lease.token)
            )

    async def _send_heartbeat(self, lease_ms: int) -> list[tuple[int, int, bytes, int]]:
        if not self._incarnation:  # later incarnations have higher names
            seconds, microseconds = await self._commands.call("TIME")
            self._incarnation = f"{int(seconds):012d}{int(microseconds):06d}-{new_message_id()}"
        words: tuple[Name, ...] = (
            self.member,
            self._incarnation,
            str(lease_ms),
            str(int(self._heartbeat_interval_s * 1e3)),
        )
        keys = [*self._keys, *self._stream.keys]
        try:
            leases: list[tuple[int, int, bytes, int]] = await HEARTBEAT.run(
                self._commands, keys, *words
            )
        except CommandRejected as error:
            if error.code != "SUPERSEDED":
                raise
            self.owns_name = False
            raise LeaseLost(
                f"another member began as {self.member!r}: give each a name of its own"
            ) from error
        return leases

    def owns(self, lease: PartitionLease) -> bool:
        """Return whether a lease is still this member's, as far as it knows."""
        return self._assigned.get(lease.partition) is lease

    async def read(self, timeout_ms: int) -> None:
        """Read on where nothing is in flight.

        Wait for the first, at most `timeout_ms` and until a heartbeat is due.
        """
        timeout_ms = min(timeout_ms, int((self._heartbeat_at - now()) * 1e3))
        empty = {
            self._stream.keys[lease.partition]: lease
            for lease in self.assigned
            if not lease.in_flight
        }
        must_wait = not any(lease.in_flight and lease.retry_at <= now() for lease in self.assigned)
        if not empty:  # nothing to read: wait for a retry, or for a partition
            return await asyncio.sleep(max(0, timeout_ms) / 1e3 if must_wait else 0)
        block = ("BLOCK", str(max(1, timeout_ms))) if must_wait else ()
        blocks_s = max(1, timeout_ms) / 1e3 if must_wait else 0.0
        words = (
            "COUNT",
            str(self._batch_size),
            *block,
            "STREAMS",
            *empty,
            *(lease.last_read_id for lease in empty.values()),
        )
        for key, raws in (await self._reads.call("XREAD", *words, blocks_s=blocks_s) or {}).items():
            empty[key].in_flight = [parse_entry(raw) for raw in raws]

    async def commit(self, lease: PartitionLease, done: list[CompletedEntry]) -> tuple[int, str]:
        """Move past these, with their effects, atomically.

        Return how many, and why the next one was refused.

        Raise LeaseLost: nothing was changed.
        """
        if not done:
            return 0, ""
        keys = [self._keys[1 + lease.partition]]
        words = [b"%d" % lease.token, lease.offset.encode(), b"%d" % len(done)]
        for entry, effects in done:
            words.append(entry.entry_id.encode())
            encode_effects(effects.commands, keys, words)
        count, refused = await COMMIT.run(self._commands, keys, *words)
        if count < 0:
            raise LeaseLost(
                f"partition {lease.partition} has passed on; nothing of "
                f"{shown_name(self.member)}'s attempt was kept"
            )
        if count:
            lease.offset = done[count - 1].entry.entry_id
            lease.attempts = 1
            lease.failures = 0
            lease.retry_at = 0.0
            lease.suspect_count = max(0, lease.suspect_count - count)
        del lease.in_flight[:count]
        return count, refused.decode("utf-8", "replace")

    async def dead_letter(
        self,
        lease: PartitionLease,
        entry: PartitionEntry,
        *,
        reason: str,
        error: str,
        attempts: int,
    ) -> None:
        """Dead-letter an entry and move past it, atomically. Raise LeaseLost, CommandRejected."""
        letters, effects = self._stream.dead_letters(self.group, lease.partition), AtomicEffects()
        raw = Entry(entry.entry_id.encode(), entry.parts)
        letter = letters.encode_fields(raw, reason=reason, error=error, deliveries=attempts)
        effects.commands.append((b"XADD", letters.key, b"*", *letter))
        _, refused = await self.commit(lease, [CompletedEntry(entry, effects)])
        if refused:
            raise CommandRejected(f"{entry.entry_id} could not become a dead letter: {refused}")
