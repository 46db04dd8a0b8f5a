"""LearnerPool: the pool beneath the learner's lease. It lends what is there, and asks nothing."""

import asyncio
from dataclasses import dataclass
from typing import Protocol

from mpim_lab.chapters.ch07_pool.naive import NaiveConnection
from mpim_lab.errors import InvalidParameter
from mpim_lab.lab.exercise.actors import Actor


class LearnerConnection(NaiveConnection):
    """A connection of the pool: `await connection.call("ECHO", "hi")` is any command."""

    @property
    def unanswered(self) -> int:
        """Replies that are still to come. The next command would read the first of them."""
        return self.raw.pending_replies


@dataclass(eq=False)
class Line:
    """A connection, its relay, and the caller that has it. `is_cut`: its relay has been."""

    actor: Actor
    connection: LearnerConnection
    borrower: "Caller | None" = None
    is_open: bool = False
    is_cut: bool = False
    was_cut: bool = False  # when it was lent


@dataclass(eq=False)
class Caller:
    """A caller.

    Args:
        line: what it was lent last.
        phase: "asking", "has it", "leaving", "ended".
        raised: what it raised in the lease.
        ended_with: what came out of the lease.
        cancelled_in: the phase in which it was cancelled.
        refused: what `pool.get` raised for it.
        asked: how many questions it has asked.
    """

    name: str
    task: "asyncio.Task[None] | None" = None
    line: Line | None = None
    phase: str = "asking"
    raised: BaseException | None = None
    ended_with: BaseException | None = None
    cancelled_in: str = ""
    refused: BaseException | None = None
    has_entered: bool = False
    asked: int = 0


class PoolOwner(Protocol):
    """Whoever opens connections for a pool, and hears what becomes of them."""

    async def open_connection(self) -> LearnerConnection:
        """Open one. Raises NotConnected."""
        ...

    def on_lent(self, connection: LearnerConnection) -> None:
        """Hear that it is lent."""
        ...

    def on_returned(self, connection: LearnerConnection) -> None:
        """Hear that it was put back or discarded."""
        ...

    def on_discard(self, connection: LearnerConnection) -> None:
        """Hear that it is being discarded; close it."""
        ...


class LearnerPool:
    """The pool beneath the learner's lease. It lends what is there, unasked."""

    def __init__(self, owner: PoolOwner, size: int, *, is_fifo: bool) -> None:
        self._owner = owner
        self._slots: asyncio.Queue[LearnerConnection | None]
        self._slots = asyncio.Queue() if is_fifo else asyncio.LifoQueue()
        for _ in range(size):
            self._slots.put_nowait(None)
        self._lent: set[LearnerConnection] = set()

    async def get(self) -> LearnerConnection:
        """Wait for a slot; return its connection, or a new one. Raises NotConnected."""
        connection = await self._slots.get()
        try:
            connection = connection or await self._owner.open_connection()
        except BaseException:
            self._slots.put_nowait(None)
            raise
        self._lent.add(connection)
        self._owner.on_lent(connection)
        return connection

    def put(self, connection: LearnerConnection) -> None:
        """Take a connection back, as it is."""
        self._take_back(connection)
        self._slots.put_nowait(connection)

    def discard(self, connection: LearnerConnection) -> None:
        """Close a connection; its slot is free again."""
        self._owner.on_discard(connection)
        self._take_back(connection)
        self._slots.put_nowait(None)

    def _take_back(self, connection: LearnerConnection) -> None:
        if connection not in self._lent:
            raise InvalidParameter("this connection is not lent: it was given back before, perhaps")
        self._lent.remove(connection)
        self._owner.on_returned(connection)
