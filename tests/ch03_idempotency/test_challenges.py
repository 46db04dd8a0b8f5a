"""Chapter 3's challenges: right solutions pass, wrong ones break the guarantee that they break."""

import asyncio
import json
import uuid

import pytest

from mpim_lab.chapters.ch03_idempotency.challenges import do_it_once, survive_the_zombie
from mpim_lab.chapters.ch03_idempotency.solutions import FINISH, FencedRecord, LeasedRecord
from tests.challenges import (
    assert_fails,
    assert_hints_come_one_at_a_time,
    assert_passes,
    first_of_each,
    thorough,
)

UNGUARDED = "\n".join(line for line in FINISH.splitlines() if "~= ARGV[1]" not in line)
DAY_S = 86_400


class Leased(LeasedRecord):
    """What wrong solutions have in common with the right one."""

    async def claim(self, id):
        """Claim the record; False if the work is done already."""
        key = self.store.key(id)
        while await self.store.call("SET", key, "claimed", "NX", "PX", self.store.lease_ms) is None:
            if await self.store.call("GET", key) == b"done":
                return False
            await asyncio.sleep(0.01)
        return True


class DoesWhateverComes(LeasedRecord):
    async def run(self, id, work):
        await work()


class ChecksThenSets(LeasedRecord):
    async def run(self, id, work):
        if not await self.store.call("EXISTS", self.store.key(id)):
            await work()
            await self.store.call("SET", self.store.key(id), "done")


class RecordsFirst(LeasedRecord):
    async def run(self, id, work):
        if await self.store.call("SET", self.store.key(id), "done", "NX"):
            await work()


class ForgetsAfterwards(Leased):
    async def run(self, id, work):
        if await self.claim(id):
            await work()
            await self.store.call("DEL", self.store.key(id))


class GivesBackInFinally(LeasedRecord):
    """A process that is gone runs no `finally`."""

    async def run(self, id, work):
        key, done = self.store.key(id), False
        if await self.store.call("SET", key, "mine", "NX") is None:
            return
        try:
            await work()
            done = True
        finally:
            if not done:
                await self.store.call("DEL", key)


class HasNoDoneRecord(LeasedRecord):
    async def run(self, id, work):
        lease = ("NX", "PX", self.store.lease_ms)
        if await self.store.call("SET", self.store.key(id), "1", *lease) is not None:
            await work()


class KeepsTheLeasesEnd(Leased):
    async def run(self, id, work):
        if await self.claim(id):
            await work()
            await self.store.call("SET", self.store.key(id), "done", "KEEPTTL")


class GivesUpWaiting(LeasedRecord):
    async def run(self, id, work):
        key = self.store.key(id)
        for _ in range(8):
            if await self.store.call("SET", key, "claimed", "NX", "PX", self.store.lease_ms):
                await work()
                await self.store.call("SET", key, "done", "EX", DAY_S)
                return
            if await self.store.call("GET", key) == b"done":
                return
            await asyncio.sleep(0.005)


class SetsTheLeaseInASecondStep(LeasedRecord):
    async def run(self, id, work):
        key = self.store.key(id)
        while not await self.store.call("SETNX", key, "claimed"):
            if await self.store.call("GET", key) == b"done":
                return
            await asyncio.sleep(0.01)
        await self.store.call("PEXPIRE", key, self.store.lease_ms)
        await work()
        await self.store.call("SET", key, "done", "EX", DAY_S)


class RemembersInTheClass(Leased):
    done: set[str] = set()

    async def run(self, id, work):
        if id not in self.done and await self.claim(id):
            await work()
            self.done.add(id)


class WritesInTwoSteps(FencedRecord):
    async def finish(self, key, token, commands):
        for command in commands:
            await self.store.call(*command)
        await self.store.call("SET", key, "done", "EX", DAY_S)


class LooksAtTheTokenBefore(WritesInTwoSteps):
    async def finish(self, key, token, commands):
        if await self.store.call("GET", key) == token.encode():
            await super().finish(key, token, commands)


class HasNoToken(FencedRecord):
    script = UNGUARDED


class BooksTheFirstCommand(FencedRecord):
    async def finish(self, key, token, commands):
        await super().finish(key, token, commands[:1])


class TakesBusyForDone(FencedRecord):
    async def run(self, id, work):
        key, token = self.store.key(id), id
        lease = ("NX", "PX", self.store.lease_ms)
        if await self.store.call("SET", key, token, *lease) is not None:
            await self.finish(key, token, await work())


class TriesOnce(FencedRecord):
    """Its lease ran out: the script did nothing, and it returns as if it had."""

    async def run(self, id, work):
        key, token = self.store.key(id), f"{id} {asyncio.current_task()!r}"
        while await self.store.call("SET", key, token, "NX", "PX", self.store.lease_ms) is None:
            if await self.store.call("GET", key) == b"done":
                return
            await asyncio.sleep(0.01)
        await self.finish(key, token, await work())


class WatchesAndExecutes(LeasedRecord):
    """Right, and without Lua: WATCH, MULTI, EXEC."""

    async def run(self, id, work):
        call, key = self.store.call, self.store.key(id)
        while await call("GET", key) != b"done":
            token = uuid.uuid4().hex
            if await call("SET", key, token, "NX", "PX", self.store.lease_ms) is None:
                await asyncio.sleep(0.01)
                continue
            commands = await work()
            await call("WATCH", key)
            if await call("GET", key) != token.encode():
                await call("UNWATCH")
                continue
            await call("MULTI")
            for command in commands:
                await call(*command)
            await call("SET", key, "done", "EX", DAY_S)
            await call("EXEC")


class GivesOneArgument(FencedRecord):
    """Right, with all commands as one argument, keys included."""

    async def finish(self, key, token, commands):
        text = json.dumps(
            [[str(w, "utf-8") if isinstance(w, bytes) else str(w) for w in c] for c in commands]
        )
        await self.store.call("EVAL", FINISH, 1, key, token, text)


class PollsOnceASecond(LeasedRecord):
    """Right, and slow."""

    async def run(self, id, work):
        key = self.store.key(id)
        while await self.store.call("SET", key, "claimed", "NX", "PX", self.store.lease_ms) is None:
            if await self.store.call("GET", key) == b"done":
                return
            await asyncio.sleep(1)
        await work()
        await self.store.call("SET", key, "done", "EX", DAY_S)


WRONG_ONCE = {
    HasNoDoneRecord: (1, 2),
    KeepsTheLeasesEnd: 2,
    GivesUpWaiting: 1,
    RecordsFirst: 1,
    SetsTheLeaseInASecondStep: (1, 3),
    DoesWhateverComes: 2,
    ChecksThenSets: 2,
    ForgetsAfterwards: 2,
    GivesBackInFinally: 1,
    RemembersInTheClass: 2,
}
WRONG_ZOMBIE = {
    HasNoToken: 2,
    BooksTheFirstCommand: 3,
    TakesBusyForDone: 1,
    WritesInTwoSteps: (2, 3),
    LooksAtTheTokenBefore: (2, 3),
    TriesOnce: 1,
    DoesWhateverComes: 1,
}


@pytest.mark.parametrize("good", [LeasedRecord, pytest.param(PollsOnceASecond, marks=thorough)])
async def test_right_solutions_of_do_it_once_pass(good):
    """Also those in another style."""
    await assert_passes(do_it_once, good)


@pytest.mark.parametrize("good", [FencedRecord, WatchesAndExecutes, GivesOneArgument])
async def test_right_solutions_of_survive_the_zombie_pass(good):
    """How they do it is nobody's business."""
    await assert_passes(survive_the_zombie, good)


@pytest.mark.parametrize(("bad", "guarantee"), first_of_each(WRONG_ONCE, 4))
async def test_wrong_solutions_of_do_it_once_fail(bad, guarantee):
    """Every time, with the guarantee that they break."""
    await assert_fails(do_it_once, bad, guarantee)


@pytest.mark.parametrize(("bad", "guarantee"), first_of_each(WRONG_ZOMBIE, 3))
async def test_wrong_solutions_of_survive_the_zombie_fail(bad, guarantee):
    """Every time, with the guarantee that they break."""
    await assert_fails(survive_the_zombie, bad, guarantee)


def test_hints_come_one_at_a_time():
    """The last one stays."""
    assert_hints_come_one_at_a_time(do_it_once(), survive_the_zombie())
