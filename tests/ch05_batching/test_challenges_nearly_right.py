"""Chapter 5's challenges once more: solutions that look right until one looks closely."""

import asyncio
import contextlib

from mpim_lab.chapters.ch05_batching.challenges import close_the_batch, lose_nothing
from mpim_lab.chapters.ch05_batching.solutions import OutcomeBatcher
from mpim_lab.errors import MpimError
from tests.ch05_batching.test_challenges import Naive, Timed
from tests.legacy_challenges import assert_each_fails


class ClearsAfterTheSend(Timed):
    """What came while the batch was on its way is cleared with it, unsent."""

    async def flush(self):
        if self.timer is not None and self.timer is not asyncio.current_task():
            self.timer.cancel()
        if self.batch:
            await self.send(self.batch[: self.max_messages])
            self.batch = []


class ClosesTooEarly(Timed):
    """Nobody waits for a minute, it thinks.

    The windows of the other trials it keeps, so that they find nothing.
    """

    def __init__(self, send, max_messages, window_s):
        super().__init__(send, max_messages, 0.3 if window_s >= 60 else window_s)


class OvertakesItself(OutcomeBatcher):
    """Each batch in a task of its own: what is repeated comes behind what was later."""

    def close_batch(self):
        self.timer.cancel()
        batch, self.open = self.open, []
        self.sending = asyncio.create_task(self.send_one(batch))


class RepeatsOnce(OutcomeBatcher):
    """And then gives up, although the line is only down for a while."""

    async def send_one(self, batch):
        for last in (False, True):
            try:
                await self.send([payload for payload, _ in batch])
            except MpimError as error:
                if error.definite and not last:
                    continue
                return [outcome.set_exception(error) for _, outcome in batch]
            return [outcome.set_result(None) for _, outcome in batch]


class TellsOneOnly(OutcomeBatcher):
    """The first message of the batch hears of the lost answer.

    Its neighbours are acknowledged as "accepted".
    """

    async def send_one(self, batch):
        while True:
            try:
                await self.send([payload for payload, _ in batch])
            except MpimError as error:
                if error.definite:
                    await asyncio.sleep(0.01)
                    continue
                batch[0][1].set_exception(error)
                return [outcome.set_result(None) for _, outcome in batch[1:]]
            return [outcome.set_result(None) for _, outcome in batch]


class LeavesTheTimerRunning(Timed):
    """The timer of a batch that was full closes the next one."""

    async def flush(self):
        await Naive.flush(self)


class WaitsHalfAsLong(Timed):
    def __init__(self, send, max_messages, window_s):
        super().__init__(send, max_messages, window_s if window_s >= 60 else window_s / 2)


class WaitsMuchLonger(Timed):
    def __init__(self, send, max_messages, window_s):
        super().__init__(send, max_messages, 5.0 if window_s == 1.0 else window_s)


class TicksForAll(Naive):
    """One ticker for all batches, whenever the first message of one came."""

    def __init__(self, send, max_messages, window_s):
        super().__init__(send, max_messages, window_s)
        self.ticker = asyncio.create_task(self.tick())

    async def tick(self):
        while True:
            await asyncio.sleep(self.window_s)
            with contextlib.suppress(MpimError):
                await self.flush()

    async def close(self):
        self.ticker.cancel()
        await self.flush()


class ClosesInTheBackground(Timed):
    async def close(self):
        self.last = asyncio.create_task(self.flush())


class RepeatsWhatIsRefused(OutcomeBatcher):
    """Whatever certainly sent nothing is sent again, for ever."""

    def may_pass(self, error):
        return error.definite


async def test_a_batch_that_is_closed_too_early_or_cleared_too_late_is_caught():
    """With time to spare on either side: no right solution fails on a slow machine."""
    await assert_each_fails(
        close_the_batch,
        {
            ClearsAfterTheSend: "was duplicated",
            ClosesTooEarly: "had left before the close",
            LeavesTheTimerRunning: "m5 left before its window was over",
            WaitsHalfAsLong: "m5 left before its window was over",
            WaitsMuchLonger: "m5 was lost",
            TicksForAll: "m5 left before its window was over",
            ClosesInTheBackground: "close() returned while m1 was on its way",
        },
    )


async def test_half_a_repeat_and_half_a_truth_are_caught():
    """Every message of the batch is repeated in its place; each sender gets the outcome."""
    await assert_each_fails(
        lose_nothing,
        {
            OvertakesItself: "out of order",
            RepeatsOnce: "was lost",
            TellsOneOnly: "nobody knows",
            RepeatsWhatIsRefused: "no repeat helps",
        },
    )
