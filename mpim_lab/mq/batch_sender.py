"""BatchSender: takes batches from a backlog when they are due, and sees each of them through to its outcomes."""

import asyncio
import math
import random
from collections.abc import Callable, Sequence
from typing import Any

from mpim_lab.errors import MpimError, NotConnected, QueueClosed, QueueFull, Unconfirmed
from mpim_lab.events import Kind, now
from mpim_lab.mq.backlog import Backlog
from mpim_lab.mq.backoff import Backoff
from mpim_lab.mq.batch_carriers import Carrier
from mpim_lab.mq.batch_rules import BatchRule
from mpim_lab.mq.receipt import Receipt


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
        on_room: Callable[[], None],
    ) -> None:
        self.batches = 0  # that had their outcomes
        self._carrier, self._rule, self._backlog, self._backoff = carrier, rule, backlog, backoff
        self._reporter, self._is_reporting = carrier.reporter, carrier.reporter.is_on
        self._give_up_after_s, self._on_room = give_up_after_s, on_room
        self._hurried: Receipt | None = None  # until this has its outcome, no window counts
        self._wake: asyncio.Future[None] | None = None
        self._is_open = False  # a batch was begun before this began to wait
        self._ending = False

    def more(self) -> None:
        """Something was put into the backlog."""
        if self._wake is None:
            return
        if not self._is_open or self._rule.is_full(self._backlog.messages, self._backlog.bytes):
            self._is_open = True
            self._rouse()

    def hurry(self, until: Receipt) -> None:
        """Send everything up to this call without waiting for company."""
        self._hurried = until
        self._rouse()

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
            while await self._is_due():
                batch = self._backlog.take(self._rule)
                self._on_room()
                if self._is_reporting:
                    for payload in batch:
                        self._reporter.message(Kind.BATCHED, payload, self._carrier.name, count=len(batch))
                await self._send(batch)
                self.batches += 1
        finally:  # nobody may wait for ever, whatever ended this
            on_its_way = self._backlog.unsettled - self._backlog.messages
            self._backlog.settle([Unconfirmed("the batcher ended while this was on its way")] * on_its_way)
            self._give_up([], QueueClosed("the batcher ended; this was not sent"))

    async def _is_due(self) -> bool:
        """Wait until a batch is to be sent; False at the end."""
        backlog = self._backlog
        while True:
            due_at = math.inf
            if backlog.messages:
                due_at = self._rule.closes_at(backlog.opened_at)
                hurry = self._ending or (self._hurried is not None and not self._hurried.done())
                if hurry or due_at <= now() or self._rule.is_full(backlog.messages, backlog.bytes):
                    return True
            elif self._ending:
                return False
            await self._roused(due_at)

    async def _roused(self, due_at: float) -> None:
        loop = asyncio.get_running_loop()
        self._wake, self._is_open = loop.create_future(), bool(self._backlog.messages)
        timer = None if due_at == math.inf else loop.call_later(due_at - now(), self._rouse)
        try:
            await self._wake
        finally:
            self._wake = None
            if timer is not None:
                timer.cancel()

    async def _send(self, batch: Sequence[bytes]) -> None:
        """Send until each has an outcome: the first ones in one write, what is left in the next."""
        give_up_at, attempt = self._backlog.opened_at + self._give_up_after_s, 0
        while batch:
            try:
                outcomes = await self._carrier.carry(batch)
            except (NotConnected, QueueFull) as error:  # not written: keep it, in its place
                if now() >= give_up_at:
                    return self._give_up(batch, error)
                attempt += 1
                await asyncio.sleep(self._backoff.delay_s(attempt, random.random()))
                continue
            except MpimError as error:
                outcomes = [error] * len(batch)
            except Exception as error:  # a codec or carrier with a bug: say so to everybody, and go on
                outcomes = [_unforeseen(error)] * len(batch)
            self._settle(batch, outcomes)
            batch = batch[len(outcomes) :]

    def _give_up(self, batch: Sequence[bytes], error: MpimError) -> None:
        given_up = [*batch, *self._backlog.take_all()]
        self._settle(given_up, [error] * len(given_up))
        self._on_room()

    def _settle(self, batch: Sequence[bytes], outcomes: Sequence[Any]) -> None:
        if self._is_reporting:
            for payload, outcome in zip(batch, outcomes, strict=False):
                self._report(payload, outcome)
        self._backlog.settle(outcomes)

    def _report(self, payload: bytes, outcome: Any) -> None:
        name = self._carrier.name
        if isinstance(outcome, int):
            self._reporter.message(Kind.PUBLISHED, payload, name, count=outcome)
        elif isinstance(outcome, str):
            self._reporter.message(Kind.ADDED, payload, name, detail=outcome)
        else:
            self._reporter.message(Kind.FAILED, payload, name, detail=f"{type(outcome).__name__}: {outcome}")


def _unforeseen(error: Exception) -> MpimError:
    unconfirmed = Unconfirmed(f"sending the batch raised {type(error).__name__}: {error}")
    unconfirmed.__cause__ = error
    return unconfirmed
