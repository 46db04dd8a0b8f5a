"""Subscription: one channel or pattern, and who takes its messages."""

import asyncio
import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, cast

from mpim_lab.errors import MpimError, QueueClosed
from mpim_lab.events import Kind, Reporter
from mpim_lab.keys import Name, same_name
from mpim_lab.mq.inbox import Inbox
from mpim_lab.mq.message import Message

Unpack = Callable[[bytes], Sequence[bytes]]
Handler = Callable[[Message], None] | Callable[[Message], Awaitable[None]]
_log = logging.getLogger(__name__)
_new = tuple.__new__


def report_failed(reporter: Reporter, message: Message, error: BaseException) -> None:
    """Report that a handler raised: to the log and to the observer. The next message is handled all the same."""
    _log.error("%s: the handler of %r raised", reporter.actor, message.channel, exc_info=error)
    reporter.message(Kind.FAILED, message.payload, message.channel, detail=f"{type(error).__name__}: {error}")


def report_dropped(reporter: Reporter, message: Message, why: str) -> None:
    """Report that a message which had arrived was thrown away."""
    reporter.message(Kind.DROPPED, message.payload, message.channel, detail=why)


def is_async(handler: Handler) -> bool:
    """Whether calling the handler gives something to await; callable objects with `async __call__` included."""
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(getattr(handler, "__call__", None))


def direct(handler: Callable[[Message], Any], reporter: Reporter) -> Callable[[Message], bool]:
    """Call a plain handler at once, within the loop turn in which the message arrived."""
    is_on = reporter.is_on

    def take(message: Message) -> bool:
        try:
            if handler(message) is not None:
                raise TypeError("a plain handler must return None; write `async def` if it awaits")
        except Exception as error:
            report_failed(reporter, message, error)
            return True
        if is_on:
            reporter.message(Kind.HANDLED, message.payload, message.channel)
        return True

    return take


def unpacked(take: Callable[[Message], bool], unpack: Unpack, reporter: Reporter) -> Callable[[Message], bool]:
    """Hand over each message that a payload holds. A payload that cannot be read is reported; the next one comes."""
    is_on = reporter.is_on

    def take_all(packed: Message) -> bool:
        channel, payload, pattern = packed
        try:
            payloads = unpack(payload)
        except Exception as error:
            report_failed(reporter, packed, error)
            return True
        if is_on:
            for payload in payloads:
                reporter.message(Kind.RECEIVED, payload, channel)
        for number, payload in enumerate(payloads):
            if not take(_new(Message, (channel, payload, pattern))):
                for rest in payloads[number + 1 :]:
                    report_dropped(reporter, Message(channel, rest, pattern), "the subscription was ended")
                return False
        return True

    return take_all


async def work(inbox: Inbox, handler: Callable[[Message], Awaitable[None]], reporter: Reporter) -> None:
    """Call an async handler on one message after the other until the inbox ends."""
    while True:
        try:
            message = await inbox.get()
        except MpimError:
            return
        try:
            await handler(message)
        except Exception as error:
            report_failed(reporter, message, error)
        else:
            reporter.message(Kind.HANDLED, message.payload, message.channel)


async def read(inbox: Inbox, reporter: Reporter) -> AsyncIterator[Message]:
    """Yield messages until the inbox ends; one counts as handled when the next is asked for."""
    while True:
        try:
            message = await inbox.get()
        except QueueClosed:
            return
        yield message
        reporter.message(Kind.HANDLED, message.payload, message.channel)


class Subscription:
    """One channel or pattern of a queue. `take` gets each message and gives False when that ended the subscription.

    `unpacks`: a message may hold several, which `take` reports one by one.
    """

    def __init__(
        self,
        channel: Name,
        take: Callable[[Message], bool],
        inbox: Inbox | None = None,
        handler: Handler | None = None,
        *,
        unpacks: bool = False,
    ) -> None:
        self.channel = channel if isinstance(channel, str) else same_name(channel, "channel")
        self.take, self._inbox, self._handler, self.unpacks = take, inbox, handler, unpacks
        self._worker: asyncio.Task[None] | None = None

    def start(self, reporter: Reporter) -> None:
        """Start the worker of an async handler."""
        if self._inbox is not None and self._handler is not None:
            self._worker = asyncio.create_task(work(self._inbox, cast(Any, self._handler), reporter))

    async def idle(self) -> None:
        """Wait until the handler is done with what has arrived."""
        if self._worker is not None and self._inbox is not None:
            await self._inbox.idle()

    async def finish(self, timeout_s: float) -> list[Message]:
        """Let the handler finish what has arrived, at most `timeout_s`; gives what it could not finish."""
        if self._inbox is None:
            return []
        self._inbox.end(QueueClosed("unsubscribed"))
        if self._worker is None or self._worker is asyncio.current_task():  # a handler may unsubscribe itself
            return []
        await asyncio.wait([self._worker], timeout=timeout_s)
        self._worker.cancel()
        return self._inbox.empty()
