"""Chapter 7's first challenge: the reference solution passes, every known-bad one is caught."""

import asyncio
from collections import deque

from mpim_lab.chapters.ch07_pool.challenges import first_come_first_served
from mpim_lab.errors import PoolTimeout
from tests.challenges import assert_all_pass, assert_each_fails, assert_hints_come_one_at_a_time
from tests.support import REPEATS


class Line:
    """Reference solution of the first challenge."""

    def __init__(self, connect, limit, wait_s):
        self.connect, self.places, self.wait_s = connect, limit, wait_s
        self.idle, self.waiters = [], deque()

    async def get(self):
        await self.place()
        try:
            return self.idle.pop() if self.idle else await self.connect()
        except BaseException:
            self.free_place()
            raise

    async def place(self):
        if self.places:
            self.places -= 1
            return
        turn = asyncio.get_running_loop().create_future()
        self.waiters.append(turn)
        try:
            async with asyncio.timeout(self.wait_s):
                await turn
        except BaseException as error:
            self.gives_up(turn)
            if isinstance(error, TimeoutError):
                raise PoolTimeout("no connection became free") from None
            raise

    def gives_up(self, turn):
        if turn in self.waiters:
            self.waiters.remove(turn)
        elif turn.done() and not turn.cancelled():
            self.free_place()

    def put(self, connection):
        self.idle.append(connection)
        self.free_place()

    def free_place(self):
        while self.waiters:
            turn = self.waiters.popleft()
            if not turn.done():
                return turn.set_result(None)
        self.places += 1
        return None


class ConditionOfTheSketch(Line):
    """Chapter 7's sketch, opened late."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.freed = asyncio.Condition()

    async def get(self):
        async with self.freed:
            while not self.idle and not self.places:
                await self.freed.wait()
            if self.idle:
                return self.idle.pop()
            self.places -= 1
        return await self.connect()

    async def put(self, connection):
        async with self.freed:
            self.idle.append(connection)
            self.freed.notify()


class QueueOfPlaces(Line):
    """Whoever asks in the moment in which a place is free slips in before those who wait."""

    def __init__(self, connect, limit, wait_s):
        super().__init__(connect, 0, wait_s)
        self.queue = asyncio.Queue()
        for _ in range(limit):
            self.queue.put_nowait(None)

    async def place(self):
        try:
            async with asyncio.timeout(self.wait_s):
                await self.queue.get()
        except TimeoutError:
            raise PoolTimeout("no connection became free") from None

    def free_place(self):
        self.queue.put_nowait(None)


class LastComeFirstServed(Line):
    def free_place(self):
        self.waiters.reverse()
        super().free_place()
        self.waiters.reverse()


class AlwaysOpensOne(Line):
    """Never uses one again."""

    def put(self, connection):
        self.free_place()


class WaitsForEver(Line):
    def __init__(self, connect, limit, wait_s):
        super().__init__(connect, limit, None)


class ServesTheDead(Line):
    """Who gave up stays in line, and is given the place."""

    def gives_up(self, turn):
        pass

    def free_place(self):
        if not self.waiters:
            self.places += 1
        elif not (turn := self.waiters.popleft()).done():
            turn.set_result(None)


class LosesWhatTheDoorGave(Line):
    """Leaves the line when it is cancelled, and forgets that it had been given a place already."""

    def gives_up(self, turn):
        if turn in self.waiters:
            self.waiters.remove(turn)


class LosesThePlaceOfWhoCannotConnect(Line):
    async def get(self):
        await self.place()
        return self.idle.pop() if self.idle else await self.connect()


class MindsErrorsOnly(Line):
    """Cancellation is no Exception."""

    async def get(self):
        await self.place()
        try:
            return self.idle.pop() if self.idle else await self.connect()
        except Exception:
            self.free_place()
            raise


async def test_the_reference_solution_passes_every_time(lab_server):
    """It can be solved with what the chapter has shown."""
    for _ in range(REPEATS):
        await assert_all_pass(first_come_first_served().check(Line))


async def test_a_line_that_is_unfair_or_loses_places_fails_every_time(lab_server):
    """The outcome says who was overtaken, or who waits for ever."""
    complaints = {
        ConditionOfTheSketch: "m4 was given a connection before m3",
        QueueOfPlaces: "m4 was given a connection before m3",
        LastComeFirstServed: "m5 was given a connection before m3",
        AlwaysOpensOne: "the pool opened one more",
        WaitsForEver: "m3 waits for ever",
        ServesTheDead: "m4 was refused (PoolTimeout)",
        LosesWhatTheDoorGave: "m4 is stuck",
        LosesThePlaceOfWhoCannotConnect: "m3 is stuck",
        MindsErrorsOnly: "m3 is stuck",
    }
    await assert_each_fails(first_come_first_served, complaints)


async def test_a_class_that_cannot_be_used_is_told_so(lab_server):
    """Whatever it raises is the complaint."""
    assert "your class raised TypeError" in repr(await first_come_first_served().check(dict))


def test_hints_come_one_at_a_time():
    """The last one stays."""
    assert_hints_come_one_at_a_time(first_come_first_served())
