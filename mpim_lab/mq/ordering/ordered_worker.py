"""OrderedWorker: one worker a conversation, in order, and each message's effects exactly once.

The partitions of a stream are shared out fairly among a group's living members; whoever has one
reads it from the group's offset on. What a handler wants changed on the server (`effects.add(…)`)
happens in one step with moving the offset past the entry:

| the worker ...           | then the entry is ...                                                 |
|--------------------------|-----------------------------------------------------------------------|
| dies before the commit   | read again by the partition's next owner: nothing of it had happened  |
| dies after the commit    | done: the offset is past it                                           |
| sleeps through its lease | the next owner's; the zombie's commit has an old token and is refused |
| gets no answer to its commit   | done or not
, and the offset says which: it is read again from there         |

A handler that raises is tried again after a delay, while its whole partition waits: order has its
price. When the tries are used up the entry becomes a dead letter in the same kind of step, and the
next one's turn comes. A handler that meets a CancelledError of something else, or returns anything
but None, has raised.

`run` goes on, after a growing delay, after an error that is `transient`, and when a partition has
passed on. It raises any other error, its own cancellation, and LeaseLost when another worker has
begun under the same name. However it ends, its partitions are free for others, and it may be run
again.

Source: the design of Kafka's consumer groups (partitions, offsets, generations as fencing tokens).
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Any

from mpim_lab.errors import CommandRejected, CorruptPayload, LeaseLost, MpimError
from mpim_lab.events import EventKind, now, shown_name
from mpim_lab.keys import Name
from mpim_lab.mq.connection.bounds import check_whole
from mpim_lab.mq.connection.handler import StoppableLoop, await_result, check_handler
from mpim_lab.mq.connection.retry import RetryPolicy
from mpim_lab.mq.idempotency.effects import AtomicEffects
from mpim_lab.mq.ordering.assignments import CompletedEntry, PartitionAssignments, PartitionLease
from mpim_lab.mq.ordering.partitioned_stream import PartitionedStream, PartitionEntry
from mpim_lab.mq.streams.consumer import BLOCK_MS

OrderedHandler = (
    Callable[[PartitionEntry, AtomicEffects], None]
    | Callable[[PartitionEntry, AtomicEffects], Awaitable[None]]
)
_log = logging.getLogger(__name__)


class OrderedWorker:
    """A worker on the partitions that are assigned to it in a group.

    `await worker.run()`, and `await worker.stop()` from elsewhere.

    Args:
        stream: The stream with the partitions.
        group: The group's name.
        name: No other living worker's. The later one of two goes on, the earlier one's `run` raises
            LeaseLost.
        handler: `handler(entry, effects)`, plain or async.
        retry: How often, and after which delays, a failed entry is tried again.
        batch_size: Entries read at once from a partition, and at most in one commit.
        lease_ms: Longer than one call of the handler takes; a silent member's partitions pass on
            after it.
    """

    def __init__(
        self,
        stream: PartitionedStream,
        group: Name,
        name: Name,
        handler: OrderedHandler,
        *,
        retry: RetryPolicy | None = None,
        batch_size: int = 100,
        lease_ms: int = 5_000,
    ) -> None:
        check_whole(batch_size=batch_size)
        check_handler(handler)
        self.name = name
        self.assignments = PartitionAssignments(
            stream, group, name, lease_ms=lease_ms, batch_size=batch_size
        )
        self._stream, self._handler, self._retry = stream, handler, retry or RetryPolicy()
        self._reporter = stream.queue.reporter
        self._loop = StoppableLoop()

    async def run(self) -> None:
        """Work until `stop`. A line that breaks later than the first connection is waited for.

        Raises:
            NotConnected: There is no first connection.
            InvalidParameter: It runs already.
            LeaseLost: Another worker has begun under the same name.
            MpimError: What is not `transient` of what `ReconnectingConnection` raises.
        """
        with self._loop:
            async with self.assignments:
                await self._loop.run(self._poll_once, self._retry.backoff, self._on_error)

    def _on_error(self, error: MpimError) -> None:
        if not (error.transient or (isinstance(error, LeaseLost) and self.assignments.owns_name)):
            raise error
        _log.warning("%s: %s", self.name, error)
        self.assignments.reset()

    async def stop(self) -> None:
        """Finish the handler that runs, commit, and wait until `run` has returned.

        Ends within `ConnectionConfig.close_timeout_s`: a handler that is not done by then is
        cancelled. Inside the handler it returns at once, and `run` ends after it. Before the first
        `run`, that one ends at once.
        """
        await self._loop.stop(self.assignments.limits.close_timeout_s)

    async def _poll_once(self) -> None:
        await self.assignments.heartbeat()
        due = [lease.retry_at for lease in self.assignments.assigned if lease.in_flight]
        wait_ms = BLOCK_MS if not due else max(0, int((min(due) - now()) * 1e3) + 1)
        await self.assignments.read(min(BLOCK_MS, wait_ms))
        for lease in self.assignments.assigned:
            # the work on the partitions before may have taken long
            await self.assignments.heartbeat()
            if (
                self.assignments.owns(lease)
                and lease.in_flight
                and lease.retry_at <= now()
                and not self._loop.is_stopping
            ):
                await self._process_partition(lease)

    async def _process_partition(self, lease: PartitionLease) -> None:
        """Handle what is in flight, in order, until something fails or a heartbeat is due.

        Then commit it.
        """
        done: list[CompletedEntry] = []
        failed: BaseException | None = None
        if lease.attempts > self._retry.max_attempts:  # it never raised: it killed whoever had it
            return await self._dead_letter(lease, lease.in_flight[0], "delivered too often", "")
        await self.assignments.mark_started(lease)
        # one of them may be a killer: find out which
        limit = 1 if lease.suspect_count else len(lease.in_flight)
        for entry in lease.in_flight[:limit]:
            self._report(EventKind.RECEIVED, entry, count=lease.attempts + lease.failures)
            effects = AtomicEffects(self._stream.queue.keys)
            failed = await self._handle(entry, effects)
            if failed is not None:
                break
            done.append(CompletedEntry(entry, effects))
            if self._loop.is_stopping or self.assignments.heartbeat_due():
                break
        committed, refused = await self.assignments.commit(lease, done)
        if self._reporter.is_on:
            for entry, _ in done[:committed]:
                self._report(EventKind.HANDLED, entry)
                self._report(EventKind.ACKED, entry)
        if refused or failed is not None:
            await self._on_failure(lease, lease.in_flight[0], failed or CommandRejected(refused))

    async def _handle(self, entry: PartitionEntry, effects: AtomicEffects) -> BaseException | None:
        if not entry.sequence:
            return CorruptPayload(
                f"{entry.entry_id} is no message: another program put it into the partition"
            )
        try:
            if (result := self._handler(entry, effects)) is not None:
                await await_result(result)
        except Exception as error:
            return error
        except asyncio.CancelledError as error:
            if self._loop.is_cancelled:
                raise
            # nobody cancelled this worker: the handler awaited something that was cancelled
            return error
        return None

    async def _on_failure(
        self, lease: PartitionLease, entry: PartitionEntry, error: BaseException
    ) -> None:
        error_text = f"{type(error).__name__}: {error}"
        _log.info("%s: %s %d: %r", self.name, entry.conversation, entry.sequence, error_text)
        lease.failures += 1
        self._report(EventKind.FAILED, entry, error=error)
        delay_s = self._retry.delay_s(lease.attempts + lease.failures - 1, random.random())
        if delay_s is None:
            await self._dead_letter(lease, entry, "tries used up", error_text)
        else:
            lease.retry_at = now() + delay_s

    async def _dead_letter(
        self, lease: PartitionLease, entry: PartitionEntry, reason: str, error_text: str
    ) -> None:
        attempts = lease.attempts + max(0, lease.failures - 1)
        try:
            await self.assignments.dead_letter(
                lease, entry, reason=reason, error=error_text, attempts=attempts
            )
        except CommandRejected as refused:  # it is neither done nor lost until that is put right
            _log.error("%s: %s", self.name, refused)
            lease.retry_at = now() + self._retry.backoff.max_s
            return
        _log.error(
            "%s: %s %d is a dead letter: %r",
            self.name,
            entry.conversation,
            entry.sequence,
            error_text or reason,
        )
        self._report(
            EventKind.DEAD_LETTERED,
            entry,
            detail=f"{reason}: {error_text}" if error_text else reason,
        )

    def _report(self, kind: EventKind, entry: PartitionEntry, **details: Any) -> None:
        if self._reporter.is_on:
            self._reporter.message(
                kind, entry.data, self._stream.name, actor=shown_name(self.name), **details
            )
