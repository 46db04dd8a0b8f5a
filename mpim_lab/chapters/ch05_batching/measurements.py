"""Chapter 5's cost: latency against throughput, what a window costs and saves, Little's law.

Each sweep is an async generator of rows, so that a chart can grow while it runs; whoever stops
listening, or is cancelled, ends the measuring at once.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from statistics import mean
from typing import Any

from mpim_lab.events import now
from mpim_lab.lab.server.embedded import open_server
from mpim_lab.load.load import LoadResult, measure
from mpim_lab.mq.batching.batcher import Batcher
from mpim_lab.mq.batching.decoder import FrameDecoder
from mpim_lab.mq.batching.policies import FixedWindow
from mpim_lab.mq.connection.bounds import check_bounds
from mpim_lab.mq.connection.encoding import Message
from mpim_lab.mq.pubsub.queue import MessageQueue

Row = dict[str, Any]
WINDOWS_MS = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0)
TICK_S = 0.001


async def window_sweep(
    windows_ms: Sequence[float] = WINDOWS_MS, *, offered_per_s: int = 5_000, seconds: float = 0.6
) -> AsyncIterator[Row]:
    """The same rate of messages through no batcher, the adaptive one, and one with each window.

    Processes of their own.

    Columns: batching, window ms (0 for the first two), messages a second, p50 ms, p99 ms, sender µs
    and receiver µs (CPU a message). Latencies run from the moment a message was due to its handler.
    """
    ways = [
        ("none", 0.0, "batching:mpim_lab, not batched"),
        ("adaptive", 0.0, "batching:mpim_lab, one by one"),
    ]
    ways += [(f"window {ms:g} ms", ms, f"batching:mpim_lab, window {ms:g} ms") for ms in windows_ms]
    async with open_server() as server:
        for name, window_ms, who in ways:
            options: Row = {
                "offered_per_s": offered_per_s,
                "seconds": seconds,
                "tasks": 1_024,
                "prefix": server.prefix,
            }
            result = await measure(server.url, who, **options)
            yield {"batching": name, "window ms": window_ms, **_columns(result)}


async def saturation_sweep(
    tasks: Sequence[int] = (1, 4, 16, 64), *, seconds: float = 0.3
) -> AsyncIterator[Row]:
    """More and more tasks, each with one call after another.

    How far throughput goes, and from where on only latency grows.

    A call is one message, or 100 of them ("100 a call"). Columns: batching, tasks, messages a
    second, p50 ms, p99 ms, sender µs, receiver µs.
    """
    ways = {
        "none": "batching:mpim_lab, not batched",
        "redis-py, 100 a pipeline": "batching:redis-py pipelined",
        "adaptive": "batching:mpim_lab, one by one",
        "adaptive, 100 a call": "batching:mpim_lab",
    }
    async with open_server() as server:
        for count in tasks:
            for name, who in ways.items():
                result = await measure(
                    server.url, who, tasks=count, seconds=seconds, prefix=server.prefix
                )
                yield {"batching": name, "tasks": count, **_columns(result)}


def _columns(result: LoadResult) -> Row:
    return {
        "messages a second": round(result.messages_per_s),
        "p50 ms": result.p50_ms,
        "p99 ms": result.p99_ms,
        "sender µs": result.publisher_cpu_s / max(result.sent, 1) * 1e6,
        "receiver µs": result.receiver_cpu_s / max(result.sent, 1) * 1e6,
    }


async def littles_law_sweep(
    windows_ms: Sequence[float] = WINDOWS_MS, *, offered_per_s: int = 2_000, seconds: float = 0.6
) -> AsyncIterator[Row]:
    """How many messages are in flight (handed over and not yet handled).

    Counted, and by Little's law.

    Counted: at every coming and going, averaged over the time; it does not look at how long anybody
    stays.

    L = λ · W: the rate times the mean time in flight. Columns: window ms, messages a second, mean
    ms in flight, "in flight, by Little's law", "in flight, counted". Source: J. D. C. Little, "A
    Proof for the Queuing Formula L = λW", 1961.
    """
    check_bounds(0.01, 10_000.0, windows_ms=windows_ms)
    check_bounds(100, 100_000, offered_per_s=offered_per_s)
    check_bounds(0.05, 86_400.0, seconds=seconds)
    async with open_server() as server, MessageQueue(server.url, prefix=server.prefix) as queue:
        for window_ms in windows_ms:
            yield await _in_flight(queue, f"little-{window_ms}", window_ms, offered_per_s, seconds)


async def _in_flight(
    queue: MessageQueue, channel: str, window_ms: float, offered_per_s: int, seconds: float
) -> Row:
    times: list[float] = []
    in_flight = TimeWeightedMean()

    def handle(message: Message) -> None:
        times.append(now() - float(message.payload))
        in_flight.change(-1)

    await queue.subscribe(channel, handle, decode=FrameDecoder(queue))
    policy = FixedWindow(max_messages=10_000, max_bytes=900_000, window_ms=window_ms)
    async with Batcher.to_channel(queue, channel, policy=policy) as batcher:
        begun, sent = now(), 0
        while (elapsed := now() - begun) < seconds:
            for _ in range(int(elapsed * offered_per_s) - sent):
                in_flight.change(+1)
                batcher.add(f"{now()}")
                sent += 1
            await asyncio.sleep(TICK_S)
        await batcher.flush()
        await queue.drain()
        rate, counted = sent / (now() - begun), in_flight.mean_since(begun)
    await queue.unsubscribe(channel)
    return {
        "window ms": window_ms,
        "messages a second": round(rate),
        "mean ms in flight": mean(times) * 1e3,
        "in flight, by Little's law": rate * mean(times),
        "in flight, counted": counted,
    }


class TimeWeightedMean:
    """A count averaged over time: the area under the count, divided by its length."""

    def __init__(self) -> None:
        self._count, self._area, self._at = 0, 0.0, now()

    def change(self, by: int) -> None:
        """Change the count now."""
        at = now()
        self._area += self._count * (at - self._at)
        self._at = at
        self._count += by

    def mean_since(self, begun: float) -> float:
        """Return the mean of the count from that moment until now."""
        self.change(0)
        return self._area / (self._at - begun)
