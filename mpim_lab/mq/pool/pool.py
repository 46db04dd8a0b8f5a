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

| what is taken   | is given back when                                                                              |
|-----------------|-------------------------------------------------------------------------------------------------|
| a turn in line  | its caller has a slot, is cancelled, has waited too long; the pool is closed                    |
| a slot          | the caller leaves the context, is cancelled as it is given it, or cannot be given a connection  |
| a connection    | the same; closed if broken, dirty, too old, in the middle of a reply, or the pool is closed     |
| a socket        | its connection is closed; opening it fails, is cancelled, or takes over `connect_timeout_s`     |
| maintenance task| the pool is closed                                                                              |

What is handed on is a slot (`wait_queue.py`); which connection goes with it is decided by who has
the slot, so that looking at one, or connecting, holds up nobody else.

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

from mpim_lab.errors import InvalidParameter, MpimError, NotConnected, PoolTimeout, QueueClosed
from mpim_lab.events import now
from mpim_lab.latency_histogram import LatencyHistogram
from mpim_lab.mq.connection.bounds import MAX_WAIT_S, check_bounds, check_times
from mpim_lab.mq.connection.handler import LoopAffinity
from mpim_lab.mq.connection.retry import Backoff
from mpim_lab.mq.pool.policies import IdlePolicy
from mpim_lab.mq.pool.pooled_connection import PooledConnection
from mpim_lab.mq.pool.servers import ServerSelector
from mpim_lab.mq.pool.stats import CheckedOut, PoolStats, QueueStats, pool_stats
from mpim_lab.mq.pool.wait_queue import SlotQueue, Ticket

_log = logging.getLogger(__name__)


class Pool:
    """A pool of connections that are borrowed, one caller at a time.

    `async with Pool(url) as pool: async with pool.connection() as connection: await
    connection.call("BLPOP", "jobs", 1)`

    `urls`: one server or several, whose options (socket_timeout, ...) stand above those here; never
    more than `max_connections` are open to all of them together. Connections are opened when they
    are needed. One that was idle for `check_idle_after_s` is asked for a sign of life before it is
    lent; after `max_idle_s` without use, or at the age of `max_lifetime_s`, it is closed when
    nobody has it. What is out for longer than `leak_warning_s` is named in the stats and the log.
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
        self.name = name
        self._acquire_timeout_s, self._call_timeout_s = acquire_timeout_s, call_timeout_s
        self._leak_warning_s, self._close_timeout_s = leak_warning_s, close_timeout_s
        idle_policy = IdlePolicy(check_idle_after_s, max_idle_s, max_lifetime_s)
        self._servers = ServerSelector(
            urls, max_connections, name, idle_policy, backoff or Backoff(), connect_timeout_s
        )
        self._slots = SlotQueue(max_connections, max_waiting)
        self._turns: dict[Ticket, asyncio.Future[None]] = {}
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
        """Borrow one; `server` is one of the urls, if it has to be that one.

        Raises QueueFull, PoolTimeout, NotConnected, LoginRejected, QueueClosed; in each case
        nothing was sent.
        """
        wanted = None if server is None else self._servers.resolve(server)
        ticket = await self._acquire_slot()
        try:
            connection = await self._checkout(ticket, wanted)
            yield connection
        finally:
            self._release(ticket)

    async def _acquire_slot(self) -> Ticket:
        """Stand in line.

        When this returns or raises, nobody has been overtaken and no place is lost.
        """
        self._loop.check()
        if not self._opened or self._closed:
            raise self._not_open_error()
        try:
            caller = asyncio.current_task()
            ticket = self._slots.acquire(
                caller.get_name() if caller is not None else "no task", now()
            )
            ticket.caller = caller
        except MpimError:
            self._refused += 1
            raise
        if ticket.acquired_at is None:
            await self._wait_turn(ticket)
        self._wait_histogram.add(ticket.waited_s)
        return ticket

    async def _wait_turn(self, ticket: Ticket) -> None:
        turn = self._turns[ticket] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(self._acquire_timeout_s):
                await turn
        except TimeoutError:
            self._free_slot(ticket)
            self._timed_out += 1
            raise PoolTimeout(self._timeout_text()) from None
        except (
            BaseException
        ):  # cancelled, perhaps at the very moment of being given the place; or the pool was closed
            self._free_slot(ticket)
            raise
        finally:
            del self._turns[ticket]

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
        self._free_slot(ticket)

    def _free_slot(self, ticket: Ticket) -> None:
        following = self._slots.release(ticket, now())
        if following is not None and not (turn := self._turns[following]).done():
            turn.set_result(
                None
            )  # if it is done, its task is on its way to leave, and will pass the place on
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
        for ticket in self._slots.cancel_waiters():
            if not (turn := self._turns[ticket]).done():
                turn.set_exception(QueueClosed("the pool was closed"))
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._close_timeout_s):
                    await self._all_returned()
        finally:
            self._servers.close([connection.raw for connection in self._connections.values()])
        await self._servers.all_closed()

    async def _all_returned(self) -> None:
        caller = asyncio.current_task()
        while any(ticket.caller is not caller for ticket in self._slots.holders):
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
        """Retire what is too old also when nobody comes, and say who has been out for too long, once each."""
        named: set[Ticket] = set()
        while True:
            await asyncio.sleep(self._tick_s)
            self._servers.expire_idle(now())
            named &= set(self._slots.holders)
            for ticket in self._slots.holders:
                if ticket not in named and ticket.held_s(now()) >= self._leak_warning_s:
                    named.add(ticket)
                    _log.warning(
                        "%s: %r has had a connection for %.0f s",
                        self.name,
                        ticket.who,
                        ticket.held_s(now()),
                    )

    # What can be seen

    def stats(self) -> PoolStats:
        """Return the state of this moment. See PoolStats."""
        at = now()
        overdue = tuple(out for out in self._checked_out(at) if out.seconds >= self._leak_warning_s)
        line = QueueStats(
            self._slots.in_use, self._slots.waiting, self._timed_out, self._refused, overdue
        )
        return pool_stats(line, self._wait_histogram, self._servers.stats(at))

    def _checked_out(self, at: float) -> list[CheckedOut]:
        return [
            CheckedOut(ticket.who, ticket.held_s(at), ticket.server)
            for ticket in self._slots.holders
        ]

    def _timeout_text(self) -> str:
        longest = next(iter(self._checked_out(now())), None)
        who = f"; longest out: {longest.task!r} for {longest.seconds:.1f} s" if longest else ""
        taken = f"{self._slots.in_use} of {self._slots.slots} connections are in use"
        return f"waited {self._acquire_timeout_s:g} s; {taken}{who}"

    def _not_open_error(self) -> MpimError:
        if self._closed:
            return QueueClosed("the pool is closed")
        return NotConnected("not opened yet: write `async with Pool(url) as pool:`")
