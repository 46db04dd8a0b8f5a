"""`python -m mpim_lab.load.redis publisher|receiver`: a load process; `load.load` starts it."""

import asyncio
import contextlib
import faulthandler
import resource
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

from mpim_lab.events import now
from mpim_lab.load.child import run_child
from mpim_lab.load.redis.adapters.batching import Batchers
from mpim_lab.load.redis.candidates import CANDIDATES, subscribe_with
from mpim_lab.load.redis.growth import round_robin_channels, subscribe_many
from mpim_lab.load.redis.parent_channel import ParentChannel
from mpim_lab.load.redis.plan import HEAD, LoadPlan, Publish
from mpim_lab.load.redis.publisher import ClosedLoop, OpenLoop
from mpim_lab.load.redis.receiver import Receiver


async def work(role: str) -> None:
    """Take the plan from the wire, do the role's part, sum up."""
    wire = await ParentChannel.open()
    plan = await wire.plan
    faulthandler.dump_traceback_later(plan.limit_s, exit=True)  # works even if the loop hangs
    summary = await {"publisher": publish, "receiver": receive}[role](plan, wire)
    wire.report("summary", **summary)
    await wire.close()


async def publish(plan: LoadPlan, wire: ParentChannel) -> dict[str, Any]:
    """Connect, warm up, wait for the word, publish."""
    candidate = CANDIDATES[plan.who]
    async with candidate.connect(plan) as send:
        await warm_up(plan, send, candidate.batch)
        loop = (OpenLoop if plan.offered_per_s else ClosedLoop)(
            plan, round_robin_channels(plan, send), candidate.batch
        )
        wire.on_stop = loop.stop  # before the word: "stop" may come with it, or sooner
        wire.report("ready")
        await wire.go.wait()
        cpu_s, started = time.process_time(), now()
        async with reporting(plan, wire, loop.interval):
            await loop.run()
        spent: dict[str, Any] = {"cpu_s": time.process_time() - cpu_s, "rss_bytes": max_rss_bytes()}
        return {"sent": loop.sent, "seconds": now() - started} | spent


async def warm_up(plan: LoadPlan, send: Publish, batch: int) -> None:
    """Publish twice a task to a channel without subscribers, and open batchers.

    A pool is to dial before the clock runs.
    """
    payload = HEAD.pack(0, 0.0)
    for _ in range(2):
        sends = (
            send(f"{plan.channel}:warm-up", payload if batch == 1 else [payload])
            for _ in range(plan.tasks)
        )
        await asyncio.gather(*sends)
    if isinstance(send, Batchers) and plan.channels == 1:
        await send.open(plan.channel)


async def receive(plan: LoadPlan, wire: ParentChannel) -> dict[str, Any]:
    """Subscribe, count until all that was sent is there or is given up as lost."""
    receiver = receiver_of(plan)
    on_payload, begun = receiver.on_payload, now()
    many = plan.channels > 1 or plan.subscribers > 1
    async with (
        subscribe_many(plan, on_payload) if many else subscribe_with(plan, on_payload) as lost
    ):
        ready_s = now() - begun
        wire.report("ready")
        cpu_s = time.process_time()
        async with reporting(plan, wire, receiver.interval):
            sent = await unless(lost, wire.expected)
            await unless(lost, receiver.all_of(sent))
        # The memory as it is now: to unsubscribe from 100,000 channels takes more than to be
        # subscribed to them.
        spent = {"cpu_s": time.process_time() - cpu_s, "rss_bytes": max_rss_bytes()}
        return receiver.summary(sent) | spent | {"ready_s": ready_s}


def receiver_of(plan: LoadPlan) -> Receiver:
    """Who tallies what arrives.

    Only those who gather import numpy: it takes 0.2 s, and memory that is measured.
    """
    if not CANDIDATES[plan.who].batches_received:
        return Receiver(plan)
    from mpim_lab.load.redis.batched_receiver import BatchedReceiver

    return BatchedReceiver(plan)


async def unless(
    lost: asyncio.Future[Exception] | None,
    awaited: asyncio.Future[Any] | Coroutine[Any, Any, Any],
) -> Any:
    """Await something, or raise the exception that `lost` gives when it comes first."""
    if lost is None:
        return await awaited
    task: asyncio.Future[Any] = asyncio.ensure_future(awaited)
    await asyncio.wait([task, lost], return_when=asyncio.FIRST_COMPLETED)
    if not task.done():
        task.cancel()
        raise lost.result()
    return await task


@contextlib.asynccontextmanager
async def reporting(
    plan: LoadPlan, wire: ParentChannel, interval: Callable[[], dict[str, Any]]
) -> AsyncIterator[None]:
    """While the context lasts, write a line every `report_every_s`, and a last one at its end."""

    async def report() -> None:
        while True:
            await asyncio.sleep(plan.report_every_s)
            wire.report("interval", **interval())

    if not plan.report_every_s:
        yield
        return
    interval()  # begin counting here
    task = asyncio.create_task(report())
    yield
    task.cancel()
    wire.report("interval", **interval())


def max_rss_bytes() -> int:
    """The most memory this process has had in RAM.

    Not from getrusage where /proc is there: Linux lets ru_maxrss inherit the size of the process
    that started us, which is a whole notebook.
    """
    status = Path("/proc/self/status")
    if status.exists():
        return 1024 * int(status.read_text().partition("VmHWM:")[2].split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


if __name__ == "__main__":
    run_child(work(sys.argv[1]))
