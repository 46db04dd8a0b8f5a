"""The naive version of chapter 7: a list of connections, and a condition to wait on until one is free.

The correct version is `mpim_lab.mq.pool.pool`. Flaws kept on purpose, one line each to find in the
code:

- `get` waits for ever: no time limit, no limit on how many wait. One connection that does not come
  back, and in the end everybody hangs, without an error;
- what `get` returned comes back only by `put`: a caller that raises or is cancelled in between
  never gives it back;
- `put` takes back anything: a broken connection, which is then given to one caller after another;
  one in the middle of a reply, whose next user reads the answer to somebody else's question; one
  with a MULTI or another database;
- last in, first out: under a light load the same few are used, and the others lie there until the
  server has ended them (its `timeout`). Nobody looks, so they are handed out as if they were well,
  all at once when the load rises;
- `notify` wakes the first who waits, but the connection lies in the list until it runs: whoever
  asks in between takes it;
- all connections are opened at the start, to one server, and none is ever replaced.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, Self

from mpim_lab.errors import MpimError
from mpim_lab.events import now
from mpim_lab.latency_histogram import LatencyHistogram
from mpim_lab.mq.connection.address import Address
from mpim_lab.mq.pool.command_state import Word, blocking_seconds
from mpim_lab.mq.pool.raw_connection import RawConnection
from mpim_lab.mq.pool.stats import PoolStats, QueueStats, ServerStats, pool_stats


class NaiveConnection:
    """A connection without a guard: a reply that is still to come stops nobody from sending."""

    def __init__(self, raw: RawConnection, call_timeout_s: float) -> None:
        self.raw = raw
        self._call_timeout_s = call_timeout_s

    async def call(self, *words: Word, timeout_s: float | None = None) -> Any:
        """Send one command and await the next reply, whosever it is."""
        if timeout_s is None:
            timeout_s = self._call_timeout_s + blocking_seconds(words)
        (reply,) = await self.raw.execute([words], timeout_s)
        if isinstance(reply, MpimError):
            raise reply
        return reply


class NaivePool:
    """`connections` connections to one server, all opened at the start."""

    def __init__(
        self,
        url: str,
        *,
        connections: int = 16,
        call_timeout_s: float = 5.0,
        connect_timeout_s: float = 2.0,
        name: str = "naive",
    ) -> None:
        self.name = name
        self._connect_timeout_s = connect_timeout_s
        wires = [RawConnection(Address.parse(url), name) for _ in range(connections)]
        self._all = [NaiveConnection(wire, call_timeout_s) for wire in wires]
        self._free: list[NaiveConnection] = []
        self._freed = asyncio.Condition()
        self._waiting = 0
        self._waits = LatencyHistogram()

    async def __aenter__(self) -> Self:
        try:
            for connection in self._all:
                await connection.raw.open(self._connect_timeout_s)
        except BaseException:
            await self.close()
            raise
        self._free = list(self._all)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def get(self) -> NaiveConnection:
        """Wait until one is free, for ever if need be."""
        asked_at = now()
        async with self._freed:
            self._waiting += 1
            try:
                while not self._free:
                    await self._freed.wait()
            finally:
                self._waiting -= 1
            self._waits.add(now() - asked_at)
            return self._free.pop()

    async def put(self, connection: NaiveConnection) -> None:
        """Back it goes, whatever it is in the middle of."""
        async with self._freed:
            self._free.append(connection)
            self._freed.notify()

    @contextlib.asynccontextmanager
    async def connection(self, server: str | None = None) -> AsyncIterator[NaiveConnection]:
        """Get, use, put: as in the naive version without `finally`.

        `server` is not looked at, there is one.
        """
        connection = await self.get()
        yield connection
        await self.put(connection)

    def stats(self) -> PoolStats:
        """The figures of the correct pool, as far as there are any.

        It looks at nothing and replaces nothing.
        """
        in_use = len(self._all) - len(self._free)
        server = ServerStats(in_use, len(self._free), opened=len(self._all))
        line = QueueStats(in_use, self._waiting, timed_out=0, refused=0)
        return pool_stats(line, self._waits, {str(self._all[0].raw.address): server})

    async def close(self) -> None:
        """Close all; whoever waits goes on waiting."""
        for connection in self._all:
            await connection.raw.close()
