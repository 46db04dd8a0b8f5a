"""Chapter 3's challenges: the reference solutions pass, every known-bad one is caught."""

import asyncio

from mpim_lab.chapters.ch03_idempotency.challenges import do_it_once, survive_the_zombie
from mpim_lab.chapters.ch03_idempotency.solutions import FINISH, FencedRecord, LeasedRecord
from tests.challenges import assert_all_pass, assert_each_fails, assert_hints_come_one_at_a_time

UNGUARDED = "\n".join(line for line in FINISH.splitlines() if "~= ARGV[1]" not in line)


class Careless(LeasedRecord):
    """Does whatever comes."""

    async def run(self, id, work):
        await work()


class Checks(LeasedRecord):
    """Check, work, set."""

    async def run(self, id, work):
        if await self.store.call("EXISTS", self.store.key(id)):
            return
        await work()
        await self.store.call("SET", self.store.key(id), "done")


class MarksFirst(LeasedRecord):
    """Set, work."""

    async def run(self, id, work):
        if await self.store.call("SET", self.store.key(id), "done", "NX"):
            await work()


class NeverMarks(LeasedRecord):
    """A lock while it works, and no memory afterwards."""

    async def run(self, id, work):
        while (
            await self.store.call(
                "SET", self.store.key(id), "claimed", "NX", "PX", self.store.lease_ms
            )
            is None
        ):
            await asyncio.sleep(0.01)
        await work()
        await self.store.call("DEL", self.store.key(id))


class TidiesUpAfterItsDeath(LeasedRecord):
    """No lease; whoever dies takes its claim back, it thinks.

    A process that is gone runs no `finally`.
    """

    async def run(self, id, work):
        if await self.store.call("SET", self.store.key(id), "mine", "NX") is None:
            return
        done = False
        try:
            await work()
            done = True
        finally:
            if not done:
                await self.store.call("DEL", self.store.key(id))


class DoesNothing(LeasedRecord):
    async def run(self, id, work):
        return None


class MarksAfterwards(FencedRecord):
    """The command, then the mark: two steps."""

    async def finish(self, key, token, commands):
        for command in commands:
            await self.store.call(*command)
        await self.store.call("SET", key, "done", "EX", 86_400)


class ChecksTokenBefore(FencedRecord):
    """Looks at the token, then writes.

    Two steps, and the zombie sleeps before both or between them.
    """

    async def finish(self, key, token, commands):
        if await self.store.call("GET", key) == token.encode():
            await MarksAfterwards.finish(self, key, token, commands)


class NoToken(FencedRecord):
    """One step, and whoever comes may do it."""

    script = UNGUARDED


async def test_the_reference_solutions_pass(lab_server):
    """Both challenges can be solved with what the chapter has shown."""
    await assert_all_pass(
        do_it_once().check(LeasedRecord), survive_the_zombie().check(FencedRecord)
    )


async def test_a_receiver_that_does_it_twice_or_never_fails_every_time(lab_server):
    """The naive versions of the chapter are among them."""
    complaints = {
        Careless: "was duplicated",
        Checks: "was duplicated",
        MarksFirst: "was lost",
        NeverMarks: "was duplicated",
        DoesNothing: "was lost",
        TidiesUpAfterItsDeath: "was lost",
    }
    await assert_each_fails(do_it_once, complaints)


async def test_a_receiver_whose_effect_and_mark_are_two_steps_fails_every_time(lab_server):
    """So does one whose zombie still writes.

    A solution of the first challenge is not one of the second.
    """
    complaints = {
        MarksAfterwards: "was duplicated",
        ChecksTokenBefore: "was duplicated",
        NoToken: "was duplicated",
        Careless: "was lost",
    }
    await assert_each_fails(survive_the_zombie, complaints)


def test_hints_come_one_at_a_time():
    """The last one stays."""
    assert_hints_come_one_at_a_time(do_it_once(), survive_the_zombie())
