"""Confirmation: the receiver says that it handled a message; only then is its sender told "delivered".

Pub/Sub itself can only hand a message to whoever listens now. What it cannot know, the two ends must tell each other (the
end-to-end argument: Saltzer, Reed, Clark, "End-to-end arguments in system design", 1984). The price: a second message for
each one, and a repeat may arrive twice (at least once). The message waits in the sender's memory: if the sender
dies, it is gone; that takes a stream (chapter 2).

On the wire: the message is "<id> <text>" on `user:<uid>`, the confirmation is "<id>" on `confirm:<uid>`.
"""

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

from mpim_lab.errors import MpimError
from mpim_lab.events import Kind, message_id
from mpim_lab.keys import confirm_channel, user_channel
from mpim_lab.mq.backoff import Backoff
from mpim_lab.mq.message import Message
from mpim_lab.mq.pubsub import MessageQueue


class ConfirmedSender:
    """Send to one user and repeat until the receiver confirms or `attempts` are used up.

    An attempt is over when the server says that nobody listens, when publishing fails, or after `confirm_within_s`, which
    may be changed at any time.
    """

    def __init__(
        self,
        queue: MessageQueue,
        uid: str,
        *,
        attempts: int = 20,
        confirm_within_s: float = 0.5,
        backoff: Backoff | None = None,
    ) -> None:
        self._queue, self._uid, self._attempts = queue, uid, attempts
        self.confirm_within_s, self._backoff = confirm_within_s, backoff or Backoff()
        self._unconfirmed: dict[str, asyncio.Event] = {}

    async def __aenter__(self) -> Self:
        await self._queue.subscribe(confirm_channel(self._uid), self._on_confirmation)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._queue.unsubscribe(confirm_channel(self._uid))

    def _on_confirmation(self, message: Message) -> None:
        confirmed = self._unconfirmed.get(message_id(message.payload))
        if confirmed is not None and not confirmed.is_set():
            confirmed.set()
            self._queue.reporter.message(Kind.CONFIRMED, message.payload, user_channel(self._uid))

    async def send(self, uid: str, payload: bytes) -> str:
        """Send "<id> <text>"; gives "delivered" if the receiver confirmed, otherwise "unconfirmed": perhaps handled.

        Raises what no repeat can change: InvalidMessage, QueueClosed. It takes at most `attempts` times what one publish,
        `confirm_within_s` and a pause of the backoff take.
        """
        channel, identity = user_channel(uid), message_id(payload)
        confirmed = self._unconfirmed[identity] = asyncio.Event()
        try:
            for attempt in range(1, self._attempts + 1):
                await self._try(channel, payload, confirmed)
                if confirmed.is_set():
                    break
                await asyncio.sleep(self._backoff.delay_s(attempt, chance=0.5))
        finally:
            del self._unconfirmed[identity]
        return "delivered" if confirmed.is_set() else "unconfirmed"

    async def _try(self, channel: str, payload: bytes, confirmed: asyncio.Event) -> None:
        try:
            if await self._queue.publish(channel, payload):
                async with asyncio.timeout(self.confirm_within_s):
                    await confirmed.wait()
        except TimeoutError:
            pass  # perhaps handled, perhaps not: repeating is right either way
        except MpimError as error:
            if not error.transient:
                raise


class ConfirmingReceiver:
    """Handle a user's messages and confirm each one after its handler has returned."""

    def __init__(
        self, queue: MessageQueue, uid: str, handler: Callable[[Message], Awaitable[None]], *, limit: int = 1_000
    ) -> None:
        self._queue, self._uid, self._handler, self._limit = queue, uid, handler, limit

    async def __aenter__(self) -> Self:
        await self.come()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.leave()

    async def come(self) -> None:
        """Start to listen."""
        await self._queue.subscribe(user_channel(self._uid), self._handle, limit=self._limit)

    async def leave(self) -> None:
        """Stop listening, once what has arrived is handled."""
        await self._queue.unsubscribe(user_channel(self._uid))

    async def _handle(self, message: Message) -> None:
        await self._handler(message)
        await self._queue.publish(confirm_channel(self._uid), message_id(message.payload).encode())
