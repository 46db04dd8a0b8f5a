"""Asking: a request is said until it is answered, over as many connections as that takes, always with the same id."""

import asyncio
import random

from mpim_lab.errors import GatewayClosed, MpimError, TooFast, Unconfirmed
from mpim_lab.events import now
from mpim_lab.im.client.connection import Line, error_of
from mpim_lab.im.protocol.frames import Group, Members, Problem, Send, Sent, id_of
from mpim_lab.mq.connection.retry import Backoff

_BACKOFF = Backoff(0.05, 1.0)
_MOST_AT_ONCE = 32  # requests under way: a gateway answers one client's in turn, and above its rate not at all
_TOO_FAST_S = 1.0


class Asking:
    """The requests of one client that wait for an answer. What belongs together has one `id_of`.

    At most 32 are under way, the others wait for their turn. After TooFast, a second of silence, then one at a time.

    | a request ends by ...                     | its turn, and its entry in `_waiting` |
    |-------------------------------------------|---------------------------------------|
    | its answer, or an error that stays        | given back                            |
    | an error that passes, or no answer in time | given back until it is said again     |
    | its caller's cancellation, its time-out   | given back                            |
    | the client's end                          | given back; whoever waits is told     |
    """

    def __init__(self, line: Line, answer_s: float, timeout_s: float) -> None:
        self._line, self._answer_s, self._timeout_s = line, answer_s, timeout_s
        self._waiting: dict[str, tuple[Send | Group, asyncio.Future[Sent | Members]]] = {}
        self._turns, self._one_by_one = asyncio.Semaphore(_MOST_AT_ONCE), asyncio.Lock()
        self._silent_until = 0.0
        self._is_closed = False

    @property
    def unanswered(self) -> list[Send | Group]:
        """What is to be said again over a new connection, in the order in which it was said first."""
        return [frame for frame, _ in self._waiting.values()]

    async def ask(self, frame: Send | Group) -> Sent | Members:
        """Say a frame until it is answered. Raises what the gateway answered, and Unconfirmed if nothing came in time.

        TooFast: it was refused as often as it was said.
        """
        deadline, failed = now() + self._timeout_s, list[MpimError]()
        try:
            async with asyncio.timeout(self._timeout_s), self._turns:
                return await self._until_answered(frame, failed)
        except TimeoutError:
            pass
        if self._is_closed:
            raise _closed()
        if failed and all(error.definite for error in failed):
            raise failed[-1]
        told = f"{type(failed[-1]).__name__}: {failed[-1]}" if failed else f"no answer; {self._line.why}"
        raise Unconfirmed(f"no gateway answered within {now() - deadline + self._timeout_s:.1f} s: {told}")

    async def _until_answered(self, frame: Send | Group, failed: list[MpimError]) -> Sent | Members:
        while not self._is_closed:
            try:
                return await self._once(frame, failed)
            except TimeoutError:
                failed[-1] = GatewayClosed(f"no answer; {self._line.why}")
                self._line.doubt(2 * self._answer_s)
            except TooFast as error:
                failed.append(error)
                self._silent_until = now() + _TOO_FAST_S
            except MpimError as error:
                failed.append(error)
                if not error.transient:
                    raise
                await asyncio.sleep(_BACKOFF.delay_s(len(failed), random.random()))
        raise _closed()

    async def _once(self, frame: Send | Group, failed: list[MpimError]) -> Sent | Members:
        key = id_of(frame)
        while key in self._waiting:  # the same is being asked: one after the other
            await asyncio.wait([self._waiting[key][1]])
            await asyncio.sleep(0)
        if now() > self._silent_until + _TOO_FAST_S:
            return await self._say(key, frame, failed)
        async with self._one_by_one:
            await asyncio.sleep(self._silent_until - now())
            return await self._say(key, frame, failed)

    async def _say(self, key: str, frame: Send | Group, failed: list[MpimError]) -> Sent | Members:
        if self._is_closed:  # while this was waiting for its turn
            raise _closed()
        answer: asyncio.Future[Sent | Members] = asyncio.get_running_loop().create_future()
        self._waiting[key] = frame, answer
        failed.append(
            GatewayClosed("no answer")
        )  # as long as there is none: whatever ends the wait, it is not definite
        try:
            async with asyncio.timeout(self._answer_s):
                await self._line.say(frame)
                return await answer
        except MpimError:
            failed.pop()
            raise
        finally:
            del self._waiting[key]
            answer.cancel()  # whoever waits for its end goes on

    def answered(self, answer: Sent | Members) -> None:
        """An answer has come."""
        waiting = self._waiting.get(id_of(answer))
        if waiting is not None and not waiting[1].done():
            waiting[1].set_result(answer)

    def problem(self, problem: Problem) -> None:
        """The gateway could not do something: what has its id."""
        waiting = self._waiting.get(problem.id)
        if waiting is not None and not waiting[1].done():
            waiting[1].set_exception(error_of(problem))

    def close(self) -> None:
        """Whoever waits gets GatewayClosed."""
        self._is_closed = True
        for _, answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(_closed())


def not_sent(why: str) -> GatewayClosed:
    """This client was closed by its owner, or is used once more: nothing was sent, and nothing will be."""
    error = GatewayClosed(why)
    error.definite, error.transient = True, False
    return error


def _closed() -> GatewayClosed:
    """It was closed while an answer was awaited."""
    error = GatewayClosed("the client was closed before the answer came")
    error.transient = False
    return error
