"""MessageQueue: publish to channels, subscribe with a handler. At most once: whoever is away misses it.

A published message passes `publish` here, `Connection.send`, the server, `Connection.data_received` at the other end,
`Subscriptions.on_push`, and the handler.

Source: https://valkey.io/topics/pubsub/ and RESP3, https://github.com/redis/redis-specifications/blob/master/protocol/RESP3.md
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Self

from mpim_lab.errors import InvalidParameter, MpimError
from mpim_lab.events import Kind, Observer, Reporter
from mpim_lab.keys import Keys, Name
from mpim_lab.mq.access import Access
from mpim_lab.mq.address import Address
from mpim_lab.mq.inbox import Inbox, WhenFull
from mpim_lab.mq.limits import Limits
from mpim_lab.mq.link import Link
from mpim_lab.mq.message import Message, publish_head, wire_name, wire_payload
from mpim_lab.mq.streams import Stream
from mpim_lab.mq.subscription import Handler, Subscription, Unpack, direct, is_async, read, unpacked
from mpim_lab.mq.subscriptions import Subscriptions

_MAX_HEADS = 4_096


class MessageQueue:
    """A queue over one Redis or Valkey server, for the tasks of one event loop.

    url: redis://, rediss:// or unix://, with user, password and db as redis-py reads them. name: who reports to the
    `observer`, and the client's name on the server. prefix: put before every channel, and taken off again.
    Connections that break come back by themselves and subscribe again; what was published meanwhile is gone, and the
    observer and `on_gap(seconds)` are told how long the gap was.
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
        on_gap: Callable[[float], None] | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._address = address = Address.parse(url)
        self._limits, self._observer, self._sleep = limits, observer, sleep
        self.name, self.max_payload_bytes = name, max_payload_bytes
        self.reporter, self._is_reporting = Reporter(name, observer), observer is not None
        self.prefix, self.keys = prefix, Keys(prefix)
        self._heads: dict[Name, bytes] = {}  # channel → what every PUBLISH to it begins with
        self._subscriptions = table = Subscriptions(prefix, self.reporter)
        common: dict[str, Any] = {"name": name, "limits": limits, "observer": observer, "sleep": sleep}
        self._commands = Link(address, **common)
        self._messages = table.link = Link(
            address, on_push=table.on_push, greeting=table.greeting, on_gap=on_gap, **common
        )

    # Life

    async def open(self) -> None:
        """Connect. Raises NotConnected or LoginRejected. The second connection is made by the first `subscribe`."""
        await self._commands.open()

    async def close(self) -> None:
        """Finish what was begun: handlers what has arrived, commands what was written. Twice is harmless."""
        await self._subscriptions.end_all()
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

    async def publish(self, channel: Name, payload: bytes | str) -> int:
        """Publish and give the number of subscribers the server handed the message to.

        Raises InvalidMessage (nothing was sent) and what `Link` raises; look at the error's `definite`.
        """
        try:
            head = self._heads[channel]
        except (KeyError, TypeError):
            head = self._new_head(channel)
        if type(payload) is not bytes or len(payload) > self.max_payload_bytes:
            payload = wire_payload(payload, self.max_payload_bytes)
        packed = b"%b%d\r\n%b\r\n" % (head, len(payload), payload)
        if self._is_reporting:
            return await self._publish_reporting(channel, payload, packed)
        connection = self._commands.connection
        if connection.blocked:
            connection = await self._commands.room()
        receivers: int = await connection.send(packed)
        return receivers

    def _new_head(self, channel: Name) -> bytes:
        head = publish_head(wire_name(channel, self.prefix))
        if len(self._heads) >= _MAX_HEADS:
            self._heads.clear()
        self._heads[channel] = head
        return head

    async def _publish_reporting(self, channel: Name, payload: bytes, packed: bytes) -> int:
        self.reporter.message(Kind.ACCEPTED, payload, channel)
        try:
            connection = self._commands.connection
            if connection.blocked:
                connection = await self._commands.room()
            receivers: int = await connection.send(packed)
        except MpimError as error:
            self.reporter.message(Kind.FAILED, payload, channel, detail=f"{type(error).__name__}: {error}")
            raise
        self.reporter.message(Kind.PUBLISHED, payload, channel, count=receivers)
        return receivers

    async def listeners(self, channel: Name) -> int:
        """How many connections are subscribed to the channel now (patterns not counted); true when the server said it."""
        reply = await self._commands.call(b"PUBSUB", b"NUMSUB", wire_name(channel, self.prefix))
        return int(reply[1])

    # Streams

    def stream(self, name: Name, *, max_entries: int | None = None) -> Stream:
        """A stream of this queue (chapter 2); nothing is sent yet. `max_entries`: keep about so many, forget the oldest."""
        return Stream(self.access(name), max_payload_bytes=self.max_payload_bytes, max_entries=max_entries)

    def access(self, name: Name) -> Access:
        """What the parts that build on this queue share: the key called `name`, and the connections."""
        return Access(name, wire_name(name, self.prefix), self._commands, self._dedicated, self.reporter, self.keys)

    def _dedicated(self, name: str) -> Link:
        """A connection for reads that wait; the queue that reads closes it."""
        return Link(self._address, name=name, limits=self._limits, observer=self._observer, sleep=self._sleep)

    # Subscribing

    async def subscribe(
        self,
        channel: Name,
        handler: Handler,
        *,
        pattern: bool = False,
        limit: int = 1_000,
        when_full: WhenFull | str = WhenFull.WAIT,
        unpack: Unpack | None = None,
    ) -> None:
        """Have `handler(message)` called for each message; returns once the server has confirmed.

        A plain handler is called at once, an async one from an inbox of at most `limit` messages; `when_full` says what
        then. A handler that raises is reported; the next message comes. `pattern`: a glob (`user:*`). `unpack`: gives the
        messages that a payload holds, for senders that batch or compress (`Unpacker`).
        Raises InvalidMessage, AlreadySubscribed, and what `Link` raises.
        """
        if not callable(handler):
            raise InvalidParameter(f"the handler must be callable, not {type(handler).__name__}")
        inbox = self._subscriptions.new_inbox(limit, when_full) if is_async(handler) else None
        take = direct(handler, self.reporter) if inbox is None else inbox.put
        await self._begin(channel, take, inbox, handler if inbox is not None else None, unpack, pattern)

    async def _begin(
        self,
        channel: Name,
        take: Callable[[Message], bool],
        inbox: Inbox | None,
        handler: Handler | None,
        unpack: Unpack | None,
        pattern: bool,
    ) -> None:
        if unpack is not None:
            take = unpacked(take, unpack, self.reporter)
        subscription = Subscription(channel, take, inbox, handler, unpacks=unpack is not None)
        await self._subscriptions.begin(subscription, pattern=pattern)

    async def unsubscribe(self, channel: Name, *, pattern: bool = False) -> None:
        """Stop: what has arrived is still handled, nothing after that. A channel without a handler is no error."""
        await self._subscriptions.end(channel, pattern=pattern)

    async def drain(self) -> None:
        """Wait until everything the server has sent to this queue's handlers so far is handled."""
        await self._subscriptions.idle()

    @contextlib.asynccontextmanager
    async def listen(
        self,
        *channels: Name,
        patterns: Sequence[Name] = (),
        limit: int = 1_000,
        when_full: WhenFull | str = WhenFull.WAIT,
        unpack: Unpack | None = None,
    ) -> AsyncIterator[AsyncIterator[Message]]:
        """Give the messages of several channels and patterns as one async iterator; it ends when the queue is closed.

        Raises as `subscribe` does; with `when_full="disconnect"` the iterator raises SlowSubscriber.
        """
        inbox = self._subscriptions.new_inbox(limit, when_full)
        wanted = [(name, False) for name in channels] + [(name, True) for name in patterns]
        begun: list[tuple[Name, bool]] = []
        try:
            for name, pattern in wanted:
                await self._begin(name, inbox.put, inbox, None, unpack, pattern)
                begun.append((name, pattern))
            yield read(inbox, self.reporter)
        finally:
            for name, pattern in begun:
                await self.unsubscribe(name, pattern=pattern)
