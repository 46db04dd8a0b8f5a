"""The naive version of chapter 1: check that the receiver is there, publish, say "delivered".

The correct version is `mpim_lab.mq.pubsub.confirmed`. Flaws kept on purpose:

- between the check and the publish the receiver may leave: PUBLISH succeeds with 0 receivers;
- the number that PUBLISH returns is thrown away;
- even a number above 0 says only that the server wrote to a socket, not that anybody read.
"""

from mpim_lab.events import EventKind
from mpim_lab.keys import user_channel
from mpim_lab.mq.pubsub.queue import MessageQueue


class NaiveSender:
    """Send as most candidates would write it."""

    def __init__(self, queue: MessageQueue) -> None:
        self._queue = queue

    async def send(self, uid: str, payload: bytes) -> str:
        """Send to one user; return "delivered" or "offline". Raise what `publish` raises."""
        channel, reporter = user_channel(uid), self._queue.reporter
        listeners = await self._queue.subscriber_count(channel)
        reporter.message(EventKind.CHECKED, payload, channel, count=listeners)
        if not listeners:
            return "offline"
        await self._queue.publish(channel, payload)
        return "delivered"
