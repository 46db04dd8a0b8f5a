"""Chapter 7's designs: the sketch, the sketch with the mend that comes to mind first, and the pool."""

import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

from mpim_lab.chapters.ch07_pool.naive import SketchConnection, SketchPool
from mpim_lab.mq.pool.pool import Pool


@dataclass(frozen=True)
class Setting:
    """What every pool is made of. `name`: what its connections are called at the server."""

    url: str
    connections: int
    wait_s: float
    name: str


@dataclass(frozen=True)
class PoolDesign:
    """How a pool is made, and how a caller borrows from it; both are used as contexts.

    A pool has `figures()` with `in_use` and `waiting`. gives_up: who waits in vain is told so in the end.
    """

    make: Callable[[Setting], AbstractAsyncContextManager[Any]]
    borrow: Callable[[Any], AbstractAsyncContextManager[Any]]
    gives_up: bool = True


def _sketch(setting: Setting) -> SketchPool:
    return SketchPool(setting.url, connections=setting.connections, name=setting.name)


def _pool(setting: Setting) -> Pool:
    return Pool(setting.url, max_connections=setting.connections, acquire_timeout_s=setting.wait_s, name=setting.name)


def _as_offered(pool: Any) -> AbstractAsyncContextManager[Any]:
    context: AbstractAsyncContextManager[Any] = pool.connection()
    return context


@contextlib.asynccontextmanager
async def _with_finally(pool: SketchPool) -> AsyncIterator[SketchConnection]:
    """Nothing leaks any more: everything comes back, whatever it is in the middle of."""
    connection = await pool.get()
    try:
        yield connection
    finally:
        await pool.put(connection)


DESIGNS = {
    "sketch": PoolDesign(_sketch, _as_offered, gives_up=False),
    "sketch with finally": PoolDesign(_sketch, _with_finally, gives_up=False),
    "pool": PoolDesign(_pool, _as_offered),
}
