"""Chapter 7's first challenge: the reference solution passes, every known-bad one is caught."""

import asyncio

from mpim_lab.chapters.ch07_pool.challenges import first_come_first_served
from mpim_lab.chapters.ch07_pool.solutions import FairPool
from mpim_lab.errors import PoolTimeout
from tests.legacy_challenges import (
    assert_all_pass,
    assert_each_fails,
    assert_hints_come_one_at_a_time,
)
from tests.support import REPEATS


class NaiveCondition(FairPool):
    """Chapter 7's naive pool, opened late."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.freed = asyncio.Condition()

    async def get(self):
        async with self.freed:
            while not self.idle and not self.slots:
                await self.freed.wait()
            if self.idle:
                return self.idle.pop()
            self.slots -= 1
        return await self.connect()

    async def put(self, connection):  # type: ignore[override]
        async with self.freed:
            self.idle.append(connection)
            self.freed.notify()


class QueueOfPlaces(FairPool):
    """Whoever asks in the moment in which a place is free slips in before those who wait."""

    def __init__(self, connect, limit, wait_s):
        super().__init__(connect, 0, wait_s)
        self.queue = asyncio.Queue()
        for _ in range(limit):
            self.queue.put_nowait(None)

    async def acquire_slot(self):
        try:
            async with asyncio.timeout(self.wait_s):
                await self.queue.get()
        except TimeoutError:
            raise PoolTimeout("no connection became free") from None

    def release_slot(self):
        self.queue.put_nowait(None)


class LastComeFirstServed(FairPool):
    def release_slot(self):
        self.waiters.reverse()
        super().release_slot()
        self.waiters.reverse()


class AlwaysOpensOne(FairPool):
    """Never uses one again."""

    def put(self, connection):
        self.release_slot()


class WaitsForEver(FairPool):
    def __init__(self, connect, limit, wait_s):
        super().__init__(connect, limit, None)


class ServesTheDead(FairPool):
    """Who gave up stays in line, and is given the place."""

    def stop_waiting(self, waiter):
        pass

    def release_slot(self):
        if not self.waiters:
            self.slots += 1
        elif not (waiter := self.waiters.popleft()).done():
            waiter.set_result(None)


class LosesWhatTheDoorGave(FairPool):
    """Leaves the line when it is cancelled, and forgets that it had been given a place already."""

    def stop_waiting(self, waiter):
        if waiter in self.waiters:
            self.waiters.remove(waiter)


class LosesThePlaceOfWhoCannotConnect(FairPool):
    async def get(self):
        await self.acquire_slot()
        return self.idle.pop() if self.idle else await self.connect()


class MindsErrorsOnly(FairPool):
    """Cancellation is no Exception."""

    async def get(self):
        await self.acquire_slot()
        try:
            return self.idle.pop() if self.idle else await self.connect()
        except Exception:
            self.release_slot()
            raise


async def test_the_reference_solution_passes_every_time(lab_server):
    """It can be solved with what the chapter has shown."""
    for _ in range(REPEATS):
        await assert_all_pass(first_come_first_served().check(FairPool))


async def test_a_line_that_is_unfair_or_loses_places_fails_every_time(lab_server):
    """The outcome says who was overtaken, or who waits for ever."""
    complaints = {
        NaiveCondition: "m4 was given a connection before m3",
        QueueOfPlaces: "m4 was given a connection before m3",
        LastComeFirstServed: "m5 was given a connection before m3",
        AlwaysOpensOne: "the pool opened one more",
        WaitsForEver: "m3 waits for ever",
        ServesTheDead: "m4 was refused (PoolTimeout)",
        LosesWhatTheDoorGave: "m4 is stalled",
        LosesThePlaceOfWhoCannotConnect: "m3 is stalled",
        MindsErrorsOnly: "m3 is stalled",
    }
    await assert_each_fails(first_come_first_served, complaints)


async def test_a_class_that_cannot_be_used_is_told_so(lab_server):
    """Whatever it raises is the complaint."""
    assert "your class raised TypeError" in repr(await first_come_first_served().check(dict))


def test_hints_come_one_at_a_time():
    """The last one stays."""
    assert_hints_come_one_at_a_time(first_come_first_served())
