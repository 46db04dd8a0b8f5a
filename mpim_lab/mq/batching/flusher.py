"""BatchFlusher: it sends batches when they are due, and sees each through to its outcomes.

| a message is resolved when ...               | with                                       |
|----------------------------------------------|--------------------------------------------|
| its batch was answered                       | its own outcome                            |
| the transport raises what is definite and    | nothing yet: it stays in its place, and is |
| transient                                    | retried                                    |
| the same, and it is too old                  | that error, and all behind it              |
| the transport raises another error of ours   | that error                                 |
| transport or codec raise something else, are | Unconfirmed, with the cause                |
| cancelled by                                 |                                            |
| somebody else, or take longer than           |                                            |
| `attempt_timeout_s`                          |                                            |
| the policy raises                            | InvalidParameter: it was not sent          |
| the flusher is aborted before its turn       | QueueClosed, or why its batch could not be |
|                                              | written so far                             |
| the flusher is aborted while it is in flight | Unconfirmed                                |
"""

import asyncio
import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from mpim_lab.errors import InvalidParameter, MpimError, QueueClosed, Unconfirmed
from mpim_lab.events import EventKind, now
from mpim_lab.mq.batching.buffer import PendingBuffer
from mpim_lab.mq.batching.policies import BatchPolicy
from mpim_lab.mq.batching.transports import BatchTransport
from mpim_lab.mq.connection.handler import TaskCancellation
from mpim_lab.mq.connection.retry import Backoff


class BatchFlusher:
    """The flush task: one batch at a time, in order.

    `on_capacity` is called whenever something has left the buffer.
    """

    def __init__(
        self,
        transport: BatchTransport,
        policy: BatchPolicy,
        buffer: PendingBuffer,
        backoff: Backoff,
        *,
        delivery_timeout_s: float,
        attempt_timeout_s: float,
        on_capacity: Callable[[], None],
    ) -> None:
        self.batches = 0  # that had their outcomes
        self._transport = transport
        self._policy = policy
        self._buffer = buffer
        self._backoff = backoff
        self._reporter, self._is_reporting = transport.reporter, transport.reporter.is_on
        self._delivery_timeout_s, self._attempt_timeout_s = delivery_timeout_s, attempt_timeout_s
        self._on_capacity = on_capacity
        # so many settled: done; till then no window counts
        self._flushes: deque[tuple[int, asyncio.Future[None]]] = deque()
        # why the batch that waits to be tried again was not written
        self._last_error: MpimError | None = None
        self._wakeup: asyncio.Future[None] | None = None
        self._is_open = False  # a batch was begun before this began to wait
        self._ending = self.has_ended = False

    def notify(self) -> None:
        """Note that something was appended to the buffer."""
        if self._wakeup is None:
            return
        try:
            is_due = not self._is_open or self._policy.is_full(
                self._buffer.messages, self._buffer.bytes
            )
        except Exception:
            is_due = True  # it will raise again where that is dealt with
        if is_due:
            self._is_open = True
            self._wake()

    def flush(self) -> "asyncio.Future[None]":
        """Send everything pending without waiting for company.

        Done when all of it has its outcome.
        """
        flushed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._flushes.append((self._buffer.resolved + self._buffer.unresolved, flushed))
        self._resolve_flushes()
        self._wake()
        return flushed

    def _resolve_flushes(self) -> None:
        while self._flushes and self._flushes[0][0] <= self._buffer.resolved:
            _, flushed = self._flushes.popleft()
            if not flushed.done():
                flushed.set_result(None)

    def stop(self) -> None:
        """Send everything that is pending, then end."""
        self._ending = True
        self._wake()

    def _wake(self) -> None:
        if self._wakeup is not None and not self._wakeup.done():
            self._wakeup.set_result(None)

    async def run(self) -> None:
        """Send until `stop`."""
        try:
            while True:
                try:
                    if not await self._wait_until_due():
                        return
                    batch = self._buffer.pop_batch(self._policy)
                except Exception as error:
                    self._fail_all([], _wrap_policy_error(self._policy, error))
                    continue
                self._on_capacity()
                if self._is_reporting:
                    for payload in batch:
                        self._reporter.message(
                            EventKind.BATCHED, payload, self._transport.name, count=len(batch)
                        )
                await self._send(batch)
                self.batches += 1
        finally:
            self.abort()

    def abort(self) -> None:
        """Fail at once all that is unresolved: nobody may wait for ever, whatever ended this."""
        self.has_ended = True
        in_flight = self._buffer.unresolved - self._buffer.messages
        error = self._last_error or Unconfirmed("the batcher ended while this was on its way")
        self._resolve([], [error] * in_flight)
        self._fail_all([], QueueClosed("the batcher ended; this was not sent"))

    async def _wait_until_due(self) -> bool:
        """Wait until a batch is to be sent; False at the end."""
        buffer = self._buffer
        while True:
            due_at = math.inf
            if buffer.messages:
                due_at = self._policy.flush_deadline(buffer.oldest_at)
                if (
                    self._ending
                    or self._flushes
                    or due_at <= now()
                    or self._policy.is_full(buffer.messages, buffer.bytes)
                ):
                    return True
            elif self._ending:
                return False
            await self._wait_for_wakeup(due_at)

    async def _wait_for_wakeup(self, due_at: float) -> None:
        loop = asyncio.get_running_loop()
        self._wakeup, self._is_open = loop.create_future(), bool(self._buffer.messages)
        timer = loop.call_later(due_at - now(), self._wake) if due_at < math.inf else None
        try:
            await self._wakeup
        finally:
            self._wakeup = None
            if timer is not None:
                timer.cancel()

    async def _send(self, batch: Sequence[bytes]) -> None:
        """Send until each has an outcome: the first ones in one write, what is left in the next."""
        give_up_at, attempt = self._buffer.oldest_at + self._delivery_timeout_s, 0
        while batch and not self.has_ended:
            outcomes = await self._attempt(batch)
            if self.has_ended:  # it was aborted meanwhile: everybody has the outcome
                return
            retryable = _count_retryable(outcomes)
            self._resolve(batch, outcomes[: len(outcomes) - retryable])
            batch = batch[len(outcomes) - retryable :]
            if not retryable:
                continue
            error: MpimError = outcomes[-retryable]
            if now() >= give_up_at:
                self._fail_all(batch, error)
                return
            attempt += 1
            self._last_error = error
            await asyncio.sleep(self._backoff.delay_s(attempt, random.random()))
            self._last_error = None

    async def _attempt(self, batch: Sequence[bytes]) -> Sequence[Any]:
        """Return the outcomes of the first ones, whatever the transport and the codec do.

        If none was written, of all.
        """
        cancellations = TaskCancellation()
        try:
            async with asyncio.timeout(self._attempt_timeout_s):
                return await self._transport.send(batch)
        except MpimError as error:
            return [error] * len(batch)
        except asyncio.CancelledError as error:
            if cancellations.was_requested:
                raise
            return [_wrap_unexpected(error)] * len(batch)
        except Exception as error:
            # a codec or transport with a bug, or one that hangs: fail the batch, go on
            return [_wrap_unexpected(error)] * len(batch)

    def _fail_all(self, batch: Sequence[bytes], error: MpimError) -> None:
        given_up = [*batch, *self._buffer.drain()]
        self._resolve(given_up, [error] * len(given_up))
        self._on_capacity()

    def _resolve(self, batch: Sequence[bytes], outcomes: Sequence[Any]) -> None:
        if self._is_reporting:
            for payload, outcome in zip(batch, outcomes, strict=False):
                self._report(payload, outcome)
        self._buffer.resolve(outcomes)
        self._resolve_flushes()

    def _report(self, payload: bytes, outcome: Any) -> None:
        name = self._transport.name
        if isinstance(outcome, int):
            self._reporter.message(EventKind.PUBLISHED, payload, name, count=outcome)
        elif isinstance(outcome, str):
            self._reporter.message(EventKind.ADDED, payload, name, detail=outcome)
        else:
            self._reporter.message(EventKind.FAILED, payload, name, error=outcome)


def _count_retryable(outcomes: Sequence[Any]) -> int:
    """Return how many of the last ones certainly were not done but may be later.

    None before one that was done.
    """
    count = 0
    for outcome in reversed(outcomes):
        if not (isinstance(outcome, MpimError) and outcome.definite and outcome.transient):
            break
        count += 1
    return count


def _wrap_unexpected(error: BaseException) -> MpimError:
    unconfirmed = Unconfirmed(f"sending the batch raised {type(error).__name__}: {error}")
    unconfirmed.__cause__ = error
    return unconfirmed


def _wrap_policy_error(policy: BatchPolicy, error: Exception) -> MpimError:
    refused = InvalidParameter(
        f"the batch policy {type(policy).__name__} raised {type(error).__name__}: {error}"
    )
    refused.__cause__ = error
    return refused
