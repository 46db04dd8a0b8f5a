"""Chapter 1's challenges: the reference solutions pass, every known-bad one is caught."""

import asyncio

import pytest

from mpim_lab.chapters.ch01_pubsub.challenges import deliver_everything, tell_the_truth
from mpim_lab.chapters.ch01_pubsub.naive import NaiveSender
from mpim_lab.chapters.ch01_pubsub.solutions import PersistentSender, TruthfulSender
from mpim_lab.errors import MpimError
from mpim_lab.keys import user_channel
from mpim_lab.lab.exercise import challenge
from tests.support import REPEATS


class Sender:
    def __init__(self, queue):
        self.queue = queue


class AlwaysPessimistic(Sender):
    async def send(self, uid, payload):
        await self.queue.publish(user_channel(uid), payload)
        return "perhaps"


class AlwaysOptimistic(Sender):
    async def send(self, uid, payload):
        await self.queue.publish(user_channel(uid), payload)
        return "delivered"


class AsksAfterwards(Sender):
    async def send(self, uid, payload):
        await self.queue.publish(user_channel(uid), payload)
        return (
            "delivered" if await self.queue.subscriber_count(user_channel(uid)) else "nobody there"
        )


class RaisesWhenNobodyIsThere(Sender):
    async def send(self, uid, payload):
        if not await self.queue.publish(user_channel(uid), payload):
            raise MpimError("nobody there")
        return "delivered"


class TriesTwice(Sender):
    async def send(self, uid, payload):
        for _ in range(2):
            if await self.queue.publish(user_channel(uid), payload):
                return "delivered"
        return "nobody there"


class SendsEverythingTwice(Sender):
    async def send(self, uid, payload):
        receivers = [await self.queue.publish(user_channel(uid), payload) for _ in range(2)]
        return "delivered" if any(receivers) else "nobody there"


class WaitsAndHopes(Sender):
    async def send(self, uid, payload):
        while not await self.queue.subscriber_count(user_channel(uid)):
            await asyncio.sleep(0.005)
        await self.queue.publish(user_channel(uid), payload)
        return "delivered"


class NeverPublishes(Sender):
    async def send(self, uid, payload):
        return "nobody there"


class WaitsForEver(Sender):
    async def send(self, uid, payload):
        await asyncio.Event().wait()


class HasABug(Sender):
    async def send(self, uid, payload):
        raise KeyError("a bug of the learner's")


async def test_the_reference_solutions_pass(lab_server):
    """Both challenges can be solved with what the chapter has shown."""
    assert (await tell_the_truth().check(TruthfulSender)).passed
    assert (await deliver_everything().check(PersistentSender)).passed


@pytest.mark.parametrize(
    "bad",
    [
        NaiveSender,
        AlwaysPessimistic,
        AlwaysOptimistic,
        AsksAfterwards,
        RaisesWhenNobodyIsThere,
        NeverPublishes,
        HasABug,
    ],
)
async def test_a_sender_that_does_not_tell_the_truth_fails_every_time(lab_server, bad):
    """The outcome names the message and tells its story; the same one in every run."""
    outcomes = [await tell_the_truth().check(bad) for _ in range(REPEATS)]
    assert not outcomes[0].passed
    assert len(set(map(repr, outcomes))) == 1


@pytest.mark.parametrize(
    "bad", [NaiveSender, TruthfulSender, TriesTwice, SendsEverythingTwice, WaitsAndHopes]
)
async def test_a_sender_that_loses_or_repeats_fails_every_time(lab_server, bad):
    """A solution of the first challenge is not one of the second."""
    assert not (await deliver_everything().check(bad)).passed


async def test_a_class_that_waits_for_ever_is_told_so(lab_server, monkeypatch):
    """Instead of a cell that never ends."""
    monkeypatch.setattr(challenge, "TRIAL_TIMEOUT_S", 1.0)
    outcome = await tell_the_truth().check(WaitsForEver)
    assert "no end after 1 s: something of yours waits for what never comes" in repr(outcome)


async def test_a_failure_tells_the_story_of_its_message(lab_server):
    """What a learner needs to understand it: the fault, the message, who did what."""
    text = repr(await tell_the_truth().check(NaiveSender))
    assert "was lost, and alice got the outcome 'delivered'" in text
    assert "published (0)" in text


def test_hints_come_one_at_a_time():
    """The last one stays."""
    truth = tell_the_truth()
    hints = [truth.hint() for _ in range(4)]
    assert hints[0].startswith("hint 1 of 3")
    assert hints[2] == hints[3]
