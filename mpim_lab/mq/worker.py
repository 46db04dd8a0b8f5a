"""Worker: a consumer with a handler. Acknowledges what was handled, retries what failed, buries what cannot be handled.

| the handler ...          | then the entry is ...                                                    |
|--------------------------|--------------------------------------------------------------------------|
| returns                  | acknowledged                                                             |
| raises                   | retried after a delay, until its tries are used up, then a dead letter   |
| kills its process        | claimed by another member; after too many deliveries a dead letter       |

Never acknowledged before it was handled, never lost, never tried for ever.
"""

import asyncio
import heapq
import inspect
import logging
import random
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from mpim_lab.errors import InvalidParameter, MpimError
from mpim_lab.events import Kind, now
from mpim_lab.mq.consumer import WAIT_MS, Consumer
from mpim_lab.mq.entries import Delivery, Entry
from mpim_lab.mq.groups import ConsumerGroup
from mpim_lab.mq.retry import RetryRule

EntryHandler = Callable[[Entry], None] | Callable[[Entry], Awaitable[None]]
_log = logging.getLogger(__name__)


class Worker:
    """Run a handler on what one member of a group gets: `await worker.run()`, and `await worker.stop()` from elsewhere.

    handler: plain or async. parallel: how many async handlers at once; 1 keeps the order in which entries were read.
    The other options are Consumer's.
    """

    def __init__(
        self,
        group: ConsumerGroup,
        name: str,
        handler: EntryHandler,
        *,
        retry: RetryRule | None = None,
        parallel: int = 1,
        **options: Any,
    ) -> None:
        if parallel < 1:
            raise InvalidParameter(f"parallel={parallel}: at least 1")
        self.consumer = Consumer(group, name, **options)
        self._group, self._handler, self._retry = group, handler, retry or RetryRule()
        self._parallel, self._is_reporting = parallel, group.access.reporter.is_on
        self._later: list[tuple[float, str, Delivery]] = []  # a heap: when a failed delivery is due again
        self._stopping = False
        self._ended = asyncio.Event()
        self._ended.set()  # it has not begun

    async def run(self) -> None:
        """Work until `stop`. Raises NotConnected if there is no first connection; a line that breaks later is waited for."""
        self._ended.clear()
        try:
            async with self.consumer:
                while not self._stopping:
                    try:
                        await self._handle_all(await self._next())
                    except MpimError as error:
                        _log.warning("%s: %s", self.consumer.name, error)
                        self.consumer.start_over(keep=[delivery for _, _, delivery in self._later])
                        await asyncio.sleep(self._retry.backoff.first_s)
        finally:
            self._ended.set()

    async def stop(self) -> None:
        """Finish the handlers that run, give back the rest, and wait until `run` has returned."""
        self._stopping = True
        await self._ended.wait()

    async def _next(self) -> list[Delivery]:
        if self._later and self._later[0][0] <= now():
            _, _, failed = heapq.heappop(self._later)
            again = await self.consumer.again(failed)
            if again is None:
                return []
            self._group.report(Kind.RETRIED, again, count=again.deliveries, actor=self.consumer.name)
            return [again]
        due_ms = WAIT_MS if not self._later else int((self._later[0][0] - now()) * 1e3) + 1
        return await self.consumer.fetch(min(WAIT_MS, due_ms))

    async def _handle_all(self, deliveries: Sequence[Delivery]) -> None:
        acks: list[asyncio.Future[None]] = []
        if self._parallel == 1:
            await self._one_by_one(deliveries, acks)
        else:
            for first in range(0, len(deliveries), self._parallel):
                if self._stopping:
                    break
                at_once = deliveries[first : first + self._parallel]
                await _all(asyncio.create_task(self._one_by_one([each], acks)) for each in at_once)
        for answer in acks:
            await answer

    async def _one_by_one(self, deliveries: Sequence[Delivery], acks: list["asyncio.Future[None]"]) -> None:
        """Handle in order. What a plain handler did is acknowledged together at the end, the rest as soon as it is done."""
        done: list[Delivery] = []
        try:
            await self._handle_each(deliveries, done, acks)
        except (Exception, asyncio.CancelledError):  # not when the process goes down: then nothing more is said
            await self.consumer.ack_all(done)
            raise
        await self.consumer.ack_all(done)

    async def _handle_each(
        self, deliveries: Sequence[Delivery], done: list[Delivery], acks: list["asyncio.Future[None]"]
    ) -> None:
        for delivery in deliveries:
            if self._stopping:
                break
            if delivery.deliveries > self._retry.tries:  # it never raised: it killed whoever had it
                await self._bury(delivery, "delivered too often", "")
                continue
            try:
                result: Any = self._handler(delivery.entry)
                is_async = result is not None and inspect.isawaitable(result)
                if is_async:
                    await result
            except Exception as error:
                await self._failed(delivery, error)
                continue
            if self._is_reporting:
                self._group.report(Kind.HANDLED, delivery, actor=self.consumer.name)
            if is_async:
                acks.append(self.consumer.ack(delivery))
            else:
                done.append(delivery)

    async def _failed(self, delivery: Delivery, error: Exception) -> None:
        said = f"{type(error).__name__}: {error}"
        _log.info("%s: entry %s, delivery %d: %s", self.consumer.name, delivery.entry.id, delivery.deliveries, said)
        self._group.report(Kind.FAILED, delivery, detail=said, actor=self.consumer.name)
        delay_s = self._retry.delay_s(delivery.deliveries, random.random())
        if delay_s is None:
            await self._bury(delivery, "tries used up", said)
        else:
            heapq.heappush(self._later, (now() + delay_s, delivery.entry.id, delivery))

    async def _bury(self, delivery: Delivery, reason: str, error: str) -> None:
        if await self._group.bury(delivery, reason=reason, error=error):
            _log.error("%s: entry %s is a dead letter: %s %r", self.consumer.name, delivery.entry.id, reason, error)
        self.consumer.forget(delivery)


async def _all(running: Iterable["asyncio.Task[None]"]) -> None:
    """Wait for all, also when a line breaks under one of them: what the others have in hand is finished."""
    tasks = list(running)
    try:
        await asyncio.gather(*tasks)
    except MpimError:
        await asyncio.wait(tasks)
        raise
