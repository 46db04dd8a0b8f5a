"""AckBuffer: acknowledgements wait a moment and are written together.

Those of 10,000 clients are a few commands a second.
"""

import asyncio
import logging
import random
from typing import Self

from mpim_lab.errors import MpimError
from mpim_lab.im.protocol.periodic import run_periodically
from mpim_lab.im.protocol.requests import AckRequest
from mpim_lab.im.services.messages import MessageService
from mpim_lab.mq.connection.retry import Backoff

_MAX_BATCH = 500
_MAX_BACKOFF_S = 1.0  # while the server or the database is away
_log = logging.getLogger(__name__)


class AckBuffer:
    """A write-behind buffer of read positions.

    Use: `async with AckBuffer(messages, interval_s=0.02) as acks`. Leaving it flushes the rest.
    An ack that is lost with its gateway costs a repeated pull, and nothing else.

    | a flush ...                              | then its acks                                     |
    |------------------------------------------|---------------------------------------------------|
    | succeeds                                 | are done                                          |
    | fails for now, or raises anything        | wait, with what comes meanwhile; the pauses grow  |
    | is refused for good                      | are written one by one; the one at fault is       |
    |                                          | dropped                                           |
    | is cancelled, because the gateway closes | are written once more, by `__aexit__`             |
    | is aborted                               | are lost with the gateway                         |
    """

    def __init__(self, messages: MessageService, interval_s: float) -> None:
        self._messages, self._interval_s = messages, interval_s
        self._failures, self._backoff = 0, Backoff(interval_s, _MAX_BACKOFF_S)
        self._pending: dict[tuple[str, str], int] = {}
        self._stored: set[tuple[str, str]] = set()
        self._available = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(
            run_periodically("acknowledgements", self._flush_when_due, self._interval_s)
        )
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        await self.flush()

    def abort(self) -> None:
        """Stop writing: the gateway ends."""
        if self._task is not None:
            self._task.cancel()

    def add(self, uid: str, conversation: str, sequence: int, *, is_stored: bool) -> None:
        """Add one. is_stored.

        The offline store may have some of these messages, which may be deleted then.
        """
        key = uid, conversation
        self._pending[key] = max(sequence, self._pending.get(key, 0))
        if is_stored:
            self._stored.add(key)
        self._available.set()

    async def _flush_when_due(self) -> None:
        await self._available.wait()
        if self._failures:
            await asyncio.sleep(self._backoff.delay_s(self._failures, random.random()))
        self._failures = 0 if await self.flush() else self._failures + 1

    async def flush(self) -> bool:
        """Write what there is.

        Return whether it could be; otherwise it waits for the next flush.
        """
        self._available.clear()
        due, self._pending = self._pending, {}
        stored, self._stored = self._stored, set()
        requests = [
            AckRequest(uid, conversation, number) for (uid, conversation), number in due.items()
        ]
        try:
            for begin in range(0, len(requests), _MAX_BATCH):
                await self._write(requests[begin : begin + _MAX_BATCH])
            for each in requests:
                if (each.uid, each.conversation) in stored:
                    await self._delete_offline(each)
        except BaseException as error:  # also cancelled: `__aexit__` writes them then
            for each in requests:
                key = each.uid, each.conversation
                self.add(*key, each.sequence, is_stored=key in stored)
            if not isinstance(error, MpimError):
                self._failures += 1
                raise
            _log.info("acknowledgements wait: %s", error)
            return False
        return True

    async def _write(self, requests: list[AckRequest]) -> None:
        """Write many at once.

        One by one if they are refused for good: a single one must not block the others.
        """
        try:
            await self._messages.ack(requests)
        except MpimError as error:
            if error.transient:
                raise
            if len(requests) == 1:
                _log.error("%s, an acknowledgement, is dropped: %s", requests[0], error)
                return
            for each in requests:
                await self._write([each])

    async def _delete_offline(self, request: AckRequest) -> None:
        try:
            await self._messages.delete_offline(request)
        except MpimError as error:
            if error.transient:
                raise
            _log.error("what was acknowledged stays stored, %s: %s", request, error)
