"""WatchedQueue: a worker's queue whose effects are seen on the server, not in what the worker says.

The effect of a message is a row in a list on the server, the ledger: "<worker> <payload>". After each command that carries a
row the ledger is read, and what is new there is an effect, whoever claims what. So a refused commit is none, and a commit
whose answer was lost is one.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from mpim_lab.events import Kind, Reporter
from mpim_lab.keys import Name
from mpim_lab.mq.connection.context import StreamContext
from mpim_lab.mq.connection.reconnecting import ReconnectingConnection
from mpim_lab.mq.idempotency.effects import Effects
from mpim_lab.mq.pubsub.queue import MessageQueue

LEDGER = "ledger"
_MARK = b"row "


def enter(effects: Effects, worker: str, payload: bytes) -> None:
    """Have a row entered in the ledger: one message's effect."""
    effects.also("RPUSH", LEDGER, _MARK + worker.encode() + b" " + payload)


class Ledger:
    """The rows on the server, each reported once, when it is first seen: (worker, payload)."""

    def __init__(self, queue: MessageQueue, reporter: Reporter, channel: str) -> None:
        self._access, self._reporter, self._channel = queue.context(LEDGER), reporter, channel
        self.rows: list[tuple[str, bytes]] = []
        self._reading = asyncio.Lock()

    async def read(self) -> list[tuple[str, bytes]]:
        """The rows that are new."""
        async with self._reading:
            raws = await self._access.connection.call("LRANGE", self._access.key, str(len(self.rows)), "-1")
            new = [_row_of(raw) for raw in raws]
            for worker, payload in new:
                self._reporter.message(Kind.EFFECT, payload, self._channel, actor=worker)
            self.rows += new
            return new


def _row_of(raw: bytes) -> tuple[str, bytes]:
    _, worker, payload = raw.split(b" ", 2)
    return worker.decode(), payload


class _WatchedLink:
    """A link that tells when a command with rows has been answered; everything else is the link's own."""

    def __init__(self, link: ReconnectingConnection, on_rows: Callable[[], Awaitable[None]]) -> None:
        self._link, self._on_rows = link, on_rows

    async def call(self, *command: bytes | str) -> Any:
        reply = await self._link.call(*command)
        if any(isinstance(word, bytes) and word.startswith(_MARK) for word in command):
            await self._on_rows()
        return reply

    def __getattr__(self, name: str) -> Any:
        return getattr(self._link, name)


class WatchedQueue(MessageQueue):
    """A MessageQueue that calls `on_rows` after each command that carries rows of the ledger."""

    on_rows: Callable[[], Awaitable[None]]

    def context(self, name: Name) -> StreamContext:
        """As the queue's own, with the watched link."""
        own = super().context(name)
        return own._replace(connection=_WatchedLink(own.connection, self.on_rows))  # type: ignore[arg-type]
