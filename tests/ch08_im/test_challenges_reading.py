"""Chapter 8's third challenge: the reference solution passes, every known-bad one is caught."""

from mpim_lab.chapters.ch08_im.challenges import read_in_order
from mpim_lab.chapters.ch08_im.solutions import OrderedClientReader
from tests.legacy_challenges import (
    assert_all_pass,
    assert_each_fails,
    assert_hints_come_one_at_a_time,
)
from tests.support import REPEATS


class AsItComes:
    """The naive twin: the naive version's clients know nothing of numbers."""

    def __init__(self, ask):
        pass

    def push(self, number, text):
        return [text]

    def page(self, messages, last):
        return [text for number, text in messages]

    def last(self, number):
        pass


class NewestOnly(AsItComes):
    """Each once and never back: whatever comes late is thrown away."""

    shown = 0

    def push(self, number, text):
        before, self.shown = self.shown, max(self.shown, number)
        return [text] if number > before else []


class WaitsForTheGap(OrderedClientReader):
    def ask_for_missing(self):
        pass


class AsksAtEachPush(OrderedClientReader):
    def ask_for_missing(self):
        if self.known > self.shown:
            self.ask(self.shown)


class AsksFromTheBeginning(OrderedClientReader):
    def ask_for_missing(self):
        if self.known > self.shown and not self.is_asking:
            self.is_asking = True
            self.ask(0)


class ShowsThePageAsItIs(OrderedClientReader):
    """And what was pushed before it, once more."""

    def page(self, messages, last):
        before, ready = self.shown, super().page(messages, last)
        return [text for number, text in messages if number <= before] + ready


class DoesNotListenToLast(OrderedClientReader):
    def last(self, number):
        pass


class StopsAfterOnePage(OrderedClientReader):
    def page(self, messages, last):
        look, self.ask_for_missing = self.ask_for_missing, lambda: None
        ready = super().page(messages, last)
        self.ask_for_missing = look
        return ready


class ThrowsAwayWhatWasPushedMeanwhile(OrderedClientReader):
    def page(self, messages, last):
        self.early.clear()
        return super().page(messages, last)


class ForgetsHowFarItIs(OrderedClientReader):
    """A page that was read earlier says less than what is known already."""

    def page(self, messages, last):
        self.known = 0
        return super().page(messages, last)


class AsksOnceForEachGap(OrderedClientReader):
    """While the answer to another one is still to come."""

    asked = -1

    def ask_for_missing(self):
        if self.known > self.shown and self.asked != self.shown:
            self.asked = self.shown
            self.ask(self.shown)


class AsksWhenNothingIsMissing(OrderedClientReader):
    def last(self, number):
        super().last(number)
        if not self.is_asking:
            self.ask(self.shown)


class FillsTheGapByItself(OrderedClientReader):
    """Whatever is missing is passed over."""

    def ask_for_missing(self):
        self.shown = max(self.shown, self.known)


async def test_the_reference_solution_passes_every_time(lab_server):
    """It can be solved with what the chapter has shown."""
    for _ in range(REPEATS):
        await assert_all_pass(read_in_order().check(OrderedClientReader))


async def test_a_reader_that_shows_too_much_or_asks_too_little_fails_every_time(lab_server):
    """The outcome names the message that was shown too early, is missing, or needs no asking."""
    complaints = {
        AsItComes: "m1 was shown twice",
        NewestOnly: "m3 was shown before m2",
        WaitsForTheGap: "m2 is missing, and nobody asks for it",
        AsksAtEachPush: "ask(1) was called, and the answer to ask(1) is still to come",
        AsksFromTheBeginning: "ask(0) was called, and what comes after m1 is missing",
        ShowsThePageAsItIs: "m1 was shown twice",
        DoesNotListenToLast: "m3 is missing, and nobody asks for it",
    }
    await assert_each_fails(read_in_order, complaints)


async def test_a_reader_that_is_nearly_right_fails_every_time(lab_server):
    """It stops too early, forgets, or asks too much."""
    complaints = {
        StopsAfterOnePage: "is missing, and nobody asks for it",
        ThrowsAwayWhatWasPushedMeanwhile: "m4 is here and its turn has come, and it was not shown",
        ForgetsHowFarItIs: "m4 is missing, and nobody asks for it",
        AsksOnceForEachGap: "and the answer to ask(1) is still to come",
        AsksWhenNothingIsMissing: "ask(3) was called, and nothing is missing",
        FillsTheGapByItself: "m2 is missing, and nobody asks for it",
    }
    await assert_each_fails(read_in_order, complaints)


async def test_a_class_that_cannot_be_used_is_told_so(lab_server):
    """Whatever it raises is the complaint."""
    assert "your class raised TypeError" in repr(await read_in_order().check(int))


def test_hints_come_one_at_a_time():
    """The last one stays."""
    assert_hints_come_one_at_a_time(read_in_order())
