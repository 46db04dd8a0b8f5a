"""Reference solutions of chapter 7's challenges."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from mpim_lab.chapters.ch07_pool.learner_pool import LearnerConnection, LearnerPool
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


class SemaphorePool:
    """Another solution of `first_come_first_served`: asyncio's semaphore has a fair queue already.

    It knows what to do with a waiter that is cancelled; the time limit is a cancellation, too.
    """

    def __init__(self, connect: Callable[[], Awaitable[Any]], limit: int, wait_s: float) -> None:
        self.connect, self.wait_s = connect, wait_s
        self.slots, self.idle = asyncio.Semaphore(limit), deque[Any]()

    async def get(self) -> Any:
        """Take a slot in time, then a connection."""
        try:
            async with asyncio.timeout(self.wait_s):
                await self.slots.acquire()
        except TimeoutError:
            raise PoolTimeout(f"waited for {self.wait_s:g} s") from None
        try:
            return self.idle.popleft() if self.idle else await self.connect()
        except BaseException:
            self.slots.release()
            raise

    def put(self, connection: Any) -> None:
        """Release connection and slot."""
        self.idle.append(connection)
        self.slots.release()


class PollingPool:
    """Another solution of `first_come_first_served`: the queue is a list, and each looks again.

    Nothing is handed to anybody, so nobody can be cancelled with something in its hands; but each
    waiter costs a timer, and a free slot stays free for up to `poll_s`.
    """

    poll_s = 0.1

    def __init__(self, connect: Callable[[], Awaitable[Any]], limit: int, wait_s: float) -> None:
        self.connect, self.slots, self.wait_s = connect, limit, wait_s
        self.idle: list[Any] = []
        self.queue: list[object] = []

    async def get(self) -> Any:
        """Wait until one is first in the queue and a slot is free."""
        ticket, deadline_s = object(), asyncio.get_running_loop().time() + self.wait_s
        self.queue.append(ticket)
        try:
            while self.queue[0] is not ticket or not self.slots:
                left_s = deadline_s - asyncio.get_running_loop().time()
                if left_s <= 0:
                    raise PoolTimeout(f"waited for {self.wait_s:g} s")
                await asyncio.sleep(min(self.poll_s, left_s))
        finally:
            self.queue.remove(ticket)
        self.slots -= 1
        try:
            return self.idle.pop() if self.idle else await self.connect()
        except BaseException:
            self.slots += 1
            raise

    def put(self, connection: Any) -> None:
        """Whoever is first will see it."""
        self.idle.append(connection)
        self.slots += 1


class CheckedLease:
    """The solution of `give_nothing_broken_back`: a check before use.

    Afterwards released, or discarded if a reply is still to come.
    """

    def __init__(self, pool: LearnerPool) -> None:
        self.pool = pool
        self.connection: LearnerConnection

    async def __aenter__(self) -> LearnerConnection:
        while True:
            self.connection = await self.pool.get()  # nothing to give back if this raises
            try:
                await self.connection.call("PING")
                return self.connection
            except MpimError:
                self.pool.discard(self.connection)
            except BaseException:  # cancelled during the check
                self.release()
                raise

    async def __aexit__(self, kind: Any, error: Any, traceback: Any) -> None:
        self.release()

    def release(self) -> None:
        """Put the connection back, or discard it if a reply is still to come."""
        if self.connection.unanswered:
            self.pool.discard(self.connection)
        else:
            self.pool.put(self.connection)


class LooksWhenItLends:
    """Another solution of `give_nothing_broken_back`: it looks at a connection when it is lent.

    All is put back, so `__aexit__` cannot go wrong; the price is a broken connection that stays
    open for a while.
    """

    def __init__(self, pool: LearnerPool) -> None:
        self.pool = pool
        self.connection: LearnerConnection | None = None

    async def __aenter__(self) -> LearnerConnection:
        while True:
            connection = await self.pool.get()
            is_well = False
            try:
                is_well = not connection.unanswered and await self.answers(connection)
            finally:
                if not is_well:
                    self.pool.discard(connection)
            if is_well:
                self.connection = connection
                return connection

    async def answers(self, connection: LearnerConnection) -> bool:
        """Return whether it echoes a word."""
        try:
            return bool(await connection.call("ECHO", "there?") == b"there?")
        except MpimError:
            return False

    async def __aexit__(self, kind: Any, error: Any, traceback: Any) -> bool:
        if self.connection is not None:
            self.pool.put(self.connection)
        return False


SOLUTIONS: dict[str, type[Any]] = {
    "first_come_first_served": FairPool,
    "give_nothing_broken_back": CheckedLease,
}
ALTERNATIVES: dict[str, tuple[type[Any], ...]] = {
    "first_come_first_served": (SemaphorePool, PollingPool),
    "give_nothing_broken_back": (LooksWhenItLends,),
}
