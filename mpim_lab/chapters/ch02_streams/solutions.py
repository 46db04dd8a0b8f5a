"""Reference solutions of chapter 2's challenges, and other right ones."""

import asyncio
import contextlib
from typing import Any

from mpim_lab.mq.connection.retry import Backoff, RetryPolicy
from mpim_lab.mq.streams.consumer import Consumer
from mpim_lab.mq.streams.entries import Delivery
from mpim_lab.mq.streams.group import ConsumerGroup
from mpim_lab.mq.streams.worker import Worker

TRIES = 3


class ClaimingWorker:
    """The solution of `lose_nothing`: acknowledge after the work, claim what a dead worker had."""

    # A short one: the next worker begins soon. Longer than the work takes: who is slow is not dead.
    claim_idle_ms: int | None = 60

    def __init__(self, group: ConsumerGroup, name: str, handler: Any) -> None:
        self.group, self.name, self.handler, self.stopping = group, name, handler, False

    async def run(self) -> None:
        """Process deliveries until `stop`."""
        # `fetch` waits for 0.2 s at most, so `stop` is seen soon; every now and then it claims what
        # has been idle for `claim_idle_ms`, whoever had it. On leaving, what was read and not
        # processed is released for others.
        async with Consumer(
            self.group, self.name, batch_size=1, claim_idle_ms=self.claim_idle_ms
        ) as self.consumer:
            while not self.stopping:
                for delivery in await self.consumer.fetch():
                    await self.process(delivery)

    async def stop(self) -> None:
        """Stop after the delivery that is being processed."""
        self.stopping = True

    async def process(self, delivery: Delivery) -> None:
        """Work first, acknowledge afterwards."""
        await self.handler(delivery.entry)
        await self.consumer.ack(delivery)


class DeadLetteringWorker(ClaimingWorker):
    """The solution of `survive_the_poison`: three tries, then a dead letter."""

    async def process(self, delivery: Delivery) -> None:
        """Try three times, then dead-letter the entry, which also acknowledges it."""
        # An Exception, of whatever class, is the order's fault. A cancellation is none: it is ours,
        # and the order can be done by the next worker. So is an error of the acknowledgement.
        for _ in range(TRIES):
            try:
                await self.handler(delivery.entry)
            except Exception:
                await asyncio.sleep(0.001)
            else:
                await self.consumer.ack(delivery)
                return
        await self.group.dead_letter(delivery, reason="nobody can handle it")
        self.consumer.discard(delivery)


class HandMadeLoop:
    """An alternative for `lose_nothing`: the group's own `claim`, and XREADGROUP by hand."""

    idle_ms = 200

    def __init__(self, group: ConsumerGroup, name: str, handler: Any) -> None:
        self.group, self.name, self.handler = group, name, handler
        self.stopping = asyncio.Event()

    async def run(self) -> None:
        """Ask for what is idle, then for what is new, then wait for a moment."""
        while not self.stopping.is_set():
            for delivery in await self.group.claim(self.name, idle_ms=self.idle_ms, count=1) or (
                await self.new()
            ):
                await self.process(delivery)

    async def new(self) -> list[Delivery]:
        """Read one new order; a moment's pause if there is none."""
        key, call = self.group.context.key, self.group.context.connection.call
        words = ("GROUP", self.group.raw_name, self.name, "COUNT", "1", "STREAMS", key, ">")
        if (reply := await call("XREADGROUP", *words)) is None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.stopping.wait(), 0.02)
            return []
        return [Delivery(raw[0], raw[1]) for raws in reply.values() for raw in raws]

    async def stop(self) -> None:
        """Wake it up, too."""
        self.stopping.set()

    async def process(self, delivery: Delivery) -> None:
        """Work first, acknowledge afterwards."""
        await self.handler(delivery.entry)
        await self.group.ack(delivery.raw_id)


class CountingLoop(HandMadeLoop):
    """An alternative for `survive_the_poison`: the server counts deliveries of what failed."""

    async def process(self, delivery: Delivery) -> None:
        """Leave it pending when it fails: it is claimed again. The fourth failure is the last."""
        try:
            await self.handler(delivery.entry)
        except Exception as error:
            if delivery.deliveries >= 4:
                await self.group.dead_letter(delivery, reason="failed 4 times", error=repr(error))
        else:
            await self.group.ack(delivery.raw_id)


class PackageWorker(Worker):
    """An alternative for both: the package's own Worker, with a short idle time."""

    def __init__(self, group: ConsumerGroup, name: str, handler: Any) -> None:
        retry = RetryPolicy(max_attempts=5, backoff=Backoff(initial_s=0.01, max_s=0.1))
        super().__init__(group, name, handler, retry=retry, claim_idle_ms=60)


SOLUTIONS: dict[str, type[Any]] = {
    "lose_nothing": ClaimingWorker,
    "survive_the_poison": DeadLetteringWorker,
}
ALTERNATIVES: dict[str, tuple[type[Any], ...]] = {
    "lose_nothing": (HandMadeLoop, PackageWorker, DeadLetteringWorker),
    "survive_the_poison": (CountingLoop, PackageWorker),
}
