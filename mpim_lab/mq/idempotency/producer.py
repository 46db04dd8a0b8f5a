"""IdempotentProducer: a message's id is made once, and a send repeated with it.

A time-out does not say whether the message is there. So a repeat is right, and harmless, if whoever
receives the id recognises it: `IdempotencyStore` at the consumer, or `append` at the server. Of one
conversation only one message is on its way at a time: otherwise the second may overtake a first
that must be repeated.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from mpim_lab.errors import InvalidParameter, MpimError, Unconfirmed
from mpim_lab.mq.connection.bounds import check_whole
from mpim_lab.mq.connection.encoding import new_message_id
from mpim_lab.mq.connection.handler import (
    LoopAffinity,
    TaskCancellation,
    handler_scope,
    is_in_handler,
)
from mpim_lab.mq.connection.retry import Backoff

Answer = TypeVar("Answer")


class IdempotentProducer(Generic[Answer]):
    """A producer that sends each message with one id, again and again until it is answered.

    Only what is `transient` is retried. A send ends: it waits for those before it in its
    conversation, and then for at most `max_attempts` times what one call of `append` may take, and
    as many pauses of at most `backoff.max_s`.

    Args:
        append: An async function of conversation, payload and id.
        max_attempts: How often it is called for one message.
        backoff: The pause between two attempts.

    Raises:
        InvalidParameter: `max_attempts` is out of bounds.
    """

    def __init__(
        self,
        append: Callable[[str, bytes, str], Awaitable[Answer]],
        *,
        max_attempts: int = 10,
        backoff: Backoff | None = None,
    ) -> None:
        check_whole(max_attempts=max_attempts)
        self._append, self._max_attempts, self._backoff = append, max_attempts, backoff or Backoff()
        self._loop = LoopAffinity("this producer")
        self._locks: dict[str, asyncio.Lock] = {}
        self._senders: dict[str, int] = {}

    async def send(self, conversation: str, payload: bytes, *, id: str | None = None) -> Answer:
        """Send one message.

        Args:
            conversation: One message of a conversation is sent at a time.
            payload: What is sent.
            id: The caller's own id, if it has one already.

        Returns:
            What `append` returns.

        Raises:
            MpimError: The last error, if no attempt can have been run.
            Unconfirmed: Otherwise.
        """
        self._loop.check()
        if is_in_handler(mine := (self, conversation)):
            raise InvalidParameter(
                f"`append` sends to {conversation!r} itself: that would wait for its own turn"
            )
        lock = self._locks.setdefault(conversation, asyncio.Lock())
        self._senders[conversation] = self._senders.get(conversation, 0) + 1
        try:
            async with lock:
                with handler_scope(mine):
                    return await self._send_with_retries(
                        conversation, payload, id or new_message_id()
                    )
        finally:
            self._senders[conversation] -= 1
            if not self._senders[conversation]:
                del self._senders[conversation], self._locks[conversation]

    async def _send_with_retries(self, conversation: str, payload: bytes, id: str) -> Answer:
        may_be_done, cancellations = False, TaskCancellation()
        for attempt in range(1, self._max_attempts + 1):
            try:
                return await self._append(conversation, payload, id)
            except MpimError as error:
                may_be_done |= not error.definite
                if attempt == self._max_attempts or not error.transient:
                    if not may_be_done:
                        raise
                    raise Unconfirmed(
                        f"{id!r} was sent {attempt} times; it may have been taken"
                    ) from error
            except asyncio.CancelledError as error:
                if cancellations.was_requested:
                    raise
                raise Unconfirmed(
                    f"sending {id!r} was cancelled by somebody else; it may have been taken"
                ) from error
            await asyncio.sleep(self._backoff.delay_s(attempt, random.random()))
        raise AssertionError("unreachable")
