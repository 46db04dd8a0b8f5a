"""OrderedReader: a conversation's messages in order, whatever Pub/Sub loses or repeats.

| `run` ends ...                           | when                                                  |
|------------------------------------------|-------------------------------------------------------|
| without an error                         | `stop` was called; a handler that was overdue then    |
|                                          | was cancelled                                         |
| with what handler or `on_missing` raised | one of them raised; what a handler returns besides    |
|                                          | None is a TypeError                                   |
| with HandlerCancelled                    | the handler met a CancelledError of something else    |
| with QueueClosed, or what the log said   | the queue was closed, or the error is not `transient` |
| with PositionOutOfRange                  | the server has lost the conversation: its numbers are |
|                                          | below `position`                                      |
| with CancelledError                      | its task was cancelled                                |

However it ends, it has unsubscribed, its tasks have ended, `position` is the last number handled,
and it may be run again.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from mpim_lab.errors import (
    HandlerCancelled,
    InvalidParameter,
    MpimError,
    PositionOutOfRange,
    QueueClosed,
    ReorderOverflow,
)
from mpim_lab.events import EventKind, now
from mpim_lab.keys import Name, live_channel
from mpim_lab.mq.connection.encoding import Message
from mpim_lab.mq.connection.handler import (
    StoppableLoop,
    TaskCancellation,
    await_result,
    check_handler,
)
from mpim_lab.mq.ordering.reorder_buffer import ReorderBuffer
from mpim_lab.mq.ordering.sequenced_log import SequencedLog, SequencedMessage

_log = logging.getLogger(__name__)
SequencedHandler = (
    Callable[[SequencedMessage], None] | Callable[[SequencedMessage], Awaitable[None]]
)


class MissingRange(NamedTuple):
    """A range of sequence numbers that will never come: the log does not have them any more.

    Reported and passed over.
    """

    first: int
    last: int


class OrderedReader:
    """A reader of one conversation, in order.

    `await reader.run()`, and `await reader.stop()` from elsewhere. What was missed is filled from
    the log. `position` is the last number handled: store it, and a reader may go on from there.
    What the log has lost is added to `missing_ranges`. It ends with what the handler, or
    `on_missing`, raises: see the table above.

    Args:
        log: The log with the conversation.
        conversation: The conversation's name.
        handler: Plain or async; gets each message after the number `after`.
        after: The last sequence number handled before.
        limit: So many messages wait in the reorder buffer; then the log is read at once.
        gap_timeout_s: A gap that is open for so long is filled from the log.
        poll_interval_s: How often to look for what was missed at the end.
        on_missing: Gets the range of the numbers that the log has lost.

    Raises:
        InvalidParameter: A number is out of bounds.
    """

    def __init__(
        self,
        log: SequencedLog,
        conversation: Name,
        handler: SequencedHandler,
        *,
        after: int = 0,
        limit: int = 1_000,
        gap_timeout_s: float = 0.05,
        poll_interval_s: float = 1.0,
        on_missing: Callable[[MissingRange], None] | None = None,
    ) -> None:
        check_handler(handler)
        if not (gap_timeout_s >= 0 and poll_interval_s > 0):  # NaN is not, either
            raise InvalidParameter(
                f"gap_timeout_s={gap_timeout_s!r}, poll_interval_s={poll_interval_s!r}: at least "
                "0, and above 0"
            )
        self._sequenced_log, self._queue = log, log.queue
        self.conversation, self._handler, self._on_missing = conversation, handler, on_missing
        self.position, self.missing_ranges = after, list[MissingRange]()
        self._limit = limit
        self._buffer: ReorderBuffer[SequencedMessage] = ReorderBuffer(limit=limit, next=after + 1)
        self._gap_timeout_s = gap_timeout_s
        self._poll_interval_s = poll_interval_s
        self._poll_at = 0.0
        self._delivery_lock = asyncio.Lock()
        self._is_handling = False
        self._ended: asyncio.Future[None] | None = None
        self._loop = StoppableLoop()

    async def run(self) -> None:
        """Read until `stop`; lines that break are waited for.

        Raises:
            InvalidParameter: It runs already.
            Exception: What the handler or `on_missing` raised; see the table above.
        """
        with self._loop:
            if not self._loop.is_stopping:
                await self._read()

    async def _read(self) -> None:
        self._ended = asyncio.get_running_loop().create_future()
        self._buffer = ReorderBuffer(limit=self._limit, next=self.position + 1)
        channel = live_channel(self._sequenced_log.name, self.conversation)
        await self._queue.subscribe(channel, self._on_message)
        polling = asyncio.create_task(self._poll_periodically())
        polling.add_done_callback(self._on_poll_end)
        try:
            await self._ended
        finally:
            with contextlib.suppress(MpimError):
                await self._queue.unsubscribe(channel)
            if self._is_handling:  # let it finish, as `unsubscribe` does
                await asyncio.wait([polling], timeout=self._close_timeout_s)
            polling.cancel()
            await asyncio.wait([polling], timeout=self._close_timeout_s)

    @property
    def _close_timeout_s(self) -> float:
        return self._queue.context(self._sequenced_log.name).connection.config.close_timeout_s

    async def stop(self) -> None:
        """Finish the handler that runs, read no more, and wait until `run` has returned.

        Ends within `ConnectionConfig.close_timeout_s`: a handler that is not done by then is
        cancelled. Inside the handler it returns at once, and `run` ends after it. Before the first
        `run`, that one ends at once.
        """
        await self._loop.request_stop()
        self._end(None)
        await self._loop.join(self._close_timeout_s)

    def _end(self, error: BaseException | None) -> None:
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None) if error is None else self._ended.set_exception(error)

    async def _on_message(self, message: Message) -> None:
        number, _, payload = message.payload.partition(b" ")
        if not number.isdigit():
            _log.warning("%s: not a numbered message: %r", message.channel, message.payload[:40])
            return
        self._queue.reporter.message(EventKind.RECEIVED, payload, self._sequenced_log.name)
        async with self._delivery_lock:
            await self._on_sequenced(SequencedMessage(self.conversation, int(number), payload))

    async def _on_sequenced(self, message: SequencedMessage) -> None:
        try:
            released = self._buffer.add(message.sequence, message, now=now())
        except ReorderOverflow:
            await self._fill_gap_or_end()  # it is in the log, and stays there
            return
        await self._deliver(released)

    async def _deliver(self, released: list[SequencedMessage]) -> None:
        for message in released:
            if self._is_over():
                return
            self._is_handling, cancellations = True, TaskCancellation()
            try:
                result: Any = self._handler(message)
                if result is not None:
                    await await_result(result)
            except asyncio.CancelledError as error:
                if cancellations.was_requested:
                    self._end(QueueClosed("the subscription was ended while the handler ran"))
                    raise
                self._end_with(
                    HandlerCancelled(
                        f"the handler of number {message.sequence} met a CancelledError"
                    ),
                    error,
                )
                return
            except BaseException as error:
                self._end(error)
                if isinstance(error, Exception):
                    return
                raise
            finally:
                self._is_handling = False
            self.position = message.sequence
            self._queue.reporter.message(
                EventKind.HANDLED, message.payload, self._sequenced_log.name
            )

    def _end_with(self, error: MpimError, cause: BaseException) -> None:
        error.__cause__ = cause
        self._end(error)

    def _is_over(self) -> bool:
        return self._ended is None or self._ended.done()

    async def _poll_periodically(self) -> None:
        while not self._is_over():
            if now() >= self._poll_at or self._buffer.overdue(now(), self._gap_timeout_s):
                self._poll_at = now() + self._poll_interval_s
                async with self._delivery_lock:
                    await self._fill_gap_or_end()
            await asyncio.sleep(self._gap_timeout_s / 2)

    def _on_poll_end(self, polling: "asyncio.Task[None]") -> None:
        """Without its checks a reader would wait for ever: however they end, it ends."""
        if polling.cancelled():
            self._end(HandlerCancelled("the reader's checks were cancelled by somebody else"))
        else:
            self._end(polling.exception())

    async def _fill_gap_or_end(self) -> None:
        try:
            await self._fill_gap()
        except MpimError as error:
            if not error.transient:  # else the line is down: the next check asks again
                self._end(error)

    async def _fill_gap(self) -> None:
        """Read from the log everything from the next sequence number on."""
        while found := await self._sequenced_log.read_range(self.conversation, self._buffer.next):
            for message in found:
                while message.sequence > self._buffer.next and not self._is_over():
                    await self._skip_missing(MissingRange(self._buffer.next, message.sequence - 1))
                if self._is_over():
                    return
                await self._on_sequenced(message)
        last = await self._sequenced_log.last_sequence(self.conversation)
        if last < self.position:  # what comes now would be taken for what was handled
            raise PositionOutOfRange(
                f"{self.position} was handled, and {self.conversation!r} ends at number {last}"
            )

    async def _skip_missing(self, gap: MissingRange) -> None:
        """Skip numbers that the log has lost: some may still be in the buffer.

        The rest is a missing range.
        """
        missing = self._buffer.missing
        gap = gap if not missing else MissingRange(gap.first, min(gap.last, missing[-1]))
        self.missing_ranges.append(gap)
        _log.warning("%s: numbers %d to %d are gone from the log", self.conversation, *gap)
        try:
            if self._on_missing is not None:
                self._on_missing(gap)
        except asyncio.CancelledError as error:  # a plain call cannot be cancelled
            return self._end_with(
                HandlerCancelled(f"`on_missing` met a CancelledError at {gap}"), error
            )
        except BaseException as error:
            return self._end(error)
        await self._deliver(self._buffer.skip_to(gap.last + 1, now=now()))
