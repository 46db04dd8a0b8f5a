"""PipelineScenario: alice → her connection → the server → workers → the effect log.

One message after the other.

Faults hit a message that the seed has chosen: on alice's connection (a proxy cuts it, holds it), in
a worker (it dies, sleeps), at the server. In turns, so that a seeded run is the same every time:
alice sends one message, the worker finishes it, alice sends the next. When the worker is gone,
messages wait; `duration` messages later another worker of the same design is started.

UnfinishedCounter: counts what a group has not finished, of a stream or of its partitions.
"""

import asyncio
import contextlib
from typing import Any, Self

from mpim_lab.chapters.shared.designs import GROUP, STREAM, Design, DesignContext, partitioned
from mpim_lab.chapters.shared.effect_log import EffectLog, RecordingQueue, record_effect
from mpim_lab.chapters.shared.pipeline_faults import PipelineFaults
from mpim_lab.chapters.shared.worker_fleet import DIED, SLEEPING_FAULTS, WorkerFleet
from mpim_lab.errors import FaultUnavailable, MpimError
from mpim_lab.events import EventKind, message_id
from mpim_lab.lab.exercise.experiment import Run
from mpim_lab.lab.faults.injector import Fault, IdleDetector, check_available, wait_until
from mpim_lab.lab.faults.proxy import FaultProxy
from mpim_lab.lab.server.embedded import EmbeddedServer
from mpim_lab.lab.server.external import ExternalServer
from mpim_lab.mq.connection.config import ConnectionConfig
from mpim_lab.mq.connection.retry import Backoff
from mpim_lab.mq.idempotency.effects import AtomicEffects
from mpim_lab.mq.pubsub.queue import MessageQueue
from mpim_lab.mq.streams.group import ConsumerGroup


class UnfinishedCounter:
    """A counter of the unfinished entries of a group, read on the server over the lab's own connection."""

    def __init__(self, queue: MessageQueue, is_partitioned: bool) -> None:
        self._queue, self._link = queue, queue.context(STREAM).connection
        self._partitions = partitioned(queue) if is_partitioned else None
        self._group = ConsumerGroup(queue.context(STREAM), GROUP)

    async def create(self) -> None:
        """Make the group, where there is one."""
        if self._partitions is None:
            await self._group.create()

    async def count(self) -> int:
        """Return how many entries are unfinished: not delivered to any worker, or pending."""
        return len(await self._unfinished())

    async def payloads(self) -> list[bytes]:
        """Return their payloads."""
        return [parts[parts.index(b"data") + 1] for _, parts in await self._unfinished()]

    async def _unfinished(self) -> list[Any]:
        if self._partitions is None:
            return await self._of_the_group()
        found = []
        for key, assignment in zip(
            self._partitions.keys, self._partitions.assignment_keys(GROUP)[1:], strict=True
        ):
            offset = await self._link.call("HGET", assignment, "offset") or b"0"
            found += await self._link.call("XRANGE", key, b"(" + offset, "+")
        return found

    async def _of_the_group(self) -> list[Any]:
        """New ones are asked for first.

        What is handed out meanwhile is seen twice rather than not at all.
        """
        key = self._group.context.key
        (group,) = await self._link.call("XINFO", "GROUPS", key)
        pending = {line.id.encode() for line in await self._group.pending(count=10_000)}
        found = dict(await self._link.call("XRANGE", key, b"(" + group[b"last-delivered-id"], "+"))
        if pending:
            oldest = min(pending, key=lambda name: tuple(map(int, name.split(b"-"))))
            found |= {
                raw: parts
                for raw, parts in await self._link.call("XRANGE", key, oldest, "+")
                if raw in pending
            }
        return list(found.items())


CONVERSATION = "alice"
LEASE_MS, LONG_LEASE_MS = 90, 60_000
SLOW = ("slow worker", "two at once")  # within its rights: its lease does not end
IDLE_S = 0.3  # nothing happened for so long: nothing will
MAX_FAILURES = 12
LIMITS = ConnectionConfig(
    timeout_s=1.0, connect_timeout_s=1.0, backoff=Backoff(initial_s=0.005, max_s=0.05)
)


class WorkerRunner:
    """A worker that runs with a queue of its own, as in a process of its own."""

    def __init__(self, queue: MessageQueue, worker: Any) -> None:
        self._queue, self._worker = queue, worker

    async def run(self) -> None:
        """Work until `stop`."""
        async with self._queue:
            await self._worker.run()

    async def stop(self) -> None:
        """Stop the worker."""
        await self._worker.stop()


class PipelineScenario:
    """The scenario of chapters 3 and 4.

    Alice, the proxy on her connection, the stream, the live worker, the effect log.
    """

    def __init__(
        self,
        server: EmbeddedServer | ExternalServer,
        run: Run,
        design: Design,
        planned: list[Fault],
        duration: int,
    ) -> None:
        self.server, self.run, self.design, self._duration = server, run, design, duration
        self._fault_of = {f"m{fault.at}": fault.kind for fault in planned}
        self._common: dict[str, Any] = {"prefix": server.prefix, "config": LIMITS}
        self.lease_ms = LONG_LEASE_MS if set(self._fault_of.values()) & set(SLOW) else LEASE_MS
        self.observer = MessageQueue(server.unix_url or server.url, name="lab", **self._common)
        self.proxy = FaultProxy(server.url)
        self._sent: list[str] = []
        self._missed = 0
        self._expected_effects: set[tuple[str, bytes]] = (
            set()
        )  # effects that are to be in the effect log in a moment
        self._unfinished = 0  # what stays unfinished for good
        self._quiet = IdleDetector(run.trace)
        self._open = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        check_available(self.server, *self._fault_of.values())
        try:
            await self._build()
        except BaseException:
            await self._open.aclose()
            raise
        self.run.injector = self._inject
        return self

    async def _build(self) -> None:
        enter_context = self._open.enter_async_context
        await enter_context(self.observer)
        await enter_context(self.proxy)
        trace = self.run.trace
        self.alice = await enter_context(
            MessageQueue(self.proxy.url, name="alice", observer=trace, **self._common)
        )
        self.backlog = UnfinishedCounter(self.observer, self.design.is_partitioned)
        await self.backlog.create()
        self.effect_log = EffectLog(self.observer, self.alice.reporter, STREAM)
        self._context = DesignContext(self.alice, self.proxy.url, self.lease_ms)
        self.sender = self.design.sender(self._context)
        if hasattr(self.sender, "close"):
            self._open.push_async_callback(self.sender.close)
        self.faults = PipelineFaults(self.proxy, trace, self._fault_of)
        self.fleet = WorkerFleet(
            self._make_worker, self.alice.reporter, STREAM, trace, self.faults.of_workers
        )
        self._open.push_async_callback(self.fleet.close)
        self.fleet.start()

    async def __aexit__(self, *exc_info: object) -> None:
        self.run.injector = None
        await self._open.aclose()

    async def _inject(self, fault: str) -> None:
        check_available(self.server, fault)
        if fault in SLOW and self.lease_ms != LONG_LEASE_MS:
            raise FaultUnavailable(
                f"{fault!r}: choose it before the run, which then has longer leases"
            )
        self.faults.plan(f"m{len(self._sent) + 1}", fault)

    def _make_worker(self, name: str) -> WorkerRunner:
        url = self.server.unix_url or self.server.url
        queue = RecordingQueue(url, name=name, observer=self.run.trace, **self._common)

        async def on_effects() -> None:
            for worker, payload in await self.effect_log.read():
                self._expected_effects.discard((worker, payload))
                self.fleet.on_effect(worker, payload)

        async def work(payload: bytes, effects: AtomicEffects) -> None:
            await self.fleet.work(name, payload, lambda: record_effect(effects, name, payload))
            self._expected_effects.add((name, payload))

        queue.on_effects = on_effects
        return WorkerRunner(queue, self.design.make_worker(self._context, queue, name, work))

    # One message after the other

    async def send(self, payload: bytes) -> None:
        """Send one message from alice.

        It is finished when this returns, unless no worker is alive.
        """
        if self.fleet.alive is None and self._missed >= self._duration:
            await self._restart_worker()
        if await self.faults.advance() and self.fleet.alive is not None:
            await self._wait_idle()
        name = message_id(payload)
        self._sent.append(name)
        is_worked_on = self.fleet.alive is not None
        async with self.faults.during(name, self._duration) as times:
            for _ in range(times):
                await self._send_once(payload)
        self._missed = 0 if is_worked_on else self._missed + 1
        if is_worked_on:
            await self._wait_idle()
            if self.fleet.fault == "two at once" and self.fleet.alive is None:
                await self._restart_worker()

    async def _send_once(self, payload: bytes) -> None:
        try:
            await self.sender.send(CONVERSATION, payload, id=f"id-{message_id(payload)}")
            reported = "added"
        except MpimError as error:
            reported = (
                f"failed{'' if error.definite else ', perhaps added'}: {type(error).__name__}"
            )
        self.alice.reporter.message(EventKind.OUTCOME, payload, STREAM, outcome=reported)

    async def finish(self) -> None:
        """Release what is held, restart a worker if none is alive, report what is never processed all the same."""
        await self.faults.release()
        for _ in range(1 + len(self._sent)):  # a fault may be planned for the restarted worker, too
            if self.fleet.alive is None:
                await self._restart_worker()
            await self._wait_idle()
            await self._wait_quiet()
            if self.fleet.alive is not None or self.fleet.fault == DIED:
                break
        done = {message_id(payload) for _, payload in self.effect_log.rows}
        for payload in await self.backlog.payloads():
            if message_id(payload) not in done:
                self.alice.reporter.message(EventKind.STALLED, payload, STREAM)

    async def _restart_worker(self) -> None:
        """Start another worker, which takes over; what waits is finished when this returns."""
        if self.fleet.fault == "server kill":
            assert isinstance(self.server, EmbeddedServer)
            self.server.kill()
            await self.server.start()
            await wait_until(
                lambda: self.alice.is_connected and self.observer.is_connected,
                "the return of the connections",
            )
            await self.backlog.create()
        if self.fleet.fault not in SLOW:
            await asyncio.sleep(self.lease_ms * 1.5e-3)  # what the one before had is free by now
        self.run.trace.record(EventKind.FAULT_ENDED, "lab", self.fleet.fault)
        slept = self.fleet.fault in SLEEPING_FAULTS
        self.fleet.start()
        await self._wait_idle()
        await self.fleet.resume_zombie()
        if slept:
            self._unfinished = 0
            await self._wait_idle()

    async def _wait_idle(self) -> None:
        self._quiet.restart()
        await wait_until(self._is_idle, "the end of the work", timeout_s=20.0)
        if self.fleet.dies_after_ack:
            await self.fleet.kill_after_ack()
            # Once this is answered the server has seen that the dead one's connection is closed.
            await self.backlog.count()

    async def _is_idle(self) -> bool:
        """Say whether no worker is busy, and nothing is unfinished but what stays so."""
        fleet = self.fleet
        fleet.reap()
        if fleet.alive is None or fleet.failures >= MAX_FAILURES:
            return True
        if fleet.is_busy:
            self._quiet.restart()
            return False
        unfinished = await self.backlog.count()
        if (
            unfinished <= self._unfinished
            and not self._expected_effects
            and not self._not_started()
        ):
            return True
        if self._quiet.is_idle_for(IDLE_S):
            self._unfinished = unfinished
            self._expected_effects.clear()
            self.faults.ignored |= self._not_started()
            return True
        return False

    def _not_started(self) -> set[str]:
        """Return the messages that were acknowledged to alice and for which no handler was called."""
        added = {event.message_id for event in self.run.trace.by_kind(EventKind.ADDED)}
        return added - self.fleet.started - self.faults.ignored

    async def _wait_quiet(self) -> None:
        self._quiet.restart()
        await wait_until(
            lambda: self._quiet.is_idle_for(IDLE_S) and not self.fleet.is_busy,
            "quiet",
            timeout_s=20.0,
        )
