"""The scenario of a soak: two senders on lines that break, one server, and several workers."""

import asyncio
import contextlib
from collections import Counter
from dataclasses import replace
from typing import Any, Self

from mpim_lab.chapters.shared.designs import STREAM, Design, DesignContext, partitioned
from mpim_lab.chapters.shared.effect_log import EffectLog, RecordingQueue, record_effect
from mpim_lab.chapters.shared.pipeline_scenario import UnfinishedCounter, WorkerRunner
from mpim_lab.errors import MpimError
from mpim_lab.events import EventKind, message_id
from mpim_lab.lab.faults.injector import wait_until
from mpim_lab.lab.faults.proxy import FaultProxy, Match
from mpim_lab.lab.server.embedded import EmbeddedServer
from mpim_lab.lab.server.external import ExternalServer
from mpim_lab.lab.trace.checker import Verdict, check
from mpim_lab.lab.trace.trace import Trace
from mpim_lab.mq.connection.config import ConnectionConfig
from mpim_lab.mq.connection.retry import Backoff
from mpim_lab.mq.idempotency.effects import AtomicEffects
from mpim_lab.mq.ordering.partitioned_stream import parse_entry
from mpim_lab.mq.pubsub.queue import MessageQueue
from mpim_lab.soak.designs import ATTEMPTS
from mpim_lab.soak.schedule import (
    SENDER_CONNECTION_KINDS,
    SENDERS,
    WORKER_KINDS,
    PlannedFault,
    PlannedMessage,
    Schedule,
)
from mpim_lab.soak.worker_fleet import SoakFleet

# a sender repeats what is not answered by then, a worker asks what has become of it
ANSWER_TIMEOUT_S = 0.4
LIMITS = ConnectionConfig(
    timeout_s=1.0, connect_timeout_s=5.0, backoff=Backoff(initial_s=0.005, max_s=0.05)
)
DRAIN_TIMEOUT_S = 15.0
# fault of a sender's line → what the proxy does, and how often
_LINE_FAULTS = {
    "request lost": (FaultProxy.drop_request, 1),
    "answer lost": (FaultProxy.drop_reply, 1),
    "given up": (FaultProxy.drop_reply, ATTEMPTS),
    "request late": (FaultProxy.delay_request, 1),
}


class SoakSender:
    """One sender: its proxy, its queue, and what is held back on its line."""

    def __init__(self, name: str, url: str, design: Design, lease_ms: int, **options: Any) -> None:
        self.proxy, self._design, self._lease_ms = FaultProxy(url), design, lease_ms
        self._options = {"name": name, **options}
        self._held_for = 0

    async def open(self, stack: contextlib.AsyncExitStack) -> None:
        """Open the proxy and the queue behind it."""
        await stack.enter_async_context(self.proxy)
        self.queue = await stack.enter_async_context(MessageQueue(self.proxy.url, **self._options))
        self.sender = self._design.sender(DesignContext(self.queue, self.proxy.url, self._lease_ms))

    def arm(self, kind: str, message: str, duration: int) -> None:
        """Have the line break, or hold something back, under one message."""
        arm, times = _LINE_FAULTS[kind]
        arm(self.proxy, Match(containing=message.encode() + b" "), times)
        if kind == "request late":
            self._held_for = duration + 1

    async def send(self, planned: PlannedMessage) -> None:
        """Send one message; what was held back for long enough goes on its way first."""
        self._held_for -= 1
        if self._held_for == 0:
            await self.release()
        await self.send_once(planned)

    async def send_once(self, planned: PlannedMessage) -> None:
        """Send, and report what the caller is told."""
        try:
            await self.sender.send(planned.conversation, planned.payload, id=f"id-{planned.name}")
            told = "added"
        except MpimError as error:
            told = f"failed{'' if error.definite else ', perhaps added'}: {type(error).__name__}"
        self.queue.reporter.message(EventKind.OUTCOME, planned.payload, STREAM, outcome=told)

    async def release(self) -> None:
        """What is held back goes on its way now."""
        self.proxy.release()
        await self.proxy.wait_flushed()


class SoakScenario:
    """One schedule's run on a server; keys carry the schedule's own prefix.

    `run` returns the verdict.
    """

    def __init__(
        self,
        server: EmbeddedServer | ExternalServer,
        schedule: Schedule,
        design: Design,
        trace: Trace,
        *,
        answer_timeout_s: float = ANSWER_TIMEOUT_S,
    ) -> None:
        self.server, self.schedule, self.design, self.trace = server, schedule, design, trace
        prefix = f"{server.prefix}soak-{schedule.seed}:"
        self.observer = MessageQueue(
            server.unix_url or server.url, name="lab", config=LIMITS, prefix=prefix
        )
        limits = replace(LIMITS, timeout_s=answer_timeout_s)
        self._options: dict[str, Any] = {"prefix": prefix, "observer": trace, "config": limits}
        self.gateways = [
            SoakSender(
                f"sender-{number + 1}", server.url, design, schedule.lease_ms, **self._options
            )
            for number in range(SENDERS)
        ]
        self.line = FaultProxy(server.url)  # the workers'
        self.backlog = UnfinishedCounter(self.observer, design.is_partitioned)
        self.injected: Counter[str] = Counter()
        self._on_connections = schedule.faults_of(*SENDER_CONNECTION_KINDS)
        self._kills = schedule.faults_of("server kill")
        self._rebalances = schedule.faults_of("rebalance")
        self._open = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        try:
            await self._open.enter_async_context(self.observer)
            for gateway in self.gateways:
                await gateway.open(self._open)
            await self._open.enter_async_context(self.line)
            await self.backlog.create()
            self.ledger = EffectLog(self.observer, self.gateways[0].queue.reporter, STREAM)
            faults = self.schedule.faults_of(*WORKER_KINDS)
            self.fleet = SoakFleet(
                self._make_worker, self.line, self.ledger, self.trace, faults, self.schedule.workers
            )
            self._open.push_async_callback(self.fleet.cancel)
            self.fleet.top_up()
        except BaseException:
            await self._open.aclose()
            raise
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._open.aclose()

    def _make_worker(self, name: str) -> WorkerRunner:
        queue = RecordingQueue(self.line.url, name=name, **self._options)

        async def on_rows() -> None:
            await self.fleet.on_rows(name)

        async def work(payload: bytes, effects: AtomicEffects) -> None:
            await self.fleet.work(name, payload, lambda: record_effect(effects, name, payload))

        queue.on_effects = on_rows
        setting = DesignContext(self.gateways[0].queue, self.line.url, self.schedule.lease_ms)
        return WorkerRunner(queue, self.design.make_worker(setting, queue, name, work))

    def add_message(self, planned: PlannedMessage, fault: PlannedFault | None = None) -> None:
        """Add one more message, and the fault that hits it."""
        self.schedule = replace(self.schedule, messages=(*self.schedule.messages, planned))
        if fault is not None and fault.kind in WORKER_KINDS:
            self.fleet.inject(fault)
        elif fault is not None:
            self._on_connections[planned.name] = fault

    # The run

    async def run(self) -> Verdict:
        """Both senders send their parts at the same time, faults included.

        Then everything is let go and judged.
        """
        parts = [
            [planned for planned in self.schedule.messages if planned.sender == who]
            for who in range(SENDERS)
        ]
        await asyncio.gather(*(self._send_all(part) for part in parts))
        return await self.finish()

    async def _send_all(self, part: list[PlannedMessage]) -> None:
        for planned in part:
            await asyncio.sleep(planned.pause_ms / 1e3)
            await self.send(planned)

    async def send(self, planned: PlannedMessage) -> None:
        """One message and the fault that is placed at it."""
        gateway, name = self.gateways[planned.sender], planned.name
        if name in self._kills:
            await self._kill()
        if name in self._rebalances:
            self.fleet.rebalance()
        fault = self._on_connections.get(name)
        if fault is None:
            return await gateway.send(planned)
        await self._send_with_fault(gateway, planned, fault)

    async def _send_with_fault(
        self, gateway: SoakSender, planned: PlannedMessage, fault: PlannedFault
    ) -> None:
        self.trace.record(EventKind.FAULT_BEGAN, "lab", fault.kind)
        if fault.kind == "sent twice":
            other = self.gateways[(planned.sender + 1) % SENDERS]
            await asyncio.gather(gateway.send(planned), other.send_once(planned))
            self.injected[fault.kind] += 1
        else:
            before = gateway.proxy.triggered
            gateway.arm(fault.kind, planned.name, fault.duration)
            await gateway.send(planned)
            self.injected[fault.kind] += gateway.proxy.triggered > before
        self.trace.record(EventKind.FAULT_ENDED, "lab", fault.kind)

    async def _kill(self) -> None:
        if self.server.unavailable_reason("kill"):
            return
        assert isinstance(self.server, EmbeddedServer)
        self.trace.record(EventKind.FAULT_BEGAN, "lab", "server kill")
        self.server.kill()
        await self.server.start()
        self.injected["server kill"] += 1
        self.trace.record(EventKind.FAULT_ENDED, "lab", "server kill")

    # The end

    async def finish(self) -> Verdict:
        """Let go of what is held, let others do what sleepers have, wake those, end, and judge."""
        for gateway in self.gateways:
            await gateway.release()
        with contextlib.suppress(MpimError):  # what is not done by then is stalled, and so judged
            await wait_until(self._is_drained, "the end of the work", timeout_s=DRAIN_TIMEOUT_S)
        self.line.release()
        await self.fleet.finish()
        # not earlier: a line whose worker has not given it up ends with the worker
        await self.line.wait_flushed()
        self.injected += self.fleet.injected
        await self.ledger.read()
        stalled = [message_id(payload) for payload in await self.backlog.payloads()]
        return self._judge(stalled, await self._numbers())

    async def _is_drained(self) -> bool:
        await asyncio.sleep(0.01)
        with contextlib.suppress(MpimError):  # the server is being started again
            await self.fleet.poll()
            return not await self.backlog.count()
        return False

    async def _numbers(self) -> dict[str, int]:
        """The number that each message has on the server, where there are numbers."""
        if not self.design.is_partitioned:
            return {}
        link, found = self.observer.context(STREAM).connection, dict[str, int]()
        for key in partitioned(self.observer).keys:
            for raw in await link.call("XRANGE", key, "-", "+"):
                found[message_id(parse_entry(raw).data)] = parse_entry(raw).sequence
        return found

    def _judge(self, stalled: list[str], numbers: dict[str, int]) -> Verdict:
        """Added: its effect once, in order among its sender's, and in the order of the numbers.

        Not added: at most once.
        """
        added = {event.message_id for event in self.trace.by_kind(EventKind.ADDED)}
        done = [message_id(payload) for _, payload in self.ledger.rows]
        planned = [one for one in self.schedule.messages if one.name in added.union(done)]
        dead = [event.message_id for event in self.trace.by_kind(EventKind.DEAD_LETTERED)]
        common: dict[str, Any] = {
            "acknowledged": added,
            "stalled": [name for name in stalled if name in added],
            "dead_lettered": dead,
            "acknowledgement": "added",
        }
        by_sender = {
            one.name: f"{one.sender} {one.conversation}" if one.name in added else one.name
            for one in planned
        }
        talks = {one.name: one.conversation for one in planned}
        verdict = check([one.name for one in planned], done, conversation_of=by_sender, **common)
        if not numbers:
            return verdict
        by_number = sorted(by_sender, key=lambda name: numbers.get(name, 0))
        second = check(by_number, done, conversation_of=talks, **common)
        both = {*verdict.reordered, *second.reordered}
        return replace(verdict, reordered=tuple(one.name for one in planned if one.name in both))
