"""PoolModel: a learner's pool beside the rules of a fair wait queue.

A caller is *served* when `connect` is called for it or when `get` returns, whichever is first.
"""

import asyncio
import contextvars
import inspect
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from mpim_lab.errors import MpimError, NotConnected, PoolTimeout
from mpim_lab.events import Event, EventKind
from mpim_lab.lab.exercise.solution import Violation, finished
from mpim_lab.lab.trace.trace import Trace

MAX_IDLE_S = 1.1  # how long a slot may be free while somebody waits: who polls once a second passes
SETTLE_S = 0.01  # long enough for a pool to hand out what it should not
EARLY_S = 1e-3
POOL = "pool"


class ConnectFailed(Exception):
    """What `connect` raises that is no error of the package's."""


CONNECT_ERRORS: dict[str, Callable[[], Exception]] = {
    "fails": lambda: NotConnected("the server refused"),
    "times out": lambda: TimeoutError("no answer from the server"),
    "fails oddly": lambda: ConnectFailed("no such host"),
}


@dataclass(eq=False)
class ModelConnection:
    """A connection that `connect` opened; what it would be connected to does not matter here."""

    number: int

    def __repr__(self) -> str:
        return f"connection {self.number}"


@dataclass(eq=False)
class Caller:
    """One call of `get`.

    Args:
        place: who has the lower one asked first.
        deadline_s: when it is to be refused.
        has_opened: `connect` has returned for it, and `get` has not yet.
        connect_error: what `connect` raised for it.
    """

    name: str
    place: int
    deadline_s: float
    connection: ModelConnection | None = None
    task: "asyncio.Task[None] | None" = None
    is_served: bool = False
    is_cancelled: bool = False
    has_opened: bool = False
    connect_error: Exception | None = None


_caller: contextvars.ContextVar[Caller | None] = contextvars.ContextVar("caller", default=None)


class PoolModel:
    """A learner's pool, those who wait for it, those who have a connection, and what must hold."""

    def __init__(
        self, solution: type[Any], limit: int, wait_s: float, trace: Trace, letter: str
    ) -> None:
        self.limit, self.wait_s, self.letter = limit, wait_s, letter
        self.pending: list[Caller] = []
        self.holders: list[Caller] = []
        self.connect_takes_s, self.connect_error = 0.0, ""
        self._trace = trace
        self._connections: list[ModelConnection] = []
        self._idle: list[ModelConnection] = []
        self._connecting: list[Caller | None] = []
        self._asked = self._progress = 0
        self._problem: Violation | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        try:
            self.pool = solution(self.connect, limit, wait_s)
        except Exception as error:
            raise Violation(f"your class raised {error_text(error)}", error=error) from error

    # What the pool uses

    async def connect(self) -> ModelConnection:
        """Open a connection, as the operations say: at once, slowly, or not at all."""
        caller = _caller.get()
        if len(self._connections) + len(self._connecting) >= self.limit:
            self._note(f"{self.limit} connections are open or being opened, and one more", 1)
        self._check_none_is_idle(caller)
        self._connecting.append(caller)
        try:
            if caller is not None:
                self._serve(caller)
            takes_s, error = self.connect_takes_s, self.connect_error
            await asyncio.sleep(takes_s)
            if error:
                raised = CONNECT_ERRORS[error]()
                if caller is not None:
                    caller.connect_error = raised
                raise raised
        finally:
            self._connecting.remove(caller)
        self._connections.append(ModelConnection(len(self._connections) + 1))
        if caller in self.pending:
            assert caller is not None
            caller.has_opened = True
        return self._connections[-1]

    def _check_none_is_idle(self, caller: Caller | None) -> None:
        """Those who ask and do not connect may take the idle ones; for more there is no need."""
        connecting = [each for each in self._connecting if each is None or each in self.pending]
        if self._idle and len(self._idle) > len(self.pending) - len(connecting) - 1:
            name = caller.name if caller is not None else ""
            self._note(f"`connect` was called, and {self._idle[0]} is idle", 2, name)

    # Operations

    def ask(self, *, first: Caller | None = None) -> Caller:
        """Have a new caller ask; in the same step, before, `first` releases its connection."""
        self._asked += 1
        caller = Caller(f"{self.letter}{self._asked}", self._asked, 0.0)
        caller.task = self._spawn(self._get(caller, first))
        return caller

    def cancel(self, caller: Caller) -> None:
        """Cancel one that waits or connects."""
        assert caller.task is not None
        self._report(EventKind.FAULT_BEGAN, caller, detail=f"{caller.name} is cancelled")
        caller.is_cancelled = True
        caller.task.cancel()

    async def release(self, caller: Caller) -> None:
        """Have a caller give its connection back."""
        if (waits := self._put(caller)) is not None:
            await waits

    def release_at(self, at_s: float, caller: Caller) -> None:
        """Have it give its connection back at a moment at which other timers may end, too."""

        def release() -> None:
            if (waits := self._put(caller)) is not None:
                self._spawn(waits)

        asyncio.get_running_loop().call_at(at_s, release)

    def _put(self, caller: Caller) -> Coroutine[Any, Any, None] | None:
        """Give a connection back; what is returned is the rest of a `put` that is `async`."""
        if caller not in self.holders:
            return None
        connection = caller.connection
        assert connection is not None
        self.holders.remove(caller)
        self._idle.append(connection)
        self._report(EventKind.HANDLED, caller)
        try:
            returned = self.pool.put(connection)
        except Exception as error:
            self._note(f"`put` raised {error_text(error)}", 0, caller.name, error)
            return None
        return self._finish_put(caller, returned) if inspect.isawaitable(returned) else None

    async def _finish_put(self, caller: Caller, returned: Awaitable[Any]) -> None:
        try:
            await returned
        except Exception as error:
            self._note(f"`put` raised {error_text(error)}", 0, caller.name, error)

    def waiting(self, place: int = 0) -> Caller | None:
        """Return one of those who are not cancelled and have no connection yet."""
        found = [caller for caller in self.pending if not caller.is_cancelled]
        return found[place % len(found)] if found else None

    def holder(self, place: int) -> Caller | None:
        """Return one of those who have a connection."""
        return self.holders[place % len(self.holders)] if self.holders else None

    # What must hold

    async def settle(self) -> None:
        """Wait until nothing more has to happen. Raise Violation if it does not, or was wrong."""
        await asyncio.sleep(SETTLE_S)
        since_s, progress = now_s(), self._progress
        while True:
            self._check()
            if (unmet := self._unmet()) is None:
                return
            if progress != self._progress:
                since_s, progress = now_s(), self._progress
            if now_s() - since_s > MAX_IDLE_S:
                raise unmet
            await asyncio.sleep(0.05)

    def _unmet(self) -> Violation | None:
        at_s = now_s()
        for caller in self.pending:
            if caller.is_cancelled:
                return Violation(
                    f"{caller.name} was cancelled, and its `get` goes on", 4, caller.name
                )
        in_time = [each for each in self.pending if not each.is_served and at_s < each.deadline_s]
        if in_time and self._free > 0:
            name = in_time[0].name
            busy = f"{self.limit - self._free} of {self.limit} slots are in use"
            return Violation(f"{name} waits, and only {busy}", 4, name)
        return None

    def _check(self) -> None:
        if self._problem is not None:
            raise self._problem
        for caller in self.pending:
            late_s = now_s() - caller.deadline_s
            if not caller.is_served and not caller.is_cancelled and late_s > MAX_IDLE_S:
                text = f"{caller.name} still waits, {self.wait_s + late_s:.1f} s after it asked"
                raise Violation(text, 5, caller.name)

    @property
    def _free(self) -> int:
        """Slots that nobody uses."""
        arriving = sum(caller.has_opened for caller in self.pending)
        return self.limit - len(self.holders) - len(self._connecting) - arriving

    def _serve(self, caller: Caller) -> None:
        """Note that a caller is served; whoever asked before it must have a slot as well."""
        if caller.is_served:
            return
        caller.is_served = True
        self._progress += 1
        earlier = [
            each
            for each in self.pending
            if each.place < caller.place
            and not each.is_served
            and not each.is_cancelled
            and now_s() < each.deadline_s - EARLY_S
        ]
        if len(earlier) > max(0, self._free):
            text = f"{caller.name} was served before {earlier[0].name}, who asked first"
            self._note(text, 3, earlier[0].name)

    # A caller

    async def _get(self, caller: Caller, first: Caller | None) -> None:
        if first is not None:
            await self.release(first)
        _caller.set(caller)
        caller.deadline_s = now_s() + self.wait_s
        self.pending.append(caller)
        self._report(EventKind.ACCEPTED, caller)
        try:
            connection = await finished("get", self.pool.get())
        except asyncio.CancelledError:
            if not caller.is_cancelled:
                self._note(f"{caller.name} got CancelledError, and nobody cancelled it", 5)
        except Violation as violation:
            self._problem = self._problem or violation
        except BaseException as error:
            self._report(EventKind.FAILED, caller, error=type(error).__name__)
            self._judge_error(caller, error)
        else:
            self._given(caller, connection)
        finally:
            self.pending.remove(caller)
            self._progress += 1
        if caller.is_cancelled and caller.connection is not None:
            await self.release(caller)

    def _given(self, caller: Caller, connection: Any) -> None:
        if connection not in self._connections:
            text = f"{caller.name} got {connection!r:.40}, which its `connect` has not opened"
            self._note(text, 1, caller.name)
            return
        if connection not in self._idle and not caller.has_opened and self._is_held(connection):
            self._note(f"{caller.name} got {connection}, which somebody has", 1, caller.name)
        if caller.connect_error is not None:
            text = f"connecting failed for {caller.name}, and `get` raised nothing"
            self._note(text, 6, caller.name)
        caller.connection = connection
        caller.has_opened = False
        if connection in self._idle:
            self._idle.remove(connection)
        self.holders.append(caller)
        self._report(EventKind.RECEIVED, caller)
        self._serve(caller)

    def _is_held(self, connection: ModelConnection) -> bool:
        return any(each.connection is connection for each in self.holders)

    def _judge_error(self, caller: Caller, error: BaseException) -> None:
        name, wanted, late_s = caller.name, caller.connect_error, now_s() - caller.deadline_s
        if wanted is not None:
            if type(error) is not type(wanted):
                failed = f"connecting failed with {error_text(wanted)}"
                text = f"{failed}, and {name} got {error_text(error)}"
                self._note(text, 6, name, error)
        elif not isinstance(error, PoolTimeout):
            number = 5 if isinstance(error, TimeoutError | MpimError) else 0
            self._note(f"{name} got {error_text(error)}", number, name, error)
        elif late_s < -EARLY_S:
            after = f"{self.wait_s + late_s:.2f} s after it asked, not {self.wait_s:g} s"
            self._note(f"{name} got PoolTimeout {after}", 5, name)

    # Inside

    def _spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _note(
        self, text: str, number: int, name: str = "", error: BaseException | None = None
    ) -> None:
        self._problem = self._problem or Violation(text, number, name, error)

    def _report(
        self, kind: EventKind, caller: Caller, *, detail: str = "", error: str = ""
    ) -> None:
        actor = repr(caller.connection) if caller.connection is not None else "callers"
        self._trace(Event(kind, now_s(), actor, caller.name, POOL, detail, error=error))


def now_s() -> float:
    """Return the virtual time."""
    return asyncio.get_running_loop().time()


def error_text(error: BaseException) -> str:
    """Return an error in words."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
