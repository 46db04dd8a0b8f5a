"""Reference solutions of chapter 2's challenges."""

import asyncio
from typing import Any

from mpim_lab.mq.streams.consumer import Consumer
from mpim_lab.mq.streams.entries import Delivery
from mpim_lab.mq.streams.group import ConsumerGroup

TRIES = 3


class ClaimingWorker:
    """The solution of `lose_nothing`: acknowledge after the work, and claim from the dead."""

    claim_idle_ms: int | None = 60

    def __init__(self, group: ConsumerGroup, name: str, handler: Any) -> None:
        self.group, self.name, self.handler, self.stopping = group, name, handler, False

    async def run(self) -> None:
        """Process deliveries until `stop`."""
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
        for _ in range(TRIES):
            try:
                await super().process(delivery)
            except ValueError:
                await asyncio.sleep(0.001)
            else:
                return
        await self.group.dead_letter(delivery, reason="nobody can handle it")
        self.consumer.discard(delivery)


SOLUTIONS: dict[str, type[Any]] = {
    "lose_nothing": ClaimingWorker,
    "survive_the_poison": DeadLetteringWorker,
}
