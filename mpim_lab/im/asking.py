"""Asking: a request is said until it is answered, over as many connections as that takes, always with the same id."""

import asyncio

from mpim_lab.errors import (
    CommandTimeout,
    ConnectionLost,
    GatewayClosed,
    NotConnected,
    QueueClosed,
    QueueFull,
    StoreFailed,
    StoreUncertain,
    TooFast,
    Unconfirmed,
)
from mpim_lab.events import now
from mpim_lab.im.line import Line, error_of
from mpim_lab.im.wire import Group, Members, Problem, Send, Sent

# The gateway could not do it just now: its line to the server is down, it is full, it closes.
_LATER: tuple[type[Exception], ...] = (
    CommandTimeout,
    ConnectionLost,
    GatewayClosed,
    NotConnected,
    QueueClosed,
    QueueFull,
)
_LATER += (StoreFailed, StoreUncertain, TooFast)
_FIRST_WAIT_S, _MOST_WAIT_S = 0.05, 1.0


class Asking:
    """The requests of one client that wait for an answer. A frame's key: its message id, or "group <name>"."""

    def __init__(self, line: Line, *, answer_s: float, timeout_s: float) -> None:
        self._line, self._answer_s, self._timeout_s = line, answer_s, timeout_s
        self._waiting: dict[str, tuple[Send | Group, asyncio.Future[Sent | Members]]] = {}
        self._is_closed = False

    @property
    def unanswered(self) -> list[Send | Group]:
        """What is to be said again over a new connection, in the order in which it was said first."""
        return [frame for frame, _ in self._waiting.values()]

    async def ask(self, key: str, frame: Send | Group) -> Sent | Members:
        """Say a frame until it is answered. Raises what the gateway answered, and Unconfirmed if nothing came in time."""
        deadline, wait_s, last = now() + self._timeout_s, _FIRST_WAIT_S, "no connection"
        while now() < deadline and not self._is_closed:
            try:
                return await self._once(key, frame, deadline)
            except TimeoutError:
                last = f"no answer; {self._line.why}"
                continue
            except _LATER as error:
                last = f"{type(error).__name__}: {error}"
            await asyncio.sleep(wait_s)
            wait_s = min(_MOST_WAIT_S, wait_s * 2)
        if self._is_closed:
            raise GatewayClosed("the client was closed before the answer came")
        raise Unconfirmed(f"no gateway answered within {self._timeout_s:g} s: {last}")

    async def _once(self, key: str, frame: Send | Group, deadline: float) -> Sent | Members:
        answer: asyncio.Future[Sent | Members] = asyncio.get_running_loop().create_future()
        self._waiting[key] = frame, answer
        try:
            async with asyncio.timeout(min(self._answer_s, max(0.01, deadline - now()))):
                await self._line.say(frame)  # which waits if the line takes no more
                return await answer
        finally:
            if self._waiting.get(key, (None, None))[1] is answer:  # the same may have been asked once more
                del self._waiting[key]

    def answered(self, key: str, answer: Sent | Members) -> None:
        """An answer has come."""
        waiting = self._waiting.get(key)
        if waiting is not None and not waiting[1].done():
            waiting[1].set_result(answer)

    def problem(self, problem: Problem) -> None:
        """The gateway could not do something: what has its id, or, of what has none, what was asked last."""
        key = problem.id or next((key for key in reversed(self._waiting) if key.startswith("group ")), "")
        waiting = self._waiting.get(key)
        if waiting is not None and not waiting[1].done():
            waiting[1].set_exception(error_of(problem))

    def close(self) -> None:
        """Whoever waits gets GatewayClosed."""
        self._is_closed = True
        for _, answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(GatewayClosed("the client was closed before the answer came"))
