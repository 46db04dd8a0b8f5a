"""Confirmation: the receiver says that it handled a message; only then is its sender told "delivered".

Pub/Sub itself can only hand a message to whoever listens now. What it cannot know, the two ends must tell each other (the
end-to-end argument: Saltzer, Reed, Clark, "End-to-end arguments in system design", 1984). The price: a second message for
each one, and a repeat may arrive twice (at least once). The message waits in the sender's memory: if the sender
dies, it is gone; that takes a stream (chapter 2).

On the wire: the message is "<id> <text>" on `user:<uid>`, the confirmation is "<id>" on `confirm:<uid>`. The id is
everything before the first blank, however long.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from types import TracebackType
from typing import Self

from mpim_lab.errors import InvalidMessage, MpimError, NotConnected
from mpim_lab.events import EventKind, first_word
from mpim_lab.keys import ack_channel, user_channel
from mpim_lab.mq.connection.bounds import MOST, check_bounds, check_times
from mpim_lab.mq.connection.encoding import Message, wire_payload
from mpim_lab.mq.connection.handler import checked_handler, settled
from mpim_lab.mq.connection.retry import Backoff
from mpim_lab.mq.pubsub.queue import MessageQueue


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
        check_bounds(1, MOST, attempts=attempts)
        check_times(confirm_within_s=confirm_within_s)
        self._queue, self._uid, self._attempts = queue, uid, attempts
        self.confirm_within_s, self._backoff = confirm_within_s, backoff or Backoff()
        self._unconfirmed: dict[bytes, list[asyncio.Event]] = {}
        self._is_listening = False

    async def __aenter__(self) -> Self:
        await self._queue.subscribe(ack_channel(self._uid), self._on_confirmation)
        self._is_listening = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_listening = False
        await self._queue.unsubscribe(ack_channel(self._uid))

    def _on_confirmation(self, message: Message) -> None:
        waiting = [each for each in self._unconfirmed.get(message.payload, ()) if not each.is_set()]
        for confirmed in waiting:
            confirmed.set()
        if waiting:
            self._queue.reporter.message(EventKind.CONFIRMED, message.payload, user_channel(self._uid))

    async def send(self, uid: str, payload: bytes | str) -> str:
        """Send "<id> <text>"; gives "delivered" if the receiver confirmed, otherwise "unconfirmed": perhaps handled.

        Raises what no repeat can change: InvalidMessage (also for a payload without an id: nothing could confirm it),
        QueueClosed, NotConnected (this is not open). It takes at most `attempts` times what one publish, `confirm_within_s`
        and a pause of the backoff take.
        """
        if not self._is_listening:
            raise NotConnected("not open: write `async with ConfirmedSender(…) as sender:`")
        channel, payload = user_channel(uid), wire_payload(payload, self._queue.max_payload_bytes)
        with self._awaited(first_word(payload)) as confirmed:
            for attempt in range(1, self._attempts + 1):
                await self._try(channel, payload, confirmed)
                if confirmed.is_set():
                    break
                await asyncio.sleep(self._backoff.delay_s(attempt, chance=0.5))
        return "delivered" if confirmed.is_set() else "unconfirmed"

    @contextlib.contextmanager
    def _awaited(self, id: bytes) -> Iterator[asyncio.Event]:
        """Give what is set when this message is confirmed. Several may wait for the same one: it is sent twice at once."""
        if not id:
            raise InvalidMessage("a message that is to be confirmed begins with its id")
        confirmed, waiting = asyncio.Event(), self._unconfirmed.setdefault(id, [])
        waiting.append(confirmed)
        try:
            yield confirmed
        finally:
            waiting.remove(confirmed)
            if not waiting:
                del self._unconfirmed[id]

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
        checked_handler(handler)
        check_bounds(1, MOST, limit=limit)
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
        await settled(self._handler(message))
        await self._queue.publish(ack_channel(self._uid), first_word(message.payload))
