"""Acknowledgements: gathered for a moment and written at once; ten thousand clients' acks are a few commands a second."""

import asyncio
import logging
from typing import Self

from mpim_lab.errors import MpimError
from mpim_lab.im.messages import Messages
from mpim_lab.im.protocol import AckReq

_MOST_AT_ONCE = 500
_MOST_PAUSE_S = 1.0  # while the server or the database is away
_log = logging.getLogger(__name__)


class Acknowledgements:
    """Notes how far users are: `async with Acknowledgements(messages, every_s=0.02) as acks`; leaving it writes the rest.

    An ack that is lost with its gateway costs a repeated pull, and nothing else.
    """

    def __init__(self, messages: Messages, every_s: float) -> None:
        self._messages, self._every_s = messages, every_s
        self._due: dict[tuple[str, str], int] = {}
        self._stored: set[tuple[str, str]] = set()
        self._some = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._write_now_and_then())
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.drop()
        await self.write()

    async def drop(self) -> None:
        """Write nothing more by itself: its gateway dies."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def add(self, uid: str, conversation: str, sequence: int, *, is_stored: bool) -> None:
        """Note one. is_stored: the offline store may have some of these messages; it may forget them then."""
        key = uid, conversation
        self._due[key] = max(sequence, self._due.get(key, 0))
        if is_stored:
            self._stored.add(key)
        self._some.set()

    async def _write_now_and_then(self) -> None:
        pause_s = self._every_s
        while True:
            await self._some.wait()
            await asyncio.sleep(pause_s)
            pause_s = self._every_s if await self.write() else min(_MOST_PAUSE_S, pause_s * 2)

    async def write(self) -> bool:
        """Write what there is; gives whether it could be. What could not waits for the next time."""
        self._some.clear()
        due, self._due = self._due, {}
        stored, self._stored = self._stored, set()
        requests = [AckReq(uid, conversation, number) for (uid, conversation), number in due.items()]
        try:
            for begin in range(0, len(requests), _MOST_AT_ONCE):
                await self._messages.ack(requests[begin : begin + _MOST_AT_ONCE])
            for each in requests:
                if (each.uid, each.conversation) in stored:
                    await self._messages.forget_stored(each)
        except BaseException as error:  # also cancelled: `__aexit__` writes them then
            for each in requests:
                key = each.uid, each.conversation
                self.add(*key, each.sequence, is_stored=key in stored)
            if not isinstance(error, MpimError):
                raise
            _log.info("acknowledgements wait: %s", error)
            return False
        return True
