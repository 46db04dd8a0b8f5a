"""Runner: plays one schedule against a real server, and judges every call as it ends.

| a call ...                         | is a violation                                           |
|------------------------------------|----------------------------------------------------------|
| takes longer than its limit        | "hang": its limit, slack, and how long our loop was held |
| raises neither ours nor ValueError | "foreign error"                                          |
| raises CancelledError, uncancelled | "foreign cancellation"                                   |
| returns although it was cancelled  | "swallowed"                                              |
"""

import asyncio
import contextlib
import gc
import inspect
import random
import sys
import warnings
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mpim_lab.errors import MpimError
from mpim_lab.lab.server.embedded import EmbeddedServer
from mpim_lab.soak.api.actions import ACTIONS
from mpim_lab.soak.api.invariants import check_end, check_rest
from mpim_lab.soak.api.schedule import Step
from mpim_lab.soak.api.world import Admin, Call, Clock, Outcome, Violation, World

SLACK_S = 1.5
_BEAT_S = 0.02
_MAX_ITERATIONS = 40  # of the loop, until a call is cancelled
_MARKS = {"wait": "", "cancel": " ✗", "aside": " …"}


@dataclass
class Played:
    """How a schedule ended. `steps`: those whose precondition held; `said`: what they did."""

    steps: list[Step] = field(default_factory=list)
    violations: list[Violation] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    @property
    def kind(self) -> str:
        """The first violation's kind; "" if there is none."""
        return self.violations[0].kind if self.violations else ""


class Runner:
    """One schedule on one server."""

    def __init__(self, server: EmbeddedServer, seed: int, without: Collection[str]) -> None:
        self._world, self._clock = (server, seed), Clock()
        self._without = without
        self._aside: list[tuple[asyncio.Task[Any], Call, float]] = []
        self.played = Played()

    async def play(self, steps: Sequence[Step]) -> None:
        """Play all steps, let everything come to rest, end everything.

        Stop at the first violation.
        """
        asyncio.get_running_loop().set_exception_handler(self._on_unhandled)
        beat = asyncio.create_task(self._clock.measure())
        try:
            async with World(*self._world, self._clock, self._without) as w:
                try:
                    await self._play(w, steps)
                finally:
                    self.played.violations[:0] = w.violations
        except Violation as violation:
            if violation not in self.played.violations:
                self.played.violations.append(violation)
        finally:
            beat.cancel()
            await asyncio.wait([beat])
        await asyncio.sleep(_BEAT_S)  # transports that were closed are gone after a turn or two
        if not self.played.violations and (left := asyncio.all_tasks() - {asyncio.current_task()}):
            await asyncio.wait(left, timeout=0.5)
            if left := {task for task in left if not task.done()}:
                self.played.violations.append(Violation("task left", ", ".join(map(repr, left))))

    async def _play(self, w: World, steps: Sequence[Step]) -> None:
        for step in steps:
            if (call := ACTIONS[step.action](w, random.Random(step.number))) is None:
                continue
            self.played.steps.append(step)
            mode = step.mode if step.mode in call.modes else call.modes[0]
            self.played.said.append(f"{step!s:<28}{call.text}{_MARKS[mode]}")
            await self._begin(call, mode, step.number % _MAX_ITERATIONS)
            self._raise_violations(w)
        self.played.said.append("-- rest")
        for task, call, begun in self._aside:
            await self._finish(task, call, begun)
        self._raise_violations(w)
        await check_rest(w, self._bounded)
        self._raise_violations(w)
        self.played.said.append("-- end")
        await check_end(w, self._bounded)
        self._raise_violations(w)

    async def _begin(self, call: Call, mode: str, iterations: int = 0) -> None:
        begun, is_cancelled = self._clock(), False
        task = asyncio.create_task(_reported(call), name=call.text[:60])
        for _ in range({"wait": 0, "cancel": iterations, "aside": 3}[mode]):
            await asyncio.sleep(0)
        if mode == "aside":
            self._aside.append((task, call, begun))
            return
        if mode == "cancel":
            is_cancelled = task.cancel()
        await self._finish(task, call, begun, is_cancelled=is_cancelled)

    async def _finish(
        self, task: asyncio.Task[Any], call: Call, begun: float, *, is_cancelled: bool = False
    ) -> None:
        while not task.done():
            left_s = begun + call.limit_s + SLACK_S - self._clock()
            if left_s <= 0:
                raise Violation("hang", f"{call.text} did not end within {call.limit_s:g} s")
            await asyncio.wait([task], timeout=left_s)
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if inspect.getcoroutinestate(call.running) == inspect.CORO_CREATED:
            call.running.close()  # it was cancelled before it began
            call.ended(Outcome(error=error))
        if not call.is_judged or isinstance(error, MpimError | ValueError | TypeError):
            return
        if error is None and is_cancelled:
            text = f"{call.text} returned although it was cancelled"
            raise Violation("swallowed", text)
        if isinstance(error, asyncio.CancelledError) and not is_cancelled:
            raise Violation("foreign cancellation", f"{call.text} raised CancelledError")
        if not isinstance(error, asyncio.CancelledError | None):
            raise Violation("foreign error", f"{call.text} raised {error!r}") from error

    async def _bounded(self, call: Call) -> Outcome:
        """Make one call of a check; it must end within its limit, like any other."""
        outcomes: list[Outcome] = []
        await self._begin(replace(call, ended=outcomes.append), "wait")
        return outcomes[-1]

    def _raise_violations(self, w: World) -> None:
        now = self._clock()
        for task, call, begun in self._aside:
            if not task.done() and now > begun + call.limit_s + SLACK_S:
                w.violate("hang", f"{call.text} did not end within {call.limit_s:g} s")
        if violations := [*w.violations, *self.played.violations]:
            raise violations[0]

    def _on_unhandled(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self.played.violations.append(
            Violation("unhandled", f"{context.get('message')}: {error!r}")
        )


async def _reported(call: Call) -> None:
    """Make a call, and report to the model in the moment it ends."""
    try:
        outcome = Outcome(await call.running)
    except BaseException as error:
        call.ended(Outcome(error=error))
        raise
    call.ended(outcome)


async def _make_ready(server: EmbeddedServer) -> None:
    if server.is_running:
        server.resume()
    await server.start()
    admin = Admin(server)
    await admin("REPLICAOF", "NO", "ONE")
    await admin("CONFIG", "SET", "maxmemory", 0)
    for kind in ("normal", "pubsub"):  # what a failed schedule before this one has left open
        await admin("CLIENT", "KILL", "TYPE", kind)
    await admin("FLUSHALL")


def play(
    server: EmbeddedServer, seed: int, steps: Sequence[Step], without: Collection[str] = ()
) -> Played:
    """Play a schedule in an event loop of its own.

    What is left of it afterwards is a violation, too.
    """
    runner, loop, left = Runner(server, seed, without), asyncio.new_event_loop(), list[str]()
    hook = sys.unraisablehook
    sys.unraisablehook = lambda args: left.append(f"{args.exc_value!r} in {args.object!r}")
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            loop.run_until_complete(_make_ready(server))
            loop.run_until_complete(runner.play(steps))
            _clear(loop)
            gc.collect()
    finally:
        loop.close()
        sys.unraisablehook = hook
    violations = runner.played.violations
    if not violations:
        left += [str(each.message) for each in warned]
        violations += [Violation("left behind", each) for each in left]
    forget(violations)
    return runner.played


def forget(violations: Sequence[Violation] = ()) -> None:
    """Collect what a failed schedule, or something else before the first one, has left.

    The next one is not to blame.
    """
    for violation in violations:  # its traceback holds everything
        violation.__traceback__ = violation.__context__ = violation.__cause__ = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()


def _clear(loop: asyncio.AbstractEventLoop) -> None:
    """Cancel what a failed schedule has left, for a bounded time."""
    if tasks := asyncio.all_tasks(loop):
        loop.set_exception_handler(lambda loop, context: None)
        for task in tasks:
            task.cancel()
        with contextlib.suppress(Exception):
            loop.run_until_complete(asyncio.wait(tasks, timeout=1.0))
    loop.run_until_complete(loop.shutdown_asyncgens())
