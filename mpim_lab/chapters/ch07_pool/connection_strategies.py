"""Chapter 7's ways to a server: each does one short command for one caller.

It returns how long it waited for a connection.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis

from mpim_lab.chapters.ch07_pool.naive import NaivePool
from mpim_lab.chapters.shared.timing import Call
from mpim_lab.events import now
from mpim_lab.mq.connection.address import Address
from mpim_lab.mq.pool.pool import Pool
from mpim_lab.mq.pool.raw_connection import RawConnection
from mpim_lab.mq.pubsub.queue import MessageQueue

WAIT_S = 20.0  # nobody is to be refused while the time is taken
SHARED, POOL = "one shared connection", "this pool"


class TimedPool(BlockingConnectionPool):
    """redis-py's pool; notes when each task was given its connection."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.given_at: dict[object, float] = {}

    async def get_connection(self, *arguments: Any, **options: Any) -> Any:
        """As the pool's own."""
        pool: Any = super()
        connection = await pool.get_connection(*arguments, **options)
        self.given_at[asyncio.current_task()] = now()
        return connection


@contextlib.asynccontextmanager
async def _connection_each(url: str, key: bytes, connections: int) -> AsyncIterator[Call]:
    address = Address.parse(url)

    async def call() -> float:
        begun, wire = now(), RawConnection(address)
        await wire.open(WAIT_S)
        waited = now() - begun
        try:
            await wire.execute([("INCR", key)], WAIT_S)
        finally:
            await wire.close()
        return waited

    yield call


@contextlib.asynccontextmanager
async def _naive(url: str, key: bytes, connections: int) -> AsyncIterator[Call]:
    async with NaivePool(url, connections=connections) as pool:
        yield _borrowing(pool, key)


@contextlib.asynccontextmanager
async def _pool(url: str, key: bytes, connections: int) -> AsyncIterator[Call]:
    async with Pool(url, max_connections=connections, acquire_timeout_s=WAIT_S) as pool:
        yield _borrowing(pool, key)


def _borrowing(pool: Pool | NaivePool, key: bytes) -> Call:
    async def call() -> float:
        begun = now()
        async with pool.connection() as connection:
            waited = now() - begun
            await connection.call("INCR", key)
        return waited

    return call


@contextlib.asynccontextmanager
async def _redis_py(url: str, key: bytes, connections: int) -> AsyncIterator[Call]:
    pool = TimedPool.from_url(
        url, max_connections=connections, timeout=WAIT_S, protocol=3, driver_info=None
    )
    client = Redis(connection_pool=pool)

    async def call() -> float:
        begun = now()
        await client.incr(key)
        return pool.given_at.pop(asyncio.current_task(), begun) - begun

    try:
        yield call
    finally:
        await client.aclose()
        await pool.aclose()


@contextlib.asynccontextmanager
async def _shared(url: str, key: bytes, connections: int) -> AsyncIterator[Call]:
    async with MessageQueue(url) as queue:
        link = queue.connection

        async def call() -> float:
            await link.call("INCR", key)
            return 0.0

        yield call


CONNECTION_STRATEGIES: dict[str, Callable[[str, bytes, int], AbstractAsyncContextManager[Call]]] = {
    "a connection each time": _connection_each,
    "naive": _naive,
    POOL: _pool,
    "redis-py's blocking pool": _redis_py,
    SHARED: _shared,
}
