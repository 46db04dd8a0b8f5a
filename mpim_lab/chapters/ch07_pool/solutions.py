"""Reference solutions of chapter 7's challenges."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from mpim_lab.chapters.ch07_pool.lease_harness import BackingPool, UnguardedConnection
from mpim_lab.errors import MpimError, PoolTimeout


class FairPool:
    """The solution of `first_come_first_served`: slots in a FIFO wait queue.

    Who has a slot takes or opens a connection.
    """

    def __init__(self, connect: Callable[[], Awaitable[Any]], limit: int, wait_s: float) -> None:
        self.connect, self.slots, self.wait_s = connect, limit, wait_s
        self.idle: list[Any] = []
        self.waiters: deque[asyncio.Future[None]] = deque()

    async def get(self) -> Any:
        """Return a connection of one's own.

        Raise PoolTimeout if none is free in time, and what `connect` raises.
        """
        await self.acquire_slot()
        try:
            return self.idle.pop() if self.idle else await self.connect()
        except BaseException:
            self.release_slot()
            raise

    async def acquire_slot(self) -> None:
        """Take a free slot, or wait until one is handed over."""
        if self.slots:
            self.slots -= 1
            return
        waiter = asyncio.get_running_loop().create_future()
        self.waiters.append(waiter)
        try:
            async with asyncio.timeout(self.wait_s):
                await waiter
        except BaseException as error:
            self.stop_waiting(waiter)
            if isinstance(error, TimeoutError):
                raise PoolTimeout("no connection became free") from None
            raise

    def stop_waiting(self, waiter: "asyncio.Future[None]") -> None:
        """Leave the wait queue, and hand on a slot that was handed over already."""
        if waiter in self.waiters:
            self.waiters.remove(waiter)
        elif waiter.done() and not waiter.cancelled():
            self.release_slot()

    def put(self, connection: Any) -> None:
        """Release a connection."""
        self.idle.append(connection)
        self.release_slot()

    def release_slot(self) -> None:
        """Hand a slot to whoever has waited longest."""
        while self.waiters:
            waiter = self.waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        self.slots += 1


class CheckedLease:
    """The solution of `give_nothing_broken_back`: a check before use.

    Afterwards released, or discarded in mid-reply.
    """

    def __init__(self, pool: BackingPool) -> None:
        self.pool = pool
        self.connection: UnguardedConnection

    async def __aenter__(self) -> UnguardedConnection:
        while True:
            self.connection = await self.pool.get()
            try:
                await self.connection.call("PING")
                return self.connection
            except MpimError:
                self.release()
            except BaseException:
                self.abandon()
                raise

    async def __aexit__(self, kind: Any, error: Any, traceback: Any) -> None:
        self.release()

    def abandon(self) -> None:
        """Release a connection whose caller was cancelled during the check."""
        self.release()

    def release(self) -> None:
        """Put the connection back, or discard it if a reply is still to come."""
        if self.connection.unanswered:
            self.pool.discard(self.connection)
        else:
            self.pool.put(self.connection)


SOLUTIONS: dict[str, type[Any]] = {
    "first_come_first_served": FairPool,
    "give_nothing_broken_back": CheckedLease,
}
