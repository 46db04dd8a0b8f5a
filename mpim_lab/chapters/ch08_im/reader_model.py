"""ReaderModel: a conversation, and beside a learner's reader what it must show and ask for."""

import inspect
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from mpim_lab.events import CHAT_LOG, Event, EventKind
from mpim_lab.keys import user_channel
from mpim_lab.lab.exercise.solution import Violation
from mpim_lab.lab.trace.trace import Trace

MAX_PAGE_SIZE = 100
ORDER, ONCE, ASKS, PATIENCE = 1, 2, 3, 4  # the guarantees
READERS = {1: "bob", 2: "carol"}
Step = tuple[str, int, int]
"""What happens, to which reader, and a number. ("sent", 1, 4): m4 is in the log, and nothing comes;
("push", 1, 3): m3 comes; ("last", 1, 5); ("read", 1, 2): the log is read for who has asked, and no
more than two; ("page", 1, 100): what was read arrives."""


class _Model:
    """A learner's reader beside what it must do."""

    def __init__(self, solution: type[Any], name: str, trace: Trace) -> None:
        self.name, self.trace = name, trace
        self.length = self.known = self.shown = 0
        self.here: set[int] = set()
        self.asking: tuple[int, int] | None = None  # after which, and the length then
        self.page: tuple[list[int], int] | None = None
        self._asked: list[Any] = []
        try:
            self.own = solution(self._asked.append)
        except Exception as error:
            text = f"`__init__` raised {type(error).__name__}: {error}"
            raise Violation(text, error=error) from error

    def text(self, number: int) -> str:
        """Return a message's text; two are the same, and one is empty."""
        return {4: "", 6: "ok", 7: "ok"}.get(number, f"{self.name}'s m{number}")

    def play(self, what: str, value: int) -> None:
        """Have one thing come to both, and compare; nothing if it cannot come now."""
        if what == "read":
            self._read(value)
        elif what == "page":
            self._deliver(value)
        elif value > 0:
            self.length = max(self.length, value)
            if what != "sent":
                self._come(what, value)

    def _come(self, what: str, number: int) -> None:
        self.known = max(self.known, number)
        if what == "last":
            self._compare(f"last({number})", "last", (number,))
        else:
            self.here.add(number)
            self._compare(f"push({number})", "push", (number, self.text(number)))

    def finish(self) -> None:
        """Say how far it is, and answer as long as something is asked for."""
        self.play("last", self.length)
        while self.asking is not None:
            self._deliver(MAX_PAGE_SIZE)

    def _read(self, count: int) -> None:
        if self.asking is not None and self.page is None:
            after, _ = self.asking
            end = min(self.length, after + max(0, min(count, MAX_PAGE_SIZE)))
            self.page = [*range(after + 1, end + 1)], self.length

    def _deliver(self, count: int) -> None:
        self._read(count)
        if self.page is None:
            return
        (numbers, last), self.page, self.asking = self.page, None, None
        self.here.update(numbers)
        self.known = max(self.known, last)
        step = f"page({_span(numbers)}, last={last})"
        pairs = [(number, self.text(number)) for number in numbers]
        self._compare(step, "page", (pairs, last))

    def _compare(self, step: str, method: str, arguments: tuple[Any, ...]) -> None:
        before = f"{self.name} was shown up to m{self.shown}; {step}"
        given = self._called(step, method, arguments)
        wanted = []
        while self.shown + 1 in self.here:
            self.shown += 1
            wanted.append(self.text(self.shown))
            self._report(EventKind.EFFECT, self.shown, self.name)
        if given != wanted:
            text = f"{before} gave {given!r:.80} instead of {wanted!r:.80}"
            its_turn = [self.text(number) for number in range(1, self.shown + 1)]
            is_early = any(each not in its_turn for each in given)
            is_mixed = sorted(map(repr, given)) == sorted(map(repr, wanted))
            number = ORDER if is_early or is_mixed else ONCE
            raise Violation(text, number, f"m{self.shown + 1}")
        asked = self._asked[:]
        self._asked.clear()
        self._check_asked(f"{before}, and", asked)

    def _called(self, step: str, method: str, arguments: tuple[Any, ...]) -> list[Any]:
        number = arguments[0] if method == "push" else 0
        self._report(EventKind.RECEIVED, number, self.name if number else CHAT_LOG, step)
        try:
            given = getattr(self.own, method)(*arguments)
            if method == "last" and given is None:
                return []
            if inspect.isawaitable(given) or isinstance(given, str | bytes | dict | set):
                raise TypeError(f"it gave {type(given).__name__}, no list of texts")
            return list(given)
        except Exception as error:
            text = f"{step} raised {type(error).__name__}: {error}"
            raise Violation(text, error=error) from error

    def _check_asked(self, before: str, asked: list[Any]) -> None:
        missing = f"m{self.shown + 1}"
        if self.known > self.shown and self.asking is None:
            if not asked:
                text = f"{before} {missing} is missing, and nobody asks for it"
                raise Violation(text, ASKS, missing)
            if asked[0] != self.shown:
                text = f"{before} it called ask({asked[0]!r:.20}); it was shown up to {self.shown}"
                raise Violation(text, ASKS, missing)
            self.asking = self.shown, self.length
            asked = asked[1:]
        if asked:
            why = "nothing is missing"
            if self.asking is not None:
                why = f"the answer to ask({self.asking[0]}) is still to come"
            raise Violation(f"{before} it called ask({asked[0]!r:.20}): {why}", PATIENCE, missing)

    def _report(self, kind: EventKind, number: int, actor: str, detail: str = "") -> None:
        at, channel = float(len(self.trace)), user_channel(self.name)
        self.trace(Event(kind, at, actor, f"m{number}" if number else "", channel, detail=detail))


def _span(numbers: Sequence[int]) -> str:
    """Return numbers as names of messages.

    >>> _span([2, 3]), _span(range(1, 101)), _span([])
    ('m2, m3', 'm1 to m100', 'nothing')
    """
    if len(numbers) > 4:
        return f"m{numbers[0]} to m{numbers[-1]}"
    return ", ".join(f"m{number}" for number in numbers) or "nothing"


def play_reader(solution: type[Any], steps: Sequence[Step], trace: Trace) -> None:
    """Play what comes to one reader or two; at the end each must have been shown everything."""
    models: dict[int, _Model] = {}
    for what, reader, value in steps:
        if reader not in models:
            models[reader] = _Model(solution, READERS[reader], trace)
        models[reader].play(what, value)
    for model in models.values():
        model.finish()


_READER = st.sampled_from((1, 1, 1, 2))
_NUMBER = st.one_of(st.integers(1, 5), st.integers(1, 9))
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("push"), _READER, _NUMBER),
        st.tuples(st.sampled_from(("push", "sent")), _READER, _NUMBER),
        st.tuples(st.just("last"), _READER, st.one_of(_NUMBER, _NUMBER, st.just(130))),
        st.tuples(st.just("read"), _READER, st.sampled_from((0, 1, 2, 100))),
        st.tuples(st.just("page"), _READER, st.sampled_from((0, 1, 2, 100))),
    ),
    min_size=1,
    max_size=24,
)


def _steps(text: str) -> list[Step]:
    """Read steps of the first reader.

    >>> _steps("push 2, page 100")
    [('push', 1, 2), ('page', 1, 100)]
    """
    words = (each.split() for each in text.split(", "))
    return [(what, 1, int(value)) for what, value in words]


KNOWN: list[list[Step]] = [
    _steps("push 1, push 2, push 3, last 3"),
    _steps("push 1, push 1, push 2, push 1, push 2"),
    _steps("push 1, push 3, push 4, push 5, page 100"),
    _steps("push 2, push 1, page 100"),
    _steps("push 1, push 3, read 100, push 4, page 100"),
    _steps("push 1, push 3, read 100, push 2, push 5, page 100, page 100"),
    _steps("push 1, push 2, last 3, last 3, page 100, last 3"),
    _steps("push 5, last 3, page 100"),
    _steps("push 2, read 100, push 5, last 2, page 100"),
    _steps("push 2, sent 6, page 1, page 100"),
    _steps("last 3, page 0, page 1, page 2"),
    _steps("push 3, read 1, push 2, push 5, page 100, last 2, page 100"),
    _steps("last 100, page 100, last 101, page 100"),
    _steps("last 250, page 100, push 251, page 100, page 100"),
    [("push", 1, 2), ("push", 2, 1), ("push", 2, 3), ("push", 1, 1), ("page", 2, 100)],
]
