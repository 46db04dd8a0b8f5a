"""Gateway: a queue through which clients write into conversations, and which a fault can strike before its last step."""

from collections.abc import Awaitable, Callable
from typing import Any

from mpim_lab.errors import ConnectionLost
from mpim_lab.keys import Name
from mpim_lab.mq.connection.context import Access
from mpim_lab.mq.connection.reconnecting import Link
from mpim_lab.mq.pubsub.queue import MessageQueue

Strikes = Callable[[tuple[bytes | str, ...]], Awaitable[bool]]


class _StruckLink:
    """A link that lets a fault strike before a command; its answer may be lost on the way back."""

    def __init__(self, link: Link, strikes: Strikes) -> None:
        self._link, self._strikes = link, strikes

    async def call(self, *command: bytes | str) -> Any:
        loses_answer = await self._strikes(command)
        reply = await self._link.call(*command)
        if loses_answer:
            raise ConnectionLost("the line broke after the command was written; it may have been run")
        return reply

    def __getattr__(self, name: str) -> Any:
        return getattr(self._link, name)


class Gateway(MessageQueue):
    """A gateway's queue: reports what is written into conversations, and meets the faults."""

    strikes: Strikes

    def access(self, name: Name) -> Access:
        """As the queue's own, with the link that is struck."""
        own = super().access(name)
        return own._replace(commands=_StruckLink(own.commands, self.strikes))  # type: ignore[arg-type]

    async def publish(self, channel: Name, payload: bytes | str) -> int:
        """As the queue's own."""
        assert isinstance(payload, bytes)
        loses_answer = await self.strikes((payload.partition(b" ")[2],))
        receivers = await super().publish(channel, payload)
        if loses_answer:
            raise ConnectionLost("the line broke after the command was written; it may have been run")
        return receivers
