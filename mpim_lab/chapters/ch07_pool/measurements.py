"""Chapter 7's cost, measured here and now: speed and waiting by callers.

What a blocking command holds up; a pool's size.

Each sweep is an async generator of rows, so that a chart can grow while it runs; `collect` makes
the table. Whoever stops listening, or is cancelled, ends the measuring at once.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pandas as pd

from mpim_lab.chapters.ch07_pool.connection_strategies import (
    CONNECTION_STRATEGIES,
    POOL,
    SHARED,
    WAIT_S,
)
from mpim_lab.chapters.shared.timing import Call, CallTimings, quantile_ms, time_calls
from mpim_lab.errors import InvalidParameter
from mpim_lab.events import now
from mpim_lab.keys import Keys
from mpim_lab.lab.server.embedded import open_server
from mpim_lab.mq.connection.bounds import check_bounds
from mpim_lab.mq.pool.pool import Pool
from mpim_lab.mq.pubsub.queue import MessageQueue

Row = dict[str, Any]
COUNTER = "cost:counter"
CALLERS = (1, 4, 16, 64, 256)
SIZES = (1, 2, 4, 8, 16, 32, 64)
BLOCK_S = 0.2
SAMPLE_S = 0.002


def columns(times: CallTimings) -> Row:
    """Return the timings as columns of a table."""
    return {
        "calls a second": times.rate,
        "p50 wait ms": quantile_ms(times.waits, 0.5),
        "p99 wait ms": quantile_ms(times.waits, 0.99),
        "longest wait ms": quantile_ms(times.waits, 1.0),
        "p50 ms": quantile_ms(times.totals, 0.5),
        "p99 ms": quantile_ms(times.totals, 0.99),
    }


async def collect(
    rows: AsyncIterator[Row], on_row: Callable[[Row], object] | None = None
) -> pd.DataFrame:
    """All rows of a sweep as a table; `on_row` is called with each as it comes."""
    found = []
    async with contextlib.aclosing(rows) as running:  # type: ignore[type-var]
        async for row in running:
            found.append(row)
            if on_row is not None:
                on_row(row)
    return pd.DataFrame(found)


async def callers_sweep(
    callers: Sequence[int] = CALLERS,
    ways: Sequence[str] = tuple(CONNECTION_STRATEGIES),
    *,
    seconds: float = 0.2,
    connections: int = 16,
) -> AsyncIterator[Row]:
    """So many callers, each with one short command after another (INCR), by each way.

    The pools have `connections`.

    Columns: callers, way, calls a second, p50, p99 and longest wait ms (until it had a connection;
    opening one counts), p50 and p99 ms (until it had its reply). A longest wait as long as the
    measuring: somebody was overtaken all the time.
    """
    check_bounds(1, 10_000, callers=callers, connections=connections)
    check_bounds(0.0, 86_400.0, seconds=seconds)
    if unknown := set(ways) - set(CONNECTION_STRATEGIES):
        raise InvalidParameter(
            f"ways={sorted(unknown)}: must be of {', '.join(CONNECTION_STRATEGIES)}"
        )
    async with open_server() as server:
        for count in callers:
            for way in ways:
                key = Keys(server.prefix).stream(COUNTER)
                async with CONNECTION_STRATEGIES[way](server.url, key, connections) as call:
                    await call()  # the first one opens what is opened late
                    times = await time_calls([call] * count, seconds)
                yield {"callers": count, "way": way, **columns(times)}


# One command that holds up a connection


async def blocking_sweep(
    *, callers: int = 16, seconds: float = 0.8, block_s: float = BLOCK_S
) -> AsyncIterator[Row]:
    """Short commands, alone and beside one caller who waits in BLPOP again and again.

    On a shared connection, and in the pool. Columns: way, beside them, calls a second, p50 ms,
    p99 ms, longest ms.
    """
    check_bounds(1, 10_000, callers=callers)
    check_bounds(0.001, 86_400.0, seconds=seconds, block_s=block_s)  # 0 would wait for ever
    async with open_server() as server:
        keys = [Keys(server.prefix).stream(name) for name in (COUNTER, "cost:nothing comes")]
        for way in (SHARED, POOL):
            for blocks in (False, True):
                async with _blocking(way, server.url, keys, block_s) as (call, block):
                    await call()
                    times = await _measure_beside(call, block if blocks else None, callers, seconds)
                row = {
                    "way": way,
                    "beside them": f"BLPOP {block_s:g}" if blocks else "nobody",
                    **columns(times),
                }
                yield {name: value for name, value in row.items() if "wait" not in name} | {
                    "longest ms": quantile_ms(times.totals, 1.0)
                }


@contextlib.asynccontextmanager
async def _blocking(
    way: str, url: str, keys: Sequence[bytes], block_s: float
) -> AsyncIterator[tuple[Call, Call]]:
    words = ("BLPOP", keys[1], f"{block_s:g}")
    if way == SHARED:
        async with MessageQueue(url) as queue:
            link = queue.connection

            async def call() -> float:
                await link.call("INCR", keys[0])
                return 0.0

            async def block() -> float:
                await link.call(*words)
                return 0.0

            yield call, block
        return
    async with Pool(url, max_connections=16, acquire_timeout_s=WAIT_S) as pool:

        async def in_pool(*command: bytes | str) -> float:
            async with pool.connection() as connection:
                await connection.call(*command)
            return 0.0

        yield lambda: in_pool("INCR", keys[0]), lambda: in_pool(*words)


async def _measure_beside(
    call: Call, block: Call | None, callers: int, seconds: float
) -> CallTimings:
    """Measure short calls while somebody blocks, or nobody does."""

    async def keep_blocking() -> None:
        while block is not None:
            await block()

    blocking = asyncio.create_task(keep_blocking())
    try:
        await asyncio.sleep(0)  # the blocking command goes first
        return await time_calls([call] * callers, seconds)
    finally:
        blocking.cancel()
        await asyncio.wait([blocking])


# How large a pool


async def size_sweep(
    sizes: Sequence[int] = SIZES, *, callers: int = 64, hold_ms: float = 2.0, seconds: float = 0.4
) -> AsyncIterator[Row]:
    """So many callers, each holding a connection for `hold_ms` and one command, by pool size.

    Columns: connections, calls a second, p50, p99 and longest wait ms, p50 and p99 ms, held ms
    (mean), "in use, by Little's law" = calls a second x time held, "in use, counted" = mean of what
    the pool's figures said every 2 ms; the same for waiting. Source: J. D. C. Little, "A Proof for
    the Queuing Formula L = λW", 1961.
    """
    check_bounds(1, 10_000, sizes=sizes, callers=callers)
    check_bounds(0.0, 10_000.0, hold_ms=hold_ms)
    check_bounds(0.001, 86_400.0, seconds=seconds)
    async with open_server() as server:
        for size in sizes:
            async with Pool(server.url, max_connections=size, acquire_timeout_s=WAIT_S) as pool:
                await _open_all(pool, size)
                yield {
                    "connections": size,
                    **await _measure_pool(pool, Keys(server.prefix), callers, hold_ms, seconds),
                }


async def _measure_pool(
    pool: Pool, keys: Keys, callers: int, hold_ms: float, seconds: float
) -> Row:
    held: list[float] = []
    seen: list[tuple[int, int]] = []

    async def call() -> float:
        begun = now()
        async with pool.connection() as connection:
            await connection.call("INCR", keys.stream(COUNTER))
            await asyncio.sleep(hold_ms / 1e3)
            waited_s = connection.waited_s  # the pool's own time: being woken up comes after it
        held.append(now() - begun - waited_s)
        return waited_s

    async def look() -> None:
        while True:
            figures = pool.stats()
            seen.append((figures.in_use, figures.waiting))
            await asyncio.sleep(SAMPLE_S)

    looking = asyncio.create_task(look())
    try:
        times = await time_calls([call] * callers, seconds)
    finally:
        looking.cancel()
        await asyncio.wait([looking])
    by_law = times.rate * sum(held) / len(held), times.rate * sum(times.waits) / len(times.waits)
    counted = [sum(values) / len(seen) for values in zip(*seen, strict=True)]
    law = {"held ms": sum(held) / len(held) * 1e3}
    for name, computed, measured in zip(("in use", "waiting"), by_law, counted, strict=True):
        law |= {f"{name}, by Little's law": computed, f"{name}, counted": measured}
    return columns(times) | law


async def _open_all(pool: Pool, size: int) -> None:
    """Connections are opened when they are needed.

    Have them all needed once, so that no opening is measured.
    """
    async with contextlib.AsyncExitStack() as borrowed:
        for _ in range(size):
            await borrowed.enter_async_context(pool.connection())
