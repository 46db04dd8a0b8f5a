"""Chapter 5: the rules of batching, which a learner's batcher is compared with."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

from mpim_lab.errors import (
    CommandRejected,
    CommandTimeout,
    ConnectionLost,
    InvalidMessage,
    MpimError,
    NotConnected,
    QueueClosed,
    QueueFull,
)
from mpim_lab.lab.exercise.solution import Violation

MAX_RETRY_S = 1.0  # from a failed attempt to the next
SLACK_S = 0.05  # of whatever has a time, besides a quarter of the window
CLOCK_S = 0.005  # what happens at one moment is spread over so much
FREE_TRIES = 100  # besides one a millisecond
RETRIED = ("NotConnected", "QueueFull", "line is down")
ERRORS: dict[str, type[MpimError]] = {
    "NotConnected": NotConnected,
    "QueueFull": QueueFull,
    "line is down": NotConnected,
    "ConnectionLost": ConnectionLost,
    "arrived, ConnectionLost": ConnectionLost,
    "CommandTimeout": CommandTimeout,
    "InvalidMessage": InvalidMessage,
    "CommandRejected": CommandRejected,
    "QueueClosed": QueueClosed,
}


@dataclass(frozen=True)
class Numbers:
    """Which guarantee of a challenge is which rule."""

    once: int
    order: int
    size: int
    window: int
    close: int
    retry: int = 0
    final: int = 0
    outcome: int = 0
    cancel: int = 0


@dataclass(eq=False)
class Message:
    """A message that was handed to `add`."""

    name: str
    payload: bytes
    added_s: float
    call: "asyncio.Task[Any]"
    is_cancelled: bool = False
    has_failed: bool = False  # its batch was tried, and certainly not sent
    settled_s: float | None = None
    returned_s: float | None = None
    how: str = ""


@dataclass(eq=False)
class Attempt:
    """A call of `send`."""

    began_s: float
    payloads: list[bytes]
    messages: list[Message] = field(default_factory=list)
    error: MpimError | None = None


class BatcherRules:
    """What one batcher was handed, and the rules of batching.

    Each attempt is compared with them when it begins, the outcomes at the end.
    """

    def __init__(self, max_messages: int, window_s: float, numbers: Numbers) -> None:
        self._max, self._window_s, self._numbers = max_messages, window_s, numbers
        self._tolerance_s = window_s / 4 + SLACK_S
        self._messages: list[Message] = []
        self._on_its_way: list[Attempt] = []
        self._free_s = 0.0  # when the last attempt ended
        self._tries_left = float(FREE_TRIES)
        self._pause_s = 0.0  # how long it may wait now before it tries again
        self._closed_s: float | None = None  # when `close` was called
        self._close: asyncio.Task[Any] | None = None
        self._close_returned_s = 0.0
        self.violation: Violation | None = None

    # The rules of an attempt

    def _check_attempt(self, attempt: Attempt) -> None:
        numbers, count = self._numbers, len(attempt.payloads)
        if not 1 <= count <= self._max:
            text = f"a batch of {count} was sent: from 1 to {self._max} are allowed"
            raise Violation(text, numbers.size)
        on_its_way = [each for earlier in self._on_its_way for each in earlier.messages]
        waiting = [
            each for each in self._messages if each.settled_s is None and each not in on_its_way
        ]
        reach = self._match(attempt, waiting)
        is_retry = any(each.has_failed for each in attempt.messages)
        if is_retry:
            self._check_retry(attempt)
        else:
            self._check_time(attempt, waiting, waiting[:reach])
        self._check_overtaken(attempt, on_its_way)

    def _check_overtaken(self, attempt: Attempt, on_its_way: list[Message]) -> None:
        """Check that what is tried again is not behind others: calls arrive in their order."""
        begun = False
        for each in self._messages:
            begun = begun or each is attempt.messages[0]
            has_left = each.how in ("ok", "arrived, ConnectionLost") or each in on_its_way
            if begun and has_left:
                name = attempt.messages[0].name
                text = f"{name} failed and was tried again only after {each.name} had been sent"
                raise Violation(text, self._numbers.retry, each.name)

    def _match(self, attempt: Attempt, waiting: list[Message]) -> int:
        """Find the messages of an attempt: the next ones, perhaps without cancelled ones.

        Return how many of those that wait it covers.
        """
        place = 0
        for payload in attempt.payloads:
            begun = place
            while place < len(waiting) and waiting[place].payload != payload:
                if not waiting[place].is_cancelled:
                    raise self._mismatch(payload, waiting[begun:])
                place += 1
            if place == len(waiting):
                raise self._mismatch(payload, waiting[begun:])
            attempt.messages.append(waiting[place])
            place += 1
        return place

    def _mismatch(self, payload: bytes, waiting: list[Message]) -> Violation:
        numbers = self._numbers
        for each in waiting:
            if each.payload == payload:
                due = next((one for one in waiting if not one.is_cancelled), each)
                number = numbers.retry if due.has_failed else numbers.order
                text = f"{each.name} was sent, and {due.name}, which came before it, was not yet"
                return Violation(text, number, each.name)
        for each in reversed(self._messages):
            if each.payload == payload:
                if each.how in ("", "ok"):
                    return Violation(f"{each.name} was sent twice", numbers.once, each.name)
                if each.how == "cancelled":
                    text = f"`send` was cancelled with {each.name}, which was then sent again"
                    return Violation(text, numbers.once, each.name)
                why = "may have been sent" if "Lost" in each.how or "Timeout" in each.how else ""
                text = f"{each.name} was tried again after {each.how.removeprefix('arrived, ')}"
                text += f": it {why}" if why else ": that is final"
                return Violation(text, numbers.final, each.name)
        return Violation(f"{payload!r:.40} was sent, and nobody added it", numbers.once)

    def _check_retry(self, attempt: Attempt) -> None:
        waited_s, name = attempt.began_s - self._free_s, attempt.messages[0].name
        self._tries_left += min(waited_s, MAX_RETRY_S) * 1e3 - 1
        if self._tries_left < 0:
            text = f"{name} is tried again and again without a pause"
            raise Violation(text, self._numbers.retry, name)
        if waited_s > MAX_RETRY_S + self._tolerance_s:
            text = f"{name} was tried again only {waited_s:.3g} s after it had failed"
            raise Violation(text, self._numbers.retry, name)

    def _check_time(self, attempt: Attempt, waiting: list[Message], span: list[Message]) -> None:
        """Compare when a batch leaves with when it is full, its window over, or the class closed.

        A message whose caller was cancelled may count, or not.
        """
        first, began_s, free_s = attempt.messages[0], attempt.began_s, self._free_s
        close_s = float("inf") if self._closed_s is None else self._closed_s
        over_s = span[0].added_s + self._window_s
        if len(span) < self._max and began_s < min(over_s, close_s) - CLOCK_S:
            early_s = over_s - began_s
            text = f"{first.name} left {early_s:.3g} s before its window was over, in a batch of"
            text += f" {len(attempt.messages)}"
            raise Violation(text, self._numbers.window, first.name)
        certain = [each for each in waiting if not each.is_cancelled]
        if first.is_cancelled:
            return
        full_s = certain[self._max - 1].added_s if len(certain) >= self._max else float("inf")
        window_s = max(first.added_s, free_s) + self._window_s
        due_s = max(min(window_s, close_s, full_s), free_s)
        if began_s > due_s + self._tolerance_s + self._pause_s:
            late_s = began_s - due_s
            is_full = full_s <= min(window_s, close_s)
            why = "its batch was full" if is_full else "its window was over"
            why = "`close` was called" if close_s < min(window_s, full_s) else why
            number = self._numbers.size if is_full else self._numbers.window
            raise Violation(f"{first.name} left {late_s:.3g} s after {why}", number, first.name)
        closed_s = min(first.added_s + self._window_s, close_s, full_s)
        company = sum(each.added_s < closed_s - CLOCK_S for each in certain)
        if len(span) < min(company, self._max):
            text = f"{first.name} left in a batch of {len(span)}, while {company} waited"
            raise Violation(text, self._numbers.size, first.name)

    # The rules of the end

    def check(self, error: BaseException | None) -> None:
        """Compare outcomes with the rules. `error`: what ended a task of the class's own."""
        if self.violation is not None:
            raise self.violation
        try:
            for each in self._messages:
                self._check_message(each)
            self._check_close()
        except Violation as violation:
            violation.error = violation.error or error
            raise

    def _check_message(self, message: Message) -> None:
        numbers, name = self._numbers, message.name
        was_cancelled = any(each.is_cancelled for each in self._messages)
        beside = numbers.cancel if was_cancelled else 0
        beside_text = ", after another caller was cancelled" if was_cancelled else ""
        raised = None if message.is_cancelled else raised_by(message.call)
        if message.how == "cancelled" and not message.is_cancelled:
            text = f"`send` was cancelled with {name} on its way: nobody knows what became of it"
            raise Violation(text, beside or numbers.once, name)
        if isinstance(raised, Violation):
            raise raised
        if raised is not None and type(raised) is not ERRORS.get(message.how):
            text = f"`add` raised {raised!r} for {name}"
            if message.how == "ok":
                text += ", which was sent"
            number = beside or numbers.outcome or numbers.once
            raise Violation(text, number, name, raised)
        if message.settled_s is None and not message.is_cancelled:
            raise Violation(f"{name} was never sent{beside_text}", beside or numbers.once, name)
        if not message.call.done():
            text = f"`add` never returned for {name}{beside_text}"
            raise Violation(text, beside or numbers.outcome or numbers.close, name)
        if numbers.outcome:
            self._check_outcome(message, raised)

    def _check_outcome(self, message: Message, raised: BaseException | None) -> None:
        name, number = message.name, self._numbers.outcome
        if message.call.cancelled() or raised is not None:
            return
        assert message.returned_s is not None
        if message.settled_s is None or message.returned_s < message.settled_s:
            text = f"`add` returned for {name} before it was sent"
            if message.is_cancelled:
                text += ": its caller was cancelled, and goes on as if it had been"
                number = self._numbers.cancel
            raise Violation(text, number, name)
        if message.how in ERRORS and not message.is_cancelled:
            error = ERRORS[message.how].__name__
            text = f"`add` returned for {name} as if it had been sent: `send` had raised {error}"
            raise Violation(text, number, name)

    def _check_close(self) -> None:
        close, number = self._close, self._numbers.close
        assert close is not None
        if not close.done():
            raise Violation("`close` never returned", number)
        if (error := raised_by(close)) is not None:
            if isinstance(error, Violation):
                raise error
            raise Violation(f"`close` raised {error!r}", number, error=error)
        for each in self._messages:
            settled_s = 0.0 if each.is_cancelled else each.settled_s or 0.0
            if settled_s > self._close_returned_s:
                text = f"`close` returned before {each.name} was sent"
                raise Violation(text, number, each.name)


def raised_by(task: "asyncio.Task[Any]") -> BaseException | None:
    """Return what a call raised, if it is over; a cancellation counts."""
    if not task.done():
        return None
    return asyncio.CancelledError() if task.cancelled() else task.exception()
