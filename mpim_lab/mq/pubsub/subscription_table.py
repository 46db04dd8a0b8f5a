"""SubscriptionTable: the subscriptions of one queue, kept in step with the server.

A subscriber that is slow, or that the server cuts off for it, must not hold up or lose anybody's
commands; so a queue has one connection for commands and this one for messages, opened by the first
subscription.
"""

import asyncio
import logging
from collections.abc import (
    Iterable,
    Iterator,
    Sequence,
)
from functools import partial
from typing import Any

from mpim_lab.errors import (
    AlreadySubscribed,
    CommandRejected,
    HandlerTimeout,
    QueueClosed,
)
from mpim_lab.events import EventKind, Reporter
from mpim_lab.keys import Keys, Name
from mpim_lab.mq.connection.encoding import Message
from mpim_lab.mq.connection.handler import (
    is_in_handler,
)
from mpim_lab.mq.connection.reconnecting import ReconnectingConnection, ResubscribeCommand
from mpim_lab.mq.connection.resp import encode_command
from mpim_lab.mq.pubsub.buffer import OverflowPolicy, SubscriberBuffer
from mpim_lab.mq.pubsub.subscription import Subscription, report_dropped

_log = logging.getLogger(__name__)
_new = tuple.__new__

Table = dict[bytes, Subscription]


class SubscriptionTable:
    """The subscriptions of a queue; `on_push`, `resubscribe_commands` are for its connection."""

    def __init__(self, keys: Keys, reporter: Reporter) -> None:
        # set once by the queue: the link needs `on_push`, this needs the link
        self.link: ReconnectingConnection
        self._keys, self._reporter, self._is_reporting = keys, reporter, reporter.is_on
        self._channels: Table = {}
        self._patterns: Table = {}
        self._finishing: set[Subscription] = set()  # gone, and their handlers still run
        self._full: set[SubscriberBuffer] = set()
        self._removals: set[asyncio.Task[None]] = set()
        self._is_closing = False

    # Arriving messages

    def on_push(self, push: list[Any]) -> bool:
        """Hand a message to its subscription.

        False for a push that answers SUBSCRIBE and the like.
        """
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
        if self._is_reporting and not subscription.decodes:
            self._reporter.message(EventKind.RECEIVED, payload, channel)
        if not subscription.deliver(message):
            self._on_overflow(message)
            self._remove_later(subscription)
        return True

    # Beginning and ending

    def _find(self, channel: Name, pattern: bool) -> tuple[bytes, Table]:
        if pattern:
            return self._keys.pattern(channel), self._patterns
        return self._keys.channel(channel), self._channels

    async def add(self, subscription: Subscription) -> None:
        """Subscribe, and return once the server has confirmed.

        Raises AlreadySubscribed and what the connection raises.

        If that fails, or its caller is cancelled, the server is told to forget it, and nothing more
        is handled.
        """
        channel = subscription.channel
        name, table = self._find(channel, subscription.pattern)
        while (other := table.get(name)) is not None:
            if not other.is_unsubscribing:
                raise AlreadySubscribed(
                    f"{channel!r} has a handler in this queue; unsubscribe it first"
                )
            await other.removed.wait()  # until its UNSUBSCRIBE is answered, or overdue
        if self._is_closing:
            raise QueueClosed("the queue is closed")
        # before the server is asked: messages may follow its answer at once
        table[name] = subscription
        subscription.start(self._reporter)
        try:
            await self.link.open()
            await self.link.wait_until_reading()
            await self.link.call(b"PSUBSCRIBE" if subscription.pattern else b"SUBSCRIBE", name)
            if name not in table:  # ended while this was on its way: the server hears of that last
                self._send_unsubscribe(subscription)
        except BaseException:
            if not subscription.is_unsubscribing:  # otherwise the server is told already
                self._send_unsubscribe(subscription)
            self._report_dropped(subscription.abort(), "it could not be subscribed")
            raise
        self._reporter.system(EventKind.SUBSCRIBED, channel=channel)

    async def remove(self, channel: Name, *, pattern: bool) -> None:
        """Unsubscribe; what has arrived is still handled.

        Nothing happens if there is no subscription.
        """
        name, table = self._find(channel, pattern)
        subscription = table.get(name)
        if subscription is not None and not subscription.is_unsubscribing:
            return await self._remove(subscription)
        if subscription is not None:
            await subscription.removed.wait()
        return await self._finish_all(channel, pattern)

    async def remove_all(
        self, subscriptions: Sequence[Subscription], buffer: SubscriberBuffer
    ) -> None:
        """Leave several channels whose messages nobody will read any more."""
        # First: a full buffer would keep the answers from being read.
        buffer.close(QueueClosed("no longer listened to"))
        self._report_dropped(buffer.drain(), "no longer listened to")
        await self._remove(*(each for each in subscriptions if not each.is_unsubscribing))

    async def _remove(self, *subscriptions: Subscription) -> None:
        """Leave some; what the server hears of it is written at once, before anything can be cancelled."""
        timeout_s = self.link.config.timeout_s
        try:
            sent = [self._send_unsubscribe(each, at_once=False) for each in subscriptions]
            answers = [each for each in sent if each is not None]
            if answers and (self.link.is_reading or any(each.is_full for each in subscriptions)):
                await asyncio.wait(answers, timeout=timeout_s)
        finally:
            for each in subscriptions:
                self._detach(each)
        for each in subscriptions:
            await self._finish_all(each.channel, each.pattern)
            self._reporter.system(EventKind.UNSUBSCRIBED, channel=each.channel)

    async def _finish_all(self, channel: Name, pattern: bool) -> None:
        """Let every handler of a channel finish.

        One that fell behind may be at work when the next is unsubscribed.
        """
        name, _ = self._find(channel, pattern)
        of_name = [
            e
            for e in self._finishing
            if e.pattern == pattern and self._find(e.channel, pattern)[0] == name
        ]
        await asyncio.gather(
            *(self._finish(each, self.link.config.close_timeout_s) for each in of_name)
        )

    async def _finish(self, subscription: Subscription, timeout_s: float) -> None:
        """Let its handler finish what has arrived.

        One that asks for it itself is left to finish.
        """
        self._report_dropped(
            await subscription.finish(timeout_s), "the handler did not finish in time"
        )

    def _send_unsubscribe(
        self, subscription: Subscription, *, at_once: bool = True
    ) -> "asyncio.Future[Any] | None":
        """Write UNSUBSCRIBE; gives the answer to come, None if there is no line.

        It will not be subscribed again then.
        """
        subscription.is_unsubscribing = True
        if at_once:
            self._delete(subscription)
        command = b"PUNSUBSCRIBE" if subscription.pattern else b"UNSUBSCRIBE"
        name, _ = self._find(subscription.channel, subscription.pattern)
        return self.link.post(command, name)

    def _detach(self, subscription: Subscription, error: CommandRejected | None = None) -> None:
        self._delete(subscription)
        subscription.close(error)
        self._finishing.add(subscription)
        subscription.on_finished(lambda: self._finishing.discard(subscription))

    def _delete(self, subscription: Subscription) -> None:
        name, table = self._find(subscription.channel, subscription.pattern)
        if table.get(name) is subscription:
            del table[name]

    async def close(self, until: float) -> None:
        """Unsubscribe from everything.

        Handlers may finish what has arrived `until` then, by the loop's clock.
        """
        self._is_closing = True
        loop, begun = asyncio.get_running_loop(), asyncio.get_running_loop().time()
        leaving = [each for table in (self._channels, self._patterns) for each in table.values()]
        answers = [
            answer
            for each in leaving
            if (answer := self._send_unsubscribe(each, at_once=False)) is not None
        ]
        try:
            if answers:  # full buffers must be worked off first; half of the time is for that
                await asyncio.wait(answers, timeout=(until - begun) / 2)
        finally:
            for each in leaving:
                self._delete(each)
                each.close()
        finishing = {*leaving, *self._finishing}
        await asyncio.gather(*(self._finish(each, until - loop.time()) for each in finishing))
        for each in leaving:
            self._reporter.system(EventKind.UNSUBSCRIBED, channel=each.channel)

    @property
    def is_called_by_handler(self) -> bool:
        """Whether this code is run by a handler of this queue."""
        return any(
            map(
                is_in_handler,
                [*self._channels.values(), *self._patterns.values(), *self._finishing],
            )
        )

    def _remove_later(self, subscription: Subscription) -> None:
        who, channel = self._reporter.actor, subscription.channel
        _log.error(
            "%s: %r: its handler fell too far behind and its subscription ends", who, channel
        )
        ending = asyncio.create_task(self._remove(subscription))
        self._removals.add(ending)
        ending.add_done_callback(self._removals.discard)

    def _report_dropped(self, messages: Iterable[Message], why: str) -> None:
        for message in messages:
            report_dropped(self._reporter, message, why)

    def resubscribe_commands(self) -> Iterator[ResubscribeCommand]:
        """The commands that subscribe everything again on a new connection."""
        for command, table in ((b"SUBSCRIBE", self._channels), (b"PSUBSCRIBE", self._patterns)):
            for name, each in table.items():
                if not each.is_unsubscribing:
                    yield encode_command(command, name), partial(self._on_refused, each)

    def _on_refused(self, subscription: Subscription, error: CommandRejected) -> None:
        """End what the server does not take again; whoever listens gets the error."""
        _log.error(
            "%s: %r: not subscribed again: %s", self._reporter.actor, subscription.channel, error
        )
        self._reporter.system(
            EventKind.FAILED, channel=subscription.channel, detail=f"not subscribed again: {error}"
        )
        if not subscription.is_unsubscribing:
            subscription.is_unsubscribing = True
            self._detach(subscription, error)

    # Slow handlers

    def new_buffer(
        self, max_messages: int, overflow_policy: OverflowPolicy | str
    ) -> SubscriberBuffer:
        """A buffer that stops this connection's reading when it is full (policy "wait")."""
        return SubscriberBuffer(
            max_messages,
            overflow_policy,
            pause=self._pause,
            resume=self._resume,
            dropped=self._on_overflow,
        )

    async def drain(self) -> None:
        """Wait until everything the server has sent so far is handled.

        Raises HandlerTimeout when nothing goes on.
        """
        stall_timeout_s = self.link.config.timeout_s
        while (
            answer := self.link.post(b"PING")
        ) is not None:  # answered after every message that was sent before it
            before = self._handled_count
            await asyncio.wait([answer], timeout=stall_timeout_s)
            if answer.done() and answer.exception() is None:
                break
            if self._handled_count == before:
                raise HandlerTimeout(
                    f"for {stall_timeout_s:g} s nothing was handled, or the server was silent"
                )
        for subscription in [*self._channels.values(), *self._patterns.values()]:
            await subscription.join(stall_timeout_s)

    @property
    def _handled_count(self) -> int:
        return sum(
            each.handled_count
            for table in (self._channels, self._patterns)
            for each in table.values()
        )

    def _on_overflow(self, message: Message) -> None:
        report_dropped(self._reporter, message, "the buffer was full")

    def _pause(self, buffer: SubscriberBuffer) -> None:
        self._full.add(buffer)
        self.link.pause_reading()

    def _resume(self, buffer: SubscriberBuffer) -> None:
        self._full.discard(buffer)
        if not self._full:
            self.link.resume_reading()
