"""BatchingScenario of chapter 5: alice writes through a batcher, bob reads.

And what can go wrong between them.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mpim_lab.chapters.ch05_batching.naive import NaiveBatcher, TimedBatcher
from mpim_lab.chapters.shared.scenario import QUICK, Scenario, Server, failure_outcome
from mpim_lab.errors import MpimError
from mpim_lab.events import EventKind
from mpim_lab.lab.exercise.experiment import Run
from mpim_lab.lab.faults.injector import Fault, FaultInjector, Gate, wait_until
from mpim_lab.lab.faults.proxy import FaultProxy, Match
from mpim_lab.lab.faults.server_admin import cut_connections
from mpim_lab.mq.batching.batcher import Batcher
from mpim_lab.mq.batching.decoder import FrameDecoder
from mpim_lab.mq.batching.policies import Adaptive, FixedWindow
from mpim_lab.mq.connection.config import ConnectionConfig
from mpim_lab.mq.connection.encoding import Message
from mpim_lab.mq.pubsub.queue import MessageQueue

CHANNEL = "user:1001"
BATCH = 4  # messages; small, so that a picture shows whole batches
WINDOW_MS = 200.0  # far longer than a burst takes, so that only its last batch is closed by time
# Where no batch may be closed by time, however slow a fault is on a busy machine.
LONG_WINDOW_MS = 1_000.0
MAX_BYTES = 4_096
TOO_MANY_BYTES = 5_000
NEVER_FLUSHED = "at the end it waits in a batch that nobody closes"
BATCHING_FAULTS = ("quiet", "closed", "flush fails", "answer lost", "too large")


@dataclass(frozen=True)
class BatchingDesign:
    """A way for alice to batch.

    `make(queue, channel)` returns an object with `publish`, used as a context if it is one.
    """

    make: Callable[[MessageQueue, str], Any]
    gives_up: bool = False  # on a batch that cannot be sent, instead of trying again


def _correct(rule: Any) -> BatchingDesign:
    return BatchingDesign(
        lambda queue, channel: Batcher.to_channel(queue, channel, policy=rule, backoff=QUICK)
    )


def _no_time() -> float:
    """Tell the time to the naive version: a burst takes none, whatever machine it runs on."""
    return 0.0


def designs(window_ms: float) -> dict[str, BatchingDesign]:
    """Return every design by its name, with this window."""
    common: dict[str, Any] = {"max_messages": BATCH, "clock": _no_time}
    limits: dict[str, Any] = {"max_messages": BATCH, "max_bytes": MAX_BYTES // 2}
    return {
        "naive": BatchingDesign(
            lambda queue, channel: NaiveBatcher(queue, channel, **common), True
        ),
        "naive with a timer": BatchingDesign(
            lambda queue, channel: TimedBatcher(queue, channel, window_ms=window_ms, **common), True
        ),
        "fixed window": _correct(FixedWindow(window_ms=window_ms, **limits)),
        "adaptive": _correct(Adaptive(**limits)),
    }


DESIGNS = designs(WINDOW_MS)


class BatchingScenario(Scenario):
    """The scenario of chapter 5: alice and bob.

    A message is handed over, an event-loop iteration passes, then the next.
    """

    # A naive version gives a batch up after a second; a busy machine has five to connect.
    limits = ConnectionConfig(timeout_s=1.0, connect_timeout_s=5.0, backoff=QUICK)
    batcher: Any
    alice: MessageQueue
    bob: MessageQueue

    def __init__(
        self,
        server: Server,
        run: Run,
        design: BatchingDesign,
        planned: Sequence[Fault],
        *,
        closed: bool,
    ) -> None:
        super().__init__(server, run, planned, BATCH)
        self._design, self._closed = design, closed
        self.connection_gate = Gate()
        self.faults = FaultInjector({"flush fails": (self._cut, self._reconnect)}, run.trace)
        self._calls: list[asyncio.Task[None]] = []

    async def open(self) -> None:
        """Open alice's batcher, and have bob listen."""
        enter = self.parts.enter_async_context
        proxy = await enter(FaultProxy(self.server.url))
        self.alice = await enter(
            self.queue(
                "alice",
                proxy.url,
                sleep=self.connection_gate.sleep,
                max_payload_bytes=MAX_BYTES,
            )
        )
        for fault in self.planned:
            if fault.kind == "answer lost":
                proxy.drop_reply(Match("PUBLISH", b"m%d " % fault.at))
            else:
                self.faults.add(fault)
        self.bob = await enter(self.queue("bob"))
        await self.bob.subscribe(CHANNEL, _handle, decode=FrameDecoder(self.bob))
        self.batcher = self._design.make(self.alice, CHANNEL)
        if hasattr(self.batcher, "__aenter__"):
            await enter(self.batcher)
        self.parts.callback(self.connection_gate.open)

    async def send(self, payload: bytes) -> None:
        """Hand one message of alice's over and go on after one event-loop iteration.

        Wait until a full batch is delivered.
        """
        await self.faults.before_attempt()
        self._calls.append(asyncio.create_task(self._send(payload)))
        # A sender in a task of its own must notice the fault, too.
        for _ in range(10 if self.faults.active else 1):
            await asyncio.sleep(0)
        await self.faults.after_attempt()
        if not self.faults.active and len(self._calls) % BATCH == 0:
            await self._wait_delivered()

    async def _send(self, payload: bytes) -> None:
        try:
            outcome = await self.batcher.publish(payload)
            reported = "accepted" if outcome else "nobody was there"
        except MpimError as error:
            reported = failure_outcome(error)
        self.alice.reporter.message(EventKind.OUTCOME, payload, CHANNEL, outcome=reported)

    async def _wait_delivered(self) -> None:
        """Wait until every message is acknowledged, or has failed, and bob has what was sent."""
        await asyncio.gather(*self._calls)
        await self.bob.drain()

    async def finish(self) -> None:
        """End the burst.

        Wait for whatever still happens by itself, then report what is never flushed.
        """
        await self.faults.clear()
        if self._closed:
            await self.batcher.close()
        await asyncio.gather(*self._calls)
        if hasattr(self.batcher, "wait_idle"):
            await self.batcher.wait_idle()
        await self.bob.drain()
        if not self._closed:  # a closed one holds nothing any more
            for payload in getattr(self.batcher, "held", ()):
                self.alice.reporter.message(
                    EventKind.STALLED, payload, CHANNEL, detail=NEVER_FLUSHED
                )

    # What can go wrong

    async def inject(self, fault: str) -> None:
        """Inject a fault before the next message. Raise FaultUnavailable."""
        self.check_available(fault)
        self.faults.inject(fault, self.duration)

    async def _cut(self) -> None:
        await self.connection_gate.close()
        await cut_connections(self.server.url, "alice")
        await wait_until(lambda: self.alice.open_connections == 0, "cutting alice's connections")

    async def _reconnect(self) -> None:
        if self._design.gives_up:  # what the fault has done to it must be over
            await asyncio.gather(*self._calls)
        self.connection_gate.open()
        await wait_until(lambda: self.alice.is_connected, "the return of alice's connections")
        await self._wait_delivered()


def _handle(message: Message) -> None:
    """bob reads."""
