"""Chapter 2's cost: orders handled a second, by how many are read and acknowledged at a time."""

import asyncio
from collections.abc import Sequence

import pandas as pd

from mpim_lab.events import now
from mpim_lab.lab.server.embedded import open_server
from mpim_lab.mq.connection.bounds import check_bounds
from mpim_lab.mq.pubsub.queue import MessageQueue
from mpim_lab.mq.streams.entries import Entry
from mpim_lab.mq.streams.worker import Worker


async def throughput_by_prefetch(
    batch_sizes: Sequence[int], *, orders: int = 4_000, payload_bytes: int = 100
) -> pd.DataFrame:
    """Measure each batch size on a stream of its own, filled before the clock runs.

    One row each, yours, now.
    """
    check_bounds(1, 1_000_000, batch_sizes=batch_sizes, orders=orders)
    check_bounds(0, 10_000_000, payload_bytes=payload_bytes)
    rows = []
    async with open_server() as server, MessageQueue(server.url, prefix=server.prefix) as mq:
        for number, batch_size in enumerate(batch_sizes):
            stream = mq.stream(f"cost-{number}")
            await asyncio.gather(*(stream.add(b"x" * payload_bytes) for _ in range(orders)))
            rows.append(
                (batch_size, orders / await _seconds_to_handle(mq, stream.name, batch_size, orders))
            )
    return pd.DataFrame(rows, columns=["batch size", "handled per second"])


async def _seconds_to_handle(mq: MessageQueue, name: str, batch_size: int, orders: int) -> float:
    handled, done = 0, asyncio.Event()

    def handle(_entry: Entry) -> None:
        nonlocal handled
        handled += 1
        if handled == orders:
            done.set()

    worker = Worker(await mq.stream(name).group("cost"), "w", handle, batch_size=batch_size)
    begun = now()
    working = asyncio.create_task(worker.run())
    await done.wait()
    seconds = now() - begun
    await worker.stop()
    await working
    return seconds
