"""Acks: acknowledgements of one loop turn leave as one command."""

import asyncio
from typing import Any

from mpim_lab.mq.link import Link

MOST_IDS = 1_000


class Acks:
    """Collects the ids that one group acknowledges."""

    def __init__(self, link: Link, key: bytes, group: str) -> None:
        self._link, self._key, self._group = link, key, group
        self._ids: list[str] = []
        self._answers: list[asyncio.Future[None]] = []
        self._sending: set[asyncio.Task[Any]] = set()

    def add(self, id: str) -> "asyncio.Future[None]":
        """Acknowledge at the end of this loop turn; the future is done when the server has done it."""
        if not self._ids:
            asyncio.get_running_loop().call_soon(self._flush)
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._ids.append(id)
        self._answers.append(answer)
        return answer

    def _flush(self) -> None:
        while self._ids:
            ids, answers = self._ids[:MOST_IDS], self._answers[:MOST_IDS]
            del self._ids[:MOST_IDS], self._answers[:MOST_IDS]
            task = asyncio.create_task(self._send(ids, answers))
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)

    async def _send(self, ids: list[str], answers: list["asyncio.Future[None]"]) -> None:
        try:
            await self._link.call("XACK", self._key, self._group, *ids)
        except BaseException as error:
            for answer in answers:
                if not answer.done():
                    answer.set_exception(error)
                    answer.exception()  # whoever awaits it still gets it
            if not isinstance(error, Exception):
                raise
        else:
            for answer in answers:
                if not answer.done():
                    answer.set_result(None)
