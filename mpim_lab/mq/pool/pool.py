"""Pool: a bounded number of dedicated connections, lent first come, first served.

`mq.connection` carries the commands of all tasks on one connection, which is faster and enough for nearly everything.
What must not share one: a blocking read (BLPOP, XREAD BLOCK: whatever is sent after it waits), a transaction with WATCH,
and anything that changes the connection itself.

a caller ...                                  raises, if that cannot be
joins the line                                QueueFull (`max_waiting`), QueueClosed
waits for a place, at most `wait_s`           PoolTimeout: who has been out for how long
is given an idle connection, or a new one     NotConnected, LoginRejected, after `connect_timeout_s` a server at most
has it until it leaves the context            see PooledConnection
gives it back, or it is closed                never: this step cannot fail, nor be cancelled

| what is taken   | is given back when                                                                              |
|-----------------|-------------------------------------------------------------------------------------------------|
| a turn in line  | its caller has a place, is cancelled, has waited for `wait_s`; the pool is closed               |
| a place         | the caller leaves the context, is cancelled as it is given it, or cannot be given a connection  |
| a connection    | the same; closed if broken, dirty, too old, in the middle of a reply, or the pool is closed     |
| a socket        | its connection is closed; opening it fails, is cancelled, or takes over `connect_timeout_s`     |
| the keeper task | the pool is closed                                                                              |

What is handed on is a place (`pool_line.py`); which connection goes with it is decided by who has the place, so
that looking at one, or connecting, holds up nobody else.

A caller does not wait for a server to come back: while all are passed over (`pool_rules.Outage`) it hears NotConnected at
once, which is definite, and may try again. Else callers of a dead server would hold the places that callers of others need.
"""

import asyncio
import contextlib
import logging
import math
from collections.abc import AsyncIterator, Sequence
from typing import Self

from mpim_lab.errors import InvalidParameter, MpimError, NotConnected, PoolTimeout, QueueClosed
from mpim_lab.events import now
from mpim_lab.mq.connection.bounds import MAX_WAIT_S, check_bounds, check_times
from mpim_lab.mq.connection.handler import LoopAffinity
from mpim_lab.mq.connection.retry import Backoff
from mpim_lab.mq.pool.policies import Ageing
from mpim_lab.mq.pool.pooled_connection import PooledConnection
from mpim_lab.mq.pool.servers import Servers
from mpim_lab.mq.pool.stats import LineFigures, Out, PoolFigures, Waits, pool_figures
from mpim_lab.mq.pool.wait_queue import Ticket, WaitingLine

_log = logging.getLogger(__name__)


class Pool:
    """`async with Pool(url) as pool: async with pool.connection() as connection: await connection.call("BLPOP", "jobs", 1)`

    `urls`: one server or several, whose options (socket_timeout, ...) stand above those here; never more than
    `max_connections` are open to all of them together. Connections are opened when they are needed. One that was idle for
    `check_idle_after_s` is asked for a sign of life before it is lent; after `max_idle_s` without use, or at the age of
    `max_lifetime_s`, it is closed when nobody has it. What is out for longer than `warn_after_s` is named in the figures and
    the log.
    """

    def __init__(
        self,
        urls: str | Sequence[str],
        *,
        max_connections: int = 16,
        max_waiting: int = 1_000,
        wait_s: float = 1.0,
        call_timeout_s: float = 5.0,
        connect_timeout_s: float = 2.0,
        check_idle_after_s: float = 5.0,
        max_idle_s: float = 60.0,
        max_lifetime_s: float = 1800.0,
        warn_after_s: float = 30.0,
        close_within_s: float = 5.0,
        name: str = "pool",
        backoff: Backoff | None = None,
    ) -> None:
        check_times(wait_s=wait_s, call_timeout_s=call_timeout_s, connect_timeout_s=connect_timeout_s)
        check_times(math.inf, warn_after_s=warn_after_s)
        check_bounds(0.0, MAX_WAIT_S, close_within_s=close_within_s)  # 0: cut at once
        self.name = name
        self._wait_s, self._call_timeout_s = wait_s, call_timeout_s
        self._warn_after_s, self._close_within_s = warn_after_s, close_within_s
        ageing = Ageing(check_idle_after_s, max_idle_s, max_lifetime_s)
        self._servers = Servers(urls, max_connections, name, ageing, backoff or Backoff(), connect_timeout_s)
        self._line = WaitingLine(max_connections, max_waiting)
        self._turns: dict[Ticket, asyncio.Future[None]] = {}
        self._lent: dict[Ticket, PooledConnection] = {}
        self._waits = Waits()
        self._timed_out = self._refused = 0
        self._tick_s = min(5.0, max_idle_s / 4, max_lifetime_s / 4, warn_after_s / 4)
        self._opened = self._closed = False
        self._loop = LoopAffinity("this pool")
        self._somebody_left = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None

    # Lending

    @contextlib.asynccontextmanager
    async def connection(self, server: str | None = None) -> AsyncIterator[PooledConnection]:
        """Borrow one; `server` is one of the urls, if it has to be that one.

        Raises QueueFull, PoolTimeout, NotConnected, LoginRejected, QueueClosed; in each case nothing was sent.
        """
        wanted = None if server is None else self._servers.known(server)
        ticket = await self._place()
        try:
            connection = await self._find(ticket, wanted)
            yield connection
        finally:
            self._give_back(ticket)

    async def _place(self) -> Ticket:
        """Stand in line. When this returns or raises, nobody has been overtaken and no place is lost."""
        self._loop.check()
        if not self._opened or self._closed:
            raise self._why_not_open()
        try:
            caller = asyncio.current_task()
            ticket = self._line.ask(caller.get_name() if caller is not None else "no task", now())
            ticket.caller = caller
        except MpimError:
            self._refused += 1
            raise
        if ticket.placed_at is None:
            await self._turn(ticket)
        self._waits.note(ticket.waited_s)
        return ticket

    async def _turn(self, ticket: Ticket) -> None:
        turn = self._turns[ticket] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(self._wait_s):
                await turn
        except TimeoutError:
            self._leave(ticket)
            self._timed_out += 1
            raise PoolTimeout(self._why_no_place()) from None
        except BaseException:  # cancelled, perhaps at the very moment of being given the place; or the pool was closed
            self._leave(ticket)
            raise
        finally:
            del self._turns[ticket]

    async def _find(self, ticket: Ticket, wanted: str | None) -> PooledConnection:
        wire = await self._servers.take(ticket, wanted)
        call_timeout_s = wire.address.config_overrides.get("timeout_s", self._call_timeout_s)
        connection = PooledConnection(wire, call_timeout_s, ticket, loop=self._loop)
        self._lent[ticket] = connection
        if self._closed:
            raise QueueClosed("the pool was closed")
        return connection

    def _give_back(self, ticket: Ticket) -> None:
        """Without awaiting anything: it cannot be cancelled half way."""
        connection = self._lent.pop(ticket, None)
        if connection is not None:
            connection.is_returned = True
            why = "pool closed" if self._closed else connection.why_not_reusable
            self._servers.put(connection.wire, why)
        self._leave(ticket)

    def _leave(self, ticket: Ticket) -> None:
        following = self._line.leave(ticket, now())
        if following is not None and not (turn := self._turns[following]).done():
            turn.set_result(None)  # if it is done, its task is on its way to leave, and will pass the place on
        self._somebody_left.set()

    # The end

    async def close(self) -> None:
        """Send waiters away (QueueClosed); those out may finish within `close_within_s`, then they are cut (ConnectionLost).

        A connection that the caller itself has is not waited for. Twice is harmless.
        """
        if self._closed:
            return
        self._loop.check()
        self._closed = True
        if self._keeper is not None:
            self._keeper.cancel()
        for ticket in self._line.dismiss():
            if not (turn := self._turns[ticket]).done():
                turn.set_exception(QueueClosed("the pool was closed"))
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._close_within_s):
                    await self._others_have_left()
        finally:
            self._servers.close([connection.wire for connection in self._lent.values()])
        await self._servers.all_closed()

    async def _others_have_left(self) -> None:
        caller = asyncio.current_task()
        while any(ticket.caller is not caller for ticket in self._line.placed):
            self._somebody_left.clear()
            await self._somebody_left.wait()

    async def __aenter__(self) -> Self:
        self._loop.check()
        if self._opened:
            raise self._why_not_open() if self._closed else InvalidParameter("the pool is open already")
        self._opened = True
        self._keeper = asyncio.create_task(self._keep())
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def _keep(self) -> None:
        """Retire what is too old also when nobody comes, and say who has been out for too long, once each."""
        named: set[Ticket] = set()
        while True:
            await asyncio.sleep(self._tick_s)
            self._servers.retire(now())
            named &= set(self._line.placed)
            for ticket in self._line.placed:
                if ticket not in named and ticket.held_s(now()) >= self._warn_after_s:
                    named.add(ticket)
                    _log.warning("%s: %r has had a connection for %.0f s", self.name, ticket.who, ticket.held_s(now()))

    # What can be seen

    def figures(self) -> PoolFigures:
        """The state of this moment. See PoolFigures."""
        at = now()
        overdue = tuple(out for out in self._out(at) if out.seconds >= self._warn_after_s)
        line = LineFigures(self._line.in_use, self._line.waiting, self._timed_out, self._refused, overdue)
        return pool_figures(line, self._waits, self._servers.figures(at))

    def _out(self, at: float) -> list[Out]:
        return [Out(ticket.who, ticket.held_s(at), ticket.server) for ticket in self._line.placed]

    def _why_no_place(self) -> str:
        longest = next(iter(self._out(now())), None)
        who = f"; longest out: {longest.task!r} for {longest.seconds:.1f} s" if longest else ""
        return f"waited {self._wait_s:g} s; {self._line.in_use} of {self._line.places} connections are in use{who}"

    def _why_not_open(self) -> MpimError:
        if self._closed:
            return QueueClosed("the pool is closed")
        return NotConnected("not opened yet: write `async with Pool(url) as pool:`")
