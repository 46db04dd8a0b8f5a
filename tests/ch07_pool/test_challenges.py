"""Chapter 7's second challenge: the reference solution passes, every known-bad one is caught."""

import asyncio

from mpim_lab.chapters.ch07_pool.challenges import give_nothing_broken_back
from mpim_lab.chapters.ch07_pool.solutions import CheckedLease
from mpim_lab.errors import MpimError
from tests.legacy_challenges import (
    assert_all_pass,
    assert_each_fails,
    assert_hints_come_one_at_a_time,
)
from tests.support import REPEATS


class NoFinally(CheckedLease):
    async def __aexit__(self, kind, error, traceback):
        if kind is None:
            self.pool.put(self.connection)


class TakesBackAnything(CheckedLease):
    def release(self):
        self.pool.put(self.connection)


class MindsOurErrorsOnly(CheckedLease):
    """Discards after an error of ours; a cancellation is none."""

    breaking = MpimError

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

    def release(self):
        if not self.connection.unanswered:
            self.pool.put(self.connection)


class DecidesByTheError(MindsOurErrorsOnly):
    """A cancellation breaks a connection, it thinks, wherever it strikes."""

    breaking = asyncio.CancelledError | MpimError


class IsCancelledAtTheDoor(CheckedLease):
    """And has a place then that nobody gives back."""

    def abandon(self):
        pass


class IsNoContext:
    def __init__(self, pool):
        pass


async def test_the_reference_solution_passes_every_time(lab_server):
    """It can be solved with what the chapter has shown."""
    for _ in range(REPEATS):
        await assert_all_pass(give_nothing_broken_back().check(CheckedLease))


async def test_a_lease_that_gives_back_what_is_broken_fails_every_time(lab_server):
    """So does one that gives back too little."""
    complaints = {
        NoFinally: "is stalled",
        TakesBackAnything: "was given somebody else's reply",
        MindsOurErrorsOnly: "was given somebody else's reply",
        DiscardsAfterAnyError: "healthy ones were discarded",
        DiscardsAlways: "healthy ones were discarded",
        DoesNotAsk: "was given a connection of no use: ConnectionLost",
        KeepsTheError: "never got its error",
        LosesWhatDoesNotAnswer: "connections are of use",
        DecidesByTheError: "because its caller was cancelled",
        IsCancelledAtTheDoor: "the slot of the cancelled caller is not free again",
    }
    await assert_each_fails(give_nothing_broken_back, complaints)


async def test_a_class_that_cannot_be_used_is_told_so(lab_server):
    """Whatever it raises is the complaint."""
    assert "your class raised TypeError" in repr(
        await give_nothing_broken_back().check(IsNoContext)
    )


def test_hints_come_one_at_a_time():
    """The last one stays."""
    assert_hints_come_one_at_a_time(give_nothing_broken_back())
