"""Subscription: one channel or pattern, and how a message gets to its handler."""

import asyncio
import logging
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Mapping,
    Sequence,
)
from typing import Any, cast

from mpim_lab.errors import (
    InvalidParameter,
    MpimError,
    QueueClosed,
)
from mpim_lab.events import EventKind, Reporter
from mpim_lab.keys import Name, same_name
from mpim_lab.mq.connection.encoding import Message
from mpim_lab.mq.connection.handler import (
    TaskCancellation,
    handler_scope,
    is_async,
    is_in_handler,
    reject_result,
)
from mpim_lab.mq.pubsub.buffer import SubscriberBuffer

Decode = Callable[[bytes], Sequence[bytes]]
Handler = Callable[[Message], None] | Callable[[Message], Awaitable[None]]
_log = logging.getLogger(__name__)
_new = tuple.__new__


def report_failed(reporter: Reporter, message: Message, error: BaseException) -> None:
    """Report that a handler raised: to the log and to the observer.

    The next message is handled all the same.
    """
    _log.error("%s: the handler of %r raised", reporter.actor, message.channel, exc_info=error)
    reporter.message(EventKind.FAILED, message.payload, message.channel, error=error)


def report_dropped(reporter: Reporter, message: Message, why: str) -> None:
    """Report that a message which had arrived was thrown away."""
    reporter.message(EventKind.DROPPED, message.payload, message.channel, detail=why)


def call_inline(handler: Callable[[Message], Any], reporter: Reporter) -> Callable[[Message], bool]:
    """Call a plain handler at once, within the loop turn in which the message arrived."""
    is_on = reporter.is_on

    def deliver(message: Message) -> bool:
        try:
            if (result := handler(message)) is not None:
                reject_result(result)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            report_failed(reporter, message, error)
            return True
        if is_on:
            reporter.message(EventKind.HANDLED, message.payload, message.channel)
        return True

    return deliver


def decode_then(
    deliver: Callable[[Message], bool], decode: Decode, reporter: Reporter
) -> Callable[[Message], bool]:
    """Return a function that delivers each message of a payload.

    A payload that cannot be read is reported.
    """
    if not callable(decode) or is_async(decode):
        raise InvalidParameter(
            f"decode={decode!r}: a plain function from a payload to a list of payloads"
        )
    is_on, is_sure = reporter.is_on, getattr(decode, "returns_payloads", False)

    def deliver_all(packed: Message) -> bool:
        channel, payload, pattern = packed
        try:
            payloads = decode(payload)
            if not is_sure:
                payloads = _payloads(payloads)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            report_failed(reporter, packed, error)
            return True
        if is_on:
            for payload in payloads:
                reporter.message(EventKind.RECEIVED, payload, channel)
        for number, payload in enumerate(payloads):
            if not deliver(_new(Message, (channel, payload, pattern))):
                for rest in payloads[number + 1 :]:
                    report_dropped(
                        reporter, Message(channel, rest, pattern), "the subscription was ended"
                    )
                return False
        return True

    return deliver_all


def _payloads(given: Iterable[bytes]) -> list[bytes]:
    """What a user's `decode` gave, if it is what it must be.

    Raises TypeError, and what a generator raises.
    """
    if not isinstance(given, str | bytes | Mapping):
        payloads = list(given)
        if all(isinstance(each, bytes) for each in payloads):
            return payloads
    raise TypeError(f"decode gives a list of payloads in bytes, not {given!r:.100}")


async def run_handler(
    buffer: SubscriberBuffer,
    handler: Callable[[Message], Awaitable[None]],
    reporter: Reporter,
    owner: object,
) -> None:
    """Call an async handler on one message after the other until the buffer ends."""
    cancellations = TaskCancellation()
    with handler_scope(owner):
        while True:
            try:
                message = await buffer.get()
            except MpimError:
                return
            try:
                await handler(message)
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as error:
                if isinstance(error, asyncio.CancelledError) and cancellations.was_requested:
                    report_dropped(reporter, message, "the handler did not finish in time")
                    raise
                report_failed(reporter, message, error)
            else:
                reporter.message(EventKind.HANDLED, message.payload, message.channel)


class MessageIterator(AsyncIterator[Message]):
    """The iterator that `listen` returns.

    Messages, one after the other, until its channels or the queue are closed.

    One counts as handled when the next is asked for. A time-out around `anext` takes nothing, and
    several tasks may ask.
    """

    def __init__(
        self, buffer: SubscriberBuffer, reporter: Reporter, check: Callable[[], None]
    ) -> None:
        self._buffer, self._reporter, self._check = buffer, reporter, check
        self._last: Message | None = None

    async def __anext__(self) -> Message:
        self._check()
        if (last := self._last) is not None:
            self._last = None
            self._reporter.message(EventKind.HANDLED, last.payload, last.channel)
        try:
            self._last = await self._buffer.get()
        except QueueClosed:
            raise StopAsyncIteration from None
        return self._last


class Subscription:
    """One channel or pattern of a queue.

    `deliver` gets each message and returns False when that ended the subscription.

    `decodes`: a message may hold several, which `deliver` reports one by one.

    | state   | from ... on                             | messages                               |
    |---------|-----------------------------------------|----------------------------------------|
    | added   | SUBSCRIBE is about to be written        | are taken                              |
    | leaving | UNSUBSCRIBE was written (or there is no | that the server had sent before are    |
    |         | line)                                   | taken                                  |
    | removed | the server's answer, or its time-out; a | are nobody's; the handler finishes its |
    |         | refusal to subscribe again on a new     | own                                    |
    |         | connection                              |                                        |
    """

    def __init__(
        self,
        channel: Name,
        deliver: Callable[[Message], bool],
        buffer: SubscriberBuffer | None = None,
        handler: Handler | None = None,
        *,
        pattern: bool = False,
        decodes: bool = False,
    ) -> None:
        self.channel = channel if isinstance(channel, str) else same_name(channel, "channel")
        self.deliver, self.decodes, self.pattern = deliver, decodes, pattern
        self.buffer, self._handler = buffer, handler
        if buffer is not None:
            buffer.subscription_count += 1
        self.is_unsubscribing = False
        self.removed = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None

    def start(self, reporter: Reporter) -> None:
        """Start the worker of an async handler."""
        if self.buffer is not None and self._handler is not None:
            self._worker = asyncio.create_task(
                run_handler(self.buffer, cast(Any, self._handler), reporter, self)
            )

    @property
    def is_full(self) -> bool:
        """Its own buffer is why nothing is read."""
        return self.buffer is not None and self.buffer.is_paused

    @property
    def handled_count(self) -> int:
        """How many messages its handler is done with."""
        return 0 if self.buffer is None else self.buffer.handled_count

    async def join(self, stall_timeout_s: float) -> None:
        """Wait until the handler is done with what has arrived; not for the handler that asks.

        Raises HandlerTimeout.
        """
        if self._worker is not None and self.buffer is not None and not is_in_handler(self):
            await self.buffer.join(stall_timeout_s)

    def close(self, error: MpimError | None = None) -> None:
        """Take nothing more in.

        What has arrived is still handled; then whoever listens gets the error, if there is one.
        """
        if self.removed.is_set():
            return
        self.removed.set()
        if self.buffer is not None:
            self.buffer.subscription_count -= 1
            if error is not None or not self.buffer.subscription_count:
                self.buffer.close(error or QueueClosed("unsubscribed"))

    def on_finished(self, callback: Callable[[], None]) -> None:
        """Call back when the handler runs no more; at once if it is called as messages arrive."""
        if self._worker is None:
            callback()
        else:
            self._worker.add_done_callback(lambda _: callback())

    async def finish(self, timeout_s: float) -> list[Message]:
        """Let the handler finish what has arrived, at most `timeout_s`.

        Gives what it could not finish.
        """
        if (
            self._worker is None or self.buffer is None or is_in_handler(self)
        ):  # a handler does not wait for itself
            return []
        await asyncio.wait([self._worker], timeout=max(0.0, timeout_s))
        if not self._worker.done():
            self._worker.cancel()
            _log.warning("the handler of %r did not finish in time and was cancelled", self.channel)
            await asyncio.sleep(0)  # it sees that it was
        return self.buffer.drain()

    def abort(self) -> list[Message]:
        """End at once, without waiting for anything; gives what is not handled."""
        self.close()
        if self._worker is not None and not is_in_handler(self):
            self._worker.cancel()
        return (
            self.buffer.drain()
            if self.buffer is not None and not self.buffer.subscription_count
            else []
        )
