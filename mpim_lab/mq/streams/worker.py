"""Worker: a consumer with a handler.

Acknowledges what was handled, retries what failed, dead-letters what cannot be handled.

| the handler ...                          | then the entry is ...                                |
|------------------------------------------|------------------------------------------------------|
| returns None                             | acknowledged                                         |
| raises, or returns anything else         | retried after a delay, until its tries are used up,  |
|                                          | then a dead letter                                   |
| meets a CancelledError of something else | the same: nobody has cancelled the worker            |
| is cancelled with the worker             | released, for another member to take at once         |
| is not done when a stop is overdue       | cancelled, and released                              |
| cannot be dead-lettered: it is refused   | kept, and tried again later, until that is put right |
| kills its process                        | claimed by another member; after too many deliveries |
|                                          | a dead letter                                        |

| `run` ...                      | after                                                           |
|--------------------------------|-----------------------------------------------------------------|
| returns                        | `stop`                                                          |
| goes on, after a growing delay | an error that is `transient`, or a group that was made again    |
| raises                         | any other error, NotConnected at its beginning, its own         |
|                                | cancellation; LeaseLost when another worker has begun under the |
|                                | same name                                                       |

Never acknowledged before it was handled, never lost, never tried for ever. However it ends, what it
had in flight is given back, its tasks have ended, and it may be run again.
"""

import asyncio
import heapq
import inspect
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

from mpim_lab.errors import CommandRejected, InvalidParameter, MpimError
from mpim_lab.events import EventKind, now
from mpim_lab.keys import Name
from mpim_lab.mq.connection.bounds import check_whole
from mpim_lab.mq.connection.handler import (
    StoppableLoop,
    TaskCancellation,
    check_handler,
    reject_result,
)
from mpim_lab.mq.connection.retry import RetryPolicy
from mpim_lab.mq.streams.consumer import BLOCK_MS, Consumer
from mpim_lab.mq.streams.entries import Delivery, Entry
from mpim_lab.mq.streams.group import ConsumerGroup, group_is_gone

EntryHandler = Callable[[Entry], None] | Callable[[Entry], Awaitable[None]]
_log = logging.getLogger(__name__)


class Worker:
    """A consumer with a handler: `await worker.run()`, and `await worker.stop()` from elsewhere.

    What waits for its next try is kept alive by the consumer's heartbeat; without one the delays
    are shorter than `claim_idle_ms`.

    Args:
        group: The group to join.
        name: No other living worker's. The later one of two goes on, the earlier one's `run` raises
            LeaseLost once it has finished what it had in flight.
        handler: Plain or async; gets an Entry and returns None.
        retry: How often, and after which delays, a failed entry is tried again.
        concurrency: How many async handlers at once; 1 keeps the order in which entries were read.
        **options: Those of Consumer.

    Raises:
        InvalidParameter: An option is out of bounds, or the delays are too long.
    """

    def __init__(
        self,
        group: ConsumerGroup,
        name: Name,
        handler: EntryHandler,
        *,
        retry: RetryPolicy | None = None,
        concurrency: int = 1,
        **options: Any,
    ) -> None:
        check_whole(concurrency=concurrency)
        check_handler(handler)
        self.consumer = Consumer(group, name, **options)
        self._group, self._handler, self._retry = group, handler, retry or RetryPolicy()
        self._concurrency, self._is_reporting = concurrency, group.context.reporter.is_on
        self._check_retry_delays()
        self._retry_heap: list[
            tuple[float, str, Delivery]
        ] = []  # a heap: when a failed delivery is due again
        self._loop = StoppableLoop()

    def _check_retry_delays(self) -> None:
        idle_ms, longest_s = self.consumer.claim_idle_ms, self._retry.max_delay_s
        if not self.consumer.heartbeat and idle_ms is not None and longest_s * 1e3 >= idle_ms:
            said = f"a retry after up to {longest_s:g} s, but claim_idle_ms={idle_ms}"
            raise InvalidParameter(f"{said}: without a heartbeat others would claim what waits")

    async def run(self) -> None:
        """Work until `stop`. A line that breaks later than the first connection is waited for.

        Raises:
            NotConnected: There is no first connection.
            InvalidParameter: It runs already.
            LeaseLost: Another worker has begun under the same name.
            MpimError: What is not `transient` of what `ReconnectingConnection` raises.
        """
        with self._loop:
            try:
                async with self.consumer:
                    await self._loop.run(self._poll_once, self._retry.backoff, self._on_error)
            finally:
                self._retry_heap.clear()

    async def stop(self) -> None:
        """Finish the handlers that run, give back the rest, and wait until `run` has returned.

        Ends within `ConnectionConfig.close_timeout_s`: handlers that are not done by then are
        cancelled. Inside a handler it returns at once, and `run` ends after it. Before the first
        `run`, that one ends at once.
        """
        await self._loop.stop(self._group.context.connection.config.close_timeout_s)

    async def _poll_once(self) -> None:
        await self._handle_all(await self._next())

    def _on_error(self, error: MpimError) -> None:
        if not (error.transient or group_is_gone(error)):
            raise error
        _log.warning("%s: %s", self.consumer.shown_name, error)
        self.consumer.reset(keep=[delivery for _, _, delivery in self._retry_heap])

    async def _next(self) -> list[Delivery]:
        if self._retry_heap and self._retry_heap[0][0] <= now():
            _, _, failed = heapq.heappop(self._retry_heap)
            again = await self.consumer.redeliver(failed) if self.consumer.holds(failed) else None
            if again is None:
                return []
            self._group.report(
                EventKind.RETRIED, again, count=again.deliveries, actor=self.consumer.shown_name
            )
            return [again]
        due_ms = (
            BLOCK_MS if not self._retry_heap else int((self._retry_heap[0][0] - now()) * 1e3) + 1
        )
        return await self.consumer.fetch(min(BLOCK_MS, due_ms))

    async def _handle_all(self, deliveries: Sequence[Delivery]) -> None:
        acks: list[asyncio.Future[None]] = []
        if self._concurrency == 1:
            await self._handle_in_order(deliveries, acks)
        else:
            for first in range(0, len(deliveries), self._concurrency):
                if self._loop.is_stopping:
                    break
                at_once = deliveries[first : first + self._concurrency]
                await _all([self._handle_in_order([each], acks) for each in at_once])
        for answer in acks:
            await answer

    async def _handle_in_order(
        self, deliveries: Sequence[Delivery], acks: list["asyncio.Future[None]"]
    ) -> None:
        """Handle in order.

        What a plain handler did is acknowledged together at the end, the rest as soon as it is
        done.
        """
        done: list[Delivery] = []
        try:
            await self._handle_each(deliveries, done, acks)
        except (Exception, asyncio.CancelledError):
            # not when the process goes down: then nothing more is said
            await self.consumer.ack_all(done)
            raise
        await self.consumer.ack_all(done)

    async def _handle_each(
        self,
        deliveries: Sequence[Delivery],
        done: list[Delivery],
        acks: list["asyncio.Future[None]"],
    ) -> None:
        handler = self._handler
        consumer = self.consumer
        loop = self._loop
        cancellations = TaskCancellation()
        for delivery in deliveries:
            if loop.is_stopping:
                break
            if consumer.has_lost and not consumer.holds(delivery):
                continue  # claimed by another while those before it were handled
            if (
                delivery.deliveries > self._retry.max_attempts
            ):  # it never raised: it killed whoever had it
                await self._dead_letter(delivery, "delivered too often", "")
                continue
            try:
                result: Any = handler(delivery.entry)
                is_async = result is not None and inspect.isawaitable(result)
                if is_async:
                    await result
                elif result is not None:
                    reject_result(result)
            except asyncio.CancelledError as error:
                if cancellations.was_requested or loop.is_cancelled:
                    raise
                await self._failed(delivery, error)
                continue
            except Exception as error:
                await self._failed(delivery, error)
                continue
            if self._is_reporting:
                self._group.report(EventKind.HANDLED, delivery, actor=consumer.shown_name)
            if is_async:
                acks.append(consumer.ack(delivery))
                if cancellations.was_requested:  # the handler has kept it from us
                    raise asyncio.CancelledError
            else:
                done.append(delivery)

    async def _failed(self, delivery: Delivery, error: BaseException) -> None:
        said, who = f"{type(error).__name__}: {error}", self.consumer.shown_name
        _log.info(
            "%s: entry %s, delivery %d: %s", who, delivery.entry.id, delivery.deliveries, said
        )
        self._group.report(EventKind.FAILED, delivery, error=error, actor=who)
        delay_s = self._retry.delay_s(delivery.deliveries, random.random())
        if delay_s is None:
            await self._dead_letter(delivery, "tries used up", said)
        else:
            heapq.heappush(self._retry_heap, (now() + delay_s, delivery.entry.id, delivery))

    async def _dead_letter(self, delivery: Delivery, reason: str, error: str) -> None:
        who = self.consumer.shown_name
        try:
            is_moved = await self._group.dead_letter(delivery, reason=reason, error=error)
        except CommandRejected as refused:
            if refused.transient or group_is_gone(refused):
                raise
            _log.error("%s: entry %s cannot be dead-lettered: %s", who, delivery.entry.id, refused)
            heapq.heappush(
                self._retry_heap, (now() + self._retry.backoff.max_s, delivery.entry.id, delivery)
            )
            return
        if is_moved:
            _log.error(
                "%s: entry %s is a dead letter: %s %r", who, delivery.entry.id, reason, error
            )
        self.consumer.discard(delivery)


async def _all(works: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Run them as tasks and wait for all, also when a line breaks under one of them.

    What the others have is finished.

    When this is cancelled, or one of them meets something worse, the others are cancelled and
    waited for.
    """
    tasks = [asyncio.create_task(work) for work in works]
    try:
        done, running = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        if (
            all(task.cancelled() or isinstance(task.exception(), MpimError | None) for task in done)
            and running
        ):
            await asyncio.wait(running)
    finally:
        running = {task for task in tasks if not task.done()}
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)
    for task in tasks:
        task.result()
