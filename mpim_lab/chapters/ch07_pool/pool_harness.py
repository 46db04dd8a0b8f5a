"""PoolHarness: drives the learner's pool, one step at a time, on real connections.

A script is a list of steps: callers acquire, release, are cancelled; after each it is known who
must have a connection. Nothing depends on the clock but how long a pool that hands out nothing is
given until it counts as stalled.
"""

import asyncio
import contextlib
import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Self

from mpim_lab.chapters.ch07_pool.scenario import CALLERS, POOL
from mpim_lab.errors import NotConnected, ServerFailed
from mpim_lab.events import Event, EventKind, now
from mpim_lab.lab.exercise.legacy_challenge import Trial, TrialFailure
from mpim_lab.lab.faults.injector import wait_until
from mpim_lab.lab.server.embedded import open_server
from mpim_lab.lab.trace.trace import Trace
from mpim_lab.mq.connection.address import Address
from mpim_lab.mq.pool.raw_connection import RawConnection

LIMIT = 2
LONG_TIMEOUT_S, SHORT_TIMEOUT_S = 30.0, 0.2
STUCK_AFTER_S = 3.0
IDLE_S = 0.01  # long enough for a pool to hand out what it should not


class Violation(Exception):
    """A step that did not end as it must. `caller`: whose story it is."""

    def __init__(self, text: str, caller: str = "") -> None:
        super().__init__(text)
        self.caller = caller


@dataclass(eq=False)
class CallerState:
    """The state of one caller. `outcome`: how its `get` failed, if it did."""

    name: str
    connection: Any = None
    outcome: str = ""
    is_cancelled: bool = False
    task: "asyncio.Task[None] | None" = None


class PoolHarness:
    """A harness around the learner's pool and its callers. Use as a context."""

    def __init__(self, url: str, solution: type[Any], wait_s: float) -> None:
        self.log: list[str] = []
        self.trace = Trace(sample_above_per_s=None)
        self.opened = 0
        self.connects = asyncio.Event()  # cleared: connecting takes until it is set
        self.connects.set()
        self.fails = 0  # so many attempts to connect fail
        self._address = Address.parse(url)
        self._problem: Violation | None = None
        self._wires: list[RawConnection] = []
        self._callers: dict[str, CallerState] = {}
        self._pool = solution(self.connect, LIMIT, wait_s)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        tasks = [caller.task for caller in self._callers.values() if caller.task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=STUCK_AFTER_S)
        for wire in self._wires:
            await wire.close()

    async def connect(self) -> RawConnection:
        """What the learner's pool opens connections with. Raises NotConnected."""
        if self.opened >= LIMIT:
            self._problem = Violation(f"{LIMIT} connections are open, and the pool opened one more")
        self.opened += 1
        wire = RawConnection(self._address)
        self._wires.append(wire)
        try:
            await self.connects.wait()
            if self.fails:
                self.fails -= 1
                raise NotConnected("the server refused; nothing was sent")
            await wire.open(STUCK_AFTER_S)
        except BaseException:
            self.opened -= 1
            raise
        return wire

    # Steps

    async def acquire(self, *names: str) -> None:
        """Have callers ask for a connection, one after the other."""
        for name in names:
            self.log.append(f"{name} asks for a connection")
            self._start(name)
            await asyncio.sleep(IDLE_S)

    async def release(self, name: str, *, then_acquires: str = "", then_cancels: str = "") -> None:
        """Have a caller release its connection.

        In the same step another one acquires, or one that waits is cancelled.
        """
        also = (
            f" and {then_acquires} asks"
            if then_acquires
            else f" and {then_cancels} is cancelled"
            if then_cancels
            else ""
        )
        self.log.append(
            f"{name} releases its connection{also + ', in the same step' if also else ''}"
        )
        caller = self._callers[name]
        connection, caller.connection = caller.connection, None
        self._report(EventKind.HANDLED, caller.name, self._name_of(connection))
        if then_acquires:
            self._start(then_acquires, first=connection)
        else:
            await self._put(connection)
            if then_cancels:
                self._cancel(then_cancels)
        await asyncio.sleep(IDLE_S)

    async def cancel(self, name: str) -> None:
        """Cancel a caller."""
        self.log.append(f"{name} is cancelled")
        self._cancel(name)
        await asyncio.sleep(IDLE_S)

    async def fail_connecting(self) -> None:
        """Have one of those that are connecting fail; the others go on."""
        self.log.append("connecting fails for one of them")
        self.fails = 1
        self.connects.set()

    async def expect_holders(self, *names: str) -> None:
        """Expect that these callers have a connection each, and no other.

        Raise Violation if not.
        """
        wanted = set(names)
        with contextlib.suppress(ServerFailed):  # that nothing came of it is found below
            await wait_until(
                lambda: not wanted - self._having() or self._is_wrong(wanted), "", STUCK_AFTER_S
            )
        await asyncio.sleep(IDLE_S)
        if self._problem is not None:
            raise self._problem
        self._compare(wanted)
        self.log.append(
            f"{' and '.join(names) or 'nobody'} {'has' if len(names) < 2 else 'have'} a connection"
        )

    async def expect_refused(self, name: str, why: str) -> None:
        """Expect that this caller was refused. Raise Violation if not."""
        caller = self._callers[name]
        with contextlib.suppress(ServerFailed):
            await wait_until(lambda: bool(caller.outcome or caller.connection), "", STUCK_AFTER_S)
        if caller.connection is not None:
            raise Violation(f"{name} was given a connection, and there was none for it", name)
        if not caller.outcome:
            self._report(EventKind.STALLED, name, CALLERS)
            raise Violation(f"{name} waits for ever: {why}", name)
        self.log.append(f"{name} was refused: {caller.outcome}")

    # Inside

    def _start(self, name: str, *, first: Any = None) -> None:
        caller = self._callers[name] = CallerState(name)
        self._report(EventKind.ACCEPTED, name, CALLERS)
        caller.task = asyncio.create_task(self._get(caller, first))

    async def _get(self, caller: CallerState, first: Any) -> None:
        if first is not None:
            await self._put(first)  # and asks before anybody else runs
        try:
            connection = await self._pool.get()
        except asyncio.CancelledError:
            return
        except Exception as error:
            caller.outcome = type(error).__name__
            self._report(EventKind.FAILED, caller.name, CALLERS, error=caller.outcome)
            return
        if connection not in self._wires:
            self._problem = Violation(
                f"get returned {type(connection).__name__}: not a connection from connect()",
                caller.name,
            )
            return
        if caller.is_cancelled:
            await self._put(connection)
            return
        holder = next(
            (one.name for one in self._callers.values() if one.connection is connection), ""
        )
        if holder:
            self._problem = Violation(
                f"{caller.name} was given the connection that {holder} has", caller.name
            )
        caller.connection = connection
        self._report(EventKind.RECEIVED, caller.name, self._name_of(connection))

    async def _put(self, connection: Any) -> None:
        done = self._pool.put(connection)
        if inspect.isawaitable(done):
            await done

    def _cancel(self, name: str) -> None:
        caller = self._callers[name]
        caller.is_cancelled = True
        assert caller.task is not None
        caller.task.cancel()

    def _having(self) -> set[str]:
        return {caller.name for caller in self._callers.values() if caller.connection is not None}

    def _is_wrong(self, wanted: set[str]) -> bool:
        return bool(
            self._problem
            or self._having() - wanted
            or any(self._callers[name].outcome for name in wanted)
        )

    def _compare(self, wanted: set[str]) -> None:
        have = self._having()
        early, missing = sorted(have - wanted), sorted(wanted - have)
        if early and missing:
            raise Violation(
                f"{early[0]} was given a connection before {missing[0]}, who came first", missing[0]
            )
        for name in missing:
            outcome = self._callers[name].outcome
            if outcome:
                raise Violation(
                    f"{name} was refused ({outcome}), and there was a connection for it", name
                )
            self._report(EventKind.STALLED, name, CALLERS)
            raise Violation(
                f"{name} is stalled: there is a connection for it, and it waits for ever", name
            )
        if early:
            raise Violation(
                f"{early[0]} was given a connection, and there was none for it", early[0]
            )

    def _name_of(self, connection: Any) -> str:
        return f"connection {self._wires.index(connection) + 1}"

    def _report(self, kind: EventKind, name: str, actor: str, *, error: str = "") -> None:
        self.trace(Event(kind, now(), actor, name, POOL, error, error=error))


def pool_trial(
    title: str, script: Callable[[PoolHarness], Awaitable[None]], wait_s: float = LONG_TIMEOUT_S
) -> Trial:
    """A script as a trial of a challenge."""

    async def judge(solution: type[Any]) -> TrialFailure | None:
        async with open_server() as server, PoolHarness(server.url, solution, wait_s) as harness:
            try:
                await script(harness)
            except Violation as complaint:
                return TrialFailure(
                    str(complaint), title, complaint.caller, tuple(harness.log), harness.trace
                )
        return None

    return judge
