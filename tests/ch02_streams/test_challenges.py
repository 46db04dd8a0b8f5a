"""Chapter 2's challenges: the reference solutions pass, every known-bad one is caught."""

import asyncio
import contextlib

from mpim_lab.chapters.ch02_streams.challenges import lose_nothing, survive_the_poison
from mpim_lab.chapters.ch02_streams.naive import (
    AckFirstWorker,
    EndlessRetryWorker,
    NoAckWorker,
    NoClaimWorker,
)
from mpim_lab.chapters.ch02_streams.solutions import ClaimingWorker, DeadLetteringWorker
from mpim_lab.mq.streams.consumer import Consumer
from tests.legacy_challenges import (
    assert_all_pass,
    assert_each_fails,
    assert_hints_come_one_at_a_time,
)


class ClaimsByHand(ClaimingWorker):
    """The same with the group's own `claim`, as the hint has it."""

    claim_idle_ms = None

    async def run(self):
        async with Consumer(
            self.group, self.name, batch_size=1, claim_idle_ms=None
        ) as self.consumer:
            while not self.stopping:
                for delivery in await self.group.claim(
                    self.name, idle_ms=60
                ) or await self.consumer.fetch(50):
                    await self.process(delivery)


class AcknowledgesFirst(ClaimingWorker):
    async def process(self, delivery):
        await self.consumer.ack(delivery)
        await self.handler(delivery.entry)


class NeverClaims(ClaimingWorker):
    claim_idle_ms = None


class ClaimsTooLate(ClaimingWorker):
    claim_idle_ms = 30_000


class DoesEverythingTwice(ClaimingWorker):
    async def process(self, delivery):
        await self.handler(delivery.entry)
        await super().process(delivery)


class SweepsItUnderTheCarpet(ClaimingWorker):
    async def process(self, delivery):
        with contextlib.suppress(ValueError):
            await self.handler(delivery.entry)
        await self.consumer.ack(delivery)


class TriesForEver(ClaimingWorker):
    async def process(self, delivery):
        while not self.stopping:
            try:
                return await super().process(delivery)
            except ValueError:
                await asyncio.sleep(0)


class BuriesEverything(DeadLetteringWorker):
    async def process(self, delivery):
        await self.group.dead_letter(delivery, reason="too much work")
        self.consumer.discard(delivery)


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


async def test_the_reference_solutions_pass(lab_server):
    """Both challenges can be solved with what the chapter has shown.

    The second one's solution solves the first, too.
    """
    await assert_all_pass(
        lose_nothing().check(ClaimingWorker),
        lose_nothing().check(ClaimsByHand),
        lose_nothing().check(DeadLetteringWorker),
        survive_the_poison().check(DeadLetteringWorker),
    )


LOSE = {
    NoAckWorker: "m2 was lost",
    AckFirstWorker: "m2 was lost",
    NoClaimWorker: "m2 is stalled",
    AcknowledgesFirst: "m2 was lost",
    NeverClaims: "m2 is stalled",
    ClaimsTooLate: "m2 is stalled",
    DoesEverythingTwice: "m1 was duplicated",
    HasABug: "KeyError",
}
NEVER = {
    NeverWorks: "m1 is stalled",
    BuriesEverything: "m1 was dead-lettered",
    NeverStops: "has not returned within 3 s of stop()",
}
DIE_OR_HIDE = {
    AckFirstWorker: "was lost",
    EndlessRetryWorker: "is stalled",
    ClaimingWorker: "ValueError",
    SweepsItUnderTheCarpet: "was lost",
    TriesForEver: "is stalled",
}


async def test_a_worker_that_loses_fails_every_time(lab_server):
    """The outcome names the order and tells its story."""
    await assert_each_fails(lose_nothing, LOSE)


async def test_a_worker_that_never_works_or_never_stops_does_not_hang_the_checker(lab_server):
    """It is told apart from one that is slow."""
    await assert_each_fails(lose_nothing, NEVER)


async def test_a_worker_that_the_poison_stops_or_that_hides_it_fails_every_time(lab_server):
    """A solution of the first challenge is not one of the second."""
    await assert_each_fails(survive_the_poison, DIE_OR_HIDE)


async def test_a_failure_tells_the_story_of_its_order(lab_server):
    """What a learner needs to understand it: the fault, the order, who did what."""
    text = repr(await lose_nothing().check(AckFirstWorker))
    assert "fault 'crash before work', seed" in text
    assert "worker-1: acked\n  worker-1: crashed: crash before work" in text


def test_hints_come_one_at_a_time():
    """The last one stays."""
    assert_hints_come_one_at_a_time(lose_nothing(), survive_the_poison())
