"""ConversationReader: one conversation's messages in order, each once, whatever Pub/Sub loses or repeats.

| `run` ends ...                           | when                                                                     |
|------------------------------------------|--------------------------------------------------------------------------|
| without an error                         | `stop` was called; a handler that was overdue then was cancelled         |
| with what the handler or `on_gap` raised | one of them raised; what a handler returns besides None is a TypeError   |
| with HandlerCancelled                    | the handler met a CancelledError of something else                       |
| with QueueClosed, or what the log said   | the queue was closed, or the error is not `transient`                    |
| with PositionOutOfRange                  | the server has lost the conversation: its numbers are below `position`   |
| with CancelledError                      | its task was cancelled                                                   |

However it ends, it has unsubscribed, its tasks have ended, `position` is the last number handled, and it may be run again.
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
from mpim_lab.events import Kind, now
from mpim_lab.keys import Name, live_channel
from mpim_lab.mq.connection.encoding import Message
from mpim_lab.mq.connection.handler import StoppableLoop, TaskCancellation, await_result, check_handler
from mpim_lab.mq.ordering.reorder_buffer import ReorderBuffer
from mpim_lab.mq.ordering.sequenced_log import Conversations, Numbered

_log = logging.getLogger(__name__)
NumberedHandler = Callable[[Numbered], None] | Callable[[Numbered], Awaitable[None]]


class Gap(NamedTuple):
    """Numbers that will never come: the log does not have them any more. Named, told, and passed over."""

    first: int
    last: int


class ConversationReader:
    """Call `handler(numbered)` for each message after number `after`: `await reader.run()`, `await reader.stop()` elsewhere.

    A gap that is open for `gap_s` is filled from the log, and so is what was missed at the end (looked for every
    `check_s`). What the log has lost is told to `on_gap(gap)` and kept in `gaps`. Early arrivals wait, at most `limit`;
    then the log is asked at once. `position` is the last number handled: keep it, and a reader may go on from there.
    Ends with what the handler, or `on_gap`, raises: see the table above.
    """

    def __init__(
        self,
        conversations: Conversations,
        conversation: Name,
        handler: NumberedHandler,
        *,
        after: int = 0,
        limit: int = 1_000,
        gap_s: float = 0.05,
        check_s: float = 1.0,
        on_gap: Callable[[Gap], None] | None = None,
    ) -> None:
        check_handler(handler)
        if not (gap_s >= 0 and check_s > 0):  # NaN is not, either
            raise InvalidParameter(f"gap_s={gap_s!r}, check_s={check_s!r}: at least 0, and above 0")
        self._conversations, self._queue = conversations, conversations.queue
        self.conversation, self._handler, self._on_gap = conversation, handler, on_gap
        self.position, self.gaps = after, list[Gap]()
        self._limit = limit
        self._buffer: ReorderBuffer[Numbered] = ReorderBuffer(limit=limit, next=after + 1)
        self._gap_s, self._check_s, self._check_at = gap_s, check_s, 0.0
        self._one_at_a_time = asyncio.Lock()
        self._is_handling = False
        self._ended: asyncio.Future[None] | None = None
        self._loop = StoppableLoop()

    async def run(self) -> None:
        """Read until `stop`; lines that break are waited for. Raises InvalidParameter if it runs already."""
        with self._loop:
            if not self._loop.is_stopping:
                await self._read()

    async def _read(self) -> None:
        self._ended = asyncio.get_running_loop().create_future()
        self._buffer = ReorderBuffer(limit=self._limit, next=self.position + 1)
        channel = live_channel(self._conversations.name, self.conversation)
        await self._queue.subscribe(channel, self._on_message)
        checking = asyncio.create_task(self._check_now_and_then())
        checking.add_done_callback(self._checked)
        try:
            await self._ended
        finally:
            with contextlib.suppress(MpimError):
                await self._queue.unsubscribe(channel)
            if self._is_handling:  # let it finish, as `unsubscribe` does
                await asyncio.wait([checking], timeout=self._close_timeout_s)
            checking.cancel()
            await asyncio.wait([checking], timeout=self._close_timeout_s)

    @property
    def _close_timeout_s(self) -> float:
        return self._queue.context(self._conversations.name).connection.config.close_timeout_s

    async def stop(self) -> None:
        """Finish the handler that runs, read no more, and wait until `run` has returned.

        Ends within `ConnectionConfig.close_timeout_s`: a handler that is not done by then is cancelled. Inside the handler
        it returns at once, and `run` ends after it. Before the first `run`, that one ends at once.
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
        self._queue.reporter.message(Kind.RECEIVED, payload, self._conversations.name)
        async with self._one_at_a_time:
            await self._take(Numbered(self.conversation, int(number), payload))

    async def _take(self, numbered: Numbered) -> None:
        try:
            released = self._buffer.add(numbered.sequence, numbered, now=now())
        except ReorderOverflow:
            await self._pull_or_end()  # it is in the log, and stays there
            return
        await self._hand_over(released)

    async def _hand_over(self, released: list[Numbered]) -> None:
        for numbered in released:
            if self._is_over():
                return
            self._is_handling, cancellations = True, TaskCancellation()
            try:
                result: Any = self._handler(numbered)
                if result is not None:
                    await await_result(result)
            except asyncio.CancelledError as error:
                if cancellations.was_requested:
                    self._end(QueueClosed("the subscription was ended while the handler ran"))
                    raise
                self._end_with(
                    HandlerCancelled(f"the handler of number {numbered.sequence} met a CancelledError"), error
                )
                return
            except BaseException as error:
                self._end(error)
                if isinstance(error, Exception):
                    return
                raise
            finally:
                self._is_handling = False
            self.position = numbered.sequence
            self._queue.reporter.message(Kind.HANDLED, numbered.payload, self._conversations.name)

    def _end_with(self, error: MpimError, cause: BaseException) -> None:
        error.__cause__ = cause
        self._end(error)

    def _is_over(self) -> bool:
        return self._ended is None or self._ended.done()

    async def _check_now_and_then(self) -> None:
        while not self._is_over():
            if now() >= self._check_at or self._buffer.overdue(now(), self._gap_s):
                self._check_at = now() + self._check_s
                async with self._one_at_a_time:
                    await self._pull_or_end()
            await asyncio.sleep(self._gap_s / 2)

    def _checked(self, checking: "asyncio.Task[None]") -> None:
        """Without its checks a reader would wait for ever: however they end, it ends."""
        if checking.cancelled():
            self._end(HandlerCancelled("the reader's checks were cancelled by somebody else"))
        else:
            self._end(checking.exception())

    async def _pull_or_end(self) -> None:
        try:
            await self._pull()
        except MpimError as error:
            if not error.transient:  # else the line is down: the next check asks again
                self._end(error)

    async def _pull(self) -> None:
        """Ask the log for everything from the number that is waited for."""
        while found := await self._conversations.between(self.conversation, self._buffer.next):
            for numbered in found:
                while numbered.sequence > self._buffer.next and not self._is_over():
                    await self._give_up(Gap(self._buffer.next, numbered.sequence - 1))
                if self._is_over():
                    return
                await self._take(numbered)
        last = await self._conversations.last(self.conversation)
        if last < self.position:  # what comes now would be taken for what was handled
            raise PositionOutOfRange(f"{self.position} was handled, and {self.conversation!r} ends at number {last}")

    async def _give_up(self, gap: Gap) -> None:
        """Numbers that the log has lost: some may still be here, early; the rest is a named gap."""
        missing = self._buffer.missing
        gap = gap if not missing else Gap(gap.first, min(gap.last, missing[-1]))
        self.gaps.append(gap)
        _log.warning("%s: numbers %d to %d are gone from the log", self.conversation, *gap)
        try:
            if self._on_gap is not None:
                self._on_gap(gap)
        except asyncio.CancelledError as error:  # a plain call cannot be cancelled
            return self._end_with(HandlerCancelled(f"`on_gap` met a CancelledError at {gap}"), error)
        except BaseException as error:
            return self._end(error)
        await self._hand_over(self._buffer.skip_to(gap.last + 1, now=now()))
