"""Subscription: one channel or pattern, and who takes its messages."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, cast

from mpim_lab.errors import InvalidParameter, MpimError, QueueClosed
from mpim_lab.events import Kind, Reporter
from mpim_lab.keys import Name, same_name
from mpim_lab.mq.connection.encoding import Message
from mpim_lab.mq.connection.handler import Cancellations, inside, is_async, is_inside, refuse
from mpim_lab.mq.pubsub.buffer import Inbox

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


def direct(handler: Callable[[Message], Any], reporter: Reporter) -> Callable[[Message], bool]:
    """Call a plain handler at once, within the loop turn in which the message arrived."""
    is_on = reporter.is_on

    def take(message: Message) -> bool:
        try:
            if (result := handler(message)) is not None:
                refuse(result)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            report_failed(reporter, message, error)
            return True
        if is_on:
            reporter.message(Kind.HANDLED, message.payload, message.channel)
        return True

    return take


def unpacked(take: Callable[[Message], bool], unpack: Unpack, reporter: Reporter) -> Callable[[Message], bool]:
    """Hand over each message that a payload holds. A payload that cannot be read is reported; the next one comes."""
    if not callable(unpack) or is_async(unpack):
        raise InvalidParameter(f"unpack={unpack!r}: a plain function from a payload to a list of payloads")
    is_on, is_sure = reporter.is_on, getattr(unpack, "gives_payloads", False)

    def take_all(packed: Message) -> bool:
        channel, payload, pattern = packed
        try:
            payloads = unpack(payload)
            if not is_sure:
                payloads = _payloads(payloads)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
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


def _payloads(given: Iterable[bytes]) -> list[bytes]:
    """What a user's `unpack` gave, if it is what it must be. Raises TypeError, and what a generator raises."""
    if not isinstance(given, str | bytes | Mapping):
        payloads = list(given)
        if all(isinstance(each, bytes) for each in payloads):
            return payloads
    raise TypeError(f"unpack gives a list of payloads in bytes, not {given!r:.100}")


async def work(inbox: Inbox, handler: Callable[[Message], Awaitable[None]], reporter: Reporter, owner: object) -> None:
    """Call an async handler on one message after the other until the inbox ends."""
    cancellations = Cancellations()
    with inside(owner):
        while True:
            try:
                message = await inbox.get()
            except MpimError:
                return
            try:
                await handler(message)
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as error:
                if isinstance(error, asyncio.CancelledError) and cancellations.are_ours:
                    report_dropped(reporter, message, "the handler did not finish in time")
                    raise
                report_failed(reporter, message, error)
            else:
                reporter.message(Kind.HANDLED, message.payload, message.channel)


class Messages(AsyncIterator[Message]):
    """What `listen` gives: messages, one after the other, until its channels or the queue are closed.

    One counts as handled when the next is asked for. A time-out around `anext` takes nothing, and several tasks may ask.
    """

    def __init__(self, inbox: Inbox, reporter: Reporter, check: Callable[[], None]) -> None:
        self._inbox, self._reporter, self._check = inbox, reporter, check
        self._last: Message | None = None

    async def __anext__(self) -> Message:
        self._check()
        if (last := self._last) is not None:
            self._last = None
            self._reporter.message(Kind.HANDLED, last.payload, last.channel)
        try:
            self._last = await self._inbox.get()
        except QueueClosed:
            raise StopAsyncIteration from None
        return self._last


class Subscription:
    """One channel or pattern of a queue. `take` gets each message and gives False when that ended the subscription.

    `unpacks`: a message may hold several, which `take` reports one by one.

    | state   | from ... on                                       | messages                                  |
    |---------|---------------------------------------------------|-------------------------------------------|
    | begun   | SUBSCRIBE is about to be written                  | are taken                                 |
    | leaving | UNSUBSCRIBE was written (or there is no line)     | that the server had sent before are taken |
    | gone    | the server's answer, or its time-out; a refusal   | are nobody's; the handler finishes its own |
    |         | to subscribe again on a new connection            |                                            |
    """

    def __init__(
        self,
        channel: Name,
        take: Callable[[Message], bool],
        inbox: Inbox | None = None,
        handler: Handler | None = None,
        *,
        pattern: bool = False,
        unpacks: bool = False,
    ) -> None:
        self.channel = channel if isinstance(channel, str) else same_name(channel, "channel")
        self.take, self.unpacks, self.pattern = take, unpacks, pattern
        self.inbox, self._handler = inbox, handler
        if inbox is not None:
            inbox.feeders += 1
        self.is_leaving = False
        self.gone = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None

    def start(self, reporter: Reporter) -> None:
        """Start the worker of an async handler."""
        if self.inbox is not None and self._handler is not None:
            self._worker = asyncio.create_task(work(self.inbox, cast(Any, self._handler), reporter, self))

    @property
    def is_full(self) -> bool:
        """Its own inbox is why nothing is read."""
        return self.inbox is not None and self.inbox.is_paused

    @property
    def done(self) -> int:
        """How many messages its handler is done with."""
        return 0 if self.inbox is None else self.inbox.done

    async def handled(self, stall_s: float) -> None:
        """Wait until the handler is done with what has arrived; not for the handler that asks. Raises HandlerTimeout."""
        if self._worker is not None and self.inbox is not None and not is_inside(self):
            await self.inbox.handled(stall_s)

    def leave(self, error: MpimError | None = None) -> None:
        """Take nothing more in. What has arrived is still handled; then whoever listens gets the error, if there is one."""
        self.gone.set()
        if self.inbox is not None:
            self.inbox.feeders -= 1
            if error is not None or not self.inbox.feeders:
                self.inbox.end(error or QueueClosed("unsubscribed"))

    def when_finished(self, callback: Callable[[], None]) -> None:
        """Call back when the handler runs no more; at once if it is called as messages arrive."""
        if self._worker is None:
            callback()
        else:
            self._worker.add_done_callback(lambda _: callback())

    async def finish(self, timeout_s: float) -> list[Message]:
        """Let the handler finish what has arrived, at most `timeout_s`; gives what it could not finish."""
        if self._worker is None or self.inbox is None or is_inside(self):  # a handler does not wait for itself
            return []
        await asyncio.wait([self._worker], timeout=max(0.0, timeout_s))
        if not self._worker.done():
            self._worker.cancel()
            _log.warning("the handler of %r did not finish in time and was cancelled", self.channel)
            await asyncio.sleep(0)  # it sees that it was
        return self.inbox.empty()

    def abandon(self) -> list[Message]:
        """End at once, without waiting for anything; gives what is not handled."""
        self.leave()
        if self._worker is not None and not is_inside(self):
            self._worker.cancel()
        return self.inbox.empty() if self.inbox is not None and not self.inbox.feeders else []
