"""ImScenario: MPIM with three gateways, alice who sends, one reader or four, and faults at chosen messages and steps."""

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, Self

from mpim_lab.chapters.ch08_im.faults import STEP_FAULTS, FaultPoint, ImFaults
from mpim_lab.chapters.ch08_im.naive import NaiveMessages, NaivePresence
from mpim_lab.chapters.ch08_im.readers import QUICK, SimulatedReader
from mpim_lab.errors import MpimError
from mpim_lab.events import Event, EventKind, now
from mpim_lab.im.client.client import Client
from mpim_lab.im.gateway.config import GatewayConfig
from mpim_lab.im.protocol.requests import ChatMessage
from mpim_lab.im.services.groups import GroupService
from mpim_lab.im.services.messages import FanOutResult, MessageService
from mpim_lab.im.services.offline import OfflineStore
from mpim_lab.lab.exercise.experiment import Run
from mpim_lab.lab.faults.injector import Gate, check_available, wait_until
from mpim_lab.lab.server.embedded import EmbeddedServer
from mpim_lab.lab.server.external import ExternalServer
from mpim_lab.lab.system.embedded import MpimSystem
from mpim_lab.lab.trace.checker import Verdict, check
from mpim_lab.mq.connection.config import ConnectionConfig
from mpim_lab.mq.connection.resp import ReplySink
from mpim_lab.mq.pubsub.queue import MessageQueue

GROUP = "tea"
_LIMITS = GatewayConfig(
    maintenance_interval_s=0.05, ack_timeout_s=0.5, ack_flush_interval_s=0.005, drain_timeout_s=1.0
)
_QUEUE_LIMITS = ConnectionConfig(timeout_s=1.0, connect_timeout_s=5.0, backoff=QUICK)


class ImScenario:
    """The scenario of chapter 8.

    Use as a context: `send(name)` for each message, then `finish()`, then `verdict()`.
    """

    def __init__(
        self,
        server: EmbeddedServer | ExternalServer,
        run: Run,
        design: str,
        fault_of: Mapping[str, str],
        duration: int,
        readers: Sequence[str],
    ) -> None:
        self._run, self._design, self._duration = run, design, duration
        self._fault_of = dict(fault_of)
        self.reconnect_gate = Gate()  # while it is closed, gw-2 cannot reconnect to the server
        options: dict[str, Any] = (
            {"route_ttl_s": 3_600.0} if design == "correct" else {"presence": self._presence}
        )
        self.system = MpimSystem(
            server=server, gateways=0, messages=self._make, gateway_config=_LIMITS, queue_config=_QUEUE_LIMITS,
            observer=run.trace, outbox_min_age_s=0.2, **options,
        )  # fmt: skip
        self.server, self.readers = (
            server,
            {uid: SimulatedReader(self.system, uid) for uid in readers},
        )
        self.faults = ImFaults(self)
        self.numbers: dict[str, int] = {}
        self.sent: list[str] = []
        self._clients: dict[str, Client] = {}
        self._held: asyncio.Task[None] | None = None
        self._left: dict[str, int] = {}  # fault → how many more messages it lasts for
        self._stack = contextlib.AsyncExitStack()

    def _make(
        self, queue: MessageQueue, groups: GroupService, offline: OfflineStore, **options: Any
    ) -> MessageService:
        if self._design == "correct":
            return _FaultyMessages(self, queue, groups, offline, **options)
        return _FaultyNaive(self, queue, groups, offline, **options)

    def _presence(self, queue: MessageQueue) -> NaivePresence:
        return NaivePresence(queue, unbinds="late unbind" in self._fault_of.values())

    async def __aenter__(self) -> Self:
        check_available(self.server, *self._fault_of.values())
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(self.system)
            await self.system.start("gw-1")
            await self.system.start("gw-2", sleep=self.reconnect_gate.sleep)
            await self.system.start("gw-3")
            for device, gateways in (("phone", ["gw-1", "gw-3"]), ("tablet", ["gw-3", "gw-1"])):
                client = self.system.client(
                    "alice", at=gateways, device=device, backoff=QUICK, response_timeout_s=2.0
                )
                self._clients[device] = await stack.enter_async_context(client)
            for reader in self.readers.values():
                stack.push_async_callback(reader.disconnect)
                await reader.connect("gw-2")
            if len(self.readers) > 1:
                await self._clients["phone"].create_group(GROUP, *self.readers)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.reconnect_gate.open()
        await self._stack.aclose()

    # Sending

    async def send(self, name: str) -> None:
        """Send the next message from alice's phone.

        From her tablet while the phone's last one is held up.
        """
        self.sent.append(name)
        fault = self._fault_of.get(name, "")
        if fault and fault not in STEP_FAULTS:
            await self.inject_now(fault, FaultPoint(name, "", ""))
        if fault == "interleave":
            self._held = asyncio.create_task(self._send_from("phone", name))
            await self.faults.is_holding.wait()
        else:
            await self._send_from("tablet" if self._held is not None else "phone", name)
            if fault == "sent twice":
                await self.wait_idle()
                await self._send_from("phone", name)
        await self.wait_idle()
        for each in [each for each, left in self._left.items() if left <= 1]:
            await self._end(each)
        self._left = {each: left - 1 for each, left in self._left.items()}

    async def _send_from(self, device: str, name: str) -> None:
        client = self._clients[device]
        text = f"{name}: tea at eight?"
        try:
            send = client.send_to_group(GROUP, text, id=name) if len(self.readers) > 1 else None
            sent = await (send or client.send(next(iter(self.readers)), text, id=name))
        except MpimError:
            return  # the trace has it: the error was reported to alice
        self.numbers.setdefault(name, sent.sequence)

    async def at(self, step: str, name: str, gateway: str) -> None:
        """Note that the message service at a gateway has come to a step.

        Inject the fault that is planned there.
        """
        fault = self._fault_of.get(name, "")
        if step in STEP_FAULTS.get(fault, ()):
            await self.inject_now(fault, FaultPoint(name, step, gateway))

    async def inject(self, fault: str) -> None:
        """Inject a fault at the next message. Raise FaultUnavailable."""
        check_available(self.server, fault)
        self._fault_of[f"m{len(self.sent) + 1}"] = fault

    async def inject_now(self, fault: str, where: FaultPoint) -> None:
        """Cause a fault, once."""
        for name in [name for name, planned in self._fault_of.items() if planned == fault]:
            del self._fault_of[name]
        self._run.trace.record(EventKind.FAULT_BEGAN, "lab", fault)
        self._left[fault] = self._duration + (1 if fault == "interleave" else 0)
        await self.faults.begin(fault, where)

    async def _end(self, fault: str) -> None:
        await self.faults.end(fault)
        if fault == "interleave" and self._held is not None:
            await self._held
            self._held = None
        del self._left[fault]
        self._run.trace.record(EventKind.FAULT_ENDED, "lab", fault)
        await self.wait_idle()

    # The end

    async def wait_idle(self) -> None:
        """Wait until what is in flight has arrived."""
        for reader in self.readers.values():
            await reader.wait_idle()

    async def finish(self) -> None:
        """End every fault, reconnect every reader, and wait for what still comes."""
        for fault in list(self._left):
            await self._end(fault)
        for reader in self.readers.values():
            if not reader.is_connected:
                await reader.connect("gw-3")
        await self.wait_idle()
        if self._design == "correct":
            with contextlib.suppress(MpimError):
                await wait_until(self._all_read, "everything read", timeout_s=8.0)
        await self.wait_idle()

    def _all_read(self) -> bool:
        return all(set(self.sent) <= set(reader.read) for reader in self.readers.values())

    async def verdict(self) -> Verdict:
        """Judge what each reader was handed.

        Each message once, in the order of the numbers that the system gave them.
        """
        ordered = sorted(self.sent, key=lambda name: self.numbers.get(name, len(self.sent)))
        sent, read, waiting, of = [], [], [], {}
        for uid, reader in self.readers.items():
            called = {name: f"{name}→{uid}" if len(self.readers) > 1 else name for name in ordered}
            of.update(dict.fromkeys(called.values(), uid))
            sent += [called[name] for name in ordered]
            read += [called[name] for name in reader.read]
            waiting += [
                called[name] for name in await self._waiting(uid) if name not in reader.read
            ]
        for name in waiting:
            self._run.trace(
                Event(
                    EventKind.STALLED,
                    now(),
                    "lab",
                    name.partition("→")[0],
                    detail="it waits in the offline store",
                )
            )
        acknowledged = [each for each in sent if each.partition("→")[0] in self.numbers]
        return check(
            sent, read, acknowledged, stalled=waiting, acknowledgement="success", conversation_of=of
        )

    async def _waiting(self, uid: str) -> list[str]:
        pages = [
            await self.system.offline.page(uid, conversation, 0, 1_000)
            for conversation in await self.system.offline.pending(uid)
        ]
        return [message.id for page in pages for message in page]


class _FaultyNaive(NaiveMessages):
    """The naive service, with faults between its steps."""

    def __init__(self, scenario: ImScenario, *services: Any, **options: Any) -> None:
        super().__init__(*services, **options)
        self._scenario = scenario

    async def at(self, step: str, id: str) -> None:
        await self._scenario.at(step, id, self.queue.name)


class _FaultyMessages(MessageService):
    """The correct service, with the same faults between its steps.

    Before the atomic one, and after it.
    """

    def __init__(self, scenario: ImScenario, *services: Any, **options: Any) -> None:
        super().__init__(*services, **options)
        self._scenario = scenario

    def append_nowait(self, message: ChatMessage, to: str, sink: ReplySink) -> bool:
        """Each step is waited for: a fault may come before it."""
        return False

    async def append(self, message: ChatMessage, receivers: Sequence[str] = ()) -> Any:
        await self._scenario.at("checked", message.id, self.queue.name)
        await self._scenario.at("numbered", message.id, self.queue.name)
        kept = await super().append(message, receivers)
        if receivers:
            await self._scenario.at("pushed", message.id, self.queue.name)
        return kept

    async def fan_out(self, message: ChatMessage, members: Sequence[str]) -> FanOutResult:
        """Half of the members have it; then the service may die."""
        half = len(members) // 2
        first = await super().fan_out(message, members[:half])
        await self._scenario.at("half", message.id, self.queue.name)
        rest = await super().fan_out(message, members[half:])
        return FanOutResult(
            first.pushed + rest.pushed, first.absent + rest.absent, first.failed + rest.failed
        )
