"""The line of chapters 3 and 4: alice → her line → the server → workers → the ledger. One message after the other.

Faults strike at a message that the seed has chosen: on alice's line (a proxy cuts it, holds it), in a worker (it dies,
sleeps), at the server. In turns, so that a seeded run is the same every time: alice sends one message, the worker
finishes it, alice sends the next. When the worker is gone, messages wait; `lasts` messages later another worker of the
same design comes.

Backlog: what a group has not finished, of a stream or of its partitions.
"""

import asyncio
import contextlib
from typing import Any, Self

from mpim_lab.chapters.shared.designs import GROUP, STREAM, Design, Setting, partitioned
from mpim_lab.chapters.shared.effect_log import Ledger, WatchedQueue, enter
from mpim_lab.chapters.shared.pipeline_faults import LineFaults
from mpim_lab.chapters.shared.worker_fleet import DIED, SLEEPS, Crew
from mpim_lab.errors import FaultUnavailable, MpimError
from mpim_lab.events import Kind, message_id
from mpim_lab.lab.exercise.experiment import Run
from mpim_lab.lab.faults.injector import Fault, Quiet, check_available, until
from mpim_lab.lab.faults.proxy import Proxy
from mpim_lab.lab.server.embedded import EmbeddedServer
from mpim_lab.lab.server.external import ExternalServer
from mpim_lab.mq.connection.config import ConnectionConfig
from mpim_lab.mq.connection.retry import Backoff
from mpim_lab.mq.idempotency.effects import Effects
from mpim_lab.mq.pubsub.queue import MessageQueue
from mpim_lab.mq.streams.group import ConsumerGroup


class Backlog:
    """Counted on the server, over the lab's own connection."""

    def __init__(self, queue: MessageQueue, is_partitioned: bool) -> None:
        self._queue, self._link = queue, queue.context(STREAM).connection
        self._partitions = partitioned(queue) if is_partitioned else None
        self._group = ConsumerGroup(queue.context(STREAM), GROUP)

    async def create(self) -> None:
        """Make the group, where there is one."""
        if self._partitions is None:
            await self._group.create()

    async def count(self) -> int:
        """How many entries are unfinished: nobody was given them, or they are pending."""
        return len(await self._unfinished())

    async def payloads(self) -> list[bytes]:
        """Their payloads."""
        return [parts[parts.index(b"data") + 1] for _, parts in await self._unfinished()]

    async def _unfinished(self) -> list[Any]:
        if self._partitions is None:
            return await self._of_the_group()
        found = []
        for key, seat in zip(self._partitions.keys, self._partitions.seat_keys(GROUP)[1:], strict=True):
            offset = await self._link.call("HGET", seat, "offset") or b"0"
            found += await self._link.call("XRANGE", key, b"(" + offset, "+")
        return found

    async def _of_the_group(self) -> list[Any]:
        """New ones are asked for first: what is handed out meanwhile is seen twice rather than not at all."""
        key = self._group.context.key
        (group,) = await self._link.call("XINFO", "GROUPS", key)
        pending = {line.id.encode() for line in await self._group.pending(count=10_000)}
        found = dict(await self._link.call("XRANGE", key, b"(" + group[b"last-delivered-id"], "+"))
        if pending:
            oldest = min(pending, key=lambda name: tuple(map(int, name.split(b"-"))))
            found |= {raw: parts for raw, parts in await self._link.call("XRANGE", key, oldest, "+") if raw in pending}
        return list(found.items())


CONVERSATION = "alice"
LEASE_MS, LONG_LEASE_MS = 90, 60_000
SLOW = ("slow worker", "two at once")  # within its rights: its lease does not end
QUIET_S = 0.3  # nothing happened for so long: nothing will
MOST_FAILURES = 12
LIMITS = ConnectionConfig(timeout_s=1.0, connect_timeout_s=1.0, backoff=Backoff(initial_s=0.005, max_s=0.05))


class Employee:
    """A worker with a queue of its own, as in a process of its own."""

    def __init__(self, queue: MessageQueue, worker: Any) -> None:
        self._queue, self._worker = queue, worker

    async def run(self) -> None:
        """Work until `stop`."""
        async with self._queue:
            await self._worker.run()

    async def stop(self) -> None:
        """As the worker's own."""
        await self._worker.stop()


class Line:
    """alice, the proxy on her line, the stream, whichever worker is alive, and the ledger."""

    def __init__(
        self, server: EmbeddedServer | ExternalServer, run: Run, design: Design, planned: list[Fault], lasts: int
    ) -> None:
        self.server, self.run, self.design, self._lasts = server, run, design, lasts
        self._fault_of = {f"m{fault.before}": fault.kind for fault in planned}
        self._common: dict[str, Any] = {"prefix": server.prefix, "config": LIMITS}
        self.lease_ms = LONG_LEASE_MS if set(self._fault_of.values()) & set(SLOW) else LEASE_MS
        self.observer = MessageQueue(server.unix_url or server.url, name="lab", **self._common)
        self.proxy = Proxy(server.url)
        self._sent: list[str] = []
        self._missed = 0
        self._owed: set[tuple[str, bytes]] = set()  # effects that are to be in the ledger in a moment
        self._unfinished = 0  # what stays unfinished for good
        self._quiet = Quiet(run.trace)
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
        self.alice = await enter_context(MessageQueue(self.proxy.url, name="alice", observer=trace, **self._common))
        self.backlog = Backlog(self.observer, self.design.is_partitioned)
        await self.backlog.create()
        self.ledger = Ledger(self.observer, self.alice.reporter, STREAM)
        self._setting = Setting(self.alice, self.proxy.url, self.lease_ms)
        self.sender = self.design.sender(self._setting)
        if hasattr(self.sender, "close"):
            self._open.push_async_callback(self.sender.close)
        self.faults = LineFaults(self.proxy, trace, self._fault_of)
        self.crew = Crew(self._employ, self.alice.reporter, STREAM, trace, self.faults.of_workers)
        self._open.push_async_callback(self.crew.end)
        self.crew.hire()

    async def __aexit__(self, *exc_info: object) -> None:
        self.run.injector = None
        await self._open.aclose()

    async def _inject(self, fault: str) -> None:
        check_available(self.server, fault)
        if fault in SLOW and self.lease_ms != LONG_LEASE_MS:
            raise FaultUnavailable(f"{fault!r}: choose it before the run, which then has longer leases")
        self.faults.plan(f"m{len(self._sent) + 1}", fault)

    def _employ(self, name: str) -> Employee:
        url = self.server.unix_url or self.server.url
        queue = WatchedQueue(url, name=name, observer=self.run.trace, **self._common)

        async def on_rows() -> None:
            for worker, payload in await self.ledger.read():
                self._owed.discard((worker, payload))
                self.crew.effect_done(worker, payload)

        async def work(payload: bytes, effects: Effects) -> None:
            await self.crew.work(name, payload, lambda: enter(effects, name, payload))
            self._owed.add((name, payload))

        queue.on_rows = on_rows
        return Employee(queue, self.design.employ(self._setting, queue, name, work))

    # One message after the other

    async def send(self, payload: bytes) -> None:
        """alice sends one message; it is finished when this returns, unless nobody works."""
        if self.crew.alive is None and self._missed >= self._lasts:
            await self._bring_back()
        if await self.faults.count_down() and self.crew.alive is not None:
            await self._settle()
        name = message_id(payload)
        self._sent.append(name)
        somebody_works = self.crew.alive is not None
        async with self.faults.around(name, self._lasts) as times:
            for _ in range(times):
                await self._send_once(payload)
        self._missed = 0 if somebody_works else self._missed + 1
        if somebody_works:
            await self._settle()
            if self.crew.fault == "two at once" and self.crew.alive is None:
                await self._bring_back()

    async def _send_once(self, payload: bytes) -> None:
        try:
            await self.sender.send(CONVERSATION, payload, id=f"id-{message_id(payload)}")
            told = "added"
        except MpimError as error:
            told = f"failed{'' if error.definite else ', perhaps added'}: {type(error).__name__}"
        self.alice.reporter.message(Kind.TOLD, payload, STREAM, detail=told)

    async def finish(self) -> None:
        """Let go of what is held, bring a worker back if none is alive, report what is stuck all the same."""
        await self.faults.let_go()
        for _ in range(1 + len(self._sent)):  # a fault may be in store for whoever was brought back, too
            if self.crew.alive is None:
                await self._bring_back()
            await self._settle()
            await self._be_quiet()
            if self.crew.alive is not None or self.crew.fault == DIED:
                break
        done = {message_id(payload) for _, payload in self.ledger.rows}
        for payload in await self.backlog.payloads():
            if message_id(payload) not in done:
                self.alice.reporter.message(Kind.STUCK, payload, STREAM)

    async def _bring_back(self) -> None:
        """Another worker takes over; what waits is finished when this returns."""
        if self.crew.fault == "server kill":
            assert isinstance(self.server, EmbeddedServer)
            self.server.kill()
            await self.server.start()
            await until(lambda: self.alice.is_connected and self.observer.is_connected, "the return of the lines")
            await self.backlog.create()
        if self.crew.fault not in SLOW:
            await asyncio.sleep(self.lease_ms * 1.5e-3)  # what the one before had is free by now
        self.run.trace.mark(Kind.FAULT_ENDED, "lab", self.crew.fault)
        slept = self.crew.fault in SLEEPS
        self.crew.hire()
        await self._settle()
        await self.crew.wake()
        if slept:
            self._unfinished = 0
            await self._settle()

    async def _settle(self) -> None:
        self._quiet.begin()
        await until(self._is_settled, "the end of the work", within_s=20.0)
        if self.crew.dies_after_ack:
            await self.crew.dismiss_after_ack()
            await self.backlog.count()  # once this is answered the server has seen that the dead one's line is closed

    async def _is_settled(self) -> bool:
        """Nobody works, and nothing is unfinished but what stays so."""
        crew = self.crew
        crew.notice_death()
        if crew.alive is None or crew.failures >= MOST_FAILURES:
            return True
        if crew.is_busy:
            self._quiet.begin()
            return False
        unfinished = await self.backlog.count()
        if unfinished <= self._unfinished and not self._owed and not self._not_begun():
            return True
        if self._quiet.has_lasted(QUIET_S):
            self._unfinished = unfinished
            self._owed.clear()
            self.faults.ignored |= self._not_begun()
            return True
        return False

    def _not_begun(self) -> set[str]:
        """Messages that alice was told are added, and nobody's handler was called for."""
        added = {event.message_id for event in self.run.trace.of(Kind.ADDED)}
        return added - self.crew.begun - self.faults.ignored

    async def _be_quiet(self) -> None:
        self._quiet.begin()
        await until(lambda: self._quiet.has_lasted(QUIET_S) and not self.crew.is_busy, "quiet", within_s=20.0)
