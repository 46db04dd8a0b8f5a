"""Chapter 7's designs: the naive version, the same with the obvious fix, and the pool."""

import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

from mpim_lab.chapters.ch07_pool.naive import NaiveConnection, NaivePool
from mpim_lab.mq.pool.pool import Pool


@dataclass(frozen=True)
class PoolContext:
    """What every pool is made of. `name`: what its connections are called at the server."""

    url: str
    connections: int
    wait_s: float
    name: str


@dataclass(frozen=True)
class PoolDesign:
    """How a pool is made, and how a caller borrows from it; both are used as contexts.

    A pool has `figures()` with `in_use` and `waiting`. gives_up: who waits in vain gets an error in
    the end.
    """

    make: Callable[[PoolContext], AbstractAsyncContextManager[Any]]
    borrow: Callable[[Any], AbstractAsyncContextManager[Any]]
    gives_up: bool = True


def _naive(context: PoolContext) -> NaivePool:
    return NaivePool(context.url, connections=context.connections, name=context.name)


def _pool(context: PoolContext) -> Pool:
    return Pool(
        context.url,
        max_connections=context.connections,
        acquire_timeout_s=context.wait_s,
        name=context.name,
    )


def _as_offered(pool: Any) -> AbstractAsyncContextManager[Any]:
    context: AbstractAsyncContextManager[Any] = pool.connection()
    return context


@contextlib.asynccontextmanager
async def _with_finally(pool: NaivePool) -> AsyncIterator[NaiveConnection]:
    """Nothing leaks any more: everything comes back, whatever it is in the middle of."""
    connection = await pool.get()
    try:
        yield connection
    finally:
        await pool.put(connection)


DESIGNS = {
    "naive": PoolDesign(_naive, _as_offered, gives_up=False),
    "naive with finally": PoolDesign(_naive, _with_finally, gives_up=False),
    "pool": PoolDesign(_pool, _as_offered),
}
