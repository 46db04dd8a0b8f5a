"""Chapter 4's challenges: right solutions pass, wrong ones break the guarantee that they break."""

import asyncio

import pytest

from mpim_lab.chapters.ch04_ordering.challenges import number_in_one_step, put_in_order
from mpim_lab.chapters.ch04_ordering.solutions import (
    ALTERNATIVES,
    SEND,
    SOLUTIONS,
    AtomicGateway,
    BoundedReorderBuffer,
)
from tests.challenges import (
    assert_fails,
    assert_hints_come_one_at_a_time,
    assert_passes,
    first_always,
)


class ShowsAsItComes(BoundedReorderBuffer):
    def add(self, sequence, item):
        return [item]


class ShowsRepeats(BoundedReorderBuffer):
    def add(self, sequence, item):
        return [item] if sequence < self.next else super().add(sequence, item)


class SkipsWhatIsLate(BoundedReorderBuffer):
    def add(self, sequence, item):
        if sequence < self.next:
            return []
        self.next = sequence + 1
        return [item]


class HasNoLimit(BoundedReorderBuffer):
    def __init__(self, limit):
        super().__init__(10**9)


class HoldsOneLess(BoundedReorderBuffer):
    def __init__(self, limit):
        super().__init__(limit - 1)


class HoldsOneMore(BoundedReorderBuffer):
    def __init__(self, limit):
        super().__init__(limit + 1)


class TakesTheLimitForADistance(BoundedReorderBuffer):
    def add(self, sequence, item):
        if sequence - self.next > self.limit:
            raise OverflowError(sequence)
        return super().add(sequence, item)


class RefusesTheNextOneToo(BoundedReorderBuffer):
    def add(self, sequence, item):
        if len(self.early) >= self.limit:
            raise OverflowError(sequence)
        return super().add(sequence, item)


class DropsTheOldestEarly(BoundedReorderBuffer):
    def add(self, sequence, item):
        if sequence > self.next and sequence not in self.early and len(self.early) >= self.limit:
            self.early.pop(min(self.early))
            self.early[sequence] = item
            raise OverflowError(sequence)
        return super().add(sequence, item)


class CountsRepeatsAsEarly(BoundedReorderBuffer):
    def __init__(self, limit):
        super().__init__(limit)
        self.arrivals = 0

    def add(self, sequence, item):
        self.arrivals = self.arrivals + 1 if sequence > self.next else 0
        if self.arrivals > self.limit:
            raise OverflowError(sequence)
        return super().add(sequence, item)


class ReleasesOneAtATime(BoundedReorderBuffer):
    def add(self, sequence, item):
        if sequence >= self.next:
            self.early.setdefault(sequence, item)
        if self.next not in self.early:
            return []
        self.next += 1
        return [self.early.pop(self.next - 1)]


class SharesWhatIsEarly(BoundedReorderBuffer):
    common: dict[int, object] = {}

    def __init__(self, limit):
        super().__init__(limit)
        self.early = self.common


class MissesOneTooMany(BoundedReorderBuffer):
    def missing(self):
        return range(self.next, min(self.early, default=self.next - 1) + 1)


class MissesAllGaps(BoundedReorderBuffer):
    def missing(self):
        return sorted({*range(self.next, max(self.early, default=self.next))} - {*self.early})


class MissesTheFirstNumberOnly(BoundedReorderBuffer):
    def missing(self):
        return [self.next] if self.early else []


class MissesTheNextAlways(BoundedReorderBuffer):
    def missing(self):
        return [*super().missing()] or [self.next]


class NumbersInTwoSteps(AtomicGateway):
    async def send(self, id, payload):
        number = int(await self.keys.call("INCR", self.keys.counter))
        await self.keys.publish(number, payload)
        return number


class TakesBackInExcept(AtomicGateway):
    async def send(self, id, payload):
        if (given := await self.keys.call("GET", self.keys.sent(id))) is not None:
            return int(given)
        number = int(await self.keys.call("INCR", self.keys.counter))
        try:
            await self.keys.publish(number, payload)
            await self.keys.call("SET", self.keys.sent(id), number)
        except BaseException:
            await self.keys.call("DECR", self.keys.counter)
            raise
        return number


class ForgetsTheId(AtomicGateway):
    script = "\n".join(line for line in SEND.splitlines() if "given" not in line)


class RemembersForAMoment(AtomicGateway):
    script = SEND.replace("86400000", "50")


class RemembersAcrossConversations(AtomicGateway):
    async def send(self, id, payload):
        keys = self.keys
        arguments = (keys.counter, "sent:" + id, keys.channel, id, payload)
        return int(await keys.call("EVAL", self.script, 2, *arguments))


class NumbersThenScript(AtomicGateway):
    async def send(self, id, payload):
        number = int(await self.keys.call("INCR", self.keys.counter))
        script = SEND.replace("redis.call('INCR', KEYS[1])", str(number))
        arguments = (self.keys.counter, self.keys.sent(id), self.keys.channel, id, payload)
        return int(await self.keys.call("EVAL", script, 2, *arguments))


class NumbersARepeatAnew(AtomicGateway):
    script = SEND.replace("return tonumber(given)", "return redis.call('INCR', KEYS[1])")


class NeverPublishes(AtomicGateway):
    script = "\n".join(line for line in SEND.splitlines() if "PUBLISH" not in line)


class PublishesTheBeginning(AtomicGateway):
    async def send(self, id, payload):
        return await super().send(id, payload[:20])


class PublishesAfterTheScript(AtomicGateway):
    script = "\n".join(line for line in SEND.splitlines() if "PUBLISH" not in line)

    async def send(self, id, payload):
        is_new = not await self.keys.call("EXISTS", self.keys.sent(id))
        number = await super().send(id, payload)
        if is_new:
            await self.keys.publish(number, payload)
        return number


class RemembersInTheProcess(AtomicGateway):
    """The other gateway does not know."""

    script = ForgetsTheId.script

    def __init__(self, keys):
        super().__init__(keys)
        self.sent = {}

    async def send(self, id, payload):
        if id not in self.sent:
            self.sent[id] = await super().send(id, payload)
        return self.sent[id]


class LocksAndDies(AtomicGateway):
    """A lock without an end: who dies with it stops everybody."""

    async def send(self, id, payload):
        call, keys = self.keys.call, self.keys
        while not await call("SETNX", "lock", "1"):
            await asyncio.sleep(0.01)
        try:
            if (given := await call("GET", keys.sent(id))) is not None:
                return int(given)
            number = int(await call("INCR", keys.counter))
            await keys.publish(number, payload)
            await call("SET", keys.sent(id), number)
            return number
        finally:
            await call("DEL", "lock")


class ReturnsTheCounter(AtomicGateway):
    async def send(self, id, payload):
        await super().send(id, payload)
        return int(await self.keys.call("GET", self.keys.counter))


WRONG_BUFFERS = {
    ShowsAsItComes: 2,
    SkipsWhatIsLate: (1, 2),
    HoldsOneMore: 3,
    MissesOneTooMany: 4,
    ShowsRepeats: 2,
    HasNoLimit: 3,
    HoldsOneLess: 3,
    TakesTheLimitForADistance: 3,
    RefusesTheNextOneToo: 3,
    DropsTheOldestEarly: (2, 3, 4),
    CountsRepeatsAsEarly: 3,
    ReleasesOneAtATime: (2, 3),
    SharesWhatIsEarly: (1, 2, 3, 4),
    MissesAllGaps: 4,
    MissesTheFirstNumberOnly: 4,
    MissesTheNextAlways: 4,
}
WRONG_GATEWAYS = {
    NeverPublishes: 1,
    ForgetsTheId: 2,
    NumbersThenScript: 3,
    ReturnsTheCounter: 4,
    NumbersInTwoSteps: (1, 2, 3),
    TakesBackInExcept: (1, 2, 3, 4),
    RemembersForAMoment: 2,
    RemembersAcrossConversations: 1,
    NumbersARepeatAnew: (3, 4),
    PublishesTheBeginning: 1,
    PublishesAfterTheScript: (1, 2),
    RemembersInTheProcess: 2,
    LocksAndDies: (1, 2, 3, 4),
}


def right(name):
    return [SOLUTIONS[name], *ALTERNATIVES[name]]


@pytest.mark.parametrize("good", right("put_in_order"))
async def test_right_buffers_pass(good):
    """Whatever they keep what is early in."""
    await assert_passes(put_in_order, good)


@pytest.mark.parametrize("good", right("number_in_one_step"))
async def test_right_gateways_pass(good):
    """By a script, or by WATCH, MULTI and EXEC."""
    await assert_passes(number_in_one_step, good)


@pytest.mark.parametrize(("bad", "guarantee"), first_always(WRONG_BUFFERS, 4))
async def test_wrong_buffers_fail(bad, guarantee):
    """Every time, with the guarantee that they break."""
    await assert_fails(put_in_order, bad, guarantee)


@pytest.mark.parametrize(("bad", "guarantee"), first_always(WRONG_GATEWAYS, 4))
async def test_wrong_gateways_fail(bad, guarantee):
    """Every time, with the guarantee that they break."""
    await assert_fails(number_in_one_step, bad, guarantee)


def test_hints_come_one_at_a_time():
    """The last one stays."""
    assert_hints_come_one_at_a_time(put_in_order(), number_in_one_step())
