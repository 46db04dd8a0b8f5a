"""Chapter 8's third challenge: right readers pass, wrong ones break a guarantee."""

import pytest

from mpim_lab.chapters.ch08_im.challenges import read_in_order
from mpim_lab.chapters.ch08_im.solutions import ALTERNATIVES, SOLUTIONS, OrderedClientReader
from tests.challenges import (
    assert_fails,
    assert_hints_come_one_at_a_time,
    assert_passes,
    first_always,
)


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


class AsksForTheNumberItself(OrderedClientReader):
    def ask_for_missing(self):
        if self.known > self.shown and not self.is_asking:
            self.is_asking = True
            self.ask(self.shown + 1)


class AsksBeforeItShows(OrderedClientReader):
    def receive(self, messages, last):
        self.known = max(self.known, last)
        self.ask_for_missing()
        return super().receive(messages, last)


class ShowsThePageAsItIs(OrderedClientReader):
    """And what was pushed before it, once more."""

    def page(self, messages, last):
        before, ready = self.shown, super().page(messages, last)
        return [text for number, text in messages if number <= before] + ready


class DoesNotListenToLast(OrderedClientReader):
    def last(self, number):
        pass


class BelievesLast(OrderedClientReader):
    """Also when it says less than is known."""

    def last(self, number):
        self.known = number
        super().last(number)


class BelievesThePage(OrderedClientReader):
    """A page that was read earlier says less than what is known already."""

    def page(self, messages, last):
        self.known = last
        return super().page(messages, last)


class ForgetsHowFarItIs(OrderedClientReader):
    def page(self, messages, last):
        self.known = 0
        return super().page(messages, last)


class DoesNotListenToThePage(OrderedClientReader):
    def page(self, messages, last):
        return super().page(messages, 0)


class StopsAfterOnePage(OrderedClientReader):
    def page(self, messages, last):
        look, self.ask_for_missing = self.ask_for_missing, lambda: None
        ready = super().page(messages, last)
        self.ask_for_missing = look
        return ready


class StopsAfterAnEmptyPage(OrderedClientReader):
    def page(self, messages, last):
        self.known = last if messages else self.shown
        return super().page(messages, self.known)


class ThinksThatAPageIsAll(OrderedClientReader):
    """Less than a hundred: then there is no more."""

    def page(self, messages, last):
        if len(messages) < 100:
            self.known = self.shown + len(messages)
            last = 0
        return super().page(messages, last)


class ThrowsAwayWhatWasPushedMeanwhile(OrderedClientReader):
    def page(self, messages, last):
        self.early.clear()
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


class TakesALatePushForTheAnswer(OrderedClientReader):
    """The gap is closed, so nothing is asked for."""

    def push(self, number, text):
        ready = super().push(number, text)
        if self.shown == self.known:
            self.is_asking = False
        return ready


class FillsTheGapByItself(OrderedClientReader):
    """Whatever is missing is passed over."""

    def ask_for_missing(self):
        self.shown = max(self.shown, self.known)


class SharesWhatIsEarly(OrderedClientReader):
    common = {}

    def __init__(self, ask):
        super().__init__(ask)
        self.early = self.common


class SharesWhetherItAsks(OrderedClientReader):
    asking = []

    @property
    def is_asking(self):
        return bool(self.asking)

    @is_asking.setter
    def is_asking(self, value):
        self.asking[:] = [1] if value else []


class DropsEmptyTexts(OrderedClientReader):
    def receive(self, messages, last):
        return [text for text in super().receive(messages, last) if text]


class DropsEqualTexts(OrderedClientReader):
    def receive(self, messages, last):
        return list(dict.fromkeys(super().receive(messages, last)))


class KnowsTextsNotNumbers(OrderedClientReader):
    def __init__(self, ask):
        super().__init__(ask)
        self.texts = set()

    def receive(self, messages, last):
        ready = [text for text in super().receive(messages, last) if text not in self.texts]
        self.texts |= {*ready}
        return ready


class ShowsOneAtATime(OrderedClientReader):
    def receive(self, messages, last):
        self.known = max(self.known, last)
        self.early.update((number, text) for number, text in messages if number > self.shown)
        ready = []
        if self.shown + 1 in self.early:
            self.shown += 1
            ready.append(self.early.pop(self.shown))
        self.ask_for_missing()
        return ready


class HoldsTenAtMost(OrderedClientReader):
    def receive(self, messages, last):
        ready = super().receive(messages[:10], last)
        while len(self.early) > 4:
            self.early.pop(max(self.early))
        return ready


class SortsWhatIsThere(OrderedClientReader):
    """Shows what is early once the page has come, whatever is still missing."""

    def page(self, messages, last):
        self.is_asking = False
        self.known = max(self.known, last)
        self.early.update((number, text) for number, text in messages if number > self.shown)
        ready = [self.early[number] for number in sorted(self.early)]
        self.shown = max([self.shown, *self.early])
        self.early.clear()
        self.ask_for_missing()
        return ready


class CountsFromZero(OrderedClientReader):
    def __init__(self, ask):
        super().__init__(ask)
        self.shown = self.known = -1


WRONG = {
    NewestOnly: (1, 2),
    AsItComes: 2,
    WaitsForTheGap: 3,
    AsksAtEachPush: 4,
    AsksFromTheBeginning: 3,
    AsksForTheNumberItself: 3,
    AsksBeforeItShows: (3, 4),
    ShowsThePageAsItIs: 2,
    DoesNotListenToLast: 3,
    BelievesLast: 3,
    BelievesThePage: 3,
    ForgetsHowFarItIs: 3,
    DoesNotListenToThePage: 3,
    StopsAfterOnePage: 3,
    StopsAfterAnEmptyPage: 3,
    ThinksThatAPageIsAll: (3, 4),
    ThrowsAwayWhatWasPushedMeanwhile: (1, 2),
    AsksOnceForEachGap: (3, 4),
    AsksWhenNothingIsMissing: 4,
    TakesALatePushForTheAnswer: 4,
    FillsTheGapByItself: (2, 3),
    SharesWhatIsEarly: (1, 2, 3, 4),
    SharesWhetherItAsks: (3, 4),
    DropsEmptyTexts: (1, 2),
    DropsEqualTexts: (1, 2),
    KnowsTextsNotNumbers: (1, 2),
    ShowsOneAtATime: (2, 3),
    HoldsTenAtMost: (1, 2, 3),
    SortsWhatIsThere: 1,
    CountsFromZero: (2, 3),
}


@pytest.mark.parametrize("good", [SOLUTIONS["read_in_order"], *ALTERNATIVES["read_in_order"]])
async def test_right_readers_pass(good):
    """Whatever they keep what is early in."""
    await assert_passes(read_in_order, good)


@pytest.mark.parametrize(("bad", "guarantee"), first_always(WRONG, 4))
async def test_wrong_readers_fail(bad, guarantee):
    """Every time, with the guarantee that they break."""
    await assert_fails(read_in_order, bad, guarantee)


def test_hints_come_one_at_a_time():
    """The last one stays."""
    assert_hints_come_one_at_a_time(read_in_order())
