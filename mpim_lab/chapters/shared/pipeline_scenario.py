"""PipelineScenario: alice → her connection → the server → workers → the effect log.

Faults hit a message that the seed has chosen: on alice's connection (a proxy cuts it, holds it), in
a worker (it dies, sleeps), at the server.

UnfinishedCounter: counts what a group has not finished, of a stream or of its partitions.
PipelineExperiment: the experiment that plays it, in chapters 3 and 4.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mpim_lab.chapters.shared.designs import GROUP, STREAM, Design, DesignContext, partitioned
from mpim_lab.chapters.shared.effect_log import EffectLog, RecordingQueue, record_effect
from mpim_lab.chapters.shared.experiment import ScenarioExperiment
from mpim_lab.chapters.shared.pipeline_faults import PipelineFaults
from mpim_lab.chapters.shared.scenario import Server
from mpim_lab.chapters.shared.worker_fleet import DIED, SLEEPING_FAULTS
from mpim_lab.chapters.shared.worker_scenario import WorkerScenario
from mpim_lab.errors import FaultUnavailable
from mpim_lab.events import EventKind, message_id
from mpim_lab.lab.exercise.experiment import Run
from mpim_lab.lab.faults.injector import Fault, wait_until
from mpim_lab.lab.faults.proxy import FaultProxy
from mpim_lab.lab.trace.checker import Verdict, check_effects
from mpim_lab.mq.idempotency.effects import AtomicEffects
from mpim_lab.mq.pubsub.queue import MessageQueue
from mpim_lab.mq.streams.group import ConsumerGroup


class UnfinishedCounter:
    """A counter of a group's unfinished entries, read over the lab's own connection."""

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
LEASE_MS, LONG_LEASE_MS = 150, 60_000
SLOW = ("slow worker", "two at once")  # within its rights: its lease does not end
IDLE_S = 0.3  # nothing happened for so long: nothing will


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


class PipelineScenario(WorkerScenario):
    """The scenario of chapters 3 and 4.

    Alice, the proxy on her connection, the stream, the live worker, the effect log.
    """

    def __init__(
        self, server: Server, run: Run, design: Design, planned: Sequence[Fault], duration: int
    ) -> None:
        super().__init__(server, run, planned, duration)
        self.design = design
        is_slow = set(self.fault_of.values()) & set(SLOW)
        self.lease_ms = LONG_LEASE_MS if is_slow else LEASE_MS
        # Effects that are to be in the effect log in a moment.
        self._expected_effects: set[tuple[str, bytes]] = set()
        self._unfinished = 0  # what stays unfinished for good

    async def open(self) -> None:
        """Open alice's way to the server, the observer's, and start a worker."""
        enter = self.parts.enter_async_context
        self.observer = await enter(self.queue("lab", observer=None))
        proxy = await enter(FaultProxy(self.server.url))
        self.alice = await enter(self.queue("alice", proxy.url))
        self.backlog = UnfinishedCounter(self.observer, self.design.is_partitioned)
        await self.backlog.create()
        self.effect_log = EffectLog(self.observer, self.alice.reporter, STREAM)
        self._context = DesignContext(self.alice, proxy.url, self.lease_ms)
        self.sender = self.design.sender(self._context)
        if hasattr(self.sender, "close"):
            self.parts.push_async_callback(self.sender.close)
        self.faults = PipelineFaults(proxy, self.trace, self.fault_of)
        self.start_fleet(self.faults.of_workers)

    async def inject(self, fault: str) -> None:
        """Plan a fault for the next message. Raise FaultUnavailable."""
        self.check_available(fault)
        if fault in SLOW and self.lease_ms != LONG_LEASE_MS:
            raise FaultUnavailable(
                f"{fault!r}: choose it before the run, which then has longer leases"
            )
        self.faults.plan(f"m{len(self.sent) + 1}", fault)

    def make_worker(self, name: str) -> WorkerRunner:
        """Return a worker whose effects are seen on the server."""
        queue = self.queue(name, kind=RecordingQueue)

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

    async def before_send(self) -> None:
        """Release what was held back for long enough."""
        if await self.faults.advance() and self.fleet.alive is not None:
            await self.wait_idle()

    async def send(self, payload: bytes) -> None:
        """Send one message from alice.

        After "two at once" the other worker is there before the next message.
        """
        await super().send(payload)
        if self._missed == 0 and self.fleet.fault == "two at once" and self.fleet.alive is None:
            await self.restart_worker()

    async def send_now(self, payload: bytes) -> None:
        """Have alice send a message, once or twice, while its fault lasts."""
        async with self.faults.during(message_id(payload), self.duration) as times:
            for _ in range(times):
                await super().send_now(payload)

    async def add(self, payload: bytes) -> None:
        """Have the design's sender send a message. Raise MpimError."""
        await self.sender.send(CONVERSATION, payload, id=f"id-{message_id(payload)}")

    async def finish(self) -> None:
        """Release what is held, and restart a worker if none is alive.

        Report what is never processed all the same.
        """
        await self.faults.release()
        for _ in range(1 + len(self.sent)):  # a fault may be planned for the restarted worker, too
            if self.fleet.alive is None:
                await self.restart_worker()
            await self.wait_idle()
            await self._wait_quiet()
            if self.fleet.alive is not None or self.fleet.fault == DIED:
                break
        done = {message_id(payload) for _, payload in self.effect_log.rows}
        for payload in await self.backlog.payloads():
            if message_id(payload) not in done:
                self.alice.reporter.message(EventKind.STALLED, payload, STREAM)

    async def restart_worker(self) -> None:
        """Start another worker; what a zombie leaves is finished, too."""
        slept = self.fleet.fault in SLEEPING_FAULTS
        await super().restart_worker()
        if slept:
            self._unfinished = 0
            await self.wait_idle()

    async def after_server_kill(self) -> None:
        """Make the group again."""
        await self.backlog.create()

    async def wait_lease(self) -> None:
        """Wait until what the worker before had is free, unless it is within its rights."""
        if self.fleet.fault not in SLOW:
            await super().wait_lease()

    async def count_unfinished(self) -> int:
        """Return how many entries are not finished."""
        return await self.backlog.count()

    async def is_finished(self) -> bool:
        """Say whether nothing is unfinished but what stays so."""
        unfinished = await self.count_unfinished()
        not_started = self._not_started()
        if unfinished <= self._unfinished and not self._expected_effects and not not_started:
            return True
        if self.idle.is_idle_for(IDLE_S):
            self._unfinished = unfinished
            self._expected_effects.clear()
            self.faults.ignored |= not_started
            return True
        return False

    def _not_started(self) -> set[str]:
        """Return the messages that were added and for which no handler was called."""
        added = {event.message_id for event in self.trace.by_kind(EventKind.ADDED)}
        return added - self.fleet.started - self.faults.ignored

    async def _wait_quiet(self) -> None:
        self.idle.restart()
        await wait_until(
            lambda: self.idle.is_idle_for(IDLE_S) and not self.fleet.is_busy,
            "quiet",
            timeout_s=20.0,
        )


@dataclass(frozen=True, kw_only=True)
class PipelineExperiment(ScenarioExperiment):
    """An experiment with the pipeline; the verdict is about effects on the server."""

    def scenario(self, server: Server, run: Run) -> PipelineScenario:
        """Return alice's messages with the selected design."""
        return PipelineScenario(server, run, self.selected_design, self.planned(), self.duration)

    def judge(self, run: Run, scenario: PipelineScenario) -> Verdict:
        """Judge the effects, whoever had them."""
        return check_effects(run.trace, STREAM)
