"""`mpim-lab bench growth`: how cost grows, in throughput and in memory, along four axes.

| axis         | values        | messages_per_s                                         |
|--------------|---------------|--------------------------------------------------------|
| message size | 16 B to 1 MiB | received; 16 tasks publish                             |
| channels     | 1 to 100,000  | received by one queue that hears all; each goes to one |
| subscribers  | 1 to 1,000    | deliveries: a message counts once a subscriber         |
| tasks        | 1 to 10,000   | received; each task awaits one publish after another   |

One subscriber is a `MessageQueue`; several are bare connections, as cheap as can be, in one
process. A payload has at least 16 bytes, not 10: it begins with its number and the moment it was
due, by which loss and latency are told. client_bytes: the most memory that the publisher's and the
receiver's process had in RAM, together and Python included. server_bytes: the most used_memory that
INFO gave while the load went on.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from mpim_lab.bench.cases import Schedule
from mpim_lab.bench.comparison import sustained_per_s
from mpim_lab.bench.machine import describe_this_machine
from mpim_lab.bench.rounds import Tell, keep_quiet, play
from mpim_lab.bench.rows import OURS, Row, rows_of
from mpim_lab.errors import FaultUnavailable
from mpim_lab.lab.server.embedded import open_server
from mpim_lab.load.load import measure

WATCH_EVERY_S = 0.05
SIZE, CHANNELS, SUBSCRIBERS, TASKS = "message size", "channels", "subscribers", "tasks"
OPTIONS: dict[str, dict[str, Any]] = {  # of the load, besides the one that grows
    SIZE: {"tasks": 16},  # few: the server buffers 32 MB for a subscriber, and no more
    CHANNELS: {"tasks": 64},
    SUBSCRIBERS: {"tasks": 16},
    TASKS: {},
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

    def columns(self) -> Row:
        """What a row has of it."""
        return {"case": str(self), "axis": self.axis, "value": self.value}


POINTS = (
    *(Point(SIZE, value) for value in (16, 100, 1_000, 10_000, 100_000, 1_048_576)),
    *(Point(CHANNELS, value) for value in (1, 10, 100, 1_000, 10_000, 100_000)),
    *(Point(SUBSCRIBERS, value) for value in (1, 10, 100, 1_000)),
    *(Point(TASKS, value) for value in (1, 10, 100, 1_000, 10_000)),
)
FULL_GROWTH = Schedule(POINTS, rounds=5, seconds=1.0)
QUICK_GROWTH = Schedule(POINTS, rounds=1, seconds=0.3)


async def bench_growth(schedule: Schedule, tell: Tell = keep_quiet) -> dict[str, Any]:
    """Measure every point, round by round, each on a server of its own.

    What a point leaves behind in the server's memory would be the next one's otherwise. The
    reader's own server (MPIM_REDIS_URL) is one and the same for all.
    """

    async def run(who: str, point: Point) -> Row:
        async with open_server() as server:
            return await measure_point(server.url, server.prefix, point, schedule.seconds)

    found = await play([OURS], schedule, run, tell, Point.columns)
    return {"machine": await describe_this_machine(), "rows": rows_of("growth", found)}


async def measure_point(url: str, prefix: str, point: Point, seconds: float) -> Row:
    """One point's numbers. Raises MpimError when it cannot be measured."""
    option = "payload_bytes" if point.axis == SIZE else point.axis
    options = OPTIONS[point.axis] | {option: point.value}
    async with watched_memory(url) as memory:
        result = await measure(url, seconds=seconds, prefix=prefix, **options)
    return {
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
