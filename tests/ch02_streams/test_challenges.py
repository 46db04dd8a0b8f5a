"""Chapter 2's challenges: right solutions pass, wrong ones break the guarantee that they break."""

import asyncio
import contextlib

import pytest

from mpim_lab.chapters.ch02_streams.challenges import lose_nothing, survive_the_poison
from mpim_lab.chapters.ch02_streams.naive import (
    AckFirstWorker,
    EndlessRetryWorker,
    NoAckWorker,
    NoClaimWorker,
)
from mpim_lab.chapters.ch02_streams.solutions import (
    ALTERNATIVES,
    ClaimingWorker,
    CountingLoop,
    DeadLetteringWorker,
    HandMadeLoop,
)
from mpim_lab.mq.streams.consumer import Consumer
from mpim_lab.mq.streams.entries import Delivery
from mpim_lab.mq.streams.worker import Worker
from tests.challenges import (
    assert_fails,
    assert_hints_come_one_at_a_time,
    assert_passes,
    first_always,
    thorough,
)

# Right, in other styles


class ClaimsByHand(ClaimingWorker):
    """With the group's own `claim`, as the hint has it."""

    async def run(self):
        async with Consumer(
            self.group, self.name, batch_size=1, claim_idle_ms=None
        ) as self.consumer:
            while not self.stopping:
                for delivery in await self.group.claim(
                    self.name, idle_ms=60
                ) or await self.consumer.fetch(50):
                    await self.process(delivery)


class ClaimsAfterHalfASecond(HandMadeLoop):
    idle_ms = 500


class ClaimsOnceASecond(ClaimingWorker):
    """A second task claims, and the work is done by one at a time."""

    async def run(self):
        self.lock = asyncio.Lock()
        claiming = asyncio.create_task(self.claim_for_ever())
        try:
            async with Consumer(
                self.group, self.name, batch_size=1, claim_idle_ms=None
            ) as self.consumer:
                while not self.stopping:
                    for delivery in await self.consumer.fetch():
                        async with self.lock:
                            await self.process(delivery)
        finally:
            claiming.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await claiming

    async def claim_for_ever(self):
        while True:
            for delivery in await self.group.claim(self.name, idle_ms=100):
                async with self.lock:
                    await self.handler(delivery.entry)
                    await self.group.ack(delivery.raw_id)
            await asyncio.sleep(1)


class BuriesAtTheThirdDelivery(CountingLoop):
    async def process(self, delivery):
        try:
            await self.handler(delivery.entry)
        except Exception:
            if delivery.deliveries >= 3:
                await self.group.dead_letter(delivery, reason="third delivery")
        else:
            await self.group.ack(delivery.raw_id)


class TriesTwentyTimes(ClaimingWorker):
    async def process(self, delivery):
        for _ in range(20):
            try:
                await self.handler(delivery.entry)
                break
            except Exception:
                await asyncio.sleep(0.01)
        else:
            await self.group.dead_letter(delivery, reason="tried 20 times")
            return self.consumer.discard(delivery)
        await self.consumer.ack(delivery)


class BuriesAtOnce(ClaimingWorker):
    async def process(self, delivery):
        try:
            await self.handler(delivery.entry)
        except Exception as error:
            await self.group.dead_letter(delivery, reason="failed", error=repr(error))
            return self.consumer.discard(delivery)
        await self.consumer.ack(delivery)


class DefaultWorker(Worker):
    """The package's own, with its own default of tries and pauses."""

    def __init__(self, group, name, handler):
        super().__init__(group, name, handler, claim_idle_ms=60)


# Wrong for `lose_nothing`


class AcknowledgesFirst(ClaimingWorker):
    async def process(self, delivery):
        await self.consumer.ack(delivery)
        await self.handler(delivery.entry)


class AcknowledgesInFinally(ClaimingWorker):
    """A cancellation is taken for a success."""

    async def process(self, delivery):
        try:
            await self.handler(delivery.entry)
        finally:
            await self.consumer.ack(delivery)


class NeverAcknowledges(ClaimingWorker):
    async def process(self, delivery):
        await self.handler(delivery.entry)
        self.consumer.discard(delivery)


class NeverClaims(ClaimingWorker):
    claim_idle_ms = None


class ClaimsTooLate(ClaimingWorker):
    claim_idle_ms = 30_000


class ClaimsAtOnce(HandMadeLoop):
    idle_ms = 0


class ClaimsOnceAtTheStart(HandMadeLoop):
    async def run(self):
        for delivery in await self.group.claim(self.name, idle_ms=60):
            await self.process(delivery)
        while not self.stopping.is_set():
            for delivery in await self.new():
                await self.process(delivery)


class ClaimsOfTheOneBefore(HandMadeLoop):
    """worker-3 looks at what worker-2 had, and no further."""

    async def run(self):
        head, _, number = self.name.rpartition("-")
        before = f"{head}-{int(number) - 1}" if number.isdigit() else self.name
        while not self.stopping.is_set():
            claimed = await self.group.claim(self.name, idle_ms=60, owner=before)
            for delivery in claimed or await self.new():
                await self.process(delivery)


class ClaimsOfOthersOnly(HandMadeLoop):
    """A dead one of the same name is no other one."""

    async def run(self):
        while not self.stopping.is_set():
            lines = await self.group.pending(idle_ms=60)
            others = [line for line in lines if line.consumer != self.name]
            claimed = await self.group.claim_ids(self.name, others, idle_ms=60)
            for delivery in claimed or await self.new():
                await self.process(delivery)


class ClaimsItsOwnOnly(HandMadeLoop):
    async def run(self):
        while not self.stopping.is_set():
            claimed = await self.group.claim(self.name, idle_ms=60, owner=self.name)
            for delivery in claimed or await self.new():
                await self.process(delivery)


class AcknowledgesWhatItClaims(HandMadeLoop):
    async def run(self):
        while not self.stopping.is_set():
            for delivery in await self.group.claim(self.name, idle_ms=60):
                await self.group.ack(delivery.raw_id)
            for delivery in await self.new():
                await self.process(delivery)


class ClaimsAndForgets(HandMadeLoop):
    """What it has claimed, it believes to get by reading."""

    async def run(self):
        while not self.stopping.is_set():
            await self.group.claim(self.name, idle_ms=60)
            for delivery in await self.new():
                await self.process(delivery)


class RemovesDeadMembers(HandMadeLoop):
    """With their pending lists."""

    async def run(self):
        key, call = self.group.context.key, self.group.context.connection.call
        for member in await call("XINFO", "CONSUMERS", key, self.group.raw_name):
            await call("XGROUP", "DELCONSUMER", key, self.group.raw_name, member[b"name"])
        await super().run()


class DoesEverythingTwice(ClaimingWorker):
    async def process(self, delivery):
        await self.handler(delivery.entry)
        await super().process(delivery)


class DoesItInTheBackground(ClaimingWorker):
    async def process(self, delivery):
        self.task = asyncio.create_task(self.handler(delivery.entry))
        await self.consumer.ack(delivery)


class AcknowledgesTheLastOfABatch(ClaimingWorker):
    async def run(self):
        async with Consumer(self.group, self.name, claim_idle_ms=60) as self.consumer:
            while not self.stopping:
                if deliveries := await self.consumer.fetch():
                    for delivery in deliveries:
                        await self.handler(delivery.entry)
                    await self.consumer.ack(deliveries[-1])


class AcknowledgesTheBatchFirst(ClaimingWorker):
    async def run(self):
        async with Consumer(self.group, self.name, claim_idle_ms=60) as self.consumer:
            while not self.stopping:
                deliveries = await self.consumer.fetch()
                await self.consumer.ack_all(deliveries)
                for delivery in deliveries:
                    await self.handler(delivery.entry)


class AcknowledgesTheRestAtItsEnd(ClaimingWorker):
    async def run(self):
        async with Consumer(self.group, self.name, claim_idle_ms=60) as self.consumer:
            while not self.stopping:
                deliveries = await self.consumer.fetch()
                for delivery in deliveries:
                    if not self.stopping:
                        await self.handler(delivery.entry)
                await self.consumer.ack_all(deliveries)


class HasABug(ClaimingWorker):
    async def process(self, delivery):
        raise KeyError("a bug of the learner's")


class NeverWorks(ClaimingWorker):
    async def run(self):
        while not self.stopping:
            await asyncio.sleep(0.01)


class NeverStops(ClaimingWorker):
    async def stop(self):
        await asyncio.sleep(0)


class StopsWithTheNextOrder(HandMadeLoop):
    async def stop(self):
        self.is_last = True

    async def process(self, delivery):
        await super().process(delivery)
        if getattr(self, "is_last", False):
            self.stopping.set()


class ReturnsWhenNothingCame(ClaimingWorker):
    async def run(self):
        async with Consumer(self.group, self.name, batch_size=1, claim_idle_ms=60) as self.consumer:
            while not self.stopping and (deliveries := await self.consumer.fetch(500)):
                for delivery in deliveries:
                    await self.process(delivery)


class GoesOnAfterItsCancellation(HandMadeLoop):
    async def run(self):
        while not self.stopping.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await super().run()


class BuriesEverything(DeadLetteringWorker):
    async def process(self, delivery):
        await self.group.dead_letter(delivery, reason="too much work")
        self.consumer.discard(delivery)


class BuriesWhatWasDelivered(HandMadeLoop):
    """Whoever had it before is dead: it must be poison."""

    async def process(self, delivery):
        if delivery.deliveries > 1:
            await self.group.dead_letter(delivery, reason="again")
        else:
            await super().process(delivery)


class HasNoAsyncStop(ClaimingWorker):
    def stop(self):
        self.stopping = True


# Wrong for `survive_the_poison`


class SweepsItUnderTheCarpet(ClaimingWorker):
    async def process(self, delivery):
        with contextlib.suppress(Exception):
            await self.handler(delivery.entry)
        await self.consumer.ack(delivery)


class DeletesIt(ClaimingWorker):
    async def process(self, delivery):
        try:
            await self.handler(delivery.entry)
        except Exception:
            await self.group.context.connection.call(
                "XDEL", self.group.context.key, delivery.raw_id
            )
        await self.consumer.ack(delivery)


class TriesForEver(ClaimingWorker):
    async def process(self, delivery):
        while not self.stopping:
            try:
                return await super().process(delivery)
            except Exception:
                await asyncio.sleep(0)


class KnowsValueErrors(ClaimingWorker):
    errors: tuple[type[BaseException], ...] = (ValueError,)
    tries = 3

    async def process(self, delivery):
        for _ in range(self.tries):
            try:
                await self.handler(delivery.entry)
            except self.errors:
                await asyncio.sleep(0.001)
            else:
                return await self.consumer.ack(delivery)
        await self.bury(delivery)

    async def bury(self, delivery):
        await self.group.dead_letter(delivery, reason="failed")
        self.consumer.discard(delivery)


class KnowsWhatIsBuiltIn(KnowsValueErrors):
    errors = (ValueError, KeyError, RuntimeError, TimeoutError)


class CatchesEverything(KnowsValueErrors):
    errors = (BaseException,)


class TakesATimeOutForTheEnd(KnowsValueErrors):
    errors = (Exception,)

    async def run(self):
        with contextlib.suppress(TimeoutError):
            await super().run()

    async def process(self, delivery):
        try:
            await self.handler(delivery.entry)
        except TimeoutError:
            raise
        except Exception:
            await self.bury(delivery)
        else:
            await self.consumer.ack(delivery)


class AcknowledgesThenBuries(KnowsValueErrors):
    errors = (Exception,)

    async def bury(self, delivery):
        await self.consumer.ack(delivery)
        await super().bury(delivery)


class BuriesItsTextOnly(KnowsValueErrors):
    errors = (Exception,)

    async def bury(self, delivery):
        own = Delivery(delivery.raw_id, [b"data", delivery.data], delivery.deliveries)
        await self.group.dead_letter(own, reason="failed")
        self.consumer.discard(delivery)


class BuriesByHand(KnowsValueErrors):
    """In two steps; who dies in between, buries it twice."""

    errors = (Exception,)

    async def bury(self, delivery):
        letters = self.group.dead_letters
        fields = letters.encode_fields(delivery, reason="failed", error="", deliveries=3)
        await self.group.context.connection.call("XADD", letters.key, "*", *fields)
        await self.consumer.ack(delivery)


class BuriesAndLeavesItPending(KnowsValueErrors):
    errors = (Exception,)

    async def bury(self, delivery):
        letters = self.group.dead_letters
        fields = letters.encode_fields(delivery, reason="failed", error="", deliveries=3)
        await self.group.context.connection.call("XADD", letters.key, "*", *fields)


class BuriesTheNextOne(ClaimingWorker):
    failures = 0

    async def process(self, delivery):
        if self.failures:
            self.failures = 0
            await self.group.dead_letter(delivery, reason="failed")
            return self.consumer.discard(delivery)
        try:
            await self.handler(delivery.entry)
        except Exception:
            self.failures += 1
        await self.consumer.ack(delivery)


class LeavesItPending(ClaimingWorker):
    claim_idle_ms = None

    async def process(self, delivery):
        with contextlib.suppress(Exception):
            await super().process(delivery)


class GoesHomeAfterIt(KnowsValueErrors):
    errors = (Exception,)

    async def bury(self, delivery):
        await super().bury(delivery)
        self.stopping = True


class BuriesInMemory(KnowsValueErrors):
    errors = (Exception,)

    async def bury(self, delivery):
        self.dead = [*getattr(self, "dead", []), delivery]
        await self.consumer.ack(delivery)


class BuriesOneOnly(KnowsValueErrors):
    """Of two it forgets one."""

    errors = (Exception,)
    has_buried = False

    async def bury(self, delivery):
        if self.has_buried:
            return await self.consumer.ack(delivery)
        self.has_buried = True
        await super().bury(delivery)


class CountsWhatItWasDelivered(CountingLoop):
    """Buries before the work, what was delivered for the second time: the dead one's order, too."""

    async def process(self, delivery):
        if delivery.deliveries >= 2:
            await self.group.dead_letter(delivery, reason="failed")
        else:
            await super().process(delivery)


class ForgetsOnFailure(CountingLoop):
    """Acknowledges what failed, and lets the error end the loop."""

    async def process(self, delivery):
        try:
            await self.handler(delivery.entry)
        finally:
            await self.group.ack(delivery.raw_id)


WRONG_LOSE = {
    AcknowledgesFirst: 1,
    ClaimsAtOnce: 2,
    NeverAcknowledges: 3,
    ReturnsWhenNothingCame: 4,
    NoAckWorker: 1,
    AckFirstWorker: 1,
    NoClaimWorker: 1,
    NeverClaims: 1,
    ClaimsTooLate: 1,
    ClaimsOnceAtTheStart: 1,
    ClaimsOfTheOneBefore: 1,
    ClaimsOfOthersOnly: 1,
    ClaimsItsOwnOnly: 1,
    AcknowledgesWhatItClaims: 1,
    ClaimsAndForgets: 1,
    RemovesDeadMembers: 1,
    AcknowledgesInFinally: 1,
    DoesEverythingTwice: 2,
    DoesItInTheBackground: 1,
    AcknowledgesTheLastOfABatch: (3, 2),
    AcknowledgesTheBatchFirst: 1,
    AcknowledgesTheRestAtItsEnd: 1,
    HasABug: 4,
    NeverWorks: 1,
    NeverStops: 4,
    StopsWithTheNextOrder: 4,
    GoesOnAfterItsCancellation: 4,
    BuriesEverything: (1, 3),
    BuriesWhatWasDelivered: (1, 3),
    HasNoAsyncStop: 0,
}
WRONG_POISON = {
    ClaimingWorker: 4,
    SweepsItUnderTheCarpet: 2,
    CatchesEverything: (1, 3, 4),
    NoClaimWorker: (1, 2),
    AckFirstWorker: (1, 2),
    EndlessRetryWorker: (1, 2),
    DeletesIt: 2,
    TriesForEver: (1, 2),
    KnowsValueErrors: 4,
    KnowsWhatIsBuiltIn: 4,
    TakesATimeOutForTheEnd: 4,
    AcknowledgesThenBuries: 2,
    BuriesItsTextOnly: 2,
    BuriesByHand: 2,
    BuriesAndLeavesItPending: (2, 3),
    BuriesTheNextOne: (1, 2, 3),
    LeavesItPending: 2,
    GoesHomeAfterIt: 4,
    BuriesInMemory: 2,
    BuriesOneOnly: 2,
    BuriesEverything: (1, 3),
    CountsWhatItWasDelivered: (1, 3),
    ForgetsOnFailure: 4,
}


@pytest.mark.parametrize(
    "good",
    [
        ClaimingWorker,
        *(
            pytest.param(each, marks=thorough)
            for each in (
                *ALTERNATIVES["lose_nothing"],
                ClaimsByHand,
                ClaimsAfterHalfASecond,
                ClaimsOnceASecond,
                DefaultWorker,
            )
        ),
    ],
)
async def test_right_solutions_of_lose_nothing_pass(good):
    """Also those in another style, and slow ones."""
    await assert_passes(lose_nothing, good)


@pytest.mark.parametrize(
    "good",
    [
        DeadLetteringWorker,
        *(
            pytest.param(each, marks=thorough)
            for each in (
                *ALTERNATIVES["survive_the_poison"],
                BuriesAtTheThirdDelivery,
                TriesTwentyTimes,
                BuriesAtOnce,
                DefaultWorker,
            )
        ),
    ],
)
async def test_right_solutions_of_survive_the_poison_pass(good):
    """Also those in another style, and slow ones."""
    await assert_passes(survive_the_poison, good)


@pytest.mark.parametrize(("bad", "guarantee"), first_always(WRONG_LOSE, 4))
async def test_wrong_solutions_of_lose_nothing_fail(bad, guarantee):
    """Every time, with the guarantee that they break."""
    await assert_fails(lose_nothing, bad, guarantee)


@pytest.mark.parametrize(("bad", "guarantee"), first_always(WRONG_POISON, 3))
async def test_wrong_solutions_of_survive_the_poison_fail(bad, guarantee):
    """Every time, with the guarantee that they break."""
    await assert_fails(survive_the_poison, bad, guarantee)


async def test_a_failure_shows_the_history_of_its_order():
    """What a learner needs to understand it: the trial, the order, who did what."""
    text = repr(await lose_nothing().check(AckFirstWorker))
    assert "m1 was not done" in text, text
    assert "⚡ after worker-1's 1st XREADGROUP: dies" in text, text


def test_hints_come_one_at_a_time():
    """The last one stays."""
    assert_hints_come_one_at_a_time(lose_nothing(), survive_the_poison())
