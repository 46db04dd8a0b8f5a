"""Chapter 8's second challenge: right fan-outs pass, wrong ones break a guarantee."""

import asyncio
import contextlib

import pytest

from mpim_lab.chapters.ch08_im.challenges import tell_the_whole_group
from mpim_lab.chapters.ch08_im.solutions import ALTERNATIVES, SOLUTIONS, GroupFanOut
from mpim_lab.errors import QueueFull, StoreFailed
from tests.challenges import (
    assert_fails,
    assert_hints_come_one_at_a_time,
    assert_passes,
    first_always,
)

WORDS = ("pushed", "stored", "failed")


class OneAfterTheOther:
    """The naive twin: a round trip for each member."""

    def __init__(self, pipeline, store):
        self.pipeline, self.store = pipeline, store

    async def send(self, members, message):
        told = {"pushed": [], "stored": [], "failed": []}
        for uid in members:
            [listened] = await self.pipeline([("PUBLISH", f"user:{uid}", message)])
            if not listened:
                await self.store([uid], message)
            told["pushed" if listened else "stored"].append(uid)
        return told


class Judging(GroupFanOut):
    """The reference, with a place for what a reply means."""

    def meaning(self, reply):
        return "failed" if isinstance(reply, Exception) else "pushed" if reply else "away"

    async def send(self, members, message):
        everybody = list(dict.fromkeys(members))
        became = self.became.setdefault(message, {})
        rest = [uid for uid in everybody if became.get(uid, "failed") == "failed"]
        replies = await self.pipeline([("PUBLISH", f"user:{uid}", message) for uid in rest])
        became.update(zip(rest, map(self.meaning, replies), strict=True))
        await self.keep(became, message)
        return {word: [uid for uid in everybody if became[uid] == word] for word in WORDS}


class SuccessEitherWay(GroupFanOut):
    """Whoever was published to has received it."""

    async def keep(self, became, message):
        became.update(dict.fromkeys([uid for uid in became if became[uid] == "away"], "pushed"))


class StoresForNobody(GroupFanOut):
    async def keep(self, became, message):
        await self.store([uid for uid in became if became[uid] == "away"], message)


class StoresOneByOne(GroupFanOut):
    async def keep(self, became, message):
        for uid in [uid for uid in became if became[uid] == "away"]:
            one = {uid: "away"}
            await super().keep(one, message)
            became.update(one)


class TakesAnErrorForAPush(Judging):
    """An exception is true."""

    def meaning(self, reply):
        return "pushed" if reply else "away"


class KnowsOneAndNoneOnly(Judging):
    """Who listens at two gateways has failed."""

    def meaning(self, reply):
        return {1: "pushed", 0: "away"}.get(reply, "failed")


class KnowsOneErrorOnly(Judging):
    def meaning(self, reply):
        return "failed" if isinstance(reply, QueueFull) else "pushed" if reply else "away"


class TellsEverybodyAgain(GroupFanOut):
    async def send(self, members, message):
        self.became.clear()
        return await super().send(members, message)


class LetsTheStoresErrorOut(GroupFanOut):
    async def keep(self, became, message):
        if away := [uid for uid in became if became[uid] == "away"]:
            await self.store(away, message)
            became.update(dict.fromkeys(away, "stored"))


class SaysStoredAnyway(GroupFanOut):
    async def keep(self, became, message):
        away = [uid for uid in became if became[uid] == "away"]
        await super().keep(became, message)
        became.update(dict.fromkeys(away, "stored"))


class KeepsMembersNotMessages(Judging):
    """Whoever received one message receives no other."""

    def __init__(self, pipeline, store):
        super().__init__(pipeline, store)
        self.became = self

    def setdefault(self, message, default):
        self.members = getattr(self, "members", default)
        return self.members


class KnowsTheLastMessageOnly(GroupFanOut):
    async def send(self, members, message):
        self.became = {message: self.became.get(message, {})}
        return await super().send(members, message)


class TakesTheFirstWordForTheMessage(Judging):
    async def send(self, members, message):
        self.became[message] = self.became.setdefault(message[:5], {})
        return await super().send(members, message)


class StoresWhatFailed(GroupFanOut):
    async def keep(self, became, message):
        became.update(dict.fromkeys([uid for uid in became if became[uid] == "failed"], "away"))
        await super().keep(became, message)


class StoresWithoutTryingAgain(Judging):
    """Who was away the last time is away."""

    async def keep(self, became, message):
        away = [uid for uid in became if became[uid] == "away"]
        if not away:
            return
        try:
            await self.store(away, message)
            became.update(dict.fromkeys(away, "stored"))
        except StoreFailed:
            pass

    async def send(self, members, message):
        report = await super().send(members, message)
        became = self.became.get(message, {})
        report["failed"] += [uid for uid in dict.fromkeys(members) if became.get(uid) == "away"]
        return report


class NeverTriesAgain(Judging):
    async def send(self, members, message):
        if (became := self.became.get(message)) is not None:
            everybody = [uid for uid in dict.fromkeys(members) if uid in became]
            return {word: [uid for uid in everybody if became[uid] == word] for word in WORDS}
        return await super().send(members, message)


class KeepsTheFirstMembers(Judging):
    """Who joins before the repeat gets nothing."""

    async def send(self, members, message):
        known = self.became.get(message)
        report = await super().send(
            [uid for uid in members if known is None or uid in known], message
        )
        report["failed"] += [
            uid for uid in dict.fromkeys(members) if uid not in self.became[message]
        ]
        return report


class TriesWhoHasLeft(Judging):
    async def send(self, members, message):
        failed = [uid for uid, word in self.became.get(message, {}).items() if word == "failed"]
        return await super().send([*members, *failed], message)


class TriesThreeTimesAtMost(Judging):
    async def send(self, members, message):
        self.times = getattr(self, "times", 0) + 1
        if self.times > 3:
            return {"pushed": [], "stored": [], "failed": list(members)}
        return await super().send(members, message)


class AHundredAtATime(GroupFanOut):
    """Round trips grow with the group all the same."""

    def __init__(self, pipeline, store):
        async def in_parts(commands):
            parts = [commands[begin : begin + 100] for begin in range(0, len(commands), 100)]
            return [reply for part in parts for reply in await pipeline(part)]

        super().__init__(in_parts, store)


class DropsTheFailedFromTheReplies(GroupFanOut):
    """And so gives each member behind it her neighbour's answer."""

    def __init__(self, pipeline, store):
        async def without_errors(commands):
            replies = [
                reply for reply in await pipeline(commands) if not isinstance(reply, Exception)
            ]
            return replies + [RuntimeError("no answer")] * (len(commands) - len(replies))

        super().__init__(without_errors, store)


class TellsTwiceWhoIsListedTwice(Judging):
    async def send(self, members, message):
        replies = await self.pipeline([("PUBLISH", f"user:{uid}", message) for uid in members])
        became = dict(zip(members, map(self.meaning, replies), strict=True))
        await self.keep(became, message)
        return {word: [uid for uid in became if became[uid] == word] for word in WORDS}


class SharesWhatBecameOfThem(GroupFanOut):
    common = {}

    def __init__(self, pipeline, store):
        super().__init__(pipeline, store)
        self.became = self.common


class KeepsTheMessageInTheObject(GroupFanOut):
    """Another one is sent at the same time."""

    async def send(self, members, message):
        self.message = message
        return await super().send(members, message)

    async def keep(self, became, message):
        await super().keep(became, self.message)


class ForgetsWhatIsStored(GroupFanOut):
    async def send(self, members, message):
        report = await super().send(members, message)
        for uid in report["stored"]:
            self.became.get(message, {}).pop(uid, None)
        return report


class CutsTheMessage(Judging):
    def __init__(self, pipeline, store):
        async def cut(commands):
            return await pipeline([(name, to, text[:1_000]) for name, to, text in commands])

        super().__init__(cut, store)


class GivesUpAtTheFirstError(Judging):
    async def send(self, members, message):
        report = await super().send(members, message)
        return report if not report["failed"] else {**report, "failed": list(members)}


class SwallowsWhatItIsTold(StoresWithoutTryingAgain):
    """Whatever `store` complains about."""

    async def keep(self, became, message):
        with contextlib.suppress(Exception):
            await super().keep(became, message)


class SendsInTheBackground(GroupFanOut):
    """And says at once what it hopes."""

    async def send(self, members, message):
        self.task = asyncio.create_task(super().send(members, message))
        return {"pushed": list(members), "stored": [], "failed": []}


class ForgetsTheFailed(Judging):
    async def send(self, members, message):
        report = await super().send(members, message)
        return {**report, "failed": []}


WRONG = {
    StoresWhatFailed: 1,
    TellsEverybodyAgain: 2,
    TakesAnErrorForAPush: (1, 3),
    OneAfterTheOther: (3, 4),
    AHundredAtATime: 4,
    SuccessEitherWay: 1,
    StoresForNobody: 4,
    StoresOneByOne: 4,
    KnowsOneAndNoneOnly: 3,
    KnowsOneErrorOnly: (1, 3),
    LetsTheStoresErrorOut: 3,
    SaysStoredAnyway: 3,
    KeepsMembersNotMessages: 1,
    KnowsTheLastMessageOnly: (2, 3),
    TakesTheFirstWordForTheMessage: (1, 2, 3),
    StoresWithoutTryingAgain: 1,
    NeverTriesAgain: (1, 3),
    KeepsTheFirstMembers: 1,
    TriesWhoHasLeft: (2, 3),
    TriesThreeTimesAtMost: 1,
    DropsTheFailedFromTheReplies: (1, 3),
    TellsTwiceWhoIsListedTwice: 2,
    SharesWhatBecameOfThem: (1, 3),
    KeepsTheMessageInTheObject: (1, 2),
    ForgetsWhatIsStored: 2,
    CutsTheMessage: (0, 1, 2),
    GivesUpAtTheFirstError: 3,
    ForgetsTheFailed: 3,
    SwallowsWhatItIsTold: 1,
    SendsInTheBackground: 1,
}


@pytest.mark.parametrize(
    "good", [SOLUTIONS["tell_the_whole_group"], *ALTERNATIVES["tell_the_whole_group"]]
)
async def test_right_fan_outs_pass(good):
    """Whether a repeat reports everybody, or only those that it was for."""
    await assert_passes(tell_the_whole_group, good)


@pytest.mark.parametrize(("bad", "guarantee"), first_always(WRONG, 5))
async def test_wrong_fan_outs_fail(bad, guarantee):
    """Every time, with the guarantee that they break."""
    await assert_fails(tell_the_whole_group, bad, guarantee)


def test_hints_come_one_at_a_time():
    """The last one stays."""
    assert_hints_come_one_at_a_time(tell_the_whole_group())
