"""Reference solutions of chapter 1's challenges."""

import asyncio
from typing import Any

from mpim_lab.keys import user_channel
from mpim_lab.mq.pubsub.queue import MessageQueue

ATTEMPTS = 100


class TruthfulSender:
    """The solution of `tell_the_truth`: the number that PUBLISH returns says if bob was there."""

    def __init__(self, queue: MessageQueue) -> None:
        self.queue = queue

    async def send(self, uid: str, payload: bytes) -> str:
        """Publish once; return "delivered" if a subscriber was handed the message."""
        return (
            "delivered" if await self.queue.publish(user_channel(uid), payload) else "nobody there"
        )


class PersistentSender:
    """The solution of `deliver_everything`: repeat a message until a subscriber was handed it."""

    def __init__(self, queue: MessageQueue) -> None:
        self.queue = queue

    async def send(self, uid: str, payload: bytes) -> str:
        """Publish until a subscriber is there.

        Return "delivered", or give up after 100 attempts.
        """
        for _ in range(ATTEMPTS):
            if await self.queue.publish(user_channel(uid), payload):
                return "delivered"
            await asyncio.sleep(0.005)
        return "nobody there"


SOLUTIONS: dict[str, type[Any]] = {
    "tell_the_truth": TruthfulSender,
    "deliver_everything": PersistentSender,
}
