"""Chapter 7's challenges: right solutions pass, wrong ones break the guarantee that they break."""

import asyncio
from collections import deque

import pytest

from mpim_lab.chapters.ch07_pool.challenges import first_come_first_served, give_nothing_broken_back
from mpim_lab.chapters.ch07_pool.solutions import ALTERNATIVES, SOLUTIONS, CheckedLease, FairPool
from mpim_lab.errors import CommandTimeout, ConnectionLost, MpimError, PoolTimeout
from tests.challenges import (
    assert_fails,
    assert_hints_come_one_at_a_time,
    assert_passes,
    first_always,
    thorough,
)


class HandsOnConnections(FairPool):
    """Right, too: what is handed on is the connection, or None for the right to open one."""

    async def get(self):
        if self.slots:
            self.slots -= 1
            given = self.idle.pop() if self.idle else None
        else:
            given = await self.wait()
        if given is not None:
            return given
        try:
            return await self.connect()
        except BaseException:
            self.hand_on(None)
            raise

    async def wait(self):
        waiter = asyncio.get_running_loop().create_future()
        self.waiters.append(waiter)
        done, _ = set(), None
        try:
            done, _ = await asyncio.wait([waiter], timeout=self.wait_s)
        except asyncio.CancelledError:
            self.leave(waiter)
            raise
        if not done:
            self.leave(waiter)
            raise PoolTimeout("too late")
        return waiter.result()

    def leave(self, waiter):
        if waiter.done():
            self.hand_on(waiter.result())
        else:
            self.waiters.remove(waiter)

    def put(self, connection):
        self.hand_on(connection)

    def hand_on(self, connection):
        if self.waiters:
            self.waiters.popleft().set_result(connection)
            return
        self.slots += 1
        if connection is not None:
            self.idle.append(connection)


class PollsOnceASecond(ALTERNATIVES["first_come_first_served"][1]):
    """Right, and slow."""

    poll_s = 1.0


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


class QueueOfSlots(FairPool):
    """Whoever asks in the moment in which a slot is free slips in before those who wait."""

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
    """Who gave up stays in the queue, and is given the slot."""

    def stop_waiting(self, waiter):
        pass

    def release_slot(self):
        if not self.waiters:
            self.slots += 1
        elif not (waiter := self.waiters.popleft()).done():
            waiter.set_result(None)


class ForgetsWhatItWasGiven(FairPool):
    """Leaves the queue when it is cancelled; that it had a slot already it does not see."""

    def stop_waiting(self, waiter):
        if waiter in self.waiters:
            self.waiters.remove(waiter)


class LosesTheSlotOfWhoCannotConnect(FairPool):
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


class RaisesTimeoutError(FairPool):
    async def get(self):
        try:
            return await super().get()
        except PoolTimeout as error:
            raise TimeoutError from error


class GivesTheSlotBackTwice(FairPool):
    async def get(self):
        await self.acquire_slot()
        try:
            return self.idle.pop() if self.idle else await self.connect()
        except BaseException as error:
            self.release_slot()
            if isinstance(error, Exception):
                self.release_slot()
            raise


class ConnectsBeforeItLooks(FairPool):
    async def get(self):
        await self.acquire_slot()
        try:
            return await self.connect() if self.opened_less() else self.idle.pop()
        except BaseException:
            self.release_slot()
            raise

    def __init__(self, connect, limit, wait_s):
        super().__init__(connect, limit, wait_s)
        self.limit, self.opened = limit, 0

    def opened_less(self):
        self.opened += 1
        return self.opened <= self.limit


class CountsFromOne(FairPool):
    def __init__(self, connect, limit, wait_s):
        super().__init__(connect, limit + 1, wait_s)


class UsesOneLess(FairPool):
    def __init__(self, connect, limit, wait_s):
        super().__init__(connect, max(1, limit - 1), wait_s)


class TakesEveryTimeoutForItsOwn(FairPool):
    """Connecting that times out is no wait in the queue."""

    async def get(self):
        try:
            return await super().get()
        except TimeoutError:
            raise PoolTimeout("no connection") from None


class TriesToConnectAgain(FairPool):
    async def get(self):
        await self.acquire_slot()
        try:
            if self.idle:
                return self.idle.pop()
            try:
                return await self.connect()
            except Exception:
                await asyncio.sleep(0.05)
                return await self.connect()
        except BaseException:
            self.release_slot()
            raise


class TimesOutTooEarly(FairPool):
    def __init__(self, connect, limit, wait_s):
        super().__init__(connect, limit, min(wait_s, 10.0))


class CountsFromTheLastWake(FairPool):
    """Each wake-up begins the wait anew."""

    async def acquire_slot(self):
        waited = 0.0
        ticket = object()
        self.waiters.append(ticket)
        try:
            while self.waiters[0] is not ticket or not self.slots:
                if waited >= self.wait_s + len(self.waiters):
                    raise PoolTimeout("too late")
                await asyncio.sleep(0.5)
                waited += 0.5
            self.slots -= 1
        finally:
            self.waiters.remove(ticket)

    def release_slot(self):
        self.slots += 1


class LooksAgainWithoutAQueue(FairPool):
    """Whoever looks first has it."""

    async def acquire_slot(self):
        waited = 0.0
        while not self.slots:
            if waited >= self.wait_s:
                raise PoolTimeout("too late")
            await asyncio.sleep(0.1)
            waited += 0.1
        self.slots -= 1

    def release_slot(self):
        self.slots += 1


class WakesAll(FairPool):
    """All who wait are woken, and join the queue again, at its end."""

    async def acquire_slot(self):
        while not self.slots:
            waiter = asyncio.get_running_loop().create_future()
            self.waiters.append(waiter)
            try:
                await asyncio.wait_for(waiter, self.wait_s)
            except TimeoutError:
                raise PoolTimeout("too late") from None
        self.slots -= 1

    def release_slot(self):
        self.slots += 1
        waiters, self.waiters = self.waiters, deque()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)


class SwallowsCancellation(FairPool):
    async def get(self):
        while True:
            try:
                return await super().get()
            except asyncio.CancelledError:
                continue


class TakesCancellationForTheTimeLimit(FairPool):
    async def acquire_slot(self):
        try:
            await super().acquire_slot()
        except asyncio.CancelledError:
            raise PoolTimeout("no connection became free") from None


class SharesTheIdle(FairPool):
    shared: list[object] = []

    def __init__(self, connect, limit, wait_s):
        super().__init__(connect, limit, wait_s)
        self.idle = self.shared


class RefusesAtOnce(FairPool):
    async def acquire_slot(self):
        if not self.slots:
            raise PoolTimeout("all are in use")
        self.slots -= 1

    def release_slot(self):
        self.slots += 1


class PutsBackAndKeeps(FairPool):
    """`get` leaves the connection among the idle ones."""

    async def get(self):
        connection = await super().get()
        self.idle.append(connection)
        return connection


class ConnectsUnderALock(FairPool):
    """While one connects nobody else is served, though a connection is idle."""

    def __init__(self, connect, limit, wait_s):
        super().__init__(connect, limit, wait_s)
        self.lock = asyncio.Lock()

    async def get(self):
        async with self.lock:
            return await super().get()


class ShieldsAndForgets(FairPool):
    """Who is cancelled while it connects leaves an open connection that nobody has."""

    async def get(self):
        await self.acquire_slot()
        try:
            if self.idle:
                return self.idle.pop()
            return await asyncio.shield(asyncio.ensure_future(self.connect()))
        except BaseException:
            self.release_slot()
            raise


class HandsOnToTheCancelled(FairPool):
    """`set_result` on a future that is cancelled raises."""

    def release_slot(self):
        if self.waiters:
            self.waiters.popleft().set_result(None)
        else:
            self.slots += 1


class TellsEveryoneThatConnectingFailed(FairPool):
    async def get(self):
        await self.acquire_slot()
        try:
            return self.idle.pop() if self.idle else await self.connect()
        except Exception as error:
            waiters, self.waiters = self.waiters, deque()
            for waiter in waiters:
                waiter.set_exception(error)
            self.release_slot()
            raise


# Leases


class NoFinally(CheckedLease):
    async def __aexit__(self, kind, error, traceback):
        if kind is None:
            self.pool.put(self.connection)


class TakesBackAnything(CheckedLease):
    def release(self):
        self.pool.put(self.connection)


class MindsOurErrorsOnly(CheckedLease):
    """Discards after an error of ours; a cancellation is none."""

    breaking: object = MpimError

    async def __aexit__(self, kind, error, traceback):
        if isinstance(error, self.breaking):
            self.pool.discard(self.connection)
        else:
            self.pool.put(self.connection)


class DiscardsAfterAnyError(MindsOurErrorsOnly):
    breaking = BaseException


class DiscardsAlways(CheckedLease):
    async def __aexit__(self, kind, error, traceback):
        self.pool.discard(self.connection)


class DoesNotAsk(CheckedLease):
    async def __aenter__(self):
        self.connection = await self.pool.get()
        return self.connection


class KeepsTheError(CheckedLease):
    async def __aexit__(self, kind, error, traceback):
        self.release()
        return True


class LosesWhatDoesNotAnswer(CheckedLease):
    """Takes another one, and never gives back the one that is broken."""

    async def __aenter__(self):
        while True:
            self.connection = await self.pool.get()
            try:
                await self.connection.call("PING")
                return self.connection
            except MpimError:
                continue
            except BaseException:
                self.release()
                raise


class DecidesByTheError(MindsOurErrorsOnly):
    """A cancellation breaks a connection, it thinks, wherever it strikes."""

    breaking = asyncio.CancelledError | MpimError


class IsCancelledAsItAsks(CheckedLease):
    """And has a slot then that nobody gives back."""

    async def __aenter__(self):
        while True:
            self.connection = await self.pool.get()
            try:
                await self.connection.call("PING")
                return self.connection
            except MpimError:
                self.release()


class HealthyIfThereIsNoError(CheckedLease):
    async def __aexit__(self, kind, error, traceback):
        if kind is None:
            self.pool.put(self.connection)
        else:
            self.release()


class LooksThreeTimes(CheckedLease):
    """Then gives out whatever comes, unasked."""

    times = 3

    async def __aenter__(self):
        for _ in range(self.times):
            self.connection = await self.pool.get()
            try:
                await self.connection.call("PING")
                return self.connection
            except MpimError:
                self.pool.discard(self.connection)
            except BaseException:
                self.release()
                raise
        self.connection = await self.pool.get()
        return self.connection


class LooksOnce(LooksThreeTimes):
    times = 1


class GivesUpAfterThree(LooksThreeTimes):
    async def __aenter__(self):
        for _ in range(self.times):
            self.connection = await self.pool.get()
            try:
                await self.connection.call("PING")
                return self.connection
            except MpimError:
                self.pool.discard(self.connection)
            except BaseException:
                self.release()
                raise
        raise ConnectionLost("three were broken")


class KnowsConnectionLostOnly(CheckedLease):
    """The one that does not answer raises CommandTimeout."""

    async def __aenter__(self):
        while True:
            self.connection = await self.pool.get()
            try:
                await self.connection.call("PING")
                return self.connection
            except ConnectionLost:
                self.pool.discard(self.connection)
            except BaseException:
                self.release()
                raise


class PutsBackWhatDoesNotAnswer(CheckedLease):
    async def __aenter__(self):
        while True:
            self.connection = await self.pool.get()
            try:
                await self.connection.call("PING")
                return self.connection
            except CommandTimeout:
                self.pool.put(self.connection)
                await asyncio.sleep(0.01)
            except MpimError:
                self.pool.discard(self.connection)
            except BaseException:
                self.release()
                raise


class GivesBackBeforeItIsLent(CheckedLease):
    """Twice, when its caller is cancelled while it waits: the second is one that it has not."""

    async def __aenter__(self):
        try:
            return await super().__aenter__()
        except BaseException:
            self.release()
            raise


class AsksAtTheEnd(CheckedLease):
    """An idle one may be cut after it was asked."""

    async def __aenter__(self):
        self.connection = await self.pool.get()
        return self.connection

    async def __aexit__(self, kind, error, traceback):
        try:
            if not self.connection.unanswered:
                await self.connection.call("PING")
        except MpimError:
            pass
        self.release()


class SleepsInTheEnd(CheckedLease):
    """Who awaits there may be cancelled there; here it waits for the reply that is to come."""

    async def __aexit__(self, kind, error, traceback):
        for _ in range(3):
            if self.connection.unanswered:
                await asyncio.sleep(0.1)
        self.pool.put(self.connection)


class WrapsTheError(CheckedLease):
    async def __aexit__(self, kind, error, traceback):
        self.release()
        if isinstance(error, Exception):
            raise ConnectionLost("in the lease") from error


class KeepsConnectionErrors(CheckedLease):
    async def __aexit__(self, kind, error, traceback):
        self.release()
        return isinstance(error, ConnectionLost)


class KeepsCancellations(CheckedLease):
    async def __aexit__(self, kind, error, traceback):
        self.release()
        return isinstance(error, asyncio.CancelledError)


class RemembersInTheClass(CheckedLease):
    current: list[object] = []

    async def __aenter__(self):
        self.current.append(await super().__aenter__())
        return self.current[-1]

    async def __aexit__(self, kind, error, traceback):
        self.connection = self.current.pop()
        self.release()


class DiscardsAndPuts(CheckedLease):
    def release(self):
        if self.connection.unanswered:
            self.pool.discard(self.connection)
        self.pool.put(self.connection)


class MindsExceptionsOnly(CheckedLease):
    """A caller may raise what is no Exception."""

    async def __aexit__(self, kind, error, traceback):
        if error is None or isinstance(error, Exception | asyncio.CancelledError):
            self.release()


class GivesBackAtOnce(CheckedLease):
    async def __aenter__(self):
        await super().__aenter__()
        self.release()
        return self.connection

    async def __aexit__(self, kind, error, traceback):
        pass


class DiscardsWhenCancelledAsItAsks(CheckedLease):
    """And the idle ones with it: they are all suspects."""

    async def __aenter__(self):
        self.connection = await self.pool.get()
        try:
            await self.connection.call("PING")
        except MpimError:
            self.pool.discard(self.connection)
            self.connection = await self.pool.get()
            self.pool.discard(self.connection)
            return await self.__aenter__()
        except BaseException:
            self.release()
            raise
        return self.connection


class AsksForEver(CheckedLease):
    """It goes on when it is cancelled."""

    async def __aenter__(self):
        while True:
            self.connection = await self.pool.get()
            try:
                await self.connection.call("PING")
                return self.connection
            except BaseException:
                self.release()


class IsNoContext:
    def __init__(self, pool):
        pass


WRONG_POOLS = {
    CountsFromOne: 1,
    AlwaysOpensOne: (1, 2),
    LastComeFirstServed: 3,
    ForgetsWhatItWasGiven: 4,
    RaisesTimeoutError: 5,
    TakesEveryTimeoutForItsOwn: 6,
    NaiveCondition: (3, 5),
    QueueOfSlots: 3,
    WaitsForEver: 5,
    ServesTheDead: 4,
    LosesTheSlotOfWhoCannotConnect: 4,
    MindsErrorsOnly: 4,
    GivesTheSlotBackTwice: 1,
    ConnectsBeforeItLooks: 2,
    UsesOneLess: 4,
    TriesToConnectAgain: 6,
    TimesOutTooEarly: 5,
    CountsFromTheLastWake: 5,
    LooksAgainWithoutAQueue: 3,
    WakesAll: 3,
    SwallowsCancellation: 4,
    TakesCancellationForTheTimeLimit: 5,
    SharesTheIdle: (1, 2, 4),
    RefusesAtOnce: 5,
    PutsBackAndKeeps: 1,
    ConnectsUnderALock: 4,
    ShieldsAndForgets: (1, 4),
    HandsOnToTheCancelled: (0, 4, 5),
    TellsEveryoneThatConnectingFailed: (5, 6, 0),
}
WRONG_LEASES = {
    TakesBackAnything: 1,
    DoesNotAsk: 2,
    DiscardsAlways: 3,
    NoFinally: 4,
    KeepsTheError: 5,
    MindsOurErrorsOnly: (1, 3),
    DiscardsAfterAnyError: 3,
    LosesWhatDoesNotAnswer: 4,
    DecidesByTheError: (1, 3),
    IsCancelledAsItAsks: 4,
    HealthyIfThereIsNoError: 1,
    LooksThreeTimes: 2,
    LooksOnce: 2,
    GivesUpAfterThree: 2,
    KnowsConnectionLostOnly: 2,
    PutsBackWhatDoesNotAnswer: (1, 2, 4),
    GivesBackBeforeItIsLent: (4, 5),
    AsksAtTheEnd: 2,
    SleepsInTheEnd: 1,
    WrapsTheError: 5,
    KeepsConnectionErrors: 5,
    KeepsCancellations: 5,
    RemembersInTheClass: (1, 4),
    DiscardsAndPuts: (4, 5),
    MindsExceptionsOnly: 4,
    GivesBackAtOnce: 4,
    DiscardsWhenCancelledAsItAsks: 3,
    AsksForEver: (4, 5),
    IsNoContext: 0,
}


def right(name):
    return [SOLUTIONS[name], *ALTERNATIVES[name]]


@pytest.mark.parametrize(
    "good",
    [
        *right("first_come_first_served"),
        pytest.param(HandsOnConnections, marks=thorough),
        pytest.param(PollsOnceASecond, marks=thorough),
    ],
)
async def test_right_pools_pass(good):
    """Whether they hand on slots or connections, or look again and again."""
    await assert_passes(first_come_first_served, good)


@pytest.mark.parametrize("good", right("give_nothing_broken_back"))
async def test_right_leases_pass(good):
    """Whether they look when they lend or when they take back."""
    await assert_passes(give_nothing_broken_back, good)


@pytest.mark.parametrize(("bad", "guarantee"), first_always(WRONG_POOLS, 6))
async def test_wrong_pools_fail(bad, guarantee):
    """Every time, with the guarantee that they break."""
    await assert_fails(first_come_first_served, bad, guarantee)


@pytest.mark.parametrize(("bad", "guarantee"), first_always(WRONG_LEASES, 5))
async def test_wrong_leases_fail(bad, guarantee):
    """Every time, with the guarantee that they break."""
    await assert_fails(give_nothing_broken_back, bad, guarantee)


def test_hints_come_one_at_a_time():
    """The last one stays."""
    assert_hints_come_one_at_a_time(first_come_first_served(), give_nothing_broken_back())
