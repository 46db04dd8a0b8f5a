"""RecordingQueue: a worker's queue whose effects are seen on the server.

The effect of a message is a row in a list on the server, the effect log: "<worker> <payload>".
After each command that carries a row the log is read, and what is new there is an effect, whoever
claims what. So a refused commit is none, and a commit whose answer was lost is one.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from mpim_lab.chapters.shared.intercepted_queue import Command, InterceptedQueue, Send
from mpim_lab.events import EventKind, Reporter
from mpim_lab.mq.idempotency.effects import AtomicEffects
from mpim_lab.mq.pubsub.queue import MessageQueue

EFFECT_LOG = "ledger"
_PREFIX = b"row "


def record_effect(effects: AtomicEffects, worker: str, payload: bytes) -> None:
    """Have one message's effect recorded as a row of the effect log."""
    effects.add("RPUSH", EFFECT_LOG, _PREFIX + worker.encode() + b" " + payload)


class EffectLog:
    """The log of effects on the server.

    Rows (worker, payload), each reported once, when it is first seen.
    """

    def __init__(self, queue: MessageQueue, reporter: Reporter, channel: str) -> None:
        self._access, self._reporter, self._channel = queue.context(EFFECT_LOG), reporter, channel
        self.rows: list[tuple[str, bytes]] = []
        self._reading = asyncio.Lock()

    async def read(self) -> list[tuple[str, bytes]]:
        """Return the rows that are new."""
        async with self._reading:
            raws = await self._access.connection.call(
                "LRANGE", self._access.key, str(len(self.rows)), "-1"
            )
            new = [_row_of(raw) for raw in raws]
            for worker, payload in new:
                self._reporter.message(EventKind.EFFECT, payload, self._channel, actor=worker)
            self.rows += new
            return new


def _row_of(raw: bytes) -> tuple[str, bytes]:
    _, worker, payload = raw.split(b" ", 2)
    return worker.decode(), payload


class RecordingQueue(InterceptedQueue):
    """A MessageQueue that calls `on_effects` after each command that carries effects."""

    on_effects: Callable[[], Awaitable[None]]

    async def intercept(self, command: Command, send: Send) -> Any:
        """Send a command; report it if it carries rows of the effect log."""
        reply = await send()
        if any(isinstance(word, bytes) and word.startswith(_PREFIX) for word in command):
            await self.on_effects()
        return reply
