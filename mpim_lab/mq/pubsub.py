"""MessageQueue: publish to channels, subscribe with a handler. At most once: whoever is away misses it.

A published message passes `publish` here, `Connection.send`, the server, `Connection.data_received` at the other end,
`_on_push` here, and the handler. Commands and subscriptions have a connection each: a subscriber that is slow, or cut off
by the server for it, must not hold up or lose anybody's commands.

Source: https://valkey.io/topics/pubsub/ and RESP3, https://github.com/redis/redis-specifications/blob/master/protocol/RESP3.md
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Any, Self, cast

from mpim_lab.errors import AlreadySubscribed, InvalidParameter, MpimError
from mpim_lab.events import Kind, Observer, Reporter
from mpim_lab.mq.address import Address
from mpim_lab.mq.connection import Command, Limits
from mpim_lab.mq.inbox import Inbox, WhenFull
from mpim_lab.mq.link import Link
from mpim_lab.mq.message import Message, wire_name, wire_payload
from mpim_lab.mq.subscription import Handler, Subscription, direct, is_async, read, report_dropped


class MessageQueue:
    """A queue over one Redis or Valkey server, for the tasks of one event loop.

    url: redis://, rediss:// or unix://, with user, password and db as redis-py reads them. name: who reports to the
    `observer`, and the client's name on the server. prefix: put before every channel, and taken off again.
    Connections that break come back by themselves and subscribe again; what was published meanwhile is gone, and the
    observer is told how long the gap was.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str = "mq",
        prefix: str = "",
        limits: Limits | None = None,
        max_payload_bytes: int = 1024 * 1024,
        observer: Observer | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        address = Address.parse(url)
        self.name, self.max_payload_bytes = name, max_payload_bytes
        self._prefix, self.reporter = prefix, Reporter(name, observer)
        self._channels: dict[bytes, Subscription] = {}
        self._patterns: dict[bytes, Subscription] = {}
        self._full: set[Inbox] = set()
        self._commands = Link(address, name=name, limits=limits, observer=observer, sleep=sleep)
        self._messages = Link(
            address, name=name, limits=limits, observer=observer, sleep=sleep, on_push=self._on_push, greeting=self._greeting
        )
        self._opening = asyncio.Lock()
        self._endings: set[asyncio.Task[None]] = set()

    # Life

    async def open(self) -> None:
        """Connect. Raises NotConnected or LoginRejected. The second connection is made by the first `subscribe`."""
        await self._commands.open()

    async def close(self) -> None:
        """Finish what was begun: handlers what has arrived, commands what was written. Twice is harmless."""
        ending = [self._end(name, table) for table in (self._channels, self._patterns) for name in list(table)]
        await asyncio.gather(*ending)
        await asyncio.gather(self._commands.close(), self._messages.close())

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    @property
    def is_connected(self) -> bool:
        """Every connection in use is up, as far as anybody on this side knows."""
        return self.lines_up == 1 + self._messages.is_open

    @property
    def lines_up(self) -> int:
        """How many of its two connections are up."""
        return self._commands.is_connected + self._messages.is_connected

    # Publishing

    async def publish(self, channel: str, payload: bytes | str) -> int:
        """Publish and give the number of subscribers the server handed the message to.

        Raises InvalidMessage (nothing was sent) and what `Link` raises; look at the error's `definite`.
        """
        command = (b"PUBLISH", wire_name(channel, self._prefix), wire_payload(payload, self.max_payload_bytes))
        if self.reporter.is_on:
            return await self._publish_reporting(channel, command)
        connection = self._commands.connection
        if connection.blocked:
            connection = await self._commands.room()
        return cast(int, await connection.send(command))

    async def _publish_reporting(self, channel: str, command: tuple[bytes, bytes, bytes]) -> int:
        payload = command[2]
        self.reporter.message(Kind.ACCEPTED, payload, channel)
        try:
            receivers = cast(int, await self._commands.call(*command))
        except MpimError as error:
            self.reporter.message(Kind.FAILED, payload, channel, detail=f"{type(error).__name__}: {error}")
            raise
        self.reporter.message(Kind.PUBLISHED, payload, channel, count=receivers)
        return receivers

    async def listeners(self, channel: str) -> int:
        """How many connections are subscribed to the channel now (patterns not counted); true when the server said it."""
        reply = await self._commands.call(b"PUBSUB", b"NUMSUB", wire_name(channel, self._prefix))
        return int(reply[1])

    # Subscribing

    async def subscribe(
        self,
        channel: str,
        handler: Handler,
        *,
        pattern: bool = False,
        limit: int = 1_000,
        when_full: WhenFull | str = WhenFull.WAIT,
    ) -> None:
        """Have `handler(message)` called for each message; returns once the server has confirmed.

        A plain handler is called at once, an async one from an inbox of at most `limit` messages; `when_full` says what
        then. A handler that raises is reported; the next message comes. `pattern`: a glob (`user:*`).
        Raises InvalidMessage, AlreadySubscribed, and what `Link` raises.
        """
        if not callable(handler):
            raise InvalidParameter(f"the handler must be callable, not {type(handler).__name__}")
        if is_async(handler):
            inbox = self._new_inbox(limit, when_full)
            subscription = Subscription(channel, inbox.put, inbox, handler)
        else:
            subscription = Subscription(channel, direct(handler, self.reporter))
        await self._begin(channel, subscription, pattern)

    async def unsubscribe(self, channel: str, *, pattern: bool = False) -> None:
        """Stop: what has arrived is still handled, nothing after that. A channel without a handler is no error."""
        await self._end(wire_name(channel, self._prefix), self._patterns if pattern else self._channels)

    async def drain(self) -> None:
        """Wait until everything the server has sent to this queue's handlers so far is handled."""
        if self._messages.is_connected:
            await self._messages.call(b"PING")  # answered after every message that was sent before it
        for subscription in [*self._channels.values(), *self._patterns.values()]:
            await subscription.idle()

    @contextlib.asynccontextmanager
    async def listen(
        self,
        *channels: str,
        patterns: Sequence[str] = (),
        limit: int = 1_000,
        when_full: WhenFull | str = WhenFull.WAIT,
    ) -> AsyncIterator[AsyncIterator[Message]]:
        """Give the messages of several channels and patterns as one async iterator; it ends when the queue is closed.

        Raises as `subscribe` does; with `when_full="disconnect"` the iterator raises SlowSubscriber.
        """
        inbox = self._new_inbox(limit, when_full)
        wanted = [(name, False) for name in channels] + [(name, True) for name in patterns]
        begun: list[tuple[str, bool]] = []
        try:
            for name, pattern in wanted:
                await self._begin(name, Subscription(name, inbox.put, inbox), pattern)
                begun.append((name, pattern))
            yield read(inbox, self.reporter)
        finally:
            for name, pattern in begun:
                await self.unsubscribe(name, pattern=pattern)

    # The table of subscriptions

    def _new_inbox(self, limit: int, when_full: WhenFull | str) -> Inbox:
        return Inbox(limit, when_full, pause=self._pause, resume=self._resume, dropped=self._dropped)

    def _dropped(self, message: Message) -> None:
        report_dropped(self.reporter, message, "the inbox was full")

    def _pause(self, inbox: Inbox) -> None:
        self._full.add(inbox)
        self._messages.pause_reading()

    def _resume(self, inbox: Inbox) -> None:
        self._full.discard(inbox)
        if not self._full:
            self._messages.resume_reading()

    async def _begin(self, channel: str, subscription: Subscription, pattern: bool) -> None:
        name, table = wire_name(channel, self._prefix), self._patterns if pattern else self._channels
        if name in table:
            raise AlreadySubscribed(f"{channel!r} has a handler in this queue; unsubscribe it first")
        table[name] = subscription  # before the server is asked: messages may follow its answer at once
        subscription.start(self.reporter)
        try:
            async with self._opening:
                if not self._messages.is_open and self._commands.is_open:
                    await self._messages.open()
            await self._messages.call(b"PSUBSCRIBE" if pattern else b"SUBSCRIBE", name)
        except BaseException:
            await self._end(name, table)
            raise
        self.reporter.note(Kind.SUBSCRIBED, channel=channel)

    async def _end(self, name: bytes, table: dict[bytes, Subscription]) -> None:
        subscription = table.get(name)
        if subscription is None:
            return
        if self._messages.is_connected:  # otherwise leaving the table is enough: it will not be subscribed again
            with contextlib.suppress(MpimError):
                await self._messages.call(b"PUNSUBSCRIBE" if table is self._patterns else b"UNSUBSCRIBE", name)
        table.pop(name, None)
        for message in await subscription.finish(self._messages.limits.timeout_s):
            report_dropped(self.reporter, message, "the handler did not finish in time")
        self.reporter.note(Kind.UNSUBSCRIBED, channel=subscription.channel)

    def _greeting(self) -> Iterator[Command]:
        yield from ((b"SUBSCRIBE", name) for name in self._channels)
        yield from ((b"PSUBSCRIBE", name) for name in self._patterns)

    def _channel(self, name: bytes) -> str:
        return name.decode("utf-8", "replace").removeprefix(self._prefix)

    def _on_push(self, push: list[Any]) -> None:
        table, name = (self._channels if push[0] == b"message" else self._patterns), push[1]
        subscription = table.get(name)
        if subscription is None:  # unsubscribed while it was on its way
            return
        if table is self._channels:
            message = Message(subscription.channel, push[2])
        else:
            message = Message(self._channel(push[2]), push[3], subscription.channel)
        if self.reporter.is_on:
            self.reporter.message(Kind.RECEIVED, message.payload, message.channel)
        if not subscription.take(message):
            self._dropped(message)
            ending = asyncio.create_task(self._end(name, table))
            self._endings.add(ending)
            ending.add_done_callback(self._endings.discard)
