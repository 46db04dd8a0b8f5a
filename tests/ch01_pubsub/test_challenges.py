"""Chapter 1's challenges: right solutions pass, wrong ones break the guarantee that they break."""

import asyncio

import pytest

from mpim_lab.chapters.ch01_pubsub.challenges import deliver_everything, tell_the_truth
from mpim_lab.chapters.ch01_pubsub.naive import NaiveSender
from mpim_lab.chapters.ch01_pubsub.solutions import ALTERNATIVES, PersistentSender, TruthfulSender
from mpim_lab.errors import MpimError
from mpim_lab.keys import user_channel
from tests.challenges import (
    assert_fails,
    assert_hints_come_one_at_a_time,
    assert_passes,
    first_always,
    thorough,
)


class Sender:
    """What they have in common."""

    def __init__(self, queue):
        self.queue = queue

    async def publish(self, uid, payload):
        """Publish; return the number of receivers."""
        return await self.queue.publish(user_channel(uid), payload)

    async def listeners(self, uid):
        """Return how many listen."""
        return await self.queue.subscriber_count(user_channel(uid))


def said(receivers):
    """What a sender says of so many receivers."""
    return "delivered" if receivers else "nobody there"


# Wrong for `tell_the_truth`


class AlwaysOptimistic(Sender):
    async def send(self, uid, payload):
        await self.publish(uid, payload)
        return "delivered"


class AlwaysPessimistic(Sender):
    async def send(self, uid, payload):
        await self.publish(uid, payload)
        return "perhaps"


class AsksBefore(Sender):
    async def send(self, uid, payload):
        listeners = await self.listeners(uid)
        await self.publish(uid, payload)
        return said(listeners)


class AsksAfterwards(Sender):
    async def send(self, uid, payload):
        await self.publish(uid, payload)
        return said(await self.listeners(uid))


class AsksBeforeAndAfter(Sender):
    async def send(self, uid, payload):
        before = await self.listeners(uid)
        receivers = await self.publish(uid, payload)
        return said(before and receivers and await self.listeners(uid))


class PublishesOnlyToListeners(Sender):
    async def send(self, uid, payload):
        if not await self.listeners(uid):
            return "nobody there"
        await self.publish(uid, payload)
        return "delivered"


class RaisesWhenNobodyIsThere(Sender):
    async def send(self, uid, payload):
        if not await self.publish(uid, payload):
            raise MpimError("nobody there")
        return "delivered"


class NeverPublishes(Sender):
    async def send(self, uid, payload):
        return "nobody there"


class HasABug(Sender):
    async def send(self, uid, payload):
        raise KeyError("a bug of the learner's")


class WaitsForEver(Sender):
    async def send(self, uid, payload):
        await asyncio.Event().wait()


class HasNoPatience(Sender):
    """No answer within 50 ms is taken for nobody; the message may be there."""

    async def send(self, uid, payload):
        try:
            return said(await asyncio.wait_for(self.publish(uid, payload), 0.05))
        except TimeoutError:
            return "nobody there"


class RepeatsWithoutPatience(Sender):
    async def send(self, uid, payload):
        while True:
            try:
                return said(await asyncio.wait_for(self.publish(uid, payload), 0.1))
            except TimeoutError:
                pass


class PublishesTwice(Sender):
    async def send(self, uid, payload):
        await self.publish(uid, payload)
        return said(await self.publish(uid, payload))


class WantsExactlyOne(Sender):
    async def send(self, uid, payload):
        return said(await self.publish(uid, payload) == 1)


class SaysTheOpposite(Sender):
    async def send(self, uid, payload):
        return said(await self.publish(uid, payload) == 0)


class RemembersTexts(Sender):
    """The same text once more is taken for a repeat."""

    def __init__(self, queue):
        super().__init__(queue)
        self.outcomes = {}

    async def send(self, uid, payload):
        if payload not in self.outcomes:
            self.outcomes[payload] = said(await self.publish(uid, payload))
        return self.outcomes[payload]


class PublishesText(Sender):
    async def send(self, uid, payload):
        return said(await self.publish(uid, payload.decode(errors="replace")))


class CutsLongOnes(Sender):
    async def send(self, uid, payload):
        return said(await self.publish(uid, payload[:10_000]))


class SkipsEmptyOnes(Sender):
    async def send(self, uid, payload):
        return said(payload and await self.publish(uid, payload))


class TakesTheFirstWordOfTheUid(Sender):
    async def send(self, uid, payload):
        return said(await self.publish(uid.split()[0], payload))


class SharesTheNumber(Sender):
    """Two senders in one process: one says what the other one was told."""

    receivers = 0

    async def send(self, uid, payload):
        type(self).receivers = await self.publish(uid, payload)
        await self.listeners(uid)
        return said(type(self).receivers)


class PublishesInTheBackground(Sender):
    async def send(self, uid, payload):
        self.task = asyncio.create_task(self.publish(uid, payload))
        return said(await self.listeners(uid))


class TakesErrorsForDelivered(Sender):
    async def send(self, uid, payload):
        try:
            return said(await self.publish(uid, payload))
        except MpimError:
            return "delivered"


class SendsItLaterAllTheSame(Sender):
    def __init__(self, queue):
        super().__init__(queue)
        self.left = []

    async def send(self, uid, payload):
        for each in self.left:
            await self.publish(uid, each)
        self.left.clear()
        if receivers := await self.publish(uid, payload):
            return said(receivers)
        self.left.append(payload)
        return "nobody there"


class GivesTheNumber(Sender):
    async def send(self, uid, payload):
        return await self.publish(uid, payload)


class IsNotAsync(Sender):
    def send(self, uid, payload):
        return "delivered"


# Wrong for `deliver_everything`


class TriesTwice(Sender):
    async def send(self, uid, payload):
        return said(await self.publish(uid, payload) or await self.publish(uid, payload))


class TriesFiveTimesWithoutAPause(Sender):
    async def send(self, uid, payload):
        for _ in range(5):
            if await self.publish(uid, payload):
                return "delivered"
        return "nobody there"


class GivesUpTooSoon(Sender):
    async def send(self, uid, payload):
        for _ in range(20):
            if await self.publish(uid, payload):
                return "delivered"
            await asyncio.sleep(0.01)
        return "nobody there"


class WaitsAndHopes(Sender):
    async def send(self, uid, payload):
        while not await self.listeners(uid):
            await asyncio.sleep(0.005)
        await self.publish(uid, payload)
        return "delivered"


class RepeatsWhateverTakesLong(Sender):
    async def send(self, uid, payload):
        while True:
            try:
                if await asyncio.wait_for(self.publish(uid, payload), 0.1):
                    return "delivered"
            except TimeoutError:
                continue
            await asyncio.sleep(0.01)


class AsksWhetherItIsThere(Sender):
    """He got it and left at once: it is sent again."""

    async def send(self, uid, payload):
        while True:
            await self.publish(uid, payload)
            if await self.listeners(uid):
                return "delivered"
            await asyncio.sleep(0.01)


class RepeatsUntilExactlyOne(Sender):
    async def send(self, uid, payload):
        for _ in range(20):
            if await self.publish(uid, payload) == 1:
                break
            await asyncio.sleep(0.02)
        return "delivered"


class DeliversInTheBackground(Sender):
    async def send(self, uid, payload):
        self.task = asyncio.create_task(self.deliver(uid, payload))
        return "delivered"

    async def deliver(self, uid, payload):
        while not await self.publish(uid, payload):
            await asyncio.sleep(0.01)


class DeliversWithTheNextOne(Sender):
    def __init__(self, queue):
        super().__init__(queue)
        self.left = []

    async def send(self, uid, payload):
        self.left.append(payload)
        while self.left and await self.publish(uid, self.left[0]):
            self.left.pop(0)
        return "delivered"


class RepeatsTheFirstOneOnly(Sender):
    is_first = True

    async def send(self, uid, payload):
        while not await self.publish(uid, payload) and self.is_first:
            await asyncio.sleep(0.01)
        self.is_first = False
        return "delivered"


class WaitsTooLong(Sender):
    async def send(self, uid, payload):
        while not await self.publish(uid, payload):
            await asyncio.sleep(10)
        return "delivered"


class SharesWhetherItIsThere(Sender):
    is_there = False

    async def send(self, uid, payload):
        type(self).is_there = False
        while not type(self).is_there:
            type(self).is_there = bool(await self.publish(uid, payload)) or self.is_there
            await asyncio.sleep(0.01)
        return "delivered"


class KeepsItsWord(Sender):
    """It delivers, and says nothing."""

    async def send(self, uid, payload):
        while not await self.publish(uid, payload):
            await asyncio.sleep(0.01)
        return "done"


class SkipsRepeatedTexts(Sender):
    def __init__(self, queue):
        super().__init__(queue)
        self.known = set()

    async def send(self, uid, payload):
        while payload not in self.known:
            if await self.publish(uid, payload):
                self.known.add(payload)
            await asyncio.sleep(0.01)
        return "delivered"


WRONG_TRUTH = {
    NeverPublishes: 1,
    NaiveSender: (1, 2),
    AlwaysPessimistic: 3,
    RaisesWhenNobodyIsThere: 4,
    AlwaysOptimistic: 2,
    AsksBefore: (2, 3),
    AsksAfterwards: (2, 3),
    AsksBeforeAndAfter: 3,
    PublishesOnlyToListeners: (1, 2),
    HasABug: 4,
    WaitsForEver: 4,
    HasNoPatience: (1, 3),
    RepeatsWithoutPatience: (1, 2, 3),
    PublishesTwice: 1,
    WantsExactlyOne: 3,
    SaysTheOpposite: (2, 3),
    RemembersTexts: (1, 2),
    PublishesText: 1,
    CutsLongOnes: 1,
    SkipsEmptyOnes: 1,
    TakesTheFirstWordOfTheUid: 1,
    SharesTheNumber: (2, 3),
    PublishesInTheBackground: (1, 2, 3),
    TakesErrorsForDelivered: 2,
    SendsItLaterAllTheSame: (1, 3),
    GivesTheNumber: 0,
    IsNotAsync: 0,
}
WRONG_DELIVERY = {
    TruthfulSender: 1,
    AsksWhetherItIsThere: (1, 2),
    WaitsTooLong: 3,
    NaiveSender: 1,
    TriesTwice: 1,
    TriesFiveTimesWithoutAPause: 1,
    GivesUpTooSoon: 1,
    PublishesTwice: 2,
    WaitsAndHopes: 1,
    RepeatsWhateverTakesLong: 2,
    RepeatsUntilExactlyOne: 2,
    DeliversInTheBackground: 1,
    DeliversWithTheNextOne: 1,
    RepeatsTheFirstOneOnly: 1,
    SharesWhetherItIsThere: 1,
    KeepsItsWord: 3,
    SkipsRepeatedTexts: 1,
    WaitsForEver: 3,
    HasABug: 3,
    IsNotAsync: 0,
}


@pytest.mark.parametrize(
    "good",
    [
        TruthfulSender,
        *(pytest.param(each, marks=thorough) for each in ALTERNATIVES["tell_the_truth"]),
    ],
)
async def test_right_solutions_of_tell_the_truth_pass(good):
    """Also those in another style."""
    await assert_passes(tell_the_truth, good)


@pytest.mark.parametrize(
    "good",
    [
        PersistentSender,
        *(pytest.param(each, marks=thorough) for each in ALTERNATIVES["deliver_everything"]),
    ],
)
async def test_right_solutions_of_deliver_everything_pass(good):
    """Also those in another style."""
    await assert_passes(deliver_everything, good)


@pytest.mark.parametrize(("bad", "guarantee"), first_always(WRONG_TRUTH, 4))
async def test_wrong_solutions_of_tell_the_truth_fail(bad, guarantee):
    """Every time, with the guarantee that they break."""
    await assert_fails(tell_the_truth, bad, guarantee)


@pytest.mark.parametrize(("bad", "guarantee"), first_always(WRONG_DELIVERY, 3))
async def test_wrong_solutions_of_deliver_everything_fail(bad, guarantee):
    """Every time, with the guarantee that they break."""
    await assert_fails(deliver_everything, bad, guarantee)


async def test_a_failure_shows_the_history_of_its_message():
    """What a learner needs to understand it: the trial, the message, who did what."""
    result = await tell_the_truth().check(NaiveSender)
    text = repr(result)
    assert "was told 'delivered' for m" in text, text
    assert "published (0)" in text, text
    again = await tell_the_truth().replay(NaiveSender, result.failure.trial)
    assert again.failure == result.failure


def test_hints_come_one_at_a_time():
    """The last one stays."""
    assert_hints_come_one_at_a_time(tell_the_truth(), deliver_everything())
