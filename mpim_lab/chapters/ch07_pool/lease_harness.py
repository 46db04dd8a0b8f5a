"""Lender: the pool beneath the learner's lease. It lends, takes back and discards; what is done when is the lease's."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from mpim_lab.chapters.ch07_pool.designs import PoolDesign, Setting
from mpim_lab.chapters.ch07_pool.experiment import CallersVerdict
from mpim_lab.chapters.ch07_pool.naive import SketchConnection
from mpim_lab.errors import InvalidParameter
from mpim_lab.events import Kind
from mpim_lab.lab.exercise.challenge import Failure, story_of
from mpim_lab.lab.exercise.experiment import Result
from mpim_lab.mq.connection.address import Address
from mpim_lab.mq.pool.raw_connection import RawConnection

CALL_TIMEOUT_S = 5.0


class LentConnection(SketchConnection):
    """A connection without a guard: it does what it is told, in the middle of a reply as well."""

    @property
    def unanswered(self) -> int:
        """Replies that are still to come."""
        return self.raw.pending_replies


@dataclass(frozen=True)
class LenderFigures:
    """Who has a connection, and who waits."""

    in_use: int
    waiting: int


class Lender:
    """At most `setting.connections`; last in, first out, so that what lies at the bottom may rot."""

    def __init__(self, setting: Setting) -> None:
        self._setting, self._address = setting, Address.parse(setting.url)
        self._places: asyncio.LifoQueue[LentConnection | None] = asyncio.LifoQueue()
        for _ in range(setting.connections):
            self._places.put_nowait(None)
        self._lent: set[LentConnection] = set()
        self._waiting = self.opened = 0
        self._closing: set[asyncio.Task[None]] = set()

    async def get(self) -> LentConnection:
        """Wait for a connection: one that was given back, or a new one."""
        self._waiting += 1
        try:
            connection = await self._places.get()
        finally:
            self._waiting -= 1
        try:
            connection = connection or await self._connect()
        except BaseException:
            self._places.put_nowait(None)
            raise
        self._lent.add(connection)
        return connection

    def put(self, connection: LentConnection) -> None:
        """Take one back, as it is. Raises InvalidParameter for one that is not out."""
        self._take_back(connection)
        self._places.put_nowait(connection)

    def discard(self, connection: LentConnection) -> None:
        """Close one; its place is free again. Raises InvalidParameter for one that is not out."""
        self._take_back(connection)
        task = asyncio.create_task(connection.raw.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
        self._places.put_nowait(None)

    def stats(self) -> LenderFigures:
        """As a pool's."""
        return LenderFigures(len(self._lent), self._waiting)

    async def close(self) -> None:
        """Close what is left."""
        while not self._places.empty():
            if (connection := self._places.get_nowait()) is not None:
                await connection.raw.close()
        for lent in list(self._lent):
            await lent.raw.close()

    async def _connect(self) -> LentConnection:
        wire = RawConnection(self._address, self._setting.name)
        await wire.open(CALL_TIMEOUT_S)
        self.opened += 1
        return LentConnection(wire, CALL_TIMEOUT_S)

    def _take_back(self, connection: LentConnection) -> None:
        if connection not in self._lent:
            raise InvalidParameter("a connection was given back that nobody has: twice, perhaps")
        self._lent.discard(connection)

    # As a design, and what there is to say at the end

    @classmethod
    def design(cls, solution: type[Any], made: list["Lender"]) -> PoolDesign:
        """The learner's lease on a lender, as the callers' experiment takes it; the lender is added to `made`."""

        @contextlib.asynccontextmanager
        async def make(setting: Setting) -> AsyncIterator[Lender]:
            made.append(cls(setting))
            try:
                yield made[-1]
            finally:
                await made[-1].close()

        return PoolDesign(make, solution, gives_up=False)

    def complaint(self, result: Result, trial: str, more: int) -> Failure | None:
        """The first thing to be said against a run, worst first."""
        verdict = result.verdict
        assert isinstance(verdict, CallersVerdict)
        struck = _struck(result) if verdict.sent else set()
        failed = {event.message_id: event.detail.partition(":")[0] for event in result.trace.of(Kind.FAILED)}
        refused = [name for name in failed if name not in struck and name not in verdict.wrong]
        complaints = [
            *((name, f"{name} was given somebody else's reply") for name in verdict.wrong),
            *(
                (name, f"{name} is stuck: every place is taken, and nobody is left to free one")
                for name in verdict.stuck
            ),
            *((name, f"{name} was given a connection of no use: {failed[name]}") for name in refused),
            *((name, f"{name} was never told of its error: your lease kept it") for name in verdict.untold),
        ]
        most = verdict.connections + more
        if not complaints and verdict.usable < verdict.connections:
            complaints = [("", f"at the end {verdict.usable} of {verdict.connections} connections are of use")]
        if not complaints and self.opened > most:
            complaints = [("", f"{self.opened} connections were opened where {most} do: healthy ones were discarded")]
        for name, text in complaints:
            return Failure(text, trial, name, story_of(result, name) if name else (), result.trace)
        return None


def _struck(result: Result) -> set[str]:
    """Whom the fault was meant for: the callers that came while it lasted, but for one that strikes idle connections."""
    struck, lasts = set(), False
    for event in result.trace.events:
        if event.kind is Kind.FAULT_BEGAN:
            lasts = event.detail != "idle rot"
        elif event.kind is Kind.FAULT_ENDED:
            lasts = False
        elif event.kind is Kind.ACCEPTED and lasts:
            struck.add(event.message_id)
    return struck
