"""Seats: which partitions one member of a group has, with which token, what it has read of them, and how it commits.

A seat is taken and kept by signs of life (seat.lua); a member that is silent for longer than its lease loses it to another.
Then its token is not the last one any more, and its commits are refused (commit.lua): two workers may both believe
that they have a partition, but only one of them can write.
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
from mpim_lab.mq.connection.handler import RELEASE_SHARE
from mpim_lab.mq.connection.ids import new_message_id
from mpim_lab.mq.connection.lua_script import LuaScript
from mpim_lab.mq.idempotency.effects import Effects, pack_effects
from mpim_lab.mq.ordering.partitioned_stream import Ordered, PartitionedStream, ordered_of
from mpim_lab.mq.streams.entries import Entry

LOOKS_EVERY_S = 0.2  # however long the lease: a partition that was left is taken as soon as that
_log = logging.getLogger(__name__)
_SEAT, _COMMIT = (
    LuaScript("mq/ordering/lua/seat.lua"),
    LuaScript("mq/connection/lua/call.lua", "mq/idempotency/lua/effects.lua", "mq/ordering/lua/commit.lua"),
)


@dataclass
class Seat:
    """One partition that a member has. `in_hand`: read and not committed, oldest first."""

    partition: int
    token: int
    offset: str
    tries: int
    in_hand: list[Ordered] = field(default_factory=list)
    failures: int = 0  # of the first entry in hand, by this member
    due_at: float = 0.0  # when it is to be tried again
    doubtful: int = 0  # so many entries may have been in the hands of an owner that died: one at a time

    @property
    def read_to(self) -> str:
        """The last entry's id that was read."""
        return self.in_hand[-1].entry_id if self.in_hand else self.offset


class Done(NamedTuple):
    """An entry whose handler has returned, and what is to change with it."""

    ordered: Ordered
    effects: Effects


class Seats:
    """The partitions of one member. Use as a context; on leaving they are free for others at once.

    Raises what `ReconnectingConnection` raises, and LeaseLost when a partition has passed on.
    """

    def __init__(self, stream: PartitionedStream, group: Name, member: Name, *, lease_ms: int, prefetch: int) -> None:
        check_whole(3, lease_ms=lease_ms)
        self.group, self.member = same_name(group, "group"), same_name(member, "name of a member")
        self._stream, self._lease_ms, self._prefetch = stream, lease_ms, prefetch
        access = stream.queue.context(stream.name)
        self._access, self._commands, self._reads = access, access.connection, access.new_connection(member)
        self._keys = stream.seat_keys(group)
        self._taken: dict[int, Seat] = {}
        self._show_at, self._every_s, self._life = 0.0, min(lease_ms / 3e3, LOOKS_EVERY_S), ""
        self.has_name = True  # no later member has begun under the same name
        self.limits = self._commands.config

    @property
    def taken(self) -> list[Seat]:
        """The seats this member has, as far as it knows."""
        return list(self._taken.values())

    async def __aenter__(self) -> Self:
        try:
            await self._reads.open()
        except BaseException:
            await self._close()
            raise
        self._life, self.has_name = "", True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.forget()
        try:
            # a process that dies leaves nothing in order
            if self._life and self.has_name and (kind is None or issubclass(kind, Exception | asyncio.CancelledError)):
                async with asyncio.timeout(self.limits.close_timeout_s * RELEASE_SHARE):
                    await self._show(0)
        except (MpimError, TimeoutError) as left:  # they pass on after the lease
            _log.warning("%s: leaving: %s", self.member, left or "no answer in time")
        finally:
            await self._close()

    async def _close(self) -> None:
        reads, self._reads = self._reads, self._access.new_connection(self.member)
        if reads.is_connected:
            reads.connection.abort(QueueClosed("the member has left"))  # a read that still waits ends here
        await reads.close()

    def must_show(self) -> bool:
        """Whether a sign of life is due."""
        return now() >= self._show_at

    def forget(self) -> None:
        """After an error: what is mine, and from where on, the server knows."""
        self._taken.clear()
        self._show_at = 0.0

    async def keep(self) -> None:
        """Give a sign of life if it is due, and learn which partitions are mine."""
        if not self.must_show():
            return
        self._show_at = now() + self._every_s
        answers = await self._show(self._lease_ms)
        before, self._taken = self._taken, {}
        for partition, token, offset, tries in answers:
            known = before.get(partition)
            if known is None or known.token != token:
                known = Seat(partition, token, offset.decode(), tries)
                known.doubtful = self._prefetch if tries > 1 else 0
            self._taken[partition] = known

    async def begin(self, seat: Seat) -> None:
        """Leave word that the first entry in hand is begun, if an owner before may have died over it.

        Then my death over it counts as one more try; and my death over something else does not.
        """
        if seat.tries > 1:
            await self._commands.call("HSET", self._keys[1 + seat.partition], "begun", str(seat.token))

    async def _show(self, lease_ms: int) -> list[tuple[int, int, bytes, int]]:
        if not self._life:  # later lives have higher names
            seconds, microseconds = await self._commands.call("TIME")
            self._life = f"{int(seconds):012d}{int(microseconds):06d}-{new_message_id()}"
        words: tuple[Name, ...] = (self.member, self._life, str(lease_ms), str(int(self._every_s * 1e3)))
        keys = [*self._keys, *self._stream.keys]
        try:
            seats: list[tuple[int, int, bytes, int]] = await _SEAT.run(self._commands, keys, *words)
        except CommandRejected as error:
            if error.code != "LATERLIFE":
                raise
            self.has_name = False
            raise LeaseLost(f"another member began as {self.member!r}: give each a name of its own") from error
        return seats

    def holds(self, seat: Seat) -> bool:
        """Whether a seat is still this member's, as far as it knows."""
        return self._taken.get(seat.partition) is seat

    async def read(self, within_ms: int) -> None:
        """Read on where nothing is in hand; waits for the first, at most `within_ms` and until a sign of life is due."""
        within_ms = min(within_ms, int((self._show_at - now()) * 1e3))
        empty = {self._stream.keys[seat.partition]: seat for seat in self.taken if not seat.in_hand}
        must_wait = not any(seat.in_hand and seat.due_at <= now() for seat in self.taken)
        if not empty:  # nothing to read: wait for a retry, or for a partition
            return await asyncio.sleep(max(0, within_ms) / 1e3 if must_wait else 0)
        block = ("BLOCK", str(max(1, within_ms))) if must_wait else ()
        blocks_s = max(1, within_ms) / 1e3 if must_wait else 0.0
        words = ("COUNT", str(self._prefetch), *block, "STREAMS", *empty, *(seat.read_to for seat in empty.values()))
        for key, raws in (await self._reads.call("XREAD", *words, blocks_s=blocks_s) or {}).items():
            empty[key].in_hand = [ordered_of(raw) for raw in raws]

    async def commit(self, seat: Seat, done: list[Done]) -> tuple[int, str]:
        """Move past these, with their effects, in one step; gives how many, and why the next one was refused.

        Raises LeaseLost: nothing was changed.
        """
        if not done:
            return 0, ""
        keys = [self._keys[1 + seat.partition]]
        words = [b"%d" % seat.token, seat.offset.encode(), b"%d" % len(done)]
        for ordered, effects in done:
            words.append(ordered.entry_id.encode())
            pack_effects(effects.commands, keys, words)
        count, refused = await _COMMIT.run(self._commands, keys, *words)
        if count < 0:
            raise LeaseLost(
                f"partition {seat.partition} has passed on; nothing of {shown_name(self.member)}'s attempt was kept"
            )
        if count:
            seat.offset, seat.tries, seat.failures, seat.due_at = done[count - 1].ordered.entry_id, 1, 0, 0.0
            seat.doubtful = max(0, seat.doubtful - count)
        del seat.in_hand[:count]
        return count, refused.decode("utf-8", "replace")

    async def bury(self, seat: Seat, ordered: Ordered, *, reason: str, error: str, tries: int) -> None:
        """Make an entry a dead letter and move past it, in one step. Raises LeaseLost, CommandRejected."""
        letters, effects = self._stream.dead_letters(self.group, seat.partition), Effects()
        entry = Entry(ordered.entry_id.encode(), ordered.parts)
        letter = letters.encode_fields(entry, reason=reason, error=error, deliveries=tries)
        effects.commands.append((b"XADD", letters.key, b"*", *letter))
        _, refused = await self.commit(seat, [Done(ordered, effects)])
        if refused:
            raise CommandRejected(f"{ordered.entry_id} could not become a dead letter: {refused}")
