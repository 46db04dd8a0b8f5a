"""Producer: a message's id is made once, and the same send is repeated with it until the server has answered.

A time-out does not say whether the message is there. So a repeat is right, and harmless, if whoever receives the id
recognises it: `Idempotency` at the consumer, or `append` at the server. Of one conversation only one message is on its
way at a time: otherwise the second may overtake a first that must be repeated.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from mpim_lab.errors import InvalidParameter, MpimError, Unconfirmed
from mpim_lab.mq.connection.bounds import check_whole
from mpim_lab.mq.connection.handler import LoopAffinity, TaskCancellation, handler_scope, is_in_handler
from mpim_lab.mq.connection.ids import new_message_id
from mpim_lab.mq.connection.retry import Backoff

Answer = TypeVar("Answer")


class Producer(Generic[Answer]):
    """Send through `append(conversation, payload, id)` at most `attempts` times.

    Only what is `transient` is repeated. Raises the last error if no attempt can have been run, otherwise Unconfirmed.

    A send ends: it waits for those before it in its conversation, and then for at most `attempts` times what one call of
    `append` may take, and as many pauses of at most `backoff.max_s`. The conversation's lock passes on however it ends.
    """

    def __init__(
        self,
        append: Callable[[str, bytes, str], Awaitable[Answer]],
        *,
        attempts: int = 10,
        backoff: Backoff | None = None,
    ) -> None:
        check_whole(attempts=attempts)
        self._append, self._attempts, self._backoff = append, attempts, backoff or Backoff()
        self._loop = LoopAffinity("this producer")
        self._turns: dict[str, asyncio.Lock] = {}
        self._waiting: dict[str, int] = {}

    async def send(self, conversation: str, payload: bytes, *, id: str | None = None) -> Answer:
        """Send one message; gives what `append` gives. `id`: the caller's own, if it has one already."""
        self._loop.check()
        if is_in_handler(mine := (self, conversation)):
            raise InvalidParameter(f"`append` sends to {conversation!r} itself: that would wait for its own turn")
        turn = self._turns.setdefault(conversation, asyncio.Lock())
        self._waiting[conversation] = self._waiting.get(conversation, 0) + 1
        try:
            async with turn:
                with handler_scope(mine):
                    return await self._repeat(conversation, payload, id or new_message_id())
        finally:
            self._waiting[conversation] -= 1
            if not self._waiting[conversation]:
                del self._waiting[conversation], self._turns[conversation]

    async def _repeat(self, conversation: str, payload: bytes, id: str) -> Answer:
        perhaps, cancellations = False, TaskCancellation()
        for attempt in range(1, self._attempts + 1):
            try:
                return await self._append(conversation, payload, id)
            except MpimError as error:
                perhaps |= not error.definite
                if attempt == self._attempts or not error.transient:
                    if not perhaps:
                        raise
                    raise Unconfirmed(f"{id!r} was sent {attempt} times; it may have been taken") from error
            except asyncio.CancelledError as error:
                if cancellations.was_requested:
                    raise
                raise Unconfirmed(f"sending {id!r} was cancelled by somebody else; it may have been taken") from error
            await asyncio.sleep(self._backoff.delay_s(attempt, random.random()))
        raise AssertionError("unreachable")
