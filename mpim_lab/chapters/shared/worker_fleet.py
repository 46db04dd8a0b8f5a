"""WorkerFleet: the workers of chapters 2 to 4, one alive at a time, and their faults."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from mpim_lab.errors import ConnectionLost, MpimError
from mpim_lab.events import EventKind, Reporter, message_id
from mpim_lab.lab.trace.trace import Trace
from mpim_lab.mq.connection.retry import Backoff, RetryPolicy
from mpim_lab.mq.streams.group import ConsumerGroup
from mpim_lab.mq.streams.worker import EntryHandler, Worker

CLAIM_IDLE_MS = 60
SLEEPING_FAULTS = ("zombie", "slow worker", "two at once")
STOP_TIMEOUT_S = 3.0
DIED = "died"  # of an error of its own


class SimulatedCrash(BaseException):
    """The death of a worker's process: nothing after this line is run.

    No Exception, so that no handler catches it.
    """


def correct_worker(
    group: ConsumerGroup, name: str, handler: EntryHandler, *, claim_idle_ms: int = CLAIM_IDLE_MS
) -> Worker:
    """Make the correct worker.

    Acknowledge after the work, claim from the dead, three tries, then a dead letter.

    Without a heartbeat: the lab's zombies stand for processes that are frozen, whose heartbeats
    stand still, too.
    """
    retry = RetryPolicy(max_attempts=3, backoff=Backoff(initial_s=0.004, max_s=0.02))
    return Worker(
        group,
        name,
        handler,
        retry=retry,
        batch_size=1,
        claim_idle_ms=claim_idle_ms,
        heartbeat=False,
    )


class RunningWorker(NamedTuple):
    """One worker and the task that runs it."""

    name: str
    worker: Any
    task: "asyncio.Task[None]"


Effect = Callable[[], Awaitable[None] | None]


class WorkerFleet:
    """A fleet of workers.

    Whichever processes an order does its work, or meets the fault injected at this order.

    make_worker(name) makes a worker with `run` and `stop`, whose handler calls `work`. fault_of:
    orders and their faults.
    """

    def __init__(
        self,
        make_worker: Callable[[str], Any],
        reporter: Reporter,
        channel: str,
        trace: Trace,
        fault_of: dict[str, str],
    ) -> None:
        self._make_worker, self._fault_of = make_worker, fault_of
        self._reporter, self._channel, self._trace = reporter, channel, trace
        self.alive: RunningWorker | None = None
        self.fault = ""  # the last one that was injected
        self.started: set[str] = set()  # orders that somebody's handler was called for
        self.failures = 0
        self._working: set[str] = set()
        self._asleep: list[tuple[RunningWorker, asyncio.Event]] = []
        self._after_effect: dict[str, str] = {}
        self.dies_after_ack = False
        self._count = 0

    def start(self) -> None:
        """Start a worker."""
        self._count += 1
        name = f"worker-{self._count}"
        worker = self._make_worker(name)
        task = asyncio.create_task(worker.run())
        task.add_done_callback(_expected)
        self.alive = RunningWorker(name, worker, task)

    @property
    def is_busy(self) -> bool:
        """A worker that is awake is processing an order."""
        return bool(self._working - {running.name for running, _ in self._asleep})

    def reap(self) -> None:
        """Note the death of a worker whose `run` has ended by itself, with an error or without."""
        if self.alive is not None and self.alive.task.done():
            name, _, task = self.alive
            if not task.cancelled() and (error := task.exception()) is not None:
                self._trace.record(EventKind.FAILED, name, error=error)
            self._begin(DIED)

    async def kill_after_ack(self) -> None:
        """Inject "crash after ack": the order is finished, and the worker dies."""
        if self.dies_after_ack and self.alive is not None:
            self.dies_after_ack, task = False, self.alive.task
            self._begin("crash after ack")
            task.cancel()
            await asyncio.wait([task])

    async def resume_zombie(self) -> None:
        """Resume the zombies: none knows how late it is; each finishes its work and stops.

        Raise MpimError if not.
        """
        while self._asleep:
            (name, worker, task), woken = self._asleep[0]
            stopping = asyncio.create_task(worker.stop())
            await asyncio.sleep(0)
            woken.set()
            _, unfinished = await asyncio.wait([stopping, task], timeout=STOP_TIMEOUT_S)
            if unfinished:
                stopping.cancel()
                raise MpimError(
                    f"{name}: run() has not returned within {STOP_TIMEOUT_S:g} s of stop()"
                )
            await stopping
            del self._asleep[0]

    async def close(self) -> None:
        """Cancel every worker."""
        for running in (self.alive, *(running for running, _ in self._asleep)):
            if running is not None:
                running.task.cancel()
                await asyncio.wait([running.task])

    # One order

    async def work(self, worker: str, payload: bytes, effect: Effect) -> None:
        """Do one order's effect, unless a fault is injected at it."""
        self._working.add(worker)
        try:
            await self._work_or_not(worker, payload, effect)
        finally:
            self._working.discard(worker)

    async def _work_or_not(self, worker: str, payload: bytes, effect: Effect) -> None:
        order = message_id(payload)
        self.started.add(order)
        if self._fault_of.get(order) == "poison":
            self.failures += 1
            raise ValueError(f"{order} cannot be read")
        kind = self._fault_of.pop(order, "")  # the others happen once
        if kind in ("crash before work", "server kill"):
            self._crash(worker, payload, kind)
        if kind in SLEEPING_FAULTS:
            await self._sleep(kind)
        if kind in ("crash after work", "answer to the worker lost"):
            self._after_effect[order] = kind
        done = effect()
        if done is not None:
            await done
        self.dies_after_ack |= kind == "crash after ack"

    def on_effect(self, worker: str, payload: bytes) -> None:
        """Note that the effect is there for good.

        Crash or raise ConnectionLost before the worker can report it.
        """
        kind = self._after_effect.pop(message_id(payload), "")
        if kind == "crash after work":
            self._crash(worker, payload, kind)
        if kind:
            self._trace.record(EventKind.FAULT_BEGAN, "lab", kind)
            self._trace.record(EventKind.FAULT_ENDED, "lab", kind)
            raise ConnectionLost(
                "the line broke after the command was written; it may have been run"
            )

    def _crash(self, worker: str, payload: bytes, kind: str) -> None:
        self._begin(kind)
        self.report(EventKind.CRASHED, worker, payload, kind)
        raise SimulatedCrash(kind)

    async def _sleep(self, kind: str) -> None:
        assert self.alive is not None
        woken = asyncio.Event()
        self._asleep.append((self.alive, woken))
        self._begin(kind)
        await woken.wait()

    def _begin(self, kind: str) -> None:
        self.fault, self.alive = kind, None
        self._trace.record(EventKind.FAULT_BEGAN, "lab", kind)

    def report(self, kind: EventKind, worker: str, payload: bytes, detail: str = "") -> None:
        """Report what happened to an order at a worker."""
        self._reporter.message(kind, payload, self._channel, actor=worker, detail=detail)


def _expected(task: "asyncio.Task[None]") -> None:
    """Take note of a crash, which was wanted.

    Anything else is raised by whoever waits for the task.
    """
    if not task.cancelled():
        task.exception()
