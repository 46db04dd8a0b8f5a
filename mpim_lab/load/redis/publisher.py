"""The publishing side of a load: a closed loop or an open one."""

import asyncio
import contextlib
import math
from collections.abc import Sequence
from typing import Any

from mpim_lab.events import EventKind, now
from mpim_lab.load.redis.plan import HEAD, LoadPlan, Publish
from mpim_lab.load.redis.ticker import precise_interval

TICK_S = 0.0005
Life = tuple[int, str, float, int | None]  # sequence number, kind of event, when, count


class ClosedLoop:
    """Each of `tasks` tasks awaits one publish after another: the answers set the pace."""

    _grace_s = 0.0

    def __init__(self, plan: LoadPlan, publish: Publish, batch: int = 1) -> None:
        self.sent = 0
        self.lives: list[Life] = []
        self._plan, self._publish, self._batch = plan, publish, batch
        self._padding = bytes(plan.payload_bytes - HEAD.size)
        self._limit = plan.messages
        self._reported, self._reported_at = 0, now()

    async def run(self) -> None:
        """Publish until the plan's messages or seconds are used up, or `stop` is called."""
        task = self._one_by_one if self._batch == 1 else self._batch_by_batch
        with contextlib.ExitStack() as clock:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._plan.tasks):
                    group.create_task(task())
                await self._start(clock)

    async def _start(self, clock: contextlib.ExitStack) -> None:
        """The plan's seconds begin."""
        end = asyncio.get_running_loop().call_later(self._plan.seconds + self._grace_s, self.stop)
        clock.callback(end.cancel)

    def stop(self) -> None:
        """Publish nothing more; what is on its way is awaited."""
        self._limit = self.sent

    async def _one_by_one(self) -> None:
        publish, padding = self._publish, self._padding
        channel, sample_rate = self._plan.channel, self._plan.sample_rate
        pack, take, due_at = HEAD.pack, self._take, self._due_at
        while True:
            if (sequence := take()) < 0:
                if await self._more():
                    continue
                return
            due = due_at(sequence)
            count = await publish(channel, pack(sequence, due) + padding)
            if not sequence % sample_rate:
                self._note(sequence, due, count)

    async def _batch_by_batch(self) -> None:
        publish, padding = self._publish, self._padding
        channel, sample_rate = self._plan.channel, self._plan.sample_rate
        pack = HEAD.pack
        while True:
            if taken := self._take_some(self._batch):
                dues = self._dues_of(taken)
                counts = await publish(
                    channel, [pack(*head) + padding for head in zip(taken, dues, strict=True)]
                )
                for sequence in range(
                    -(-taken.start // sample_rate) * sample_rate, taken.stop, sample_rate
                ):
                    self._note(
                        sequence, dues[sequence - taken.start], counts[sequence - taken.start]
                    )
            elif not await self._more():
                return

    def interval(self) -> dict[str, Any]:
        """What was sent since the last interval."""
        at, lives = now(), self.lives
        seconds, messages = at - self._reported_at, self.sent - self._reported
        self._reported, self._reported_at, self.lives = self.sent, at, []
        return {"at": at, "seconds": seconds, "messages": messages, "lives": lives}

    def _note(self, sequence: int, due: float, answer: int | str) -> None:
        # An entry's id is no number of receivers.
        count = answer if isinstance(answer, int) else None
        self.lives += (
            (sequence, EventKind.ACCEPTED, due, None),
            (sequence, EventKind.PUBLISHED, now(), count),
        )

    def _take(self) -> int:
        """Give the next sequence number, or -1 if none may be sent now."""
        if self.sent >= self._limit:
            return -1
        self.sent += 1
        return self.sent - 1

    def _take_some(self, most: int) -> range:
        """Give the next sequence numbers, at most so many; none if none may be sent now."""
        first = self.sent
        self.sent = max(first, min(first + most, self._limit))
        return range(first, self.sent)

    def _due_at(self, sequence: int) -> float:
        return now()

    def _dues_of(self, sequences: range) -> Sequence[float]:
        return [now()] * len(sequences)

    async def _more(self) -> bool:
        """Wait for more to send; False at the end."""
        return False


class OpenLoop(ClosedLoop):
    """Messages are due at a fixed rate, whatever the answers do; at most `tasks` are unanswered.

    They come in small bursts, one each half millisecond, as requests reach a busy gateway in the
    turns of its loop. A latency counts from the moment a message was due, not from when it was
    sent: a publisher that is held up would otherwise hide the delay (coordinated omission). What
    could not be sent in the plan's seconds is not sent at all.
    """

    _grace_s = 0.02  # for the last bursts, should they be late

    def __init__(self, plan: LoadPlan, publish: Publish, batch: int = 1) -> None:
        super().__init__(plan, publish, batch)
        self._per_tick = (plan.offered_per_s or 1.0) * TICK_S
        self._last = min(plan.messages, int(plan.seconds / TICK_S * self._per_tick))
        self._limit = 0
        self._idle: list[asyncio.Future[None]] = []

    async def _start(self, clock: contextlib.ExitStack) -> None:
        """The schedule begins once all tasks wait for work.

        To make a thousand of them takes longer than many a latency.
        """
        while len(self._idle) < self._plan.tasks and self.sent < self._last:
            await asyncio.sleep(0)
        self._started_at = now() + 2 * TICK_S
        clock.enter_context(precise_interval(self._tick, self._started_at, TICK_S))
        await super()._start(clock)

    def stop(self) -> None:
        """Publish nothing more; what is on its way is awaited."""
        self._last = self._limit = self.sent
        self._wake(len(self._idle))

    def _due_at(self, sequence: int) -> float:
        return self._started_at + TICK_S * int(sequence / self._per_tick)

    def _dues_of(self, sequences: range) -> Sequence[float]:
        return [self._due_at(sequence) for sequence in sequences]

    def _tick(self) -> None:
        ticks = int((now() - self._started_at) / TICK_S) + 1
        due = min(math.ceil(ticks * self._per_tick), self._last)
        # Only those who are idle now send, so that a late tick gives one large burst. Were a sender
        # to go on as soon as it has its answer, a publisher once late would send dribs and drabs,
        # which cost it more, and stay late.
        self._limit = min(due, self.sent + len(self._idle) * self._batch)
        self._wake(
            math.ceil((self._limit - self.sent) / self._batch)
            if self.sent < self._last
            else len(self._idle)
        )

    def _wake(self, senders: int) -> None:
        for _ in range(min(senders, len(self._idle))):
            if not (idle := self._idle.pop()).done():
                idle.set_result(None)

    async def _more(self) -> bool:
        if self.sent >= self._last:
            return False
        idle: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._idle.append(idle)
        await idle
        return True
