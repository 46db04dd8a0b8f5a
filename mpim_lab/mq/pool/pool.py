"""Pool: a bounded number of dedicated connections, lent first come, first served.

`mq.connection` carries the commands of all tasks on one connection, which is faster and enough for
nearly everything. What must not share one: a blocking read (BLPOP, XREAD BLOCK: whatever is sent
after it waits), a transaction with WATCH, and anything that changes the connection itself.

a caller ...                                  raises, if that cannot be
joins the queue                               QueueFull (`max_waiting`), QueueClosed
waits for a slot, at most `acquire_timeout_s` PoolTimeout: who has been out for how long
is given an idle connection, or a new one     NotConnected, LoginRejected, after `connect_timeout_s`
a server at most has it until it leaves the context            see PooledConnection gives it back,
or it is closed                never: this step cannot fail, nor be cancelled

| what is taken    | is given back when                                                           |
|------------------|------------------------------------------------------------------------------|
| a turn in line   | its caller has a slot, is cancelled, has waited too long; the pool is closed |
| a slot           | the caller leaves the context, is cancelled as it is given it, or cannot be  |
|                  | given a connection                                                           |
| a connection     | the same; closed if broken, dirty, too old, in the middle of a reply, or the |
|                  | pool is closed                                                               |
| a socket         | its connection is closed; opening it fails, is cancelled, or takes over      |
|                  | `connect_timeout_s`                                                          |
| maintenance task | the pool is closed                                                           |

What is handed on is a slot (`connection/wait_queue.py`); which connection goes with it is decided
by who has the slot, so that looking at one, or connecting, holds up nobody else.

A caller does not wait for a server to come back: while all are passed over
(`policies.CircuitBreaker`) it hears NotConnected at once, which is definite, and may try again.
Else callers of a dead server would hold the slots that callers of others need.
"""

import asyncio
import contextlib
import logging
import math
from collections.abc import AsyncIterator, Sequence
from typing import Self

from mpim_lab.errors import (
    InvalidParameter,
    MpimError,
    NotConnected,
    PoolTimeout,
    QueueClosed,
    QueueFull,
)
from mpim_lab.events import now
from mpim_lab.latency_histogram import LatencyHistogram
from mpim_lab.mq.connection.bounds import MAX_INT, MAX_WAIT_S, check_bounds, check_times
from mpim_lab.mq.connection.handler import LoopAffinity
from mpim_lab.mq.connection.retry import Backoff
from mpim_lab.mq.connection.wait_queue import WaitQueue
from mpim_lab.mq.pool.policies import IdlePolicy
from mpim_lab.mq.pool.pooled_connection import PooledConnection, Ticket
from mpim_lab.mq.pool.servers import ServerSelector
from mpim_lab.mq.pool.stats import CheckedOut, PoolStats, QueueStats, pool_stats

_log = logging.getLogger(__name__)


class Pool:
    """A pool of connections that are borrowed, one caller at a time.

    `async with Pool(url) as pool, pool.connection() as connection: await connection.call(...)`

    Connections are opened when they are needed.

    Args:
        urls: One server or several, whose options (socket_timeout, ...) stand above those here.
        max_connections: How many are open to all of them together at most.
        max_waiting: How many callers may wait for one.
        acquire_timeout_s: How long a caller waits.
        call_timeout_s: How long a command may take, unless it blocks.
        connect_timeout_s: How long connecting may take.
        check_idle_after_s: One that was idle for so long is asked for a sign of life before it is
            lent.
        max_idle_s: One that was idle for so long is closed.
        max_lifetime_s: One of this age is closed when nobody has it.
        leak_warning_s: What is out for longer is named in the stats and the log.
        close_timeout_s: How long those who have a connection may finish when the pool is closed.
        name: The client name of its connections.
        backoff: How long a server is passed over that cannot be reached.

    Raises:
        InvalidParameter: An option is out of bounds, or a URL cannot be used.
    """

    def __init__(
        self,
        urls: str | Sequence[str],
        *,
        max_connections: int = 16,
        max_waiting: int = 1_000,
        acquire_timeout_s: float = 1.0,
        call_timeout_s: float = 5.0,
        connect_timeout_s: float = 2.0,
        check_idle_after_s: float = 5.0,
        max_idle_s: float = 60.0,
        max_lifetime_s: float = 1800.0,
        leak_warning_s: float = 30.0,
        close_timeout_s: float = 5.0,
        name: str = "pool",
        backoff: Backoff | None = None,
    ) -> None:
        check_times(
            acquire_timeout_s=acquire_timeout_s,
            call_timeout_s=call_timeout_s,
            connect_timeout_s=connect_timeout_s,
        )
        check_times(math.inf, leak_warning_s=leak_warning_s)
        check_bounds(0.0, MAX_WAIT_S, close_timeout_s=close_timeout_s)  # 0: cut at once
        check_bounds(1, MAX_INT, max_connections=max_connections)
        check_bounds(0, MAX_INT, max_waiting=max_waiting)
        self.name = name
        self._acquire_timeout_s, self._call_timeout_s = acquire_timeout_s, call_timeout_s
        self._leak_warning_s, self._close_timeout_s = leak_warning_s, close_timeout_s
        idle_policy = IdlePolicy(check_idle_after_s, max_idle_s, max_lifetime_s)
        self._servers = ServerSelector(
            urls, max_connections, name, idle_policy, backoff or Backoff(), connect_timeout_s
        )
        self._max_connections, self._max_waiting = max_connections, max_waiting
        self._holders: dict[Ticket, None] = {}  # who has a slot, longest first
        self._wait_queue = WaitQueue(self._free_slots, self._refusal, acquire_timeout_s)
        self._connections: dict[Ticket, PooledConnection] = {}
        self._wait_histogram = LatencyHistogram()
        self._timed_out = self._refused = 0
        self._tick_s = min(5.0, max_idle_s / 4, max_lifetime_s / 4, leak_warning_s / 4)
        self._opened = self._closed = False
        self._loop = LoopAffinity("this pool")
        self._slot_freed = asyncio.Event()
        self._maintenance_task: asyncio.Task[None] | None = None

    # Lending

    @contextlib.asynccontextmanager
    async def connection(self, server: str | None = None) -> AsyncIterator[PooledConnection]:
        """Borrow a connection for the length of a context.

        Args:
            server: One of the urls, if it has to be that one.

        Yields:
            The connection.

        Raises:
            QueueFull: Too many wait already; as for the others, nothing was sent.
            PoolTimeout: None was free in time.
            NotConnected: No server can be reached.
            LoginRejected: The server refuses the user.
            QueueClosed: The pool was closed.
        """
        wanted = None if server is None else self._servers.resolve(server)
        ticket = await self._acquire_slot()
        try:
            connection = await self._checkout(ticket, wanted)
            yield connection
        finally:
            self._release(ticket)

    async def _acquire_slot(self) -> Ticket:
        """Wait in the queue until there is a slot. Nobody who came before is overtaken."""
        self._loop.check()
        if not self._opened or self._closed:
            raise self._not_open_error()
        requested_at = now()
        if self._wait_queue or not self._free_slots():
            if len(self._wait_queue) >= self._max_waiting:
                self._refused += 1
                raise QueueFull(
                    f"all {self._max_connections:,} connections are in use and "
                    f"{self._max_waiting:,} callers wait already"
                )
            await self._wait_queue.wait()
        ticket = Ticket(asyncio.current_task(), requested_at, now())
        self._holders[ticket] = None
        self._wait_histogram.add(ticket.waited_s)
        return ticket

    def _free_slots(self) -> int:
        return self._max_connections - len(self._holders)

    def _refusal(self) -> MpimError:
        if self._closed:
            return QueueClosed("the pool was closed")
        self._timed_out += 1
        longest = next(iter(self._checked_out(now())), None)
        who = f"; longest out: {longest.task!r} for {longest.seconds:.1f} s" if longest else ""
        taken = f"{len(self._holders)} of {self._max_connections} connections are in use"
        return PoolTimeout(f"waited {self._acquire_timeout_s:g} s; {taken}{who}")

    async def _checkout(self, ticket: Ticket, wanted: str | None) -> PooledConnection:
        raw = await self._servers.acquire(ticket, wanted)
        call_timeout_s = raw.address.config_overrides.get("timeout_s", self._call_timeout_s)
        connection = PooledConnection(raw, call_timeout_s, ticket, loop=self._loop)
        self._connections[ticket] = connection
        if self._closed:
            raise QueueClosed("the pool was closed")
        return connection

    def _release(self, ticket: Ticket) -> None:
        """Without awaiting anything: it cannot be cancelled half way."""
        connection = self._connections.pop(ticket, None)
        if connection is not None:
            connection.is_returned = True
            why = "pool closed" if self._closed else connection.dirty_reason
            self._servers.release(connection.raw, why)
        del self._holders[ticket]
        self._wait_queue.wake()
        self._slot_freed.set()

    # The end

    async def close(self) -> None:
        """Send waiters away (QueueClosed).

        Those out may finish within `close_timeout_s`, then they are cut (ConnectionLost).

        A connection that the caller itself has is not waited for. Twice is harmless.
        """
        if self._closed:
            return
        self._loop.check()
        self._closed = True
        if self._maintenance_task is not None:
            self._maintenance_task.cancel()
        self._wait_queue.close()
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._close_timeout_s):
                    await self._all_returned()
        finally:
            self._servers.close([connection.raw for connection in self._connections.values()])
        await self._servers.all_closed()

    async def _all_returned(self) -> None:
        caller = asyncio.current_task()
        while any(ticket.caller is not caller for ticket in self._holders):
            self._slot_freed.clear()
            await self._slot_freed.wait()

    async def __aenter__(self) -> Self:
        self._loop.check()
        if self._opened:
            raise (
                self._not_open_error()
                if self._closed
                else InvalidParameter("the pool is open already")
            )
        self._opened = True
        self._maintenance_task = asyncio.create_task(self._maintain())
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def _maintain(self) -> None:
        """Retire what is too old, and log once who has been out for too long."""
        named: set[Ticket] = set()
        while True:
            await asyncio.sleep(self._tick_s)
            self._servers.expire_idle(now())
            named &= self._holders.keys()
            for ticket in self._holders:
                held_s = now() - ticket.acquired_at
                if ticket not in named and held_s >= self._leak_warning_s:
                    named.add(ticket)
                    text = "%s: %r has had a connection for %.0f s"
                    _log.warning(text, self.name, ticket.who, held_s)

    # What can be seen

    def stats(self) -> PoolStats:
        """Return the state of this moment.

        Returns:
            See PoolStats.
        """
        at = now()
        overdue = tuple(out for out in self._checked_out(at) if out.seconds >= self._leak_warning_s)
        line = QueueStats(
            len(self._holders), len(self._wait_queue), self._timed_out, self._refused, overdue
        )
        return pool_stats(line, self._wait_histogram, self._servers.stats(at))

    def _checked_out(self, at: float) -> list[CheckedOut]:
        return [
            CheckedOut(ticket.who, at - ticket.acquired_at, ticket.server)
            for ticket in self._holders
        ]

    def _not_open_error(self) -> MpimError:
        if self._closed:
            return QueueClosed("the pool is closed")
        return NotConnected("not opened yet: write `async with Pool(url) as pool:`")
