"""Chapter 8's second challenge: the reference solution passes, every known-bad one is caught."""

from mpim_lab.chapters.ch08_im.challenges import tell_the_whole_group
from mpim_lab.chapters.ch08_im.solutions import GroupFanOut
from tests.legacy_challenges import (
    assert_all_pass,
    assert_each_fails,
    assert_hints_come_one_at_a_time,
)
from tests.support import REPEATS


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


class SuccessEitherWay(GroupFanOut):
    """Whoever was published to has received it: so says the naive version."""

    async def keep(self, became, message):
        became.update(dict.fromkeys([uid for uid in became if became[uid] == "away"], "pushed"))


class StoresForNobody(GroupFanOut):
    async def keep(self, became, message):
        await self.store([uid for uid in became if became[uid] == "away"], message)


class StoresOneByOne(GroupFanOut):
    """One pipeline, and a transaction for each."""

    async def keep(self, became, message):
        for uid in [uid for uid in became if became[uid] == "away"]:
            await super().keep({uid: "away"}, message)
            became[uid] = "stored"


class TakesAnErrorForAPush(GroupFanOut):
    """An exception is true."""

    async def send(self, members, message):
        replies = await self.pipeline([("PUBLISH", f"user:{uid}", message) for uid in members])
        became = {
            uid: "pushed" if reply else "away" for uid, reply in zip(members, replies, strict=True)
        }
        await self.keep(became, message)
        return {
            word: [uid for uid in members if became[uid] == word]
            for word in ("pushed", "stored", "failed")
        }


class TellsEverybodyAgain(GroupFanOut):
    """Keeps nothing."""

    async def send(self, members, message):
        self.became.clear()
        return await super().send(members, message)


class LetsTheStoresErrorOut(GroupFanOut):
    async def keep(self, became, message):
        if away := [uid for uid in became if became[uid] == "away"]:
            await self.store(away, message)
            became.update(dict.fromkeys(away, "stored"))


class KeepsMembersNotMessages(GroupFanOut):
    """Whoever received one message receives no other."""

    async def send(self, members, message):
        return await super().send(members, "m1 tea at eight?")


class StoresWhatFailed(GroupFanOut):
    async def keep(self, became, message):
        became.update(dict.fromkeys([uid for uid in became if became[uid] == "failed"], "away"))
        await super().keep(became, message)


class NeverTriesAgain(GroupFanOut):
    async def send(self, members, message):
        if message in self.became:
            members = [uid for uid in members if self.became[message][uid] != "failed"]
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


async def test_the_reference_solution_passes_every_time(lab_server):
    """It can be solved with what the chapter has shown."""
    for _ in range(REPEATS):
        await assert_all_pass(tell_the_whole_group().check(GroupFanOut))


async def test_a_group_told_one_by_one_or_not_truly_fails_every_time(lab_server):
    """The outcome says which member has the message twice, or never, or is silently_lost."""
    complaints = {
        OneAfterTheOther: "500 round trips for 500 members, and 5 for 5",
        SuccessEitherWay: "m1 is lost for carol: nobody listened, and it was not stored",
        StoresForNobody: "nobody is away, and the store was called",
        StoresOneByOne: "the store was called 96 times for one message",
        TakesAnErrorForAPush: "m1 failed for dave, and send says pushed",
        TellsEverybodyAgain: "erin received m1 2 times",
    }
    await assert_each_fails(tell_the_whole_group, complaints)


async def test_a_group_that_is_told_nearly_right_fails_every_time(lab_server):
    """Errors that get out, memories that are too short or too long, answers of somebody else."""
    complaints = {
        LetsTheStoresErrorOut: "send raised StoreFailed, and nobody knows who received m1",
        KeepsMembersNotMessages: "is online, and did not receive m2",
        StoresWhatFailed: "dave's PUBLISH failed, and m1 was stored",
        NeverTriesAgain: "is online, and did not receive m1",
        AHundredAtATime: "5 round trips for 500 members, and 1 for 5",
        DropsTheFailedFromTheReplies: "m1 failed for dave, and send says pushed",
    }
    await assert_each_fails(tell_the_whole_group, complaints)


async def test_a_class_that_cannot_be_used_is_told_so(lab_server):
    """Whatever it raises is the complaint."""
    assert "your class raised TypeError" in repr(await tell_the_whole_group().check(int))


def test_hints_come_one_at_a_time():
    """The last one stays."""
    assert_hints_come_one_at_a_time(tell_the_whole_group())
