"""The stage of chapter 5: alice writes through a batcher, bob reads what it makes; and what can go wrong between them."""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

from mpim_lab.chapters.ch05_batching.naive import SketchBatcher, TimedBatcher
from mpim_lab.errors import MpimError
from mpim_lab.events import Kind
from mpim_lab.lab.exercise.experiment import Run
from mpim_lab.lab.faults.injector import Fault, Faults, Hold, check_available, until
from mpim_lab.lab.faults.proxy import Match, Proxy
from mpim_lab.lab.faults.server_admin import cut_connections
from mpim_lab.lab.server.embedded import EmbeddedServer
from mpim_lab.lab.server.external import ExternalServer
from mpim_lab.mq.batching.batcher import Batcher
from mpim_lab.mq.batching.decoder import Unpacker
from mpim_lab.mq.batching.policies import Adaptive, FixedWindow
from mpim_lab.mq.connection.config import ConnectionConfig
from mpim_lab.mq.connection.encoding import Message
from mpim_lab.mq.connection.retry import Backoff
from mpim_lab.mq.pubsub.queue import MessageQueue

CHANNEL = "user:1001"
# A sketch gives a batch up after a second; a busy machine has five to connect.
LIMITS = ConnectionConfig(timeout_s=1.0, connect_timeout_s=5.0, backoff=Backoff(initial_s=0.005, max_s=0.05))
BATCH = 4  # messages; small, so that a picture shows whole batches
WINDOW_MS = 200.0  # far longer than a burst takes, so that only its last batch is closed by time
LONG_WINDOW_MS = 1_000.0  # where no batch may be closed by time, however slowly a fault strikes on a busy machine
MOST_BYTES = 4_096
TOO_MANY_BYTES = 5_000
HELD = "at the end it waits in a batch that nobody closes"
BATCHING_FAULTS = ("quiet", "closed", "flush fails", "answer lost", "too large")


@dataclass(frozen=True)
class Design:
    """How alice batches; `make(queue, channel)` gives something with `publish` and, if it is a context, a life."""

    make: Callable[[MessageQueue, str], Any]
    gives_up: bool = False  # on a batch that cannot be sent, instead of trying again


def _sound(rule: Any) -> Design:
    return Design(
        lambda queue, channel: Batcher.to_channel(
            queue, channel, rule=rule, backoff=Backoff(initial_s=0.005, max_s=0.05)
        )
    )


def _no_time() -> float:
    """The sketch's clock: a burst takes no time, whatever machine it runs on."""
    return 0.0


def designs(window_ms: float) -> dict[str, Design]:
    """Every way to batch by its name, with this window."""
    common: dict[str, Any] = {"max_messages": BATCH, "clock": _no_time}
    limits: dict[str, Any] = {"max_messages": BATCH, "max_bytes": MOST_BYTES // 2}
    return {
        "sketch": Design(lambda queue, channel: SketchBatcher(queue, channel, **common), True),
        "sketch with a timer": Design(
            lambda queue, channel: TimedBatcher(queue, channel, window_ms=window_ms, **common), True
        ),
        "fixed window": _sound(FixedWindow(window_ms=window_ms, **limits)),
        "adaptive": _sound(Adaptive(**limits)),
    }


DESIGNS = designs(WINDOW_MS)


class BatchingStage:
    """alice and bob with a queue each. Turns: a message is handed over and its turn of the loop passes; then the next."""

    def __init__(
        self, server: EmbeddedServer | ExternalServer, run: Run, design: Design, planned: list[Fault], *, closed: bool
    ) -> None:
        self.server, self.run, self._design, self._closed = server, run, design, closed
        self.line = Hold()
        common: dict[str, Any] = {"prefix": server.prefix, "config": LIMITS, "observer": run.trace}
        self._proxy = Proxy(server.url)
        self._alice = {"name": "alice", "sleep": self.line.sleep, "max_payload_bytes": MOST_BYTES, **common}
        self.bob = MessageQueue(server.unix_url or server.url, name="bob", **common)
        self.faults = Faults({"flush fails": (self._cut, self._mend)}, run.trace)
        self._planned = [fault.kind for fault in planned]
        self._lost_answer: bytes | None = None
        for fault in planned:
            if fault.kind == "answer lost":
                self._lost_answer = b"m%d " % fault.before
            else:
                self.faults.add(fault)
        self._calls: list[asyncio.Task[None]] = []
        self._open = contextlib.AsyncExitStack()
        self.batcher: Any = None

    async def __aenter__(self) -> Self:
        check_available(self.server, *self._planned)
        try:
            await self._open.enter_async_context(self._proxy)
            self.alice = await self._open.enter_async_context(MessageQueue(self._proxy.url, **self._alice))
            if self._lost_answer is not None:
                self._proxy.lose_reply(Match("PUBLISH", self._lost_answer))
            await self._open.enter_async_context(self.bob)
            await self.bob.subscribe(CHANNEL, _take, decode=Unpacker(self.bob))
            self.batcher = self._design.make(self.alice, CHANNEL)
            if hasattr(self.batcher, "__aenter__"):
                await self._open.enter_async_context(self.batcher)
        except BaseException:  # whoever was opened must not be left behind
            await self._open.aclose()
            raise
        self.run.injector = self._inject
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.run.injector = None
        self.line.open()
        await self._open.aclose()

    async def send(self, payload: bytes) -> None:
        """alice hands one message over, and goes on after a turn of the loop; a full batch is seen through."""
        await self.faults.before_attempt()
        self._calls.append(asyncio.create_task(self._send(payload)))
        for _ in range(10 if self.faults.active else 1):  # a sender in a task of its own must notice the fault, too
            await asyncio.sleep(0)
        await self.faults.after_attempt()
        if not self.faults.active and len(self._calls) % BATCH == 0:
            await self._see_through()

    async def _send(self, payload: bytes) -> None:
        try:
            outcome = await self.batcher.publish(payload)
            told = "accepted" if outcome else "nobody was there"
        except MpimError as error:
            told = f"failed{'' if error.definite else ', perhaps sent'}: {type(error).__name__}"
        self.alice.reporter.message(Kind.TOLD, payload, CHANNEL, detail=told)

    async def _see_through(self) -> None:
        """Until alice has heard of every message, and bob has what the server was given."""
        await asyncio.gather(*self._calls)
        await self.bob.drain()

    async def finish(self) -> None:
        """The burst is over and nobody writes any more: wait for whatever still happens by itself, then look."""
        await self.faults.end_all()
        if self._closed:
            await self.batcher.close()
        await asyncio.gather(*self._calls)
        if hasattr(self.batcher, "idle"):
            await self.batcher.idle()
        await self.bob.drain()
        if not self._closed:  # whoever is closed holds nothing any more
            for payload in getattr(self.batcher, "held", ()):
                self.alice.reporter.message(Kind.STUCK, payload, CHANNEL, detail=HELD)

    # What can go wrong

    async def _inject(self, fault: str) -> None:
        check_available(self.server, fault)
        self.faults.inject(fault, BATCH)

    async def _cut(self) -> None:
        await self.line.close()
        await cut_connections(self.server.url, "alice")
        await until(lambda: self.alice.open_connections == 0, "cutting alice's connections")

    async def _mend(self) -> None:
        if self._design.gives_up:  # what the fault has done to it must be over
            await asyncio.gather(*self._calls)
        self.line.open()
        await until(lambda: self.alice.is_connected, "the return of alice's connections")
        await self._see_through()


def _take(message: Message) -> None:
    """bob reads."""
