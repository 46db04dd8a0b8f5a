"""InterceptedQueue: a queue between whose commands and connection a scenario stands."""

from abc import abstractmethod
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from mpim_lab.keys import Name
from mpim_lab.mq.connection.context import StreamContext
from mpim_lab.mq.connection.reconnecting import CommandConnection
from mpim_lab.mq.pubsub.queue import MessageQueue

Command = tuple[bytes | str, ...]
Send = Callable[[], Awaitable[Any]]


class InterceptedQueue(MessageQueue):
    """A MessageQueue that passes each command of its streams to `intercept`."""

    @abstractmethod
    async def intercept(self, command: Command, send: Send) -> Any:
        """Send a command, or not; return its reply."""

    def context(self, name: Name) -> StreamContext:
        """Return the queue's own access, over an intercepted connection."""
        own = super().context(name)
        intercepted: Any = _InterceptedConnection(own.connection, self.intercept)
        return own._replace(connection=intercepted)


class _InterceptedConnection:
    """A connection whose calls are intercepted; everything else is its own."""

    def __init__(
        self, connection: CommandConnection, intercept: Callable[[Command, Send], Awaitable[Any]]
    ) -> None:
        self._connection, self._intercept = connection, intercept

    async def call(self, *command: bytes | str) -> Any:
        return await self._intercept(command, partial(self._connection.call, *command))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)
