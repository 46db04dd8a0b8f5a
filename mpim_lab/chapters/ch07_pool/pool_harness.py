"""Desk: plays callers to the learner's pool, one step at a time, over real connections, and says what went wrong.

A script is a list of steps: callers come, leave, are cancelled; after each it is known who must have a connection. Nothing
depends on the clock but how long a pool that hands out nothing is given until it counts as stuck.
"""

import asyncio
import contextlib
import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Self

from mpim_lab.chapters.ch07_pool.scenario import CALLERS, POOL
from mpim_lab.errors import NotConnected, ServerFailed
from mpim_lab.events import Event, Kind, now
from mpim_lab.lab.exercise.challenge import Failure, Trial
from mpim_lab.lab.faults.injector import until
from mpim_lab.lab.server.embedded import open_server
from mpim_lab.lab.trace.trace import Trace
from mpim_lab.mq.connection.address import Address
from mpim_lab.mq.pool.raw_connection import RawConnection

LIMIT = 2
PATIENT_S, SHORT_S = 30.0, 0.2
STUCK_AFTER_S = 3.0
QUIET_S = 0.01  # long enough for a pool to hand out what it should not


class Complaint(Exception):
    """A step did not end as it must. `caller`: whose story it is."""

    def __init__(self, text: str, caller: str = "") -> None:
        super().__init__(text)
        self.caller = caller


@dataclass(eq=False)
class Guest:
    """One caller. `outcome`: how its `get` failed, if it did."""

    name: str
    connection: Any = None
    outcome: str = ""
    is_cancelled: bool = False
    task: "asyncio.Task[None] | None" = None


class Desk:
    """The learner's pool and its callers. Use as a context."""

    def __init__(self, url: str, solution: type[Any], wait_s: float) -> None:
        self.log: list[str] = []
        self.trace = Trace(sample_above_per_s=None)
        self.opened = 0
        self.connects = asyncio.Event()  # cleared: connecting takes until it is set
        self.connects.set()
        self.fails = 0  # so many attempts to connect fail
        self._address = Address.parse(url)
        self._problem: Complaint | None = None
        self._wires: list[RawConnection] = []
        self._guests: dict[str, Guest] = {}
        self._pool = solution(self.connect, LIMIT, wait_s)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        tasks = [guest.task for guest in self._guests.values() if guest.task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=STUCK_AFTER_S)
        for wire in self._wires:
            await wire.close()

    async def connect(self) -> RawConnection:
        """What the learner's pool opens connections with. Raises NotConnected."""
        if self.opened >= LIMIT:
            self._problem = Complaint(f"{LIMIT} connections are open, and the pool opened one more")
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

    async def come(self, *names: str) -> None:
        """Callers come, one after the other."""
        for name in names:
            self.log.append(f"{name} asks for a connection")
            self._start(name)
            await asyncio.sleep(QUIET_S)

    async def leave(self, name: str, *, and_comes: str = "", and_cancelled: str = "") -> None:
        """A caller gives its connection back; in the same step another one asks, or one in line is cancelled."""
        also = f" and {and_comes} asks" if and_comes else f" and {and_cancelled} is cancelled" if and_cancelled else ""
        self.log.append(f"{name} gives its connection back{also + ', in the same step' if also else ''}")
        guest = self._guests[name]
        connection, guest.connection = guest.connection, None
        self._report(Kind.HANDLED, guest.name, self._name_of(connection))
        if and_comes:
            self._start(and_comes, first=connection)
        else:
            await self._put(connection)
            if and_cancelled:
                self._cancel(and_cancelled)
        await asyncio.sleep(QUIET_S)

    async def cancel(self, name: str) -> None:
        """A caller is cancelled."""
        self.log.append(f"{name} is cancelled")
        self._cancel(name)
        await asyncio.sleep(QUIET_S)

    async def fail_connecting(self) -> None:
        """Whoever is connecting fails, one of them; the others go on."""
        self.log.append("connecting fails for one of them")
        self.fails = 1
        self.connects.set()

    async def must_have(self, *names: str) -> None:
        """These callers have a connection each, and nobody else. Raises Complaint."""
        wanted = set(names)
        with contextlib.suppress(ServerFailed):  # that nothing came of it is found below
            await until(lambda: not wanted - self._having() or self._is_wrong(wanted), "", STUCK_AFTER_S)
        await asyncio.sleep(QUIET_S)
        if self._problem is not None:
            raise self._problem
        self._compare(wanted)
        self.log.append(f"{' and '.join(names) or 'nobody'} {'has' if len(names) < 2 else 'have'} a connection")

    async def must_be_refused(self, name: str, why: str) -> None:
        """This caller was told that there is none. Raises Complaint."""
        guest = self._guests[name]
        with contextlib.suppress(ServerFailed):
            await until(lambda: bool(guest.outcome or guest.connection), "", STUCK_AFTER_S)
        if guest.connection is not None:
            raise Complaint(f"{name} was given a connection, and there was none for it", name)
        if not guest.outcome:
            self._report(Kind.STUCK, name, CALLERS)
            raise Complaint(f"{name} waits for ever: {why}", name)
        self.log.append(f"{name} was refused: {guest.outcome}")

    # Inside

    def _start(self, name: str, *, first: Any = None) -> None:
        guest = self._guests[name] = Guest(name)
        self._report(Kind.ACCEPTED, name, CALLERS)
        guest.task = asyncio.create_task(self._get(guest, first))

    async def _get(self, guest: Guest, first: Any) -> None:
        if first is not None:
            await self._put(first)  # and asks before anybody else runs
        try:
            connection = await self._pool.get()
        except asyncio.CancelledError:
            return
        except Exception as error:
            guest.outcome = type(error).__name__
            self._report(Kind.FAILED, guest.name, CALLERS, guest.outcome)
            return
        if connection not in self._wires:
            self._problem = Complaint(
                f"get gave {type(connection).__name__}: not a connection from connect()", guest.name
            )
            return
        if guest.is_cancelled:
            await self._put(connection)
            return
        holder = next((one.name for one in self._guests.values() if one.connection is connection), "")
        if holder:
            self._problem = Complaint(f"{guest.name} was given the connection that {holder} has", guest.name)
        guest.connection = connection
        self._report(Kind.RECEIVED, guest.name, self._name_of(connection))

    async def _put(self, connection: Any) -> None:
        done = self._pool.put(connection)
        if inspect.isawaitable(done):
            await done

    def _cancel(self, name: str) -> None:
        guest = self._guests[name]
        guest.is_cancelled = True
        assert guest.task is not None
        guest.task.cancel()

    def _having(self) -> set[str]:
        return {guest.name for guest in self._guests.values() if guest.connection is not None}

    def _is_wrong(self, wanted: set[str]) -> bool:
        return bool(self._problem or self._having() - wanted or any(self._guests[name].outcome for name in wanted))

    def _compare(self, wanted: set[str]) -> None:
        have = self._having()
        early, missing = sorted(have - wanted), sorted(wanted - have)
        if early and missing:
            raise Complaint(f"{early[0]} was given a connection before {missing[0]}, who came first", missing[0])
        for name in missing:
            outcome = self._guests[name].outcome
            if outcome:
                raise Complaint(f"{name} was refused ({outcome}), and there was a connection for it", name)
            self._report(Kind.STUCK, name, CALLERS)
            raise Complaint(f"{name} is stuck: there is a connection for it, and it waits for ever", name)
        if early:
            raise Complaint(f"{early[0]} was given a connection, and there was none for it", early[0])

    def _name_of(self, connection: Any) -> str:
        return f"connection {self._wires.index(connection) + 1}"

    def _report(self, kind: Kind, name: str, actor: str, detail: str = "") -> None:
        self.trace(Event(kind, now(), actor, name, POOL, detail))


def desk_trial(title: str, script: Callable[[Desk], Awaitable[None]], wait_s: float = PATIENT_S) -> Trial:
    """A script as a trial of a challenge."""

    async def judge(solution: type[Any]) -> Failure | None:
        async with open_server() as server, Desk(server.url, solution, wait_s) as desk:
            try:
                await script(desk)
            except Complaint as complaint:
                return Failure(str(complaint), title, complaint.caller, tuple(desk.log), desk.trace)
        return None

    return judge
