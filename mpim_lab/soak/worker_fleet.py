"""The worker fleet of a soak: several workers at the same time, and the faults they meet."""

import asyncio
import math
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

from mpim_lab.chapters.shared.effect_log import EffectLog
from mpim_lab.chapters.shared.worker_fleet import RunningWorker, SimulatedCrash
from mpim_lab.errors import MpimError
from mpim_lab.events import EventKind, message_id
from mpim_lab.lab.faults.proxy import FaultProxy, Match
from mpim_lab.lab.trace.trace import Trace
from mpim_lab.soak.schedule import WORKER_CONNECTION_KINDS, PlannedFault

SLEEPS = ("zombie", "slow worker")
STOP_TIMEOUT_S = 5.0
RESTART_AFTER_S = 0.02  # a worker that could not even connect
_LINE_FAULTS = {  # of a worker: what the proxy does
    "commit lost": FaultProxy.drop_request,
    "commit late": FaultProxy.delay_request,
    "answer to the worker lost": FaultProxy.drop_reply,
}


class _SleepingWorker(NamedTuple):
    """A worker that sleeps with a message until another did it, or so many effects are there."""

    worker: str
    payload: bytes
    until_rows: int | None
    woken: asyncio.Event


class SoakFleet:
    """Fleet that keeps `awake` workers running.

    A handler's call comes to `work`, a change of the ledger to `on_rows`.

    make_worker(name) makes a worker with `run` and `stop`, whose connections go through `line`.
    faults: by message, the fault that meets whoever has it first.
    """

    def __init__(
        self,
        make_worker: Callable[[str], Any],
        line: FaultProxy,
        ledger: EffectLog,
        trace: Trace,
        faults: dict[str, PlannedFault],
        awake: int,
    ) -> None:
        self._make_worker, self._line, self._ledger, self._trace = make_worker, line, ledger, trace
        self._faults, self._wanted = faults, awake
        self.injected: Counter[str] = Counter()
        self._alive: dict[str, RunningWorker] = {}
        self._sleepers: list[_SleepingWorker] = []
        self._dies_after: set[tuple[str, bytes]] = set()
        self._held = ""  # whose commit is held
        self._leaving: dict[str, asyncio.Task[None]] = {}
        self._broken: list[BaseException] = []
        self._started, self._is_over = 0, False

    # Who is there

    def start_worker(self) -> None:
        """Start a worker."""
        self._started += 1
        worker = self._make_worker(name := f"worker-{self._started}")
        task = asyncio.create_task(worker.run())
        self._alive[name] = RunningWorker(name, worker, task)
        task.add_done_callback(lambda task: self._ended(name, task))

    def top_up(self) -> None:
        """Start workers until enough are awake."""
        while not self._is_over and self.awake < self._wanted:
            self.start_worker()

    def rebalance(self) -> None:
        """One more joins, and the one who has been there longest leaves."""
        self._begin("rebalance")
        self.start_worker()
        self.stop_oldest()

    def stop_oldest(self) -> None:
        """Whoever is awake and has been there longest leaves in good order."""
        if here := self._here():
            self._leave(here[0])

    def inject(self, fault: PlannedFault) -> None:
        """Have a fault strike whoever is given a message that is still to come."""
        self._faults[fault.message] = fault

    @property
    def awake(self) -> int:
        """How many are awake and stay."""
        return len(self._here())

    @property
    def sleeping(self) -> int:
        """How many sleep with a message in hand."""
        return len(self._sleepers)

    def _here(self) -> list[str]:
        """Who is awake and stays, longest first."""
        away = {sleeper.worker for sleeper in self._sleepers} | self._leaving.keys()
        return [name for name in self._alive if name not in away]

    def _leave(self, name: str) -> None:
        self._leaving[name] = asyncio.create_task(self._alive[name].worker.stop())

    def _ended(self, name: str, task: "asyncio.Task[None]") -> None:
        del self._alive[name]
        if (
            task.cancelled()
            or (error := task.exception()) is None
            or isinstance(error, SimulatedCrash)
        ):
            return self.top_up()
        self._trace.record(EventKind.FAILED, name, error=error)
        if not isinstance(error, MpimError):
            self._broken.append(error)
        asyncio.get_running_loop().call_later(RESTART_AFTER_S, self.top_up)

    async def finish(self) -> None:
        """Wake whoever sleeps, have everybody stop, and raise what nobody wanted."""
        self._is_over = True
        for sleeper in self._sleepers:
            sleeper.woken.set()
        for name in [name for name in self._alive if name not in self._leaving]:
            self._leave(name)
        tasks = [hired.task for hired in self._alive.values()]
        _, unfinished = await asyncio.wait(tasks, timeout=STOP_TIMEOUT_S) if tasks else ((), ())
        if self._broken or unfinished:
            raise MpimError(
                f"{len(unfinished)} did not stop within {STOP_TIMEOUT_S:g} s; {self._broken}"
            )

    async def cancel(self) -> None:
        """End everybody at once."""
        self._is_over = True
        tasks = [hired.task for hired in self._alive.values()] + list(self._leaving.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # One message

    async def work(self, worker: str, payload: bytes, effect: Callable[[], None]) -> None:
        """What a worker's handler does with one message.

        Its effect, unless a fault is in store for it.
        """
        fault = self._faults.pop(message_id(payload), None)
        kind = fault.kind if fault is not None else ""
        if kind == "crash before work":
            self._crash(worker, payload, kind)
        if fault is not None and kind in SLEEPS:
            await self._sleep(worker, payload, fault)
        if kind == "crash after work":
            self._dies_after.add((worker, payload))
        if fault is not None and kind in WORKER_CONNECTION_KINDS:
            self._break_line(fault)
        effect()

    def _break_line(self, fault: PlannedFault) -> None:
        """What carries this message's effect is lost, or held, or its answer is lost."""
        if fault.kind == "commit late":
            self._held = fault.message
        _LINE_FAULTS[fault.kind](self._line, Match(containing=f" {fault.message} ".encode()))
        self._begin(fault.kind)

    async def on_rows(self, worker: str) -> None:
        """A worker has written.

        Whoever waits for an effect wakes, and the writer may die before it says so.
        """
        await self.poll()
        for who, payload in self._dies_after.intersection(self._ledger.rows):
            if who == worker:
                self._dies_after.remove((who, payload))
                self._crash(worker, payload, "crash after work")

    async def poll(self) -> None:
        """Read the ledger.

        Who waited for what is new there wakes, and what is held goes on its way.
        """
        await self._ledger.read()
        done = {payload for _, payload in self._ledger.rows}
        if self._held in map(message_id, done):
            self._held = ""
            self._line.release()
        for sleeper in self._sleepers:
            until = sleeper.until_rows or math.inf
            if sleeper.payload in done or len(self._ledger.rows) >= until:
                sleeper.woken.set()

    async def _sleep(self, worker: str, payload: bytes, fault: PlannedFault) -> None:
        until = len(self._ledger.rows) + fault.duration if fault.kind == "slow worker" else None
        sleeper = _SleepingWorker(worker, payload, until, asyncio.Event())
        self._sleepers.append(sleeper)
        self._begin(fault.kind)
        self.top_up()
        try:
            await sleeper.woken.wait()
        finally:
            self._sleepers.remove(sleeper)
            self._trace.record(EventKind.FAULT_ENDED, worker, fault.kind)

    def _crash(self, worker: str, payload: bytes, kind: str) -> None:
        self._begin(kind)
        self._trace.record(EventKind.CRASHED, worker, f"{kind}, {message_id(payload)} in hand")
        raise SimulatedCrash(kind)

    def _begin(self, kind: str) -> None:
        self.injected[kind] += 1
        self._trace.record(EventKind.FAULT_BEGAN, "lab", kind)
