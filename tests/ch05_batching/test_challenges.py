"""Chapter 5's challenges: the reference solutions pass, every known-bad one is caught."""

import asyncio
import contextlib

from mpim_lab.chapters.ch05_batching.challenges import close_the_batch, lose_nothing
from mpim_lab.chapters.ch05_batching.solutions import OutcomeBatcher
from mpim_lab.errors import MpimError
from tests.legacy_challenges import (
    assert_all_pass,
    assert_each_fails,
    assert_hints_come_one_at_a_time,
)
from tests.support import REPEATS


class Naive:
    """The naive twin: the window is looked at when the next message comes."""

    def __init__(self, send, max_messages, window_s):
        self.send, self.max_messages, self.window_s = send, max_messages, window_s
        self.batch, self.flushed_at = [], asyncio.get_running_loop().time()

    async def add(self, payload):
        self.batch.append(payload)
        late = asyncio.get_running_loop().time() - self.flushed_at > 60 * self.window_s
        if len(self.batch) >= self.max_messages or late:
            await self.flush()

    async def flush(self):
        batch, self.batch = self.batch, []
        if batch:
            await self.send(batch)

    async def close(self):
        pass


class Timed(Naive):
    """With a timer and a close, and still the batch is taken out before it is sent."""

    timer = None

    async def add(self, payload):
        if not self.batch:
            self.timer = asyncio.create_task(self.later())
        await super().add(payload)

    async def later(self):
        await asyncio.sleep(self.window_s)
        with contextlib.suppress(
            MpimError
        ):  # nobody hears of it; an error nobody fetches would fail some later test
            await self.flush()

    async def flush(self):
        if self.timer is not None and self.timer is not asyncio.current_task():
            self.timer.cancel()
        await super().flush()

    async def close(self):
        await self.flush()


class HasNoCount(Timed):
    def __init__(self, send, max_messages, window_s):
        super().__init__(send, 10**9, window_s)


class StartsOneTimerOnly(Timed):
    async def add(self, payload):
        if self.timer is None:
            self.timer = asyncio.create_task(self.later())
        await Naive.add(self, payload)


class WaitsForSilence(Timed):
    """Each message begins the window anew."""

    async def add(self, payload):
        if self.timer is not None:
            self.timer.cancel()
        self.timer = asyncio.create_task(self.later())
        await Naive.add(self, payload)


class ForgetsToClear(Timed):
    async def flush(self):
        if self.batch:
            await self.send(list(self.batch[-self.max_messages :]))
        self.batch = self.batch[-1:]


class ClosesWithoutFlush(Timed):
    async def close(self):
        self.timer.cancel()


class PutsItBackAtTheEnd(OutcomeBatcher):
    """A batch that failed goes behind those that came later."""

    async def send_all(self):
        while self.closed:
            batch = self.closed.pop(0)
            try:
                await self.send([payload for payload, _ in batch])
            except MpimError as error:
                if not error.definite:
                    [outcome.set_exception(error) for _, outcome in batch]
                    continue
                await asyncio.sleep(0.02)
                self.closed.append(batch)
                if len(self.closed) == 1:
                    await asyncio.sleep(0.3)
                continue
            [outcome.set_result(None) for _, outcome in batch]


class RepeatsWhateverFailed(OutcomeBatcher):
    """Also what may have been sent."""

    def may_pass(self, error):
        return True


class GivesUpAtOnce(OutcomeBatcher):
    def may_pass(self, error):
        return False


class SaysYesToEverything(OutcomeBatcher):
    """The callers go on before their batch is sent."""

    async def send_one(self, batch):
        [outcome.set_result(None) for _, outcome in batch if not outcome.done()]
        while True:
            try:
                return await self.send([payload for payload, _ in batch])
            except MpimError as error:
                if not error.definite:
                    return None
                await asyncio.sleep(0.01)


class NeverTells(OutcomeBatcher):
    async def send_one(self, batch):
        await self.send([payload for payload, _ in batch])


async def test_the_reference_solutions_pass_on_every_run():
    """Three times each."""
    await assert_all_pass(
        *(
            each().check(OutcomeBatcher)
            for each in (close_the_batch, lose_nothing)
            for _ in range(REPEATS)
        )
    )


async def test_a_batch_that_is_not_closed_in_time_is_caught():
    """Who waits, and for what, is in the complaint."""
    await assert_each_fails(
        close_the_batch,
        {
            Naive: "m13 was lost",
            HasNoCount: "a batch of 12 was sent",
            StartsOneTimerOnly: "m13 was lost",
            WaitsForSilence: "began the window anew",
            ForgetsToClear: "was duplicated",
            ClosesWithoutFlush: "was lost",
        },
    )


async def test_a_flush_that_loses_or_lies_is_caught():
    """Lost, repeated, out of order, or acknowledged what is not so."""
    await assert_each_fails(
        lose_nothing,
        {
            Naive: "m13 was lost",
            Timed: "was lost",
            PutsItBackAtTheEnd: "out of order",
            RepeatsWhateverFailed: "was duplicated",
            GivesUpAtOnce: "was lost",
            SaysYesToEverything: "nobody knows",
            NeverTells: "did not return",
        },
    )


def test_hints_come_one_at_a_time():
    """The last one stays."""
    assert_hints_come_one_at_a_time(close_the_batch(), lose_nothing())
