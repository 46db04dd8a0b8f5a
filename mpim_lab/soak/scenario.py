"""The stage of a soak: two senders on lines that break, one server, several workers, and the ledger that is judged."""

import asyncio
import contextlib
from collections import Counter
from dataclasses import replace
from typing import Any, Self

from mpim_lab.chapters.shared.designs import STREAM, Design, Setting, partitioned
from mpim_lab.chapters.shared.effect_log import Ledger, WatchedQueue, enter
from mpim_lab.chapters.shared.pipeline_scenario import Backlog, Employee
from mpim_lab.errors import MpimError
from mpim_lab.events import Kind, message_id
from mpim_lab.lab.faults.injector import until
from mpim_lab.lab.faults.proxy import Match, Proxy
from mpim_lab.lab.server.embedded import EmbeddedServer
from mpim_lab.lab.server.external import ExternalServer
from mpim_lab.lab.trace.checker import Verdict, check
from mpim_lab.lab.trace.trace import Trace
from mpim_lab.mq.connection.config import ConnectionConfig
from mpim_lab.mq.connection.retry import Backoff
from mpim_lab.mq.idempotency.effects import Effects
from mpim_lab.mq.ordering.partitioned_stream import ordered_of
from mpim_lab.mq.pubsub.queue import MessageQueue
from mpim_lab.soak.designs import ATTEMPTS
from mpim_lab.soak.schedule import LINE_KINDS, SENDERS, WORKER_KINDS, Planned, Schedule, Strike
from mpim_lab.soak.worker_fleet import ManyHands

ANSWERED_WITHIN_S = 0.4  # a sender repeats what is not answered by then, a worker asks what has become of it
LIMITS = ConnectionConfig(timeout_s=1.0, connect_timeout_s=5.0, backoff=Backoff(initial_s=0.005, max_s=0.05))
DRAINED_WITHIN_S = 15.0


class Gateway:
    """One sender: its proxy, its queue, and what is held back on its line."""

    def __init__(self, name: str, url: str, design: Design, lease_ms: int, **options: Any) -> None:
        self.proxy, self._design, self._lease_ms = Proxy(url), design, lease_ms
        self._options = {"name": name, **options}
        self._held_for = 0

    async def open(self, stack: contextlib.AsyncExitStack) -> None:
        """Open the proxy and the queue behind it."""
        await stack.enter_async_context(self.proxy)
        self.queue = await stack.enter_async_context(MessageQueue(self.proxy.url, **self._options))
        self.sender = self._design.sender(Setting(self.queue, self.proxy.url, self._lease_ms))

    def arm(self, kind: str, message: str, lasts: int) -> None:
        """Have the line break, or hold something back, under one message."""
        match, times = Match(containing=message.encode() + b" "), ATTEMPTS if kind == "given up" else 1
        if kind in ("answer lost", "given up"):
            self.proxy.lose_reply(match, times)
        elif kind == "request lost":
            self.proxy.lose_command(match)
        else:
            self.proxy.stall_command(match)
            self._held_for = lasts + 1

    async def send(self, planned: Planned) -> None:
        """Send one message; what was held back for long enough goes on its way first."""
        self._held_for -= 1
        if self._held_for == 0:
            await self.let_go()
        await self.send_once(planned)

    async def send_once(self, planned: Planned) -> None:
        """Send, and report what the caller is told."""
        try:
            await self.sender.send(planned.conversation, planned.payload, id=f"id-{planned.name}")
            told = "added"
        except MpimError as error:
            told = f"failed{'' if error.definite else ', perhaps added'}: {type(error).__name__}"
        self.queue.reporter.message(Kind.TOLD, planned.payload, STREAM, detail=told)

    async def let_go(self) -> None:
        """What is held back goes on its way now."""
        self.proxy.release()
        await self.proxy.flushed()


class Stage:
    """One schedule's run on a server; keys carry the schedule's own prefix. `play` it; gives the verdict."""

    def __init__(
        self,
        server: EmbeddedServer | ExternalServer,
        schedule: Schedule,
        design: Design,
        trace: Trace,
        *,
        answered_within_s: float = ANSWERED_WITHIN_S,
    ) -> None:
        self.server, self.schedule, self.design, self.trace = server, schedule, design, trace
        prefix = f"{server.prefix}soak-{schedule.seed}:"
        self.observer = MessageQueue(server.unix_url or server.url, name="lab", config=LIMITS, prefix=prefix)
        limits = replace(LIMITS, timeout_s=answered_within_s)
        self._options: dict[str, Any] = {"prefix": prefix, "observer": trace, "config": limits}
        self.gateways = [
            Gateway(f"sender-{number + 1}", server.url, design, schedule.lease_ms, **self._options)
            for number in range(SENDERS)
        ]
        self.line = Proxy(server.url)  # the workers'
        self.backlog = Backlog(self.observer, design.is_partitioned)
        self.struck: Counter[str] = Counter()
        self._on_lines, self._kills = schedule.strikes_of(*LINE_KINDS), schedule.strikes_of("server kill")
        self._rebalances = schedule.strikes_of("rebalance")
        self._open = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        try:
            await self._open.enter_async_context(self.observer)
            for gateway in self.gateways:
                await gateway.open(self._open)
            await self._open.enter_async_context(self.line)
            await self.backlog.create()
            self.ledger = Ledger(self.observer, self.gateways[0].queue.reporter, STREAM)
            strikes = self.schedule.strikes_of(*WORKER_KINDS)
            self.crew = ManyHands(self._employ, self.line, self.ledger, self.trace, strikes, self.schedule.workers)
            self._open.push_async_callback(self.crew.end)
            self.crew.fill()
        except BaseException:
            await self._open.aclose()
            raise
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._open.aclose()

    def _employ(self, name: str) -> Employee:
        queue = WatchedQueue(self.line.url, name=name, **self._options)

        async def on_rows() -> None:
            await self.crew.on_rows(name)

        async def work(payload: bytes, effects: Effects) -> None:
            await self.crew.work(name, payload, lambda: enter(effects, name, payload))

        queue.on_rows = on_rows
        setting = Setting(self.gateways[0].queue, self.line.url, self.schedule.lease_ms)
        return Employee(queue, self.design.employ(setting, queue, name, work))

    def plan(self, planned: Planned, strike: Strike | None = None) -> None:
        """One more message, and what strikes it."""
        self.schedule = replace(self.schedule, messages=(*self.schedule.messages, planned))
        if strike is not None and strike.kind in WORKER_KINDS:
            self.crew.strike(strike)
        elif strike is not None:
            self._on_lines[planned.name] = strike

    # The play

    async def play(self) -> Verdict:
        """Both senders send their parts at the same time, faults included; then everything is let go and judged."""
        parts = [[planned for planned in self.schedule.messages if planned.sender == who] for who in range(SENDERS)]
        await asyncio.gather(*(self._send_all(part) for part in parts))
        return await self.finish()

    async def _send_all(self, part: list[Planned]) -> None:
        for planned in part:
            await asyncio.sleep(planned.pause_ms / 1e3)
            await self.send(planned)

    async def send(self, planned: Planned) -> None:
        """One message and the fault that is placed at it."""
        gateway, name = self.gateways[planned.sender], planned.name
        if name in self._kills:
            await self._kill()
        if name in self._rebalances:
            self.crew.rebalance()
        strike = self._on_lines.get(name)
        if strike is None:
            return await gateway.send(planned)
        await self._send_struck(gateway, planned, strike)

    async def _send_struck(self, gateway: Gateway, planned: Planned, strike: Strike) -> None:
        self.trace.mark(Kind.FAULT_BEGAN, "lab", strike.kind)
        if strike.kind == "sent twice":
            other = self.gateways[(planned.sender + 1) % SENDERS]
            await asyncio.gather(gateway.send(planned), other.send_once(planned))
            self.struck[strike.kind] += 1
        else:
            before = gateway.proxy.struck
            gateway.arm(strike.kind, planned.name, strike.lasts)
            await gateway.send(planned)
            self.struck[strike.kind] += gateway.proxy.struck > before
        self.trace.mark(Kind.FAULT_ENDED, "lab", strike.kind)

    async def _kill(self) -> None:
        if self.server.unavailable("kill"):
            return
        assert isinstance(self.server, EmbeddedServer)
        self.trace.mark(Kind.FAULT_BEGAN, "lab", "server kill")
        self.server.kill()
        await self.server.start()
        self.struck["server kill"] += 1
        self.trace.mark(Kind.FAULT_ENDED, "lab", "server kill")

    # The end

    async def finish(self) -> Verdict:
        """Let go of what is held, wait until others have done what sleepers have in hand, wake them, end, judge."""
        for gateway in self.gateways:
            await gateway.let_go()
        with contextlib.suppress(MpimError):  # what is not done by then is stuck, and that is judged
            await until(self._is_drained, "the end of the work", within_s=DRAINED_WITHIN_S)
        self.line.release()
        await self.crew.finish()
        await self.line.flushed()  # not earlier: a line whose worker has not given it up ends with the worker
        self.struck += self.crew.struck
        await self.ledger.read()
        stuck = [message_id(payload) for payload in await self.backlog.payloads()]
        return self._judge(stuck, await self._numbers())

    async def _is_drained(self) -> bool:
        await asyncio.sleep(0.01)
        with contextlib.suppress(MpimError):  # the server is being started again
            await self.crew.look()
            return not await self.backlog.count()
        return False

    async def _numbers(self) -> dict[str, int]:
        """The number that each message has on the server, where there are numbers."""
        if not self.design.is_partitioned:
            return {}
        link, found = self.observer.context(STREAM).connection, dict[str, int]()
        for key in partitioned(self.observer).keys:
            for raw in await link.call("XRANGE", key, "-", "+"):
                found[message_id(ordered_of(raw).data)] = ordered_of(raw).sequence
        return found

    def _judge(self, stuck: list[str], numbers: dict[str, int]) -> Verdict:
        """Added: its effect once, in order among its sender's, and in the order of the numbers; not added: at most once."""
        added = {event.message_id for event in self.trace.of(Kind.ADDED)}
        done = [message_id(payload) for _, payload in self.ledger.rows]
        planned = [one for one in self.schedule.messages if one.name in added.union(done)]
        common: dict[str, Any] = {"promised": added, "stuck": [name for name in stuck if name in added]}
        common |= {"dead": [event.message_id for event in self.trace.of(Kind.BURIED)], "promise": "added"}
        by_sender = {one.name: f"{one.sender} {one.conversation}" if one.name in added else one.name for one in planned}
        talks = {one.name: one.conversation for one in planned}
        verdict = check([one.name for one in planned], done, conversation_of=by_sender, **common)
        if not numbers:
            return verdict
        by_number = sorted(by_sender, key=lambda name: numbers.get(name, 0))
        second = check(by_number, done, conversation_of=talks, **common)
        both = {*verdict.reordered, *second.reordered}
        return replace(verdict, reordered=tuple(one.name for one in planned if one.name in both))
