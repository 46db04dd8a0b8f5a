"""Chapter 5's challenges: right solutions pass, wrong ones break the guarantee that they break."""

import asyncio
import contextlib
import time

import pytest

from mpim_lab.chapters.ch05_batching.challenges import close_the_batch, lose_nothing
from mpim_lab.chapters.ch05_batching.solutions import ALTERNATIVES, OutcomeBatcher, settle
from mpim_lab.errors import MpimError, NotConnected, QueueFull
from tests.challenges import (
    assert_fails,
    assert_hints_come_one_at_a_time,
    assert_passes,
    first_always,
    thorough,
)


class Naive:
    """The window is looked at when the next message comes."""

    def __init__(self, send, max_messages, window_s):
        self.send, self.max_messages, self.window_s = send, max_messages, window_s
        self.batch, self.flushed_at = [], asyncio.get_running_loop().time()

    async def add(self, payload):
        self.batch.append(payload)
        late = asyncio.get_running_loop().time() - self.flushed_at > self.window_s
        if len(self.batch) >= self.max_messages or late:
            await self.flush()

    async def flush(self):
        batch, self.batch = self.batch, []
        if batch:
            await self.send(batch)

    async def close(self):
        await self.flush()


class Timed(Naive):
    """With a timer, and still nobody waits for what is on its way."""

    timer = None

    async def add(self, payload):
        if not self.batch:
            self.timer = asyncio.create_task(self.later())
        self.batch.append(payload)
        if len(self.batch) >= self.max_messages:
            await self.flush()

    async def later(self):
        await asyncio.sleep(self.window_s)
        self.timer = None
        with contextlib.suppress(MpimError):
            await self.flush()

    async def flush(self):
        if self.timer is not None:
            self.timer.cancel()
        await super().flush()


class Tracked(Timed):
    """Right: it sends in tasks that `close` waits for. What wrong solutions have in common."""

    def __init__(self, send, max_messages, window_s):
        super().__init__(send, max_messages, window_s)
        self.tasks = []

    async def flush(self):
        if self.timer is not None:
            self.timer.cancel()
        batch, self.batch = self.batch, []
        if batch:
            self.tasks.append(asyncio.create_task(self.send(batch)))

    async def close(self):
        await self.flush()
        await asyncio.gather(*self.tasks)


class HasNoCount(Tracked):
    def __init__(self, send, max_messages, window_s):
        super().__init__(send, 10**9, window_s)


class CountsOneTooMany(Tracked):
    def __init__(self, send, max_messages, window_s):
        super().__init__(send, max_messages + 1, window_s)


class CountsOneTooFew(Tracked):
    def __init__(self, send, max_messages, window_s):
        super().__init__(send, max(1, max_messages - 1), window_s)


class StartsOneTimerOnly(Tracked):
    async def add(self, payload):
        if self.timer is None:
            self.timer = asyncio.create_task(self.later())
        self.batch.append(payload)
        if len(self.batch) >= self.max_messages:
            await self.flush()

    async def later(self):
        await asyncio.sleep(self.window_s)
        await self.flush()


class WaitsForSilence(Tracked):
    """Each message begins the window anew."""

    async def add(self, payload):
        if self.timer is not None:
            self.timer.cancel()
        self.timer = asyncio.create_task(self.later())
        self.batch.append(payload)
        if len(self.batch) >= self.max_messages:
            await self.flush()


class ForgetsToClear(Tracked):
    async def flush(self):
        batch = self.batch[-self.max_messages :]
        await super().flush()
        self.batch = batch[-1:]


class ClosesWithoutFlush(Tracked):
    async def close(self):
        if self.timer is not None:
            self.timer.cancel()
        await asyncio.gather(*self.tasks)


class ClearsAfterTheSend(Timed):
    """What came while the batch was on its way is cleared with it, unsent."""

    async def flush(self):
        if self.timer is not None:
            self.timer.cancel()
        if self.batch:
            await self.send(self.batch[: self.max_messages])
            self.batch = []


class ClosesTooEarly(Tracked):
    """Nobody waits for a minute, it thinks."""

    def __init__(self, send, max_messages, window_s):
        super().__init__(send, max_messages, min(window_s, 5.0))


class LeavesTheTimerRunning(Tracked):
    """The timer of a batch that was full closes the next one."""

    async def flush(self):
        self.timer = None
        await super().flush()


class WaitsHalfAsLong(Tracked):
    def __init__(self, send, max_messages, window_s):
        super().__init__(send, max_messages, window_s / 2)


class WaitsMuchLonger(Tracked):
    def __init__(self, send, max_messages, window_s):
        super().__init__(send, max_messages, 2 * window_s)


class TicksForAll(Tracked):
    """One ticker for all batches, whenever the first message of one came."""

    def __init__(self, send, max_messages, window_s):
        super().__init__(send, max_messages, window_s)
        self.ticker = asyncio.create_task(self.tick())

    async def add(self, payload):
        self.batch.append(payload)
        if len(self.batch) >= self.max_messages:
            await self.flush()

    async def tick(self):
        while True:
            await asyncio.sleep(self.window_s)
            await self.flush()

    async def close(self):
        self.ticker.cancel()
        await super().close()


class ClosesInTheBackground(Tracked):
    async def close(self):
        await self.flush()


class CancelsSend(Tracked):
    """A full batch cancels the timer's task, which may be in the middle of its own send."""

    async def later(self):
        await asyncio.sleep(self.window_s)
        batch, self.batch = self.batch, []
        await self.send(batch)


class LooksTenTimes(Tracked):
    """`close` cancels who looks, also in the middle of its send."""

    async def add(self, payload):
        if self.timer is None:
            self.timer = asyncio.create_task(self.look())
        if not self.batch:
            self.begun_at = asyncio.get_running_loop().time()
        self.batch.append(payload)
        if len(self.batch) >= self.max_messages:
            batch, self.batch = self.batch, []
            self.tasks.append(asyncio.create_task(self.send(batch)))

    async def look(self):
        while True:
            await asyncio.sleep(self.window_s / 10)
            if self.batch and asyncio.get_running_loop().time() >= self.begun_at + self.window_s:
                batch, self.batch = self.batch, []
                await self.send(batch)


class SendsTheLastFirst(Tracked):
    async def flush(self):
        self.batch.reverse()
        await super().flush()


class KnowsEachPayloadOnce(Tracked):
    """A set of payloads: of two that are equal one is left."""

    async def add(self, payload):
        if payload not in self.batch:
            await super().add(payload)


class LeavesOutEmptyOnes(Tracked):
    async def add(self, payload):
        if payload:
            await super().add(payload)


class SharesItsListInTheClass(Tracked):
    shared: list[bytes] = []

    def __init__(self, send, max_messages, window_s):
        super().__init__(send, max_messages, window_s)
        self.batch = self.shared

    async def flush(self):
        if self.timer is not None:
            self.timer.cancel()
        if self.batch:
            batch = list(self.batch)
            self.batch.clear()
            self.tasks.append(asyncio.create_task(self.send(batch)))


class SendsOneByOne(Tracked):
    """It waits as long as it should, and then each message goes alone."""

    async def flush(self):
        batch, self.batch = self.batch, []
        for payload in batch:
            self.batch = [payload]
            await super().flush()


class SendsAnEmptyBatch(Tracked):
    async def close(self):
        await self.flush()
        self.tasks.append(asyncio.create_task(self.send([])))
        await asyncio.gather(*self.tasks)


class ClearsTheListThatItGave(Tracked):
    """The task has not begun when the list is cleared."""

    async def flush(self):
        if self.timer is not None:
            self.timer.cancel()
        if self.batch:
            self.tasks.append(asyncio.create_task(self.send(self.batch)))
            self.batch.clear()


class IsBusy(Tracked):
    """While a batch is on its way another one is not closed, and nobody comes back to it."""

    sending = False

    async def flush(self):
        if not self.sending and self.batch:
            self.sending = True
            batch, self.batch = self.batch[: self.max_messages], self.batch[self.max_messages :]
            await self.send(batch)
            self.sending = False

    async def later(self):
        await asyncio.sleep(self.window_s)
        await self.flush()


class ClosesWithTheWindow(Tracked):
    """`close` waits until the timer has sent the rest."""

    async def close(self):
        if self.timer is not None:
            await asyncio.wait([self.timer])
        await asyncio.gather(*self.tasks)


class WaitsForATimerThatNeverWas(Tracked):
    async def close(self):
        while self.timer is None:
            await asyncio.sleep(1)
        await super().close()


class ForgetsAddsThatWait(OutcomeBatcher):
    """What `close` sends gets no outcome."""

    async def close(self):
        if self.open:
            await self.send([payload for payload, _ in self.open])
        if self.sending is not None:
            await self.sending


class PutsItBackAtTheEnd(OutcomeBatcher):
    """A batch that failed goes behind those that came later."""

    async def send_all(self):
        while self.closed:
            batch = self.closed.pop(0)
            try:
                await self.send([payload for payload, _ in batch])
            except (NotConnected, QueueFull):
                await asyncio.sleep(0.02)
                self.closed.append(batch)
            except MpimError as error:
                settle(batch, error)
            else:
                settle(batch)


class RepeatsWhateverFailed(OutcomeBatcher):
    """Also what may have been sent."""

    def may_pass(self, error):
        return True


class RepeatsWhatIsDefinite(OutcomeBatcher):
    """Whatever certainly sent nothing is sent again, for ever."""

    def may_pass(self, error):
        return error.definite


class RepeatsWhatIsTransient(OutcomeBatcher):
    """A lost connection passes, but what was lost with it may have been sent."""

    def may_pass(self, error):
        return error.transient


class KnowsNotConnectedOnly(OutcomeBatcher):
    def may_pass(self, error):
        return isinstance(error, NotConnected)


class KnowsQueueFullOnly(OutcomeBatcher):
    def may_pass(self, error):
        return isinstance(error, QueueFull)


class GivesUpAtOnce(OutcomeBatcher):
    def may_pass(self, error):
        return False


class GivesUp(OutcomeBatcher):
    """After ten tries, and says that it was sent."""

    async def send_one(self, batch):
        for _ in range(10):
            try:
                await self.send([payload for payload, _ in batch])
            except (NotConnected, QueueFull):
                await asyncio.sleep(0.1)
            except MpimError as error:
                return settle(batch, error)
            else:
                break
        settle(batch)


class RepeatsOnce(OutcomeBatcher):
    """And then raises, although the line is only down for a while."""

    async def send_one(self, batch):
        for last in (False, True):
            try:
                await self.send([payload for payload, _ in batch])
            except MpimError as error:
                if not self.may_pass(error) or last:
                    return settle(batch, error)
            else:
                return settle(batch)


class EndsWithTheClose(OutcomeBatcher):
    """What cannot be sent at that moment is lost."""

    closing = False

    def may_pass(self, error):
        return super().may_pass(error) and not self.closing

    async def close(self):
        self.closing = True
        await super().close()


class ClosesForFiveSeconds(OutcomeBatcher):
    async def close(self):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5):
                await super().close()


class SaysYesToEverything(OutcomeBatcher):
    """The callers go on before their batch is sent."""

    async def send_one(self, batch):
        settle(batch)
        await super().send_one(batch)


class NeverTells(OutcomeBatcher):
    async def send_one(self, batch):
        await super().send_one([(payload, asyncio.Future()) for payload, _ in batch])


class TellsOneOnly(OutcomeBatcher):
    """The first message of the batch gets the error, its neighbours hear that they were sent."""

    async def send_one(self, batch):
        while True:
            try:
                await self.send([payload for payload, _ in batch])
            except MpimError as error:
                if not self.may_pass(error):
                    settle(batch[:1], error)
                    return settle(batch)
                await asyncio.sleep(0.01)
            else:
                return settle(batch)


class TellsTheOpenBatch(OutcomeBatcher):
    """Those that wait get the error of a batch that is not theirs."""

    async def send_one(self, batch):
        try:
            await self.send([payload for payload, _ in batch])
        except MpimError as error:
            if not self.may_pass(error):
                return settle(batch + self.open + [m for each in self.closed for m in each], error)
            await asyncio.sleep(0.01)
            return await self.send_one(batch)
        settle(batch)


class KeepsTheErrorForItself(OutcomeBatcher):
    async def send_one(self, batch):
        with contextlib.suppress(MpimError):
            while True:
                try:
                    await self.send([payload for payload, _ in batch])
                    break
                except (NotConnected, QueueFull):
                    await asyncio.sleep(0.01)
        settle(batch)


class RaisesAnotherError(OutcomeBatcher):
    async def add(self, payload):
        try:
            await super().add(payload)
        except MpimError as error:
            raise RuntimeError("it failed") from error


class StopsAtAFinalError(OutcomeBatcher):
    """Its sending task ends with the error; the batches behind it stay."""

    async def send_all(self):
        try:
            await super().send_all()
        except MpimError:
            self.closed.pop(0)

    async def send_one(self, batch):
        while True:
            try:
                await self.send([payload for payload, _ in batch])
            except (NotConnected, QueueFull):
                await asyncio.sleep(0.01)
            except MpimError as error:
                settle(batch, error)
                raise
            else:
                return settle(batch)


class OvertakesItself(OutcomeBatcher):
    """Each batch in a task of its own: what is repeated comes behind what was later."""

    def close_batch(self):
        self.timer.cancel()
        batch, self.open = self.open, []
        self.sending = asyncio.create_task(self.send_one(batch))


class RepeatsWithoutAPause(OutcomeBatcher):
    async def send_one(self, batch):
        while True:
            try:
                await self.send([payload for payload, _ in batch])
            except MpimError as error:
                if not self.may_pass(error):
                    return settle(batch, error)
                await asyncio.sleep(0)
            else:
                return settle(batch)


class WaitsLongerAndLonger(OutcomeBatcher):
    """A backoff without a limit: after an outage of a minute it sleeps for another one."""

    async def send_one(self, batch):
        pause_s = 0.05
        while True:
            try:
                await self.send([payload for payload, _ in batch])
            except MpimError as error:
                if not self.may_pass(error):
                    return settle(batch, error)
                await asyncio.sleep(pause_s)
                pause_s *= 2
            else:
                return settle(batch)


class RepeatsTheFirstOnly(OutcomeBatcher):
    async def send_one(self, batch):
        payloads = [payload for payload, _ in batch]
        while True:
            try:
                await self.send(payloads)
            except MpimError as error:
                if not self.may_pass(error):
                    return settle(batch, error)
                payloads = payloads[:1]
                await asyncio.sleep(0.01)
            else:
                return settle(batch)


class MeetsACancelledFuture(OutcomeBatcher):
    """The future of a caller that was cancelled is done: InvalidStateError ends the sending."""

    async def send_one(self, batch):
        while True:
            try:
                await self.send([payload for payload, _ in batch])
            except MpimError as error:
                if not self.may_pass(error):
                    for _, outcome in batch:
                        outcome.set_exception(error)
                    return
                await asyncio.sleep(0.01)
            else:
                for _, outcome in batch:
                    outcome.set_result(None)
                return


class SwallowsCancellation(OutcomeBatcher):
    async def add(self, payload):
        with contextlib.suppress(asyncio.CancelledError):
            await super().add(payload)


class SendsInTheCallersTask(OutcomeBatcher):
    """Whoever cancels the caller cancels the batch of all."""

    async def add(self, payload):
        outcome = asyncio.get_running_loop().create_future()
        self.open.append((payload, outcome))
        if len(self.open) == 1:
            self.timer = asyncio.get_running_loop().call_later(self.window_s, self.close_batch)
        if len(self.open) == self.max_messages:
            self.close_batch()
            await self.sending
        await outcome


class CancelsTheWholeBatch(OutcomeBatcher):
    async def add(self, payload):
        try:
            await super().add(payload)
        except asyncio.CancelledError:
            self.open.clear()
            raise


class ClosesWithTheError(OutcomeBatcher):
    """`close` raises what the last batch got."""

    last = None

    async def send_one(self, batch):
        await super().send_one(batch)
        if not batch[-1][1].cancelled():
            self.last = batch[-1][1].exception()

    async def close(self):
        await super().close()
        if self.last is not None:
            raise self.last


WRONG_CLOSE = {
    CancelsSend: 1,
    SendsTheLastFirst: 2,
    HasNoCount: 3,
    WaitsForSilence: 4,
    ClosesInTheBackground: 5,
    Naive: 4,
    Timed: (1, 5),
    CountsOneTooMany: 3,
    CountsOneTooFew: (3, 4),
    StartsOneTimerOnly: (1, 4),
    ForgetsToClear: (1, 3),
    ClosesWithoutFlush: (1, 5),
    ClearsAfterTheSend: 1,
    ClosesTooEarly: 4,
    LeavesTheTimerRunning: 4,
    WaitsHalfAsLong: 4,
    WaitsMuchLonger: 4,
    TicksForAll: 4,
    KnowsEachPayloadOnce: (1, 2, 3),
    LooksTenTimes: (1, 5),
    LeavesOutEmptyOnes: (1, 3),
    SharesItsListInTheClass: 1,
    SendsOneByOne: (3, 4),
    SendsAnEmptyBatch: 3,
    ClearsTheListThatItGave: (1, 3),
    IsBusy: (1, 3, 4, 5),
    ClosesWithTheWindow: (4, 5),
    WaitsForATimerThatNeverWas: 5,
    ForgetsAddsThatWait: (1, 5),
}
WRONG_FLUSH = {
    GivesUp: (1, 4),
    PutsItBackAtTheEnd: 2,
    RepeatsWhateverFailed: 3,
    SaysYesToEverything: 4,
    MeetsACancelledFuture: 5,
    WaitsHalfAsLong: (6, 4),
    ClosesForFiveSeconds: (1, 7),
    Naive: (1, 4, 5, 6, 7),
    Timed: (1, 4, 5, 6, 7),
    RepeatsWhatIsDefinite: 3,
    RepeatsWhatIsTransient: 3,
    KnowsNotConnectedOnly: (1, 4),
    KnowsQueueFullOnly: (1, 4),
    GivesUpAtOnce: (1, 4),
    RepeatsOnce: (1, 4),
    EndsWithTheClose: (1, 4),
    NeverTells: 4,
    TellsOneOnly: 4,
    TellsTheOpenBatch: (1, 3, 4),
    KeepsTheErrorForItself: 4,
    RaisesAnotherError: 4,
    StopsAtAFinalError: (1, 3, 4),
    OvertakesItself: 2,
    RepeatsWithoutAPause: 2,
    WaitsLongerAndLonger: 2,
    RepeatsTheFirstOnly: (1, 2, 6),
    SwallowsCancellation: 5,
    SendsInTheCallersTask: 5,
    CancelsTheWholeBatch: (1, 5, 6),
    ClosesWithTheError: 7,
    ForgetsAddsThatWait: (1, 2, 4, 7),
}


@pytest.mark.parametrize("challenge", [close_the_batch, lose_nothing])
async def test_the_reference_solution_passes(challenge):
    """The same class for both."""
    await assert_passes(challenge, OutcomeBatcher)


@thorough
@pytest.mark.parametrize("challenge", [close_the_batch, lose_nothing])
@pytest.mark.parametrize("good", ALTERNATIVES["lose_nothing"])
async def test_right_solutions_in_another_style_pass(challenge, good):
    """How they do it is nobody's business."""
    await assert_passes(challenge, good)


class QueueWorker:
    """Right: a task at a queue; the window of what came during a `send` begins after it."""

    def __init__(self, send, max_messages, window_s):
        self.send, self.max_messages, self.window_s = send, max_messages, window_s
        self.queue = asyncio.Queue()
        self.worker = asyncio.create_task(self.work())

    async def add(self, payload):
        await self.queue.put(payload)

    async def work(self):
        is_open = True
        while is_open:
            batch, end_s = [], None
            while len(batch) < self.max_messages:
                timeout_s = None if end_s is None else max(0.0, end_s - time.monotonic())
                try:
                    payload = await asyncio.wait_for(self.queue.get(), timeout_s)
                except TimeoutError:
                    break
                if payload is None:
                    is_open = False
                    break
                batch.append(payload)
                end_s = end_s or time.monotonic() + self.window_s
            if batch:
                await self.send(batch)

    async def close(self):
        await self.queue.put(None)
        await self.worker


class HoldsALock(Tracked):
    """Right: `add` waits while a batch is on its way, and the callers wait in their order."""

    def __init__(self, send, max_messages, window_s):
        super().__init__(send, max_messages, window_s)
        self.lock = asyncio.Lock()

    async def add(self, payload):
        async with self.lock:
            if not self.batch:
                self.timer = asyncio.create_task(self.later())
            self.batch.append(payload)
            if len(self.batch) >= self.max_messages:
                self.timer.cancel()
                await self.send_all()

    async def later(self):
        await asyncio.sleep(self.window_s)
        self.timer = None
        async with self.lock:
            await self.send_all()

    async def send_all(self):
        batch, self.batch = self.batch, []
        if batch:
            await self.send(batch)

    async def close(self):
        async with self.lock:
            await self.send_all()


@thorough
@pytest.mark.parametrize("good", [Tracked, QueueWorker, HoldsALock])
async def test_a_batcher_whose_adds_return_at_once_passes(good):
    """`close_the_batch` leaves that open, and calls of `send` may overlap."""
    await assert_passes(close_the_batch, good)


@pytest.mark.parametrize(("bad", "guarantee"), first_always(WRONG_CLOSE, 5))
async def test_a_batch_that_is_not_closed_in_time_is_caught(bad, guarantee):
    """Every time, with the guarantee that it breaks."""
    await assert_fails(close_the_batch, bad, guarantee)


@pytest.mark.parametrize(("bad", "guarantee"), first_always(WRONG_FLUSH, 7))
async def test_a_flush_that_loses_or_lies_is_caught(bad, guarantee):
    """Lost, repeated, out of order, or acknowledged what is not so."""
    await assert_fails(lose_nothing, bad, guarantee)


async def test_a_failure_shows_where_the_class_raised():
    """Also if it raised in a task of its own, where nobody hears of it."""
    result = await lose_nothing().check(MeetsACancelledFuture)
    assert "outcome.set_result(None)" in repr(result)
    again = await lose_nothing().replay(MeetsACancelledFuture, result.failure.trial)
    assert again == result


def test_hints_come_one_at_a_time():
    """The last one stays."""
    assert_hints_come_one_at_a_time(close_the_batch(), lose_nothing())
