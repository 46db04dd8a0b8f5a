"""Producer: a message's id is made once, and the same send is repeated with it until the server has answered.

A time-out does not say whether the message is there. So a repeat is right, and harmless, if whoever receives the id
recognises it: `Idempotency` at the consumer, or `append` at the server. Of one conversation only one message is on its
way at a time: otherwise the second may overtake a first that must be repeated.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from mpim_lab.errors import CommandRejected, InvalidParameter, MpimError, QueueClosed, Unconfirmed
from mpim_lab.mq.backoff import Backoff
from mpim_lab.mq.ids import new_message_id

Answer = TypeVar("Answer")
TRANSIENT = ("LOADING", "BUSY", "TRYAGAIN", "MASTERDOWN", "CLUSTERDOWN")


class Producer(Generic[Answer]):
    """Send through `append(conversation, payload, id)` at most `attempts` times.

    What may not change by repeating is not repeated: InvalidMessage, CommandRejected, QueueClosed. Raises the last error if
    no attempt can have been run, otherwise Unconfirmed.
    """

    def __init__(
        self,
        append: Callable[[str, bytes, str], Awaitable[Answer]],
        *,
        attempts: int = 10,
        backoff: Backoff | None = None,
    ) -> None:
        if attempts < 1:
            raise InvalidParameter(f"attempts={attempts}: at least 1")
        self._append, self._attempts, self._backoff = append, attempts, backoff or Backoff()
        self._turns: dict[str, asyncio.Lock] = {}
        self._waiting: dict[str, int] = {}

    async def send(self, conversation: str, payload: bytes, *, id: str | None = None) -> Answer:
        """Send one message; gives what `append` gives. `id`: the caller's own, if it has one already."""
        turn = self._turns.setdefault(conversation, asyncio.Lock())
        self._waiting[conversation] = self._waiting.get(conversation, 0) + 1
        try:
            async with turn:
                return await self._repeat(conversation, payload, id or new_message_id())
        finally:
            self._waiting[conversation] -= 1
            if not self._waiting[conversation]:
                del self._waiting[conversation], self._turns[conversation]

    async def _repeat(self, conversation: str, payload: bytes, id: str) -> Answer:
        perhaps = False
        for attempt in range(1, self._attempts + 1):
            try:
                return await self._append(conversation, payload, id)
            except MpimError as error:
                perhaps |= not error.definite
                if attempt == self._attempts or not _may_pass(error):
                    if not perhaps:
                        raise
                    raise Unconfirmed(f"{id!r} was sent {attempt} times; it may have been taken") from error
            await asyncio.sleep(self._backoff.delay_s(attempt, random.random()))
        raise AssertionError("unreachable")


def _may_pass(error: MpimError) -> bool:
    """Whether the same send may succeed later."""
    if isinstance(error, CommandRejected):
        return str(error).startswith(TRANSIENT)
    return not isinstance(error, ValueError | QueueClosed)
