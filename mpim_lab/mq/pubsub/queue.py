"""MessageQueue: publish to channels, subscribe with a handler.

At most once: whoever is away misses it.

A published message passes `publish` here, `RespConnection.send`, the server,
`RespConnection.data_received` at the other end, `SubscriptionTable.on_push`, and the handler.

Source: https://valkey.io/topics/pubsub/ and RESP3,
https://github.com/redis/redis-specifications/blob/master/protocol/RESP3.md
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Self

from mpim_lab.errors import InvalidParameter, MpimError
from mpim_lab.events import EventKind, Observer, Reporter, shown_name
from mpim_lab.keys import Keys, Name
from mpim_lab.mq.connection.address import Address
from mpim_lab.mq.connection.bounds import check_whole
from mpim_lab.mq.connection.config import ConnectionConfig
from mpim_lab.mq.connection.context import LayoutCheck, LayoutCheckedConnection, StreamContext
from mpim_lab.mq.connection.encoding import Message, encode_payload, publish_prefix
from mpim_lab.mq.connection.handler import check_handler, is_async
from mpim_lab.mq.connection.reconnecting import ReconnectingConnection
from mpim_lab.mq.connection.resp import ignore_result
from mpim_lab.mq.pubsub.buffer import OverflowPolicy, SubscriberBuffer
from mpim_lab.mq.pubsub.subscription import (
    Decode,
    Handler,
    MessageIterator,
    Subscription,
    call_inline,
    decode_then,
)
from mpim_lab.mq.pubsub.subscription_table import SubscriptionTable
from mpim_lab.mq.streams.stream import Stream

_MAX_PREFIXES = 4_096


class MessageQueue:
    """A queue over one Redis or Valkey server, for the tasks of one event loop.

    A connection that breaks comes back by itself and subscribes again. What was published meanwhile
    is gone; the observer and `on_gap` are told how long the gap was.

    Args:
        url: redis://, rediss:// or unix://, with user, password and db as redis-py reads them.
        name: Who reports to the `observer`, and the client's name on the server.
        prefix: Put before every key and channel, and taken off again.
        config: Time-outs and sizes of the connections.
        max_payload_bytes: A larger payload is refused with InvalidMessage.
        observer: Is called with an event for each step of a message.
        on_gap: Is called with the seconds for which the subscriptions had no connection.
        sleep: What waits between two attempts to reconnect.

    Raises:
        InvalidParameter: The URL or a number cannot be used.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str = "mq",
        prefix: Name = "",
        config: ConnectionConfig | None = None,
        max_payload_bytes: int = 1024 * 1024,
        observer: Observer | None = None,
        on_gap: Callable[[float], None] | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        check_whole(0, max_payload_bytes=max_payload_bytes)
        self._address = address = Address.parse(url)
        self._config, self._observer, self._sleep = config, observer, sleep
        self.name, self.max_payload_bytes = name, max_payload_bytes
        self.reporter, self._is_reporting = Reporter(name, observer), observer is not None
        self.prefix, self.keys = prefix, Keys(prefix)
        self._publish_prefixes: dict[
            Name, bytes
        ] = {}  # channel → what every PUBLISH to it begins with
        self._subscriptions = table = SubscriptionTable(self.keys, self.reporter)
        common: dict[str, Any] = {
            "name": name,
            "config": config,
            "observer": observer,
            "sleep": sleep,
        }
        self._closing: asyncio.Task[None] | None = None
        self._commands = ReconnectingConnection(address, **common)
        self._layout_check = LayoutCheck(self._commands, self.keys)
        self._key_commands = LayoutCheckedConnection(self._commands, self._layout_check)
        self._subscriber_link = table.link = ReconnectingConnection(
            address,
            on_push=table.on_push,
            resubscribe_commands=table.resubscribe_commands,
            on_gap=on_gap,
            **common,
        )

    # Life

    async def open(self) -> None:
        """Connect. The second connection is made by the first `subscribe`.

        Raises:
            NotConnected: There is no server in time.
            LoginRejected: The server refuses the user or the database.
        """
        await self._commands.open()

    async def close(self) -> None:
        """Finish what was begun, within `close_timeout_s`.

        Handlers what has arrived, commands what was written.

        Handlers that are not done by then are cancelled. Idempotent; it goes on if its caller is
        cancelled. A handler may close its own queue: then that handler is not waited for.
        """
        self._commands.check_loop()
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
            self._closing.add_done_callback(ignore_result)
        elif (
            self._subscriptions.is_called_by_handler
        ):  # another handler closes, and waits for this one
            return
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        clock = asyncio.get_running_loop().time
        until = clock() + self._commands.config.close_timeout_s
        try:
            await self._subscriptions.close(until)
        finally:
            left_s = until - clock()
            await asyncio.gather(self._commands.close(left_s), self._subscriber_link.close(left_s))

    async def __aenter__(self) -> Self:
        try:
            await self.open()
        except asyncio.CancelledError:
            if self._commands.is_open:  # just now: nobody would close it
                await self.close()
            raise
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    @property
    def is_connected(self) -> bool:
        """Every connection in use is up, as far as anybody on this side knows."""
        return self.open_connections == 1 + self._subscriber_link.is_open

    @property
    def open_connections(self) -> int:
        """How many of its two connections are up."""
        return self._commands.is_connected + self._subscriber_link.is_connected

    # Publishing

    async def publish(self, channel: Name, payload: bytes | str) -> int:
        """Publish a message to a channel.

        Args:
            channel: The channel's name, without the prefix.
            payload: Bytes, or text, which is sent as UTF-8.

        Returns:
            The number of subscribers that the server handed the message to.

        Raises:
            InvalidMessage: The payload is of another type, or too large; nothing was sent.
            MpimError: What `ReconnectingConnection` raises; look at the error's `definite`.
        """
        try:
            prefix = self._publish_prefixes[channel]
        except (KeyError, TypeError):
            prefix = self._make_publish_prefix(channel)
        if type(payload) is not bytes or len(payload) > self.max_payload_bytes:
            payload = encode_payload(payload, self.max_payload_bytes)
        packed = b"%b%d\r\n%b\r\n" % (prefix, len(payload), payload)
        if self._is_reporting:
            return await self._publish_reporting(channel, payload, packed)
        connection = self._commands.connection
        if connection.is_blocked:
            connection = await self._commands.acquire_slot()
        receivers: int = await connection.send(packed)
        return receivers

    def _make_publish_prefix(self, channel: Name) -> bytes:
        prefix = publish_prefix(self.keys.channel(channel))
        if len(self._publish_prefixes) >= _MAX_PREFIXES:
            self._publish_prefixes.clear()
        with contextlib.suppress(TypeError):  # a text of a class of its own may have no hash
            self._publish_prefixes[channel] = prefix
        return prefix

    async def _publish_reporting(self, channel: Name, payload: bytes, packed: bytes) -> int:
        self.reporter.message(EventKind.ACCEPTED, payload, channel)
        try:
            connection = self._commands.connection
            if connection.is_blocked:
                connection = await self._commands.acquire_slot()
            receivers: int = await connection.send(packed)
        except MpimError as error:
            self.reporter.message(EventKind.FAILED, payload, channel, error=error)
            raise
        self.reporter.message(EventKind.PUBLISHED, payload, channel, count=receivers)
        return receivers

    async def subscriber_count(self, channel: Name) -> int:
        """Count the subscribers of a channel.

        Args:
            channel: The channel's name, without the prefix.

        Returns:
            How many connections are subscribed to it now; patterns are not counted.
        """
        reply = await self._commands.call(b"PUBSUB", b"NUMSUB", self.keys.channel(channel))
        return int(reply[1])

    # Streams

    def stream(self, name: Name, *, max_entries: int | None = None) -> Stream:
        """Make a stream of this queue (chapter 2); nothing is sent yet.

        Args:
            name: The stream's name, without the prefix.
            max_entries: Keep about so many, forget the oldest; None: keep all.

        Returns:
            The stream.
        """
        return Stream(
            self.context(name), max_payload_bytes=self.max_payload_bytes, max_entries=max_entries
        )

    def context(self, name: Name) -> StreamContext:
        """Return what the parts that build on this queue share.

        Args:
            name: What the key is called, without the prefix.

        Returns:
            The key, the connections, the reporter.
        """
        key = self.keys.stream(name)
        return StreamContext(
            name, key, self._key_commands, self._new_connection, self.reporter, self.keys
        )

    @property
    def connection(self) -> ReconnectingConnection:
        """The connection for commands that use no keys: those of Pub/Sub."""
        return self._commands

    def _new_connection(self, name: Name) -> LayoutCheckedConnection:
        """A connection for reads that wait; the queue that reads closes it."""
        own = ReconnectingConnection(
            self._address,
            name=shown_name(name),
            config=self._config,
            observer=self._observer,
            sleep=self._sleep,
        )
        return LayoutCheckedConnection(own, self._layout_check)

    # Subscribing

    async def subscribe(
        self,
        channel: Name,
        handler: Handler,
        *,
        pattern: bool = False,
        max_buffered: int = 1_000,
        overflow_policy: OverflowPolicy | str = OverflowPolicy.WAIT,
        decode: Decode | None = None,
    ) -> None:
        """Have `handler(message)` called for each message; returns once the server has confirmed.

        A handler that raises is reported, and the next message comes.

        Args:
            channel: A channel, or a glob (`user:*`) if `pattern` is True.
            handler: A plain one is called at once, an async one from a buffer.
            pattern: Whether `channel` is a glob.
            max_buffered: How many messages the buffer of an async handler holds.
            overflow_policy: What happens to a message when the buffer is full.
            decode: Returns the messages that a payload holds, for senders that batch or compress
                (`FrameDecoder`).

        Raises:
            InvalidMessage: The channel has no name that can be sent.
            AlreadySubscribed: The channel has a handler.
            MpimError: What `ReconnectingConnection` raises.
        """
        check_handler(handler)
        buffer = (
            self._subscriptions.new_buffer(max_buffered, overflow_policy)
            if is_async(handler)
            else None
        )
        deliver = call_inline(handler, self.reporter) if buffer is None else buffer.put
        await self._subscriptions.add(
            self._subscription(channel, deliver, buffer, handler, decode, pattern)
        )

    def _subscription(
        self,
        channel: Name,
        deliver: Callable[[Message], bool],
        buffer: SubscriberBuffer | None,
        handler: Handler | None,
        decode: Decode | None,
        pattern: bool,
    ) -> Subscription:
        self._commands.check_loop()
        if decode is not None:
            deliver = decode_then(deliver, decode, self.reporter)
        handler = handler if buffer is not None else None
        return Subscription(
            channel, deliver, buffer, handler, pattern=pattern, decodes=decode is not None
        )

    async def unsubscribe(self, channel: Name, *, pattern: bool = False) -> None:
        """Stop: what has arrived is still handled, nothing after that.

        Returns after `timeout_s` for the server's answer and `close_timeout_s` for the handler at
        the latest. A channel without a handler is no error.

        Args:
            channel: The channel or pattern that was subscribed to.
            pattern: Whether it was a pattern.
        """
        self._commands.check_loop()
        await self._subscriptions.remove(channel, pattern=pattern)

    async def drain(self) -> None:
        """Wait until everything the server has sent to this queue's handlers so far is handled.

        A handler that asks does not wait for itself.

        Raises:
            HandlerTimeout: For `timeout_s` nothing was handled.
        """
        self._commands.check_loop()
        await self._subscriptions.drain()

    @contextlib.asynccontextmanager
    async def listen(
        self,
        *channels: Name,
        patterns: Sequence[Name] = (),
        max_buffered: int = 1_000,
        overflow_policy: OverflowPolicy | str = OverflowPolicy.WAIT,
        decode: Decode | None = None,
    ) -> AsyncIterator[AsyncIterator[Message]]:
        """Give the messages of several channels and patterns as one async iterator.

        Args:
            *channels: At least one, if there is no pattern.
            patterns: Globs (`user:*`).
            max_buffered: How many messages the buffer holds.
            overflow_policy: What happens to a message when the buffer is full. With "disconnect"
                the iterator raises SlowSubscriber.
            decode: See `subscribe`.

        Yields:
            The iterator. It ends when the queue is closed, or the last channel is unsubscribed.

        Raises:
            InvalidParameter: There is nothing to listen to.
            MpimError: As `subscribe` does.
        """
        wanted = [(name, False) for name in channels] + [(name, True) for name in patterns]
        if not wanted:
            raise InvalidParameter("listen to what? Give at least one channel or pattern")
        buffer = self._subscriptions.new_buffer(max_buffered, overflow_policy)
        begun: list[Subscription] = []
        try:
            for name, pattern in wanted:
                subscription = self._subscription(name, buffer.put, buffer, None, decode, pattern)
                await self._subscriptions.add(subscription)
                begun.append(subscription)
            yield MessageIterator(buffer, self.reporter, self._commands.check_loop)
        finally:
            await self._subscriptions.remove_all(begun, buffer)
