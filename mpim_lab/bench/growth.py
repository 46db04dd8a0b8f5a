"""`mpim-lab bench growth`: how cost grows, in throughput and in memory, along four axes.

| axis         | values        | messages_per_s                                                            |
|--------------|---------------|---------------------------------------------------------------------------|
| message size | 16 B to 1 MiB | received; 16 tasks publish                                                |
| channels     | 1 to 100,000  | received by one queue that subscribes to all; each goes to one, by chance |
| subscribers  | 1 to 1,000    | deliveries: a message to one channel counts once a subscriber             |
| tasks        | 1 to 10,000   | received; each task awaits one publish after another                      |

One subscriber is a `MessageQueue`; several are bare connections, as cheap as can be, in one
process. A payload has at least 16 bytes, not 10: it begins with its number and the moment it was
due, by which loss and latency are told. client_bytes: the most memory that the publisher's and the
receiver's process had in RAM, together and Python included. server_bytes: the most used_memory that
INFO gave while the load went on.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mpim_lab.bench.growth_points import CHANNELS, SIZE, SUBSCRIBERS, TASKS, Point, measure_point
from mpim_lab.bench.machine import describe_machine
from mpim_lab.bench.medians import medians_of
from mpim_lab.bench.rows import Row
from mpim_lab.lab.server.embedded import open_server

Axes = tuple[tuple[str, tuple[int, ...]], ...]


@dataclass(frozen=True)
class GrowthSchedule:
    """Which values of which axes, how often, and how long each."""

    axes: Axes
    rounds: int
    seconds: float

    @property
    def points(self) -> list[Point]:
        """Axis by axis, value by value."""
        return [Point(axis, value) for axis, values in self.axes for value in values]


AXES: Axes = (
    (SIZE, (16, 100, 1_000, 10_000, 100_000, 1_048_576)),
    (CHANNELS, (1, 10, 100, 1_000, 10_000, 100_000)),
    (SUBSCRIBERS, (1, 10, 100, 1_000)),
    (TASKS, (1, 10, 100, 1_000, 10_000)),
)
FULL_GROWTH = GrowthSchedule(AXES, rounds=5, seconds=1.0)
QUICK_GROWTH = GrowthSchedule(AXES, rounds=1, seconds=0.3)


async def bench_growth(
    schedule: GrowthSchedule, tell: Callable[[str], None] = lambda text: None
) -> dict[str, Any]:
    """Measure every point, round by round, each on a server of its own.

    Gives `{"machine": …, "rows": …}`.

    What a point leaves behind in the server's memory would be the next one's otherwise. The
    reader's own server (MPIM_REDIS_URL) is one and the same for all.
    """
    async with open_server() as server:
        machine = await describe_machine(server.url)
    found: list[Row] = []
    for round_, point in itertools.product(range(1, schedule.rounds + 1), schedule.points):
        async with open_server() as server:
            row = await measure_point(server.url, server.prefix, point, schedule.seconds)
        what = row.get("reason") or f"{row['messages_per_s']:,.0f} msg/s"
        tell(f"round {round_} · {point}: {what}")
        found.append(row)
    return {"machine": machine, "rows": medians_of("growth", found, "messages_per_s")}
