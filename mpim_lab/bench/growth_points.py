"""Growth points: one value of one axis, measured by a load in processes of its own, with the server's memory watched."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from mpim_lab.bench.rounds import reason_of, sustained_per_s
from mpim_lab.bench.rows import Row
from mpim_lab.errors import FaultUnavailable, MpimError
from mpim_lab.load.load import measure

WATCH_EVERY_S = 0.05
SIZE, CHANNELS, SUBSCRIBERS, TASKS = "message size", "channels", "subscribers", "tasks"
OPTIONS = {  # the option of a load that grows, and how many tasks publish meanwhile
    SIZE: ("payload_bytes", 16),  # few: the server buffers 32 MB for a subscriber, and no more
    CHANNELS: ("channels", 64),
    SUBSCRIBERS: ("subscribers", 16),
    TASKS: ("tasks", None),
}


@dataclass(frozen=True)
class Point:
    """One value of one axis.

    >>> [str(point) for point in (Point(CHANNELS, 1_000), Point(SUBSCRIBERS, 1), Point(SIZE, 16))]
    ['channels 1,000', 'subscribers 1', 'message size 16 B']
    """

    axis: str
    value: int

    def __str__(self) -> str:
        return f"{self.axis} {self.value:,}{' B' if self.axis == SIZE else ''}"


async def measure_point(url: str, prefix: str, point: Point, seconds: float) -> Row:
    """The point's row, with the reason in it when it could not be measured."""
    row: Row = {"who": "mpim_lab", "case": str(point), "axis": point.axis, "value": point.value}
    option, tasks = OPTIONS[point.axis]
    options: dict[str, Any] = ({} if tasks is None else {"tasks": tasks}) | {option: point.value}
    try:
        async with watched_memory(url) as memory:
            result = await measure(url, seconds=seconds, prefix=prefix, **options)
    except MpimError as error:
        return row | {"reason": reason_of(error)}
    return row | {
        "messages_per_s": sustained_per_s(result) * result.subscribers,
        "server_bytes": max(memory),
        "client_bytes": result.publisher_rss_bytes + result.receiver_rss_bytes,
        "ready_s": result.ready_s,
        "p50_ms": result.p50_ms,
        "p99_ms": result.p99_ms,
        "lost": result.lost,
    }


@contextlib.asynccontextmanager
async def watched_memory(url: str) -> AsyncIterator[list[int]]:
    """INFO's used_memory, again and again while the context lasts, and once at least."""
    async with Redis.from_url(url, protocol=3) as client:
        try:
            seen = [(await client.info("memory"))["used_memory"]]
        except ResponseError as error:
            raise FaultUnavailable(
                f"the server does not say how much memory it uses: {error}"
            ) from error

        async def keep_looking() -> None:
            while True:
                await asyncio.sleep(WATCH_EVERY_S)
                seen.append((await client.info("memory"))["used_memory"])

        looking = asyncio.create_task(keep_looking())
        try:
            yield seen
        finally:
            looking.cancel()
            await asyncio.wait([looking])
