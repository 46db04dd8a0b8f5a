"""Subscriptions: the table of one queue, kept in step with the server over a connection of its own.

A subscriber that is slow, or that the server cuts off for it, must not hold up or lose anybody's commands; so a queue has
one connection for commands and this one for messages, opened by the first subscription.
"""

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

from mpim_lab.errors import AlreadySubscribed, MpimError
from mpim_lab.events import Kind, Reporter
from mpim_lab.keys import Keys, Name
from mpim_lab.mq.connection import pack
from mpim_lab.mq.inbox import Inbox, WhenFull
from mpim_lab.mq.link import Link
from mpim_lab.mq.message import Message
from mpim_lab.mq.subscription import Subscription, report_dropped

Table = dict[bytes, Subscription]
_new = tuple.__new__


class Subscriptions:
    """Channels and patterns of one queue; `on_push` and `greeting` are for its Link."""

    def __init__(self, keys: Keys, reporter: Reporter) -> None:
        self.link: Link  # set once by the queue: the link needs `on_push`, this needs the link
        self._keys, self._reporter, self._is_reporting = keys, reporter, reporter.is_on
        self._channels: Table = {}
        self._patterns: Table = {}
        self._full: set[Inbox] = set()
        self._endings: set[asyncio.Task[None]] = set()
        self._opening = asyncio.Lock()

    # Arriving messages

    def on_push(self, push: list[Any]) -> bool:
        """Hand a message to its subscription; False for a push that answers SUBSCRIBE and the like."""
        kind, name = push[0], push[1]
        if kind == b"message":
            table, payload = self._channels, push[2]
        elif kind == b"pmessage":
            table, payload = self._patterns, push[3]
        else:
            return False
        subscription = table.get(name)
        if subscription is None:  # unsubscribed while it was on its way
            return True
        channel, pattern = subscription.channel, None
        if table is self._patterns:
            channel, pattern = self._keys.channel_name(push[2]), channel
        message = _new(Message, (channel, payload, pattern))  # half the time of Message(...)
        if self._is_reporting and not subscription.unpacks:
            self._reporter.message(Kind.RECEIVED, payload, channel)
        if not subscription.take(message):
            self._dropped(message)
            self._end_later(name, table)
        return True

    # Beginning and ending

    async def begin(self, subscription: Subscription, *, pattern: bool) -> None:
        """Subscribe, and return once the server has confirmed. Raises AlreadySubscribed and what `Link` raises."""
        channel = subscription.channel
        name, table = self._find(channel, pattern)
        if name in table:
            raise AlreadySubscribed(f"{channel!r} has a handler in this queue; unsubscribe it first")
        table[name] = subscription  # before the server is asked: messages may follow its answer at once
        subscription.start(self._reporter)
        try:
            async with self._opening:
                if not self.link.is_open:
                    await self.link.open()
            await self.link.call(b"PSUBSCRIBE" if pattern else b"SUBSCRIBE", name)
        except BaseException:
            await self._end(name, table)
            raise
        self._reporter.note(Kind.SUBSCRIBED, channel=channel)

    async def end(self, channel: Name, *, pattern: bool) -> None:
        """Unsubscribe; what has arrived is still handled. Nothing happens if there is no subscription."""
        await self._end(*self._find(channel, pattern))

    def _find(self, channel: Name, pattern: bool) -> tuple[bytes, Table]:
        if pattern:
            return self._keys.pattern(channel), self._patterns
        return self._keys.channel(channel), self._channels

    async def end_all(self) -> None:
        """Unsubscribe from everything."""
        await asyncio.gather(
            *(self._end(name, table) for table in (self._channels, self._patterns) for name in list(table))
        )

    async def _end(self, name: bytes, table: Table) -> None:
        subscription = table.get(name)
        if subscription is None:
            return
        if self.link.is_connected:  # otherwise leaving the table is enough: it will not be subscribed again
            with contextlib.suppress(MpimError):
                await self.link.call(b"PUNSUBSCRIBE" if table is self._patterns else b"UNSUBSCRIBE", name)
        table.pop(name, None)
        for message in await subscription.finish(self.link.limits.timeout_s):
            report_dropped(self._reporter, message, "the handler did not finish in time")
        self._reporter.note(Kind.UNSUBSCRIBED, channel=subscription.channel)

    def _end_later(self, name: bytes, table: Table) -> None:
        ending = asyncio.create_task(self._end(name, table))
        self._endings.add(ending)
        ending.add_done_callback(self._endings.discard)

    def greeting(self) -> Iterator[bytes]:
        """The commands that subscribe everything again on a new connection."""
        yield from (pack(b"SUBSCRIBE", name) for name in self._channels)
        yield from (pack(b"PSUBSCRIBE", name) for name in self._patterns)

    # Slow handlers

    def new_inbox(self, limit: int, when_full: WhenFull | str) -> Inbox:
        """An inbox that stops this connection's reading when it is full (policy "wait")."""
        return Inbox(limit, when_full, pause=self._pause, resume=self._resume, dropped=self._dropped)

    async def idle(self) -> None:
        """Wait until everything the server has sent so far is handled."""
        if self.link.is_connected:
            await self.link.call(b"PING")  # answered after every message that was sent before it
        for subscription in [*self._channels.values(), *self._patterns.values()]:
            await subscription.idle()

    def _dropped(self, message: Message) -> None:
        report_dropped(self._reporter, message, "the inbox was full")

    def _pause(self, inbox: Inbox) -> None:
        self._full.add(inbox)
        self.link.pause_reading()

    def _resume(self, inbox: Inbox) -> None:
        self._full.discard(inbox)
        if not self._full:
            self.link.resume_reading()
