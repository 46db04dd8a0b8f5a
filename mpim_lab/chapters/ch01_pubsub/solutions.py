"""Reference solutions of chapter 1's challenges, and other right ones."""

import asyncio
from typing import Any

from mpim_lab.errors import MpimError
from mpim_lab.keys import user_channel
from mpim_lab.mq.pubsub.queue import MessageQueue


class TruthfulSender:
    """The solution of `tell_the_truth`: PUBLISH returns the number of receivers."""

    def __init__(self, queue: MessageQueue) -> None:
        self.queue = queue

    async def send(self, uid: str, payload: bytes) -> str:
        """Publish once; return "delivered" if a subscriber was handed the message."""
        # Nothing is asked before or after: he may have gone since, or before. The number is of the
        # moment at which the server handed the message over.
        receivers = await self.queue.publish(user_channel(uid), payload)
        return "delivered" if receivers else "nobody there"


class PersistentSender:
    """The solution of `deliver_everything`: repeat until a subscriber was handed the message."""

    pause_s = 0.01

    def __init__(self, queue: MessageQueue) -> None:
        self.queue = queue

    async def send(self, uid: str, payload: bytes) -> str:
        """Publish until a subscriber is there; return "delivered"."""
        # 0 receivers: the server has handed it to nobody, so the repeat is no second message. More:
        # it is there. An error is raised: whether it is there is not known, and a repeat might be
        # the second one.
        while not await self.queue.publish(user_channel(uid), payload):
            await asyncio.sleep(self.pause_s)
        return "delivered"


class CatchingSender(TruthfulSender):
    """An alternative for `tell_the_truth`: an error of the connection is an outcome, too."""

    async def send(self, uid: str, payload: bytes) -> str:
        """Return "unknown" when the answer has not come."""
        try:
            return await super().send(uid, payload)
        except MpimError:
            return "unknown"


class BackingOffSender(PersistentSender):
    """An alternative for `deliver_everything`: longer and longer pauses, at most twenty tries."""

    async def send(self, uid: str, payload: bytes) -> str:
        """Double the pause each time, up to 0.2 s."""
        for attempt in range(20):
            if await self.queue.publish(user_channel(uid), payload):
                return "delivered"
            await asyncio.sleep(min(0.2, 0.005 * 2**attempt))
        return "nobody there"


class WaitingSender(PersistentSender):
    """An alternative for `deliver_everything`: ask once a second; PUBLISH decides."""

    async def send(self, uid: str, payload: bytes) -> str:
        """Publish only when somebody seems to listen."""
        channel = user_channel(uid)
        while True:
            if await self.queue.subscriber_count(channel):
                if await self.queue.publish(channel, payload):
                    return "delivered"
            else:
                await asyncio.sleep(1)


SOLUTIONS: dict[str, type[Any]] = {
    "tell_the_truth": TruthfulSender,
    "deliver_everything": PersistentSender,
}
ALTERNATIVES: dict[str, tuple[type[Any], ...]] = {
    "tell_the_truth": (CatchingSender,),
    "deliver_everything": (BackingOffSender, WaitingSender),
}
