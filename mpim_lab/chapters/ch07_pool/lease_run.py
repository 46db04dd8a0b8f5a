"""LeaseRun: callers who borrow by a learner's lease, from a pool of the lab's, on a real server.

Each connection has a relay of its own, as an actor: so a schedule names a step by the connection,
"before connection-1's 2nd ECHO", and what happens there happens to the connection or to the caller
that has it.
"""

import asyncio
import contextlib
import contextvars
from collections.abc import Awaitable, Callable
from typing import Any

from mpim_lab.chapters.ch07_pool.learner_pool import Caller, LearnerConnection, LearnerPool, Line
from mpim_lab.chapters.ch07_pool.lease_judge import LeaseFacts, violation_of
from mpim_lab.errors import (
    CommandRejected,
    ConnectionLost,
    MpimError,
    NotConnected,
)
from mpim_lab.events import EventKind
from mpim_lab.lab.exercise.actors import SETUP, Actor
from mpim_lab.lab.exercise.schedule_run import ScheduleRun
from mpim_lab.lab.exercise.schedules import BEFORE, IS_HELD, LOSES_CONNECTION, Action
from mpim_lab.lab.exercise.solution import Violation
from mpim_lab.mq.connection.address import Address
from mpim_lab.mq.pool.raw_connection import RawConnection

CALL_TIMEOUT_S = 0.5
CONNECT_TIMEOUT_S = 5.0
HOLD_S = 0.8  # a reply that is held for so long comes too late
CALLER_TIMEOUT_S = 0.1  # after which some callers give up by themselves
BLOCKS_S = 0.4
COMPUTES_S = 0.01
DOWN_S = 0.15
MANY = 5
POOL = "pool"


Work = Callable[[Caller, Any], Awaitable[None]]
_caller: contextvars.ContextVar[Caller | None] = contextvars.ContextVar("caller", default=None)


class OwnError(Exception):
    """An error of a caller's own."""


class OwnSignal(BaseException):
    """An error of a caller's own that is no Exception."""


_RAISED: tuple[Callable[[], BaseException], ...] = (
    lambda: ValueError("m1 has no such order"),
    lambda: OwnError("out of stock"),
    lambda: ConnectionLost("of another server, elsewhere"),
    lambda: TimeoutError("of something else"),
    lambda: OwnSignal("over"),
    lambda: KeyError("key"),
)

COMES_LATE = Action(IS_HELD.name, on_calls=False)
IS_CANCELLED = Action("its caller is cancelled", weight=2.0)
WAITING_IS_CANCELLED = Action("whoever waits is cancelled", (BEFORE,), weight=0.7)
IDLE_ARE_CUT = Action("idle ones are cut", weight=0.7)
RESTARTS = Action("the server restarts", weight=0.5)
# For each workload: how many slots, and whether the longest idle connection is lent first.
_POOLS = {
    "one connection": (1, False),
    "callers that raise": (2, False),
    "callers that give up": (1, False),
    "three at once": (2, True),
    "all idle ones are cut, the last one is lent first": (5, False),
    "all idle ones are cut, the longest idle is lent first": (8, True),
    "some idle ones are cut": (5, True),
    "a restart": (3, True),
}


class LeaseRun(ScheduleRun):
    """Callers on one pool, and at the end as many at once as it has slots."""

    workloads = tuple(_POOLS)
    actions = (
        IS_CANCELLED,
        WAITING_IS_CANCELLED,
        LOSES_CONNECTION,
        COMES_LATE,
        IDLE_ARE_CUT,
        RESTARTS,
    )
    pairs = 40
    hold_s = HOLD_S
    setup = SETUP - {"PING"}

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.size, is_fifo = _POOLS[self.workload]
        self.pool = LearnerPool(self, self.size, is_fifo=is_fifo)
        self._lease = self.solution.load()
        disturbed = {each.step.actor for each in self.schedule.disturbances}
        self._facts = LeaseFacts(self.size, disturbed)
        self._lines = self._facts.lines
        self._callers: list[Caller] = []
        self._is_down = False
        self._opened = 0
        self._at_once = 0  # callers at the end that have a connection
        self._problem: Violation | None = None

    # What callers do

    async def play(self) -> None:
        """Run the workload's callers, then as many as there are slots, all at once."""
        try:
            await getattr(self, "_play_" + self.workload.partition(",")[0].replace(" ", "_"))()
            await self._all_at_once()
            if self.size < MANY:
                await self._all_at_once()
        finally:
            for line in self._lines:
                await line.connection.raw.close()

    async def _play_one_connection(self) -> None:
        for work in (self._work, self._raise_first, self._work):
            await self._serve(work)

    async def _play_callers_that_raise(self) -> None:
        for error in _RAISED:
            await self._serve(self._raising(error))
        await self._serve(self._is_refused)

    async def _play_callers_that_give_up(self) -> None:
        for work in (self._give_up, self._work, self._give_up_aloud, self._work, self._ignore):
            await self._serve(work)

    async def _play_three_at_once(self) -> None:
        await self._serve(self._work, self._work, self._work)
        await self._serve(self._ignore, self._raise_first)

    async def _play_all_idle_ones_are_cut(self) -> None:
        await self._all_at_once()
        await self._cut_idle()
        await self._serve(self._work)
        await self._serve(self._work, self._work)
        await self._cut_idle()

    async def _play_some_idle_ones_are_cut(self) -> None:
        await self._all_at_once()
        await self._cut_idle(spare=3)
        await self._serve(self._work)

    async def _play_a_restart(self) -> None:
        await self._all_at_once()
        await self._serve(self._work, self._restart, self._ignore, self._work)

    async def _work(self, caller: Caller, connection: Any) -> None:
        await self._echo(caller, connection)
        assert caller.line is not None
        await caller.line.actor.step("compute", lambda: asyncio.sleep(COMPUTES_S))
        await self._echo(caller, connection)

    async def _raise_first(self, caller: Caller, connection: Any) -> None:
        await self._raising(_RAISED[0])(caller, connection)

    def _raising(self, error: Callable[[], BaseException]) -> Work:
        async def work(caller: Caller, connection: Any) -> None:
            await self._echo(caller, connection)
            self._facts.expected_errors.append(error())
            raise self._facts.expected_errors[-1]

        return work

    async def _is_refused(self, caller: Caller, connection: Any) -> None:
        try:
            await connection.call("NOSUCHCOMMAND", caller.name)
        except CommandRejected as error:
            self._facts.expected_errors.append(error)
            raise

    async def _give_up_aloud(self, caller: Caller, connection: Any) -> None:
        await self._echo(caller, connection)
        async with asyncio.timeout(CALLER_TIMEOUT_S):
            await connection.call("BLPOP", self.prefix + "nothing", f"{BLOCKS_S:g}")

    async def _give_up(self, caller: Caller, connection: Any) -> None:
        with contextlib.suppress(TimeoutError):
            await self._give_up_aloud(caller, connection)

    async def _ignore(self, caller: Caller, connection: Any) -> None:
        """Its connection may be lost; it does not mind."""
        with contextlib.suppress(MpimError):
            await self._work(caller, connection)

    async def _restart(self, caller: Caller, connection: Any) -> None:
        await self._echo(caller, connection)
        assert caller.line is not None
        await self.the_server_restarts(caller.line.actor)
        await self._echo(caller, connection)

    async def _echo(self, caller: Caller, connection: Any) -> None:
        caller.asked += 1
        word = f"{caller.name} {caller.asked}"
        reply = await connection.call("ECHO", word)
        if reply != word.encode():
            text = f"{caller.name} asked for {word!r} and was given the reply {reply!r:.40}"
            self._complain(text, 1, caller)

    # How they are run

    async def _serve(self, *works: Work) -> None:
        callers = [self._start(work) for work in works]
        await self._ended(callers)

    async def _all_at_once(self) -> None:
        """Have a caller for each slot; all have a connection, then they leave in order."""
        self._at_once = 0
        await self.until(lambda: not self._is_down)

        async def work(caller: Caller, connection: Any) -> None:
            self._at_once += 1
            await self.until(lambda: self._at_once >= len(callers) - self._left_early(callers))
            before = callers[: callers.index(caller)]
            await self.until(lambda: all(each.phase == "ended" for each in before))
            with contextlib.suppress(MpimError):
                await self._echo(caller, connection)

        callers = [self._start(work) for _ in range(self.size)]
        await self._ended(callers)

    @staticmethod
    def _left_early(callers: list[Caller]) -> int:
        return sum(caller.phase == "ended" and not caller.has_entered for caller in callers)

    def _start(self, work: Work) -> Caller:
        caller = Caller(f"m{len(self._callers) + 1}")
        self._callers.append(caller)
        self.report(EventKind.ACCEPTED, "callers", caller.name)
        caller.task = self.background(self._borrow(caller, work))
        return caller

    async def _borrow(self, caller: Caller, work: Work) -> None:
        _caller.set(caller)
        try:
            async with self._lease(self.pool) as connection:
                caller.phase, caller.has_entered = "has it", True
                self._check_given(caller, connection)
                try:
                    await work(caller, connection)
                except BaseException as error:
                    caller.raised = error
                    raise
                finally:
                    caller.phase = "leaving"
        except BaseException as error:
            caller.ended_with = error
            self.report(EventKind.FAILED, "callers", caller.name, error=type(error).__name__)
        else:
            self.report(EventKind.HANDLED, "callers", caller.name)
        caller.phase = "ended"

    async def _ended(self, callers: list[Caller]) -> None:
        await self.until(lambda: all(caller.phase == "ended" for caller in callers))
        for caller in sorted(callers, key=lambda caller: caller.phase != "asking"):
            violation = violation_of(caller, self._facts)
            self._problem = self._problem or violation
        if self._problem is not None:
            raise self._problem

    # What the pool reports

    async def open_connection(self) -> LearnerConnection:
        """Open a connection through a relay of its own."""
        self._opened += 1
        actor = await self.actor(f"connection-{self._opened}")
        raw = RawConnection(Address.parse(actor.url), POOL)
        line = Line(actor, LearnerConnection(raw, CALL_TIMEOUT_S), _caller.get())
        self._lines.append(line)

        async def connect() -> None:
            if self._is_down:
                raise NotConnected("the server restarts; nothing was sent")
            await raw.open(CONNECT_TIMEOUT_S)

        try:
            await actor.step("connect", connect, raises=(MpimError,))
        except BaseException as error:
            if self._is_down or not isinstance(error, Exception):
                self._facts.expected_errors.append(error)
            if line.borrower is not None:
                line.borrower.refused = error
            line.borrower = None
            await raw.close()
            raise
        line.is_open = True
        return line.connection

    def on_lent(self, connection: LearnerConnection) -> None:
        """Note whose it is from now on."""
        line, caller = self._line_of(connection), _caller.get()
        line.borrower, line.was_cut = caller, line.is_cut
        if caller is not None:
            caller.line = line
            self.report(EventKind.RECEIVED, line.actor.name, caller.name)

    def on_returned(self, connection: LearnerConnection) -> None:
        """Note that it is nobody's."""
        line = self._line_of(connection)
        caller, line.borrower = line.borrower, None
        if caller is not None and caller.phase == "has it":
            self._complain(
                f"the connection of {caller.name} was given back while it had it", 4, caller
            )

    def on_discard(self, connection: LearnerConnection) -> None:
        """Close it; complain if it was well."""
        line = self._line_of(connection)
        if connection.raw.is_open and not (connection.unanswered or line.is_cut):
            text = f"{line.actor.name} was discarded, and it was healthy"
            self._complain(text, 3, line.borrower)
        self.background(connection.raw.close())

    def _line_of(self, connection: LearnerConnection) -> Line:
        return next(line for line in self._lines if line.connection is connection)

    # What happens to them

    async def its_caller_is_cancelled(self, actor: Actor) -> None:
        """Cancel whoever has the connection."""
        line = next(line for line in self._lines if line.actor is actor)
        if line.borrower is not None:
            await self._cancel(line.borrower)

    async def whoever_waits_is_cancelled(self, actor: Actor) -> None:
        """Cancel the first that has no connection yet."""
        served = [line.borrower for line in self._lines]
        waiting = (each for each in self._callers if each.phase == "asking")
        if (caller := next((each for each in waiting if each not in served), None)) is not None:
            await self._cancel(caller)

    async def _cancel(self, caller: Caller) -> None:
        if caller.phase != "ended" and caller.task is not None:
            caller.cancelled_in = caller.phase
            caller.task.cancel()
            await asyncio.sleep(0)

    async def idle_ones_are_cut(self, actor: Actor) -> None:
        """Cut all that nobody has."""
        await self._cut_idle()

    async def _cut_idle(self, *, spare: int = 0) -> None:
        """Cut all idle ones but one; without `spare`, which is its number, all."""
        self.report(EventKind.FAULT_BEGAN, "idle", "", detail="idle connections are cut")
        for number, line in enumerate(self._lines, 1):
            if line.borrower is None and number != spare:
                self._cut(line)
        await asyncio.sleep(0.02)  # until its end has come through

    async def the_server_restarts(self, actor: Actor) -> None:
        """Cut all connections; for a while nobody can connect."""
        self._is_down = True
        for line in self._lines:
            self._cut(line)
        asyncio.get_running_loop().call_later(DOWN_S, self._is_up)

    def _is_up(self) -> None:
        self._is_down = False

    def _cut(self, line: Line) -> None:
        if line.is_open:
            line.is_cut = True
            line.actor.cut()

    # What must hold

    def _check_given(self, caller: Caller, connection: Any) -> None:
        if not callable(getattr(connection, "call", None)):
            self._complain(
                f"{caller.name} was given {connection!r:.40}, which is no connection", 0, caller
            )
            return
        line = caller.line
        if line is None or line.borrower is not caller:
            text = f"{caller.name} was given a connection that the pool has not lent to it"
            self._complain(text, 4, caller)
        elif line.connection.unanswered:
            text = f"{caller.name} was given {line.actor.name}, where another's reply is to come"
            self._complain(text, 1, caller)
        elif line.was_cut:
            text = f"{caller.name} was given {line.actor.name}, which had been cut"
            self._complain(text, 2, caller)

    async def judge(self) -> None:
        """All slots are free at the end."""
        if not await self.until(lambda: all(line.borrower is None for line in self._lines), 1.0):
            kept = [line for line in self._lines if line.borrower is not None]
            text = f"at the end {kept[0].actor.name} is still lent, and nobody has it"
            raise Violation(text, 4, kept[0].borrower.name if kept[0].borrower else "")
        if self._problem is not None:
            raise self._problem

    def _complain(
        self, text: str, number: int, caller: Caller | None, error: BaseException | None = None
    ) -> None:
        name = caller.name if caller is not None else ""
        self._problem = self._problem or Violation(text, number, name, error)
