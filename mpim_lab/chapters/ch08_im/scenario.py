"""ImScenario of chapter 8: three gateways, alice who sends, who reads, and faults at its steps."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from mpim_lab.chapters.ch08_im.faults import STEP_FAULTS, FaultPoint, ImFaults
from mpim_lab.chapters.ch08_im.naive import NaiveMessages, NaivePresence
from mpim_lab.chapters.ch08_im.readers import QUICK, SimulatedReader
from mpim_lab.chapters.shared.scenario import Scenario, Server
from mpim_lab.errors import MpimError
from mpim_lab.events import Event, EventKind, now
from mpim_lab.im.client.client import Client
from mpim_lab.im.gateway.config import GatewayConfig
from mpim_lab.im.protocol.requests import ChatMessage
from mpim_lab.im.services.messages import FanOutResult, MessageService
from mpim_lab.lab.exercise.experiment import Run
from mpim_lab.lab.faults.injector import Fault, Gate, wait_until
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


class ImDesign(NamedTuple):
    """How messages are sent and read.

    `messages(scenario, queue, groups, offline, …)` makes a service whose steps meet the faults.
    """

    messages: Callable[..., Any]
    is_naive: bool = False


class ImScenario(Scenario):
    """The scenario of chapter 8: alice's phone and tablet, three gateways, and who reads.

    `verdict` is there when it is finished.
    """

    verdict: Verdict

    def __init__(
        self,
        server: Server,
        run: Run,
        design: ImDesign,
        planned: Sequence[Fault],
        duration: int,
        readers: Sequence[str],
    ) -> None:
        super().__init__(server, run, planned, duration)
        self._design = design
        self.reconnect_gate = Gate()  # while it is closed, gw-2 cannot reconnect to the server
        presence: dict[str, Any] = {"presence": self._presence} if design.is_naive else {}
        self.system = MpimSystem(
            server=server,
            gateways=0,
            messages=partial(design.messages, self),
            gateway_config=_LIMITS,
            queue_config=_QUEUE_LIMITS,
            observer=run.trace,
            outbox_min_age_s=0.2,
            route_ttl_s=3_600.0,
            **presence,
        )
        self.readers = {uid: SimulatedReader(self.system, uid) for uid in readers}
        self.faults = ImFaults(self)
        self.numbers: dict[str, int] = {}
        self._clients: dict[str, Client] = {}
        self._held: asyncio.Task[None] | None = None
        self._left: dict[str, int] = {}  # fault → how many more messages it lasts for

    def _presence(self, queue: MessageQueue) -> NaivePresence:
        return NaivePresence(queue, unbinds="late unbind" in self.fault_of.values())

    async def open(self) -> None:
        """Start the gateways, and connect everybody."""
        await self.parts.enter_async_context(self.system)
        await self.system.start("gw-1")
        await self.system.start("gw-2", sleep=self.reconnect_gate.sleep)
        await self.system.start("gw-3")
        for device, gateways in (("phone", ["gw-1", "gw-3"]), ("tablet", ["gw-3", "gw-1"])):
            client = self.system.client(
                "alice", at=gateways, device=device, backoff=QUICK, response_timeout_s=2.0
            )
            self._clients[device] = await self.parts.enter_async_context(client)
        for reader in self.readers.values():
            self.parts.push_async_callback(reader.disconnect)
            await reader.connect("gw-2")
        if len(self.readers) > 1:
            await self._clients["phone"].create_group(GROUP, *self.readers)
        self.parts.callback(self.reconnect_gate.open)

    # Sending

    async def send(self, payload: str) -> None:
        """Send the next message from alice's phone.

        From her tablet while the phone's last one is held up.
        """
        name = payload
        self.sent.append(name)
        fault = self.fault_of.get(name, "")
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
        fault = self.fault_of.get(name, "")
        if step in STEP_FAULTS.get(fault, ()):
            await self.inject_now(fault, FaultPoint(name, step, gateway))

    async def inject_now(self, fault: str, where: FaultPoint) -> None:
        """Cause a fault, once."""
        for name in [name for name, planned in self.fault_of.items() if planned == fault]:
            del self.fault_of[name]
        self.record_began(fault)
        self._left[fault] = self.duration + (1 if fault == "interleave" else 0)
        await self.faults.begin(fault, where)

    async def _end(self, fault: str) -> None:
        await self.faults.end(fault)
        if fault == "interleave" and self._held is not None:
            await self._held
            self._held = None
        del self._left[fault]
        self.record_ended(fault)
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
        if not self._design.is_naive:
            with contextlib.suppress(MpimError):
                await wait_until(self._all_read, "everything read", timeout_s=8.0)
        await self.wait_idle()
        self.verdict = await self._judge()

    def _all_read(self) -> bool:
        return all(set(self.sent) <= set(reader.read) for reader in self.readers.values())

    async def _judge(self) -> Verdict:
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
            self.trace(
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

    def append_nowait(
        self, message: ChatMessage, receivers: Sequence[str], sink: ReplySink
    ) -> bool:
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


DESIGNS = {"naive": ImDesign(_FaultyNaive, is_naive=True), "correct": ImDesign(_FaultyMessages)}
