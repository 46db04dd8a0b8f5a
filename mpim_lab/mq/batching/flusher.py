"""BatchSender: takes batches from a backlog when they are due, and sees each of them through to its outcomes.

| a message leaves when ...                               | with                                                      |
|---------------------------------------------------------|-----------------------------------------------------------|
| its batch was answered                                  | its own outcome                                           |
| the carrier raises what is definite and transient       | nothing yet: it stays in its place, and is tried again    |
| the same, and it is too old                             | that error, and all behind it                             |
| the carrier raises another error of ours                | that error                                                |
| carrier or codec raise something else, are cancelled by | Unconfirmed, with the cause                               |
| somebody else, or take longer than `attempt_timeout_s`  |                                                           |
| the rule raises                                         | InvalidParameter: it was not sent                         |
| the sender is ended before its turn                     | QueueClosed, or why its batch could not be written so far |
| the sender is ended while it is on its way              | Unconfirmed                                               |
"""

import asyncio
import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from mpim_lab.errors import InvalidParameter, MpimError, QueueClosed, Unconfirmed
from mpim_lab.events import Kind, now
from mpim_lab.mq.batching.buffer import Backlog
from mpim_lab.mq.batching.policies import BatchRule
from mpim_lab.mq.batching.transports import Carrier
from mpim_lab.mq.connection.handler import TaskCancellation
from mpim_lab.mq.connection.retry import Backoff


class BatchSender:
    """One batch at a time, in order. `on_room` is called whenever something has left the backlog."""

    def __init__(
        self,
        carrier: Carrier,
        rule: BatchRule,
        backlog: Backlog,
        backoff: Backoff,
        *,
        give_up_after_s: float,
        attempt_timeout_s: float,
        on_room: Callable[[], None],
    ) -> None:
        self.batches = 0  # that had their outcomes
        self._carrier, self._rule, self._backlog, self._backoff = carrier, rule, backlog, backoff
        self._reporter, self._is_reporting = carrier.reporter, carrier.reporter.is_on
        self._give_up_after_s, self._attempt_timeout_s = give_up_after_s, attempt_timeout_s
        self._on_room = on_room
        self._flushes: deque[tuple[int, asyncio.Future[None]]] = (
            deque()
        )  # so many settled: done; till then no window counts
        self._kept_by: MpimError | None = None  # why the batch that waits to be tried again was not written
        self._wake: asyncio.Future[None] | None = None
        self._is_open = False  # a batch was begun before this began to wait
        self._ending = self.has_ended = False

    def more(self) -> None:
        """Something was put into the backlog."""
        if self._wake is None:
            return
        try:
            is_due = not self._is_open or self._rule.is_full(self._backlog.messages, self._backlog.bytes)
        except Exception:
            is_due = True  # it will raise again where that is dealt with
        if is_due:
            self._is_open = True
            self._rouse()

    def flush(self) -> "asyncio.Future[None]":
        """Send everything that was taken so far without waiting for company; done when all of it has its outcome."""
        flushed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._flushes.append((self._backlog.settled + self._backlog.unsettled, flushed))
        self._note_settled()
        self._rouse()
        return flushed

    def _note_settled(self) -> None:
        while self._flushes and self._flushes[0][0] <= self._backlog.settled:
            _, flushed = self._flushes.popleft()
            if not flushed.done():
                flushed.set_result(None)

    def end(self) -> None:
        """Send everything that waits, then end."""
        self._ending = True
        self._rouse()

    def _rouse(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def run(self) -> None:
        """Send until `end`."""
        try:
            while True:
                try:
                    if not await self._is_due():
                        return
                    batch = self._backlog.take(self._rule)
                except Exception as error:
                    self._give_up([], _bad_rule(self._rule, error))
                    continue
                self._on_room()
                if self._is_reporting:
                    for payload in batch:
                        self._reporter.message(Kind.BATCHED, payload, self._carrier.name, count=len(batch))
                await self._send(batch)
                self.batches += 1
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Tell everybody at once that no more is sent: nobody may wait for ever, whatever ended this."""
        self.has_ended = True
        on_its_way = self._backlog.unsettled - self._backlog.messages
        error = self._kept_by or Unconfirmed("the batcher ended while this was on its way")
        self._settle([], [error] * on_its_way)
        self._give_up([], QueueClosed("the batcher ended; this was not sent"))

    async def _is_due(self) -> bool:
        """Wait until a batch is to be sent; False at the end."""
        backlog = self._backlog
        while True:
            due_at = math.inf
            if backlog.messages:
                due_at = self._rule.closes_at(backlog.opened_at)
                if (
                    self._ending
                    or self._flushes
                    or due_at <= now()
                    or self._rule.is_full(backlog.messages, backlog.bytes)
                ):
                    return True
            elif self._ending:
                return False
            await self._roused(due_at)

    async def _roused(self, due_at: float) -> None:
        loop = asyncio.get_running_loop()
        self._wake, self._is_open = loop.create_future(), bool(self._backlog.messages)
        timer = loop.call_later(due_at - now(), self._rouse) if due_at < math.inf else None
        try:
            await self._wake
        finally:
            self._wake = None
            if timer is not None:
                timer.cancel()

    async def _send(self, batch: Sequence[bytes]) -> None:
        """Send until each has an outcome: the first ones in one write, what is left in the next."""
        give_up_at, attempt = self._backlog.opened_at + self._give_up_after_s, 0
        while batch and not self.has_ended:
            outcomes = await self._carry(batch)
            if self.has_ended:  # it was abandoned meanwhile: everybody has been told
                return
            kept = _to_be_repeated(outcomes)
            self._settle(batch, outcomes[: len(outcomes) - kept])
            batch = batch[len(outcomes) - kept :]
            if not kept:
                continue
            error: MpimError = outcomes[-kept]
            if now() >= give_up_at:
                self._give_up(batch, error)
                return
            attempt += 1
            self._kept_by = error
            await asyncio.sleep(self._backoff.delay_s(attempt, random.random()))
            self._kept_by = None

    async def _carry(self, batch: Sequence[bytes]) -> Sequence[Any]:
        """The outcomes of the first ones, whatever the carrier and the codec do; if none was written, of all."""
        cancellations = TaskCancellation()
        try:
            async with asyncio.timeout(self._attempt_timeout_s):
                return await self._carrier.carry(batch)
        except MpimError as error:
            return [error] * len(batch)
        except asyncio.CancelledError as error:
            if cancellations.was_requested:
                raise
            return [_unforeseen(error)] * len(batch)
        except Exception as error:  # a codec or carrier with a bug, or one that hangs: say so to everybody, and go on
            return [_unforeseen(error)] * len(batch)

    def _give_up(self, batch: Sequence[bytes], error: MpimError) -> None:
        given_up = [*batch, *self._backlog.take_all()]
        self._settle(given_up, [error] * len(given_up))
        self._on_room()

    def _settle(self, batch: Sequence[bytes], outcomes: Sequence[Any]) -> None:
        if self._is_reporting:
            for payload, outcome in zip(batch, outcomes, strict=False):
                self._report(payload, outcome)
        self._backlog.settle(outcomes)
        self._note_settled()

    def _report(self, payload: bytes, outcome: Any) -> None:
        name = self._carrier.name
        if isinstance(outcome, int):
            self._reporter.message(Kind.PUBLISHED, payload, name, count=outcome)
        elif isinstance(outcome, str):
            self._reporter.message(Kind.ADDED, payload, name, detail=outcome)
        else:
            self._reporter.message(Kind.FAILED, payload, name, detail=f"{type(outcome).__name__}: {outcome}")


def _to_be_repeated(outcomes: Sequence[Any]) -> int:
    """How many of the last ones were certainly not done, and may be later; none that stands before one that was done."""
    count = 0
    for outcome in reversed(outcomes):
        if not (isinstance(outcome, MpimError) and outcome.definite and outcome.transient):
            break
        count += 1
    return count


def _unforeseen(error: BaseException) -> MpimError:
    unconfirmed = Unconfirmed(f"sending the batch raised {type(error).__name__}: {error}")
    unconfirmed.__cause__ = error
    return unconfirmed


def _bad_rule(rule: BatchRule, error: Exception) -> MpimError:
    refused = InvalidParameter(f"the batch rule {type(rule).__name__} raised {type(error).__name__}: {error}")
    refused.__cause__ = error
    return refused
