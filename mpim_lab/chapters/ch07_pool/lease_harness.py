"""BackingPool: the pool beneath the learner's lease.

It lends, takes back and discards; the lease decides when.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from mpim_lab.chapters.ch07_pool.designs import PoolContext, PoolDesign
from mpim_lab.chapters.ch07_pool.experiment import PoolVerdict
from mpim_lab.chapters.ch07_pool.naive import NaiveConnection
from mpim_lab.errors import InvalidParameter
from mpim_lab.events import EventKind
from mpim_lab.lab.exercise.experiment import Result
from mpim_lab.lab.exercise.legacy_challenge import TrialFailure, message_history
from mpim_lab.mq.connection.address import Address
from mpim_lab.mq.pool.raw_connection import RawConnection

CALL_TIMEOUT_S = 5.0


class UnguardedConnection(NaiveConnection):
    """A connection without a guard: it sends any command, in the middle of a reply as well."""

    @property
    def unanswered(self) -> int:
        """Replies that are still to come."""
        return self.raw.pending_replies


@dataclass(frozen=True)
class BackingPoolStats:
    """The stats of a backing pool: how many connections are borrowed, how many callers wait."""

    in_use: int
    waiting: int


class BackingPool:
    """A minimal pool: last in, first out, so that the one at the bottom may become stale."""

    def __init__(self, context: PoolContext) -> None:
        self._context, self._address = context, Address.parse(context.url)
        self._slots: asyncio.LifoQueue[UnguardedConnection | None] = asyncio.LifoQueue()
        for _ in range(context.connections):
            self._slots.put_nowait(None)
        self._borrowed: set[UnguardedConnection] = set()
        self._waiting = self.opened = 0
        self._closing: set[asyncio.Task[None]] = set()

    async def get(self) -> UnguardedConnection:
        """Wait for a connection: one that was given back, or a new one."""
        self._waiting += 1
        try:
            connection = await self._slots.get()
        finally:
            self._waiting -= 1
        try:
            connection = connection or await self._connect()
        except BaseException:
            self._slots.put_nowait(None)
            raise
        self._borrowed.add(connection)
        return connection

    def put(self, connection: UnguardedConnection) -> None:
        """Take one back, as it is. Raises InvalidParameter for one that is not out."""
        self._take_back(connection)
        self._slots.put_nowait(connection)

    def discard(self, connection: UnguardedConnection) -> None:
        """Close one; its place is free again. Raises InvalidParameter for one that is not out."""
        self._take_back(connection)
        task = asyncio.create_task(connection.raw.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
        self._slots.put_nowait(None)

    def stats(self) -> BackingPoolStats:
        """Return the stats, as a pool's."""
        return BackingPoolStats(len(self._borrowed), self._waiting)

    async def close(self) -> None:
        """Close what is left."""
        while not self._slots.empty():
            if (connection := self._slots.get_nowait()) is not None:
                await connection.raw.close()
        for borrowed in list(self._borrowed):
            await borrowed.raw.close()

    async def _connect(self) -> UnguardedConnection:
        wire = RawConnection(self._address, self._context.name)
        await wire.open(CALL_TIMEOUT_S)
        self.opened += 1
        return UnguardedConnection(wire, CALL_TIMEOUT_S)

    def _take_back(self, connection: UnguardedConnection) -> None:
        if connection not in self._borrowed:
            raise InvalidParameter("a connection was given back that nobody has: twice, perhaps")
        self._borrowed.discard(connection)

    # As a design, and what there is to say at the end

    @classmethod
    def design(cls, solution: type[Any], created: list["BackingPool"]) -> PoolDesign:
        """Return the design with the learner's lease on a backing pool.

        The pool is added to `created`.
        """

        @contextlib.asynccontextmanager
        async def make(context: PoolContext) -> AsyncIterator[BackingPool]:
            created.append(cls(context))
            try:
                yield created[-1]
            finally:
                await created[-1].close()

        return PoolDesign(make, solution, gives_up=False)

    def first_violation(self, result: Result, trial: str, more: int) -> TrialFailure | None:
        """Return the first violation of a run, the worst first."""
        verdict = result.verdict
        assert isinstance(verdict, PoolVerdict)
        hit = _hit_callers(result) if verdict.sent else set()
        failed = {event.message_id: event.error for event in result.trace.by_kind(EventKind.FAILED)}
        refused = [name for name in failed if name not in hit and name not in verdict.wrong]
        violations = [
            *((name, f"{name} was given somebody else's reply") for name in verdict.wrong),
            *(
                (name, f"{name} is stalled: every slot is taken, and nobody is left to free one")
                for name in verdict.stalled
            ),
            *(
                (name, f"{name} was given a connection of no use: {failed[name]}")
                for name in refused
            ),
            *(
                (name, f"{name} never got its error: your lease kept it")
                for name in verdict.unanswered
            ),
        ]
        most = verdict.connections + more
        if not violations and verdict.usable < verdict.connections:
            violations = [
                ("", f"at the end {verdict.usable} of {verdict.connections} connections are of use")
            ]
        if not violations and self.opened > most:
            violations = [
                (
                    "",
                    f"{self.opened} connections were opened where {most} do: "
                    "healthy ones were discarded",
                )
            ]
        for name, text in violations:
            return TrialFailure(
                text, trial, name, message_history(result, name) if name else (), result.trace
            )
        return None


def _hit_callers(result: Result) -> set[str]:
    """Return the callers hit by the fault: those that came while it lasted.

    A fault at idle connections hits none.
    """
    hit, is_active = set(), False
    for event in result.trace.events:
        if event.kind is EventKind.FAULT_BEGAN:
            is_active = event.detail != "idle rot"
        elif event.kind is EventKind.FAULT_ENDED:
            is_active = False
        elif event.kind is EventKind.ACCEPTED and is_active:
            hit.add(event.message_id)
    return hit
