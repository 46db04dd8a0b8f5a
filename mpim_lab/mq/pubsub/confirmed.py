"""Publisher confirms, end to end: the subscriber acknowledges what it has handled.

Only then does `send` return "delivered".

Pub/Sub itself can only hand a message to whoever listens now. What it cannot know, the two ends
must tell each other (the end-to-end argument: Saltzer, Reed, Clark, "End-to-end arguments in system
design", 1984). The price: a second message for each one, and a repeat may arrive twice (at least
once). The message waits in the sender's memory: if the sender dies, it is gone; that takes a stream
(chapter 2).

On the wire: the message is "<id> <text>" on `user:<uid>`, the acknowledgement is "<id>" on
`confirm:<uid>`. The id is everything before the first blank, however long.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from types import TracebackType
from typing import Self

from mpim_lab.errors import InvalidMessage, MpimError, NotConnected
from mpim_lab.events import EventKind, first_word
from mpim_lab.keys import ack_channel, user_channel
from mpim_lab.mq.connection.bounds import MAX_INT, check_bounds, check_times
from mpim_lab.mq.connection.encoding import Message, encode_payload
from mpim_lab.mq.connection.handler import await_result, check_handler
from mpim_lab.mq.connection.retry import Backoff
from mpim_lab.mq.pubsub.queue import MessageQueue


class AckedPublisher:
    """A publisher to one user that repeats each message until it is acknowledged.

    An attempt is over when the server says that nobody listens, when publishing fails, or after
    `ack_timeout_s`.

    Args:
        queue: The queue to publish on, open.
        uid: The user on whose channel the acknowledgements come.
        max_attempts: How often a message is sent at most.
        ack_timeout_s: How long to wait for an acknowledgement; may be changed at any time.
        backoff: The pause between two attempts.
    """

    def __init__(
        self,
        queue: MessageQueue,
        uid: str,
        *,
        max_attempts: int = 20,
        ack_timeout_s: float = 0.5,
        backoff: Backoff | None = None,
    ) -> None:
        check_bounds(1, MAX_INT, max_attempts=max_attempts)
        check_times(ack_timeout_s=ack_timeout_s)
        self._queue, self._uid, self._max_attempts = queue, uid, max_attempts
        self.ack_timeout_s, self._backoff = ack_timeout_s, backoff or Backoff()
        self._unacked: dict[bytes, list[asyncio.Event]] = {}
        self._is_listening = False

    async def __aenter__(self) -> Self:
        await self._queue.subscribe(ack_channel(self._uid), self._on_ack)
        self._is_listening = True
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._is_listening = False
        await self._queue.unsubscribe(ack_channel(self._uid))

    def _on_ack(self, message: Message) -> None:
        waiting = [each for each in self._unacked.get(message.payload, ()) if not each.is_set()]
        for acked in waiting:
            acked.set()
        if waiting:
            self._queue.reporter.message(
                EventKind.CONFIRMED, message.payload, user_channel(self._uid)
            )

    async def send(self, uid: str, payload: bytes | str) -> str:
        """Send "<id> <text>".

        It takes at most `max_attempts` times what a publish, `ack_timeout_s` and a pause take.

        Args:
            uid: The user who is to get it.
            payload: The message, whose first word is its id.

        Returns:
            "delivered" if the subscriber acknowledged it, otherwise "unconfirmed": perhaps handled.

        Raises:
            InvalidMessage: There is no id, so that nothing could confirm it, or it is too large.
            NotConnected: This is not open.
            QueueClosed: The queue was closed.
        """
        if not self._is_listening:
            raise NotConnected("not open: write `async with AckedPublisher(…) as sender:`")
        channel, payload = user_channel(uid), encode_payload(payload, self._queue.max_payload_bytes)
        with self._ack_awaited(first_word(payload)) as acked:
            for attempt in range(1, self._max_attempts + 1):
                await self._attempt(channel, payload, acked)
                if acked.is_set():
                    break
                await asyncio.sleep(self._backoff.delay_s(attempt, jitter=0.5))
        return "delivered" if acked.is_set() else "unconfirmed"

    @contextlib.contextmanager
    def _ack_awaited(self, id: bytes) -> Iterator[asyncio.Event]:
        """Yield what is set when this message is acknowledged.

        Several may wait for the same one: sent twice at once.
        """
        if not id:
            raise InvalidMessage("a message that is to be confirmed begins with its id")
        acked, waiting = asyncio.Event(), self._unacked.setdefault(id, [])
        waiting.append(acked)
        try:
            yield acked
        finally:
            waiting.remove(acked)
            if not waiting:
                del self._unacked[id]

    async def _attempt(self, channel: str, payload: bytes, acked: asyncio.Event) -> None:
        try:
            if await self._queue.publish(channel, payload):
                async with asyncio.timeout(self.ack_timeout_s):
                    await acked.wait()
        except TimeoutError:
            pass  # perhaps handled, perhaps not: repeating is right either way
        except MpimError as error:
            if not error.transient:
                raise


class AckingSubscriber:
    """A subscriber of one user's messages that acknowledges each one once it is handled.

    Args:
        queue: The queue to listen and to answer on, open.
        uid: The user whose messages these are.
        handler: An async function of the message.
        max_buffered: How many messages may wait for the handler.
    """

    def __init__(
        self,
        queue: MessageQueue,
        uid: str,
        handler: Callable[[Message], Awaitable[None]],
        *,
        max_buffered: int = 1_000,
    ) -> None:
        check_handler(handler)
        check_bounds(1, MAX_INT, max_buffered=max_buffered)
        self._queue = queue
        self._uid = uid
        self._handler = handler
        self._max_buffered = max_buffered

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Subscribe."""
        await self._queue.subscribe(
            user_channel(self._uid), self._handle, max_buffered=self._max_buffered
        )

    async def stop(self) -> None:
        """Unsubscribe, and return when what has arrived is handled."""
        await self._queue.unsubscribe(user_channel(self._uid))

    async def _handle(self, message: Message) -> None:
        await await_result(self._handler(message))
        await self._queue.publish(ack_channel(self._uid), first_word(message.payload))
