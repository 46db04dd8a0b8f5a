"""Chapter 1's speed: the throughput ladder, and a load one can watch while it goes on."""

import asyncio
from dataclasses import dataclass
from typing import ClassVar

from mpim_lab.lab.exercise.experiment import Experiment, Run, parameter
from mpim_lab.lab.server.embedded import open_server
from mpim_lab.lab.trace.checker import Verdict
from mpim_lab.load.load import LoadResult, measure, start_load

# What a rung is called, who publishes, and with how many tasks.
THROUGHPUT_STEPS = (
    ("one await at a time", "redis-py", 1),
    ("128 tasks, a connection each", "redis-py", 128),
    ("pipelines of 100 commands", "redis-py pipelined", 16),
    ("128 tasks, one shared connection", "mpim_lab", 128),
)
CLIENTS = (
    "mpim_lab",
    "redis-py",
    "redis-py pipelined",
    "bare protocol",
    "batching:mpim_lab",  # 100 messages a call, adaptive batches
    "batching:mpim_lab, one by one",
    *(f"batching:mpim_lab, window {ms:g} ms" for ms in (0.5, 1, 2, 5, 10, 20)),
)


async def measure_throughput_steps(seconds: float = 1.0) -> list[tuple[str, float]]:
    """Measure every rung on a server of its own: (name, received messages a second).

    Yours, now, on this machine.
    """
    async with open_server() as server:
        steps = []
        for name, who, tasks in THROUGHPUT_STEPS:
            result = await measure(
                server.url, who, tasks=tasks, seconds=seconds, prefix=server.prefix
            )
            steps.append((name, result.messages_per_s))
        return steps


@dataclass(frozen=True, kw_only=True)
class ThroughputRun(Experiment):
    """A run of a publisher process and a receiver process; this process only watches."""

    title: ClassVar[str] = "How fast is it?"

    who: str = parameter("mpim_lab", "which client publishes, and how", choices=CLIENTS)
    tasks: int = parameter(128, "how many tasks await a publish each", low=1, high=1_024)
    offered_per_s: int = parameter(
        0,
        "messages due each second; 0: as many as the tasks can send",
        low=0,
        high=1_000_000,
        step=1_000,
    )
    payload_bytes: int = parameter(100, "size of a message", low=32, high=10_000, step=4)
    seconds: float = parameter(3.0, "how long", low=0.5, high=20.0, step=0.5)

    async def execute(self, run: Run) -> Verdict:
        """Run the load; metrics are those of LoadResult."""
        async with open_server() as server:
            load = start_load(
                server.url,
                self.who,
                tasks=self.tasks,
                seconds=self.seconds,
                offered_per_s=self.offered_per_s or None,
                payload_bytes=self.payload_bytes,
                prefix=server.prefix,
                trace=run.trace,
            )
            ending = asyncio.create_task(_stop_with(run, load.stop))
            try:
                result = await load.result()
            finally:
                ending.cancel()
        run.metrics.update(_metrics(result))
        return _verdict(result)


async def _stop_with(run: Run, stop: object) -> None:
    while not run.stopping:
        await asyncio.sleep(0.05)
    assert callable(stop)
    stop()


def _metrics(result: LoadResult) -> dict[str, float]:
    names = (
        "messages_per_s",
        "p50_ms",
        "p90_ms",
        "p99_ms",
        "max_ms",
        "publisher_cpu_s",
        "receiver_cpu_s",
    )
    return {name: float(value) for name in names if (value := getattr(result, name)) is not None}


def _verdict(result: LoadResult) -> Verdict:
    def some(count: int) -> tuple[str, ...]:
        return (f"{count:,} messages",) if count else ()

    return Verdict(
        sent=result.sent,
        delivered=result.sent - result.lost,
        lost=some(result.lost),
        duplicated=some(result.duplicates),
        reordered=some(result.reordered),
    )
