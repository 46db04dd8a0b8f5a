"""Acks: acknowledgements of one loop turn leave as one command."""

import asyncio
from collections.abc import Sequence

from mpim_lab.mq.connection.coalescer import Turn
from mpim_lab.mq.connection.layout_check import Commands

MOST_IDS = 1_000


class Acks:
    """Collects the ids that one group acknowledges."""

    def __init__(self, link: Commands, key: bytes, group: bytes) -> None:
        self._link, self._key, self._group = link, key, group
        self._turn: Turn[str, None] = Turn(self._send, most=MOST_IDS)

    def add(self, id: str) -> "asyncio.Future[None]":
        """Acknowledge at the end of this loop turn; the future is done when the server has done it."""
        return self._turn.add(id)

    async def _send(self, ids: Sequence[str]) -> Sequence[None]:
        await self._link.call("XACK", self._key, self._group, *ids)
        return [None] * len(ids)
