"""Chapter 5: a learner's batcher in virtual time, beside the rules of `batcher_rules.py`."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from mpim_lab.chapters.ch05_batching.batcher_rules import (
    ERRORS,
    MAX_RETRY_S,
    RETRIED,
    Attempt,
    BatcherRules,
    Message,
    Numbers,
)
from mpim_lab.events import Event, EventKind
from mpim_lab.lab.exercise.model_check import Play
from mpim_lab.lab.exercise.solution import Violation, finished
from mpim_lab.lab.exercise.virtual_time import run_virtual
from mpim_lab.lab.trace.trace import Trace


class BatcherRun(BatcherRules):
    """One batcher of the learner's: its operations, and what it sends."""

    def __init__(
        self, given: Sequence[Any], numbers: Numbers, name: str, report: Callable[..., None]
    ) -> None:
        max_messages, window_s, self._operations, sends = given
        super().__init__(max_messages, window_s, numbers)
        self._name, self._report, self._sends = name, report, list(sends)
        self._sending_s = sum(takes_s + 2 * MAX_RETRY_S for takes_s, _ in sends)
        self._down_until_s = 0.0

    # The operations

    async def play(self, solution: type[Any]) -> None:
        """Play all operations, close, and wait until everything is over."""
        try:
            own = solution(self._send, self._max, self._window_s)
        except Exception as error:
            return self._say(Violation(f"`__init__` raised {error!r}", error=error))
        begun_s = _now()
        for at_s, what in self._operations:
            await _sleep_until(begun_s + at_s)
            self._operate(own, what)
        if self._close is None:
            await asyncio.sleep(2 * self._window_s + self._sending_s)
            self._operate(own, "close")
        limit_s = 3 * self._window_s + 2 * self._sending_s + 10
        assert self._close is not None
        calls = [self._close, *(each.call for each in self._messages)]
        await asyncio.wait(calls, timeout=limit_s)
        await asyncio.sleep(1.5 * self._window_s + MAX_RETRY_S)  # what still comes is too late

    def _operate(self, own: Any, what: str) -> None:
        if what == "close":
            if self._close is None:
                self._closed_s = _now()
                self._close = asyncio.create_task(self._call("close", own.close))
                self._close.add_done_callback(lambda _: self._close_returned())
        elif what.startswith("cancel"):
            waiting = [each for each in self._messages if not each.call.done()]
            if waiting:
                chosen = waiting[-1 if what == "cancel the newest" else 0]
                chosen.is_cancelled = True
                chosen.call.cancel()
                self._report(EventKind.FAULT_BEGAN, self._name, chosen.name, detail=what)
        elif self._close is None:
            number = len(self._messages) + 1
            name = f"m{number}" if self._name == "alice" else f"n{number}"
            payload = {"empty": b"", "long": name.encode().ljust(20_000, b".")}.get(
                what, name.encode()
            )
            if what == "same" and self._messages:
                payload = self._messages[-1].payload
            call = asyncio.create_task(self._call("add", own.add, payload))
            message = Message(name, payload, _now(), call)
            call.add_done_callback(lambda _: self._returned(message))
            self._messages.append(message)
            self._report(EventKind.ACCEPTED, self._name, name)

    def _close_returned(self) -> None:
        self._close_returned_s = _now()

    async def _call(self, name: str, method: Any, *given: Any) -> Any:
        return await finished(name, method(*given))

    def _returned(self, message: Message) -> None:
        message.returned_s = _now()
        error = None if message.call.cancelled() else message.call.exception()
        outcome = (
            "cancelled" if message.call.cancelled() else type(error).__name__ if error else "sent"
        )
        self._report(EventKind.OUTCOME, self._name, message.name, outcome=outcome)

    # What the class sends

    async def _send(self, batch: list[bytes]) -> None:
        """Send a batch, or raise: what the class is handed."""
        attempt = Attempt(_now(), list(batch))
        try:
            self._check_attempt(attempt)
        except Violation as violation:
            self._say(violation)
        if self.violation is not None:
            await asyncio.Event().wait()  # enough is known; a loop without a pause ends here, too
        self._on_its_way.append(attempt)
        takes_s, how = self._next_end()
        for each in attempt.messages:
            if not each.has_failed:
                count = len(attempt.messages)
                self._report(EventKind.BATCHED, self._name, each.name, count=count)
        try:
            if how not in RETRIED or takes_s:
                await asyncio.sleep(takes_s)
        except asyncio.CancelledError:
            how = "cancelled"
            raise
        finally:
            self._end(attempt, how)
        if attempt.error is not None:
            raise attempt.error

    def _next_end(self) -> tuple[float, str]:
        if _now() < self._down_until_s:
            return 0.0, "line is down"
        takes_s, how = self._sends.pop(0) if self._sends else (0.0, "ok")
        if how == "line is down":
            self._down_until_s, takes_s = _now() + takes_s, 0.0
        return takes_s, how

    def _end(self, attempt: Attempt, how: str) -> None:
        self._on_its_way.remove(attempt)
        self._free_s, self._pause_s = _now(), MAX_RETRY_S if how in RETRIED else 0.0
        if how in ERRORS:
            attempt.error = ERRORS[how](f"the batch failed: {how}")
        for each in attempt.messages:
            if how in RETRIED:
                each.has_failed = True
            else:
                each.how, each.settled_s = how, self._free_s
            if how == "ok" or how.startswith("arrived"):
                self._report(EventKind.HANDLED, f"{self._name}'s reader", each.name)
            else:
                self._report(EventKind.FAILED, self._name, each.name, detail=how)

    def _say(self, violation: Violation) -> None:
        self.violation = self.violation or violation


def _now() -> float:
    return asyncio.get_running_loop().time()


async def _sleep_until(at_s: float) -> None:
    await asyncio.sleep(max(0.0, at_s - _now()))


def play_batchers(numbers: Numbers) -> Play:
    """Return the `play` of a challenge with these guarantees."""

    def play(solution: type[Any], given: Any, trace: Trace) -> None:
        def report(kind: EventKind, actor: str, message_id: str, **fields: Any) -> None:
            trace(Event(kind, _now(), actor, message_id, "", **fields))

        runs = [
            BatcherRun(each, numbers, name, report)
            for each, name in zip(given, ("alice", "bob"), strict=False)
        ]
        run_virtual(_play_all(solution, runs))

    return play


async def _play_all(solution: type[Any], runs: list[BatcherRun]) -> None:
    """Play at the same time, then compare. Keep what ended tasks that the class has started."""
    own = list[asyncio.Task[Any]]()

    def start(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> "asyncio.Task[Any]":
        own.append(asyncio.Task(work, loop=loop, **options))
        return own[-1]

    asyncio.get_running_loop().set_task_factory(start)
    await asyncio.gather(*(run.play(solution) for run in runs))
    ended = [task for task in own if task.done() and not task.cancelled()]
    errors = [error for task in ended if (error := task.exception()) is not None]
    for run in runs:
        run.check(errors[0] if errors else None)
