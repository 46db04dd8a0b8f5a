"""OrderedWorker: one worker a conversation, in order, and each message's effects exactly once.

The partitions of a stream are shared out fairly among a group's living members; whoever has one reads it from the
group's offset on. What a handler wants changed on the server (`effects.also(…)`) happens in one step with moving the
offset past the entry:

| the worker ...                 | then the entry is ...                                                       |
|--------------------------------|-----------------------------------------------------------------------------|
| dies before the commit         | read again by the partition's next owner: nothing of it had happened        |
| dies after the commit          | done: the offset is past it                                                 |
| sleeps through its lease       | the next owner's; the sleeper's commit has an old token and is refused      |
| cannot hear the commit's answer| done or not, and the offset says which: it is read again from there         |

A handler that raises is tried again after a delay, while its whole partition waits: order has its price. When the tries
are used up the entry becomes a dead letter in the same kind of step, and the next one's turn comes. A handler that meets a
CancelledError of something else, or returns anything but None, has raised.

`run` goes on, after a growing delay, after an error that is `transient`, and when a partition has passed on. It raises any
other error, its own cancellation, and LeaseLost when another worker has begun under the same name. However it ends, its
partitions are free for others, and it may be run again.

Source: the design of Kafka's consumer groups (partitions, offsets, generations as fencing tokens).
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

from mpim_lab.errors import CommandRejected, CorruptPayload, LeaseLost, MpimError
from mpim_lab.events import Kind, now, shown_name
from mpim_lab.keys import Name
from mpim_lab.mq.connection.bounds import check_whole
from mpim_lab.mq.connection.handler import StoppableLoop, await_result, check_handler
from mpim_lab.mq.connection.retry import RetryPolicy
from mpim_lab.mq.idempotency.effects import Effects
from mpim_lab.mq.ordering.assignments import Done, Seat, Seats
from mpim_lab.mq.ordering.partitioned_stream import Ordered, PartitionedStream
from mpim_lab.mq.streams.consumer import BLOCK_MS

OrderedHandler = Callable[[Ordered, Effects], None] | Callable[[Ordered, Effects], Awaitable[None]]
_log = logging.getLogger(__name__)


class OrderedWorker:
    """Run a handler on the partitions that one member of a group has: `await worker.run()`, `await worker.stop()` elsewhere.

    handler(ordered, effects): plain or async. lease_ms: longer than one call of the handler takes; a silent member's
    partitions pass on after it. name: no other living worker's; the later one of two goes on, the earlier one's `run` raises
    LeaseLost.
    prefetch: entries read at once from a partition, and at most in one commit.
    """

    seats_type = Seats

    def __init__(
        self,
        stream: PartitionedStream,
        group: Name,
        name: Name,
        handler: OrderedHandler,
        *,
        retry: RetryPolicy | None = None,
        prefetch: int = 100,
        lease_ms: int = 5_000,
    ) -> None:
        check_whole(prefetch=prefetch)
        check_handler(handler)
        self.name, self.seats = name, self.seats_type(stream, group, name, lease_ms=lease_ms, prefetch=prefetch)
        self._stream, self._handler, self._retry = stream, handler, retry or RetryPolicy()
        self._reporter = stream.queue.reporter
        self._loop = StoppableLoop()

    async def run(self) -> None:
        """Work until `stop`. Raises NotConnected if there is no first connection; a line that breaks later is waited for.

        Raises InvalidParameter if it runs already, LeaseLost, and what is not `transient` of what `ReconnectingConnection`
        raises.
        """
        with self._loop:
            async with self.seats:
                await self._loop.run(self._turn, self._retry.backoff, self._on_error)

    def _on_error(self, error: MpimError) -> None:
        if not (error.transient or (isinstance(error, LeaseLost) and self.seats.has_name)):
            raise error
        _log.warning("%s: %s", self.name, error)
        self.seats.forget()

    async def stop(self) -> None:
        """Finish the handler that runs, commit, leave the partitions to others, and wait until `run` has returned.

        Ends within `ConnectionConfig.close_timeout_s`: a handler that is not done by then is cancelled. Inside the handler
        it returns at once, and `run` ends after it. Before the first `run`, that one ends at once.
        """
        await self._loop.stop(self.seats.limits.close_timeout_s)

    async def _turn(self) -> None:
        await self.seats.keep()
        due = [seat.due_at for seat in self.seats.taken if seat.in_hand]
        wait_ms = BLOCK_MS if not due else max(0, int((min(due) - now()) * 1e3) + 1)
        await self.seats.read(min(BLOCK_MS, wait_ms))
        for seat in self.seats.taken:
            await self.seats.keep()  # the work on the seats before may have taken long
            if self.seats.holds(seat) and seat.in_hand and seat.due_at <= now() and not self._loop.is_stopping:
                await self._work_on(seat)

    async def _work_on(self, seat: Seat) -> None:
        """Handle what is in hand, in order, until something fails or the lease needs a sign of life; then commit it."""
        done: list[Done] = []
        failed: BaseException | None = None
        if seat.tries > self._retry.max_attempts:  # it never raised: it killed whoever had it
            return await self._bury(seat, seat.in_hand[0], "delivered too often", "")
        await self.seats.begin(seat)
        most = 1 if seat.doubtful else len(seat.in_hand)  # one of them may be a killer: find out which
        for ordered in seat.in_hand[:most]:
            self._report(Kind.RECEIVED, ordered, count=seat.tries + seat.failures)
            effects = Effects(self._stream.queue.keys)
            failed = await self._handle(ordered, effects)
            if failed is not None:
                break
            done.append(Done(ordered, effects))
            if self._loop.is_stopping or self.seats.must_show():
                break
        committed, refused = await self.seats.commit(seat, done)
        if self._reporter.is_on:
            for ordered, _ in done[:committed]:
                self._report(Kind.HANDLED, ordered)
                self._report(Kind.ACKED, ordered)
        if refused or failed is not None:
            await self._failed(seat, seat.in_hand[0], refused or f"{type(failed).__name__}: {failed}")

    async def _handle(self, ordered: Ordered, effects: Effects) -> BaseException | None:
        if not ordered.sequence:
            return CorruptPayload(f"{ordered.entry_id} is no message: another program put it into the partition")
        try:
            if (result := self._handler(ordered, effects)) is not None:
                await await_result(result)
        except Exception as error:
            return error
        except asyncio.CancelledError as error:
            if self._loop.is_cancelled:
                raise
            return error  # nobody cancelled this worker: the handler awaited something that was cancelled
        return None

    async def _failed(self, seat: Seat, ordered: Ordered, said: str) -> None:
        _log.info("%s: %s %d: %r", self.name, ordered.conversation, ordered.sequence, said)
        seat.failures += 1
        self._report(Kind.FAILED, ordered, detail=said)
        delay_s = self._retry.delay_s(seat.tries + seat.failures - 1, random.random())
        if delay_s is None:
            await self._bury(seat, ordered, "tries used up", said)
        else:
            seat.due_at = now() + delay_s

    async def _bury(self, seat: Seat, ordered: Ordered, reason: str, said: str) -> None:
        tries = seat.tries + max(0, seat.failures - 1)
        try:
            await self.seats.bury(seat, ordered, reason=reason, error=said, tries=tries)
        except CommandRejected as refused:  # it is neither done nor lost until that is put right
            _log.error("%s: %s", self.name, refused)
            seat.due_at = now() + self._retry.backoff.max_s
            return
        _log.error("%s: %s %d is a dead letter: %r", self.name, ordered.conversation, ordered.sequence, said or reason)
        self._report(Kind.BURIED, ordered, detail=f"{reason}: {said}" if said else reason)

    def _report(self, kind: Kind, ordered: Ordered, *, detail: str = "", count: int | None = None) -> None:
        if self._reporter.is_on:
            self._reporter.message(
                kind, ordered.data, self._stream.name, detail=detail, count=count, actor=shown_name(self.name)
            )
