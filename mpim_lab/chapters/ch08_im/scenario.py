"""MpimStage: MPIM with three gateways, alice who sends, one reader or four, and faults at chosen messages and steps."""

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, Self

from mpim_lab.chapters.ch08_im.faults import AT_STEP, AtTheStep, MpimFaults
from mpim_lab.chapters.ch08_im.naive import SketchedMessages, SketchedPresence
from mpim_lab.chapters.ch08_im.readers import QUICK, Seat
from mpim_lab.errors import MpimError
from mpim_lab.events import Event, Kind, now
from mpim_lab.im.client.client import Client
from mpim_lab.im.gateway.config import GatewayLimits
from mpim_lab.im.protocol.requests import ChatMessage
from mpim_lab.im.services.groups import Groups
from mpim_lab.im.services.messages import FanOut, Messages
from mpim_lab.im.services.offline import OfflineStore
from mpim_lab.lab.exercise.experiment import Run
from mpim_lab.lab.faults.injector import Hold, check_available, until
from mpim_lab.lab.server.embedded import EmbeddedServer
from mpim_lab.lab.server.external import ExternalServer
from mpim_lab.lab.system.embedded import MpimSystem
from mpim_lab.lab.trace.checker import Verdict, check
from mpim_lab.mq.connection.config import ConnectionConfig
from mpim_lab.mq.pubsub.queue import MessageQueue

GROUP = "tea"
_LIMITS = GatewayLimits(sweep_s=0.05, resend_s=0.5, ack_every_s=0.005, drain_s=1.0)
_QUEUE_LIMITS = ConnectionConfig(timeout_s=1.0, connect_timeout_s=5.0, backoff=QUICK)


class MpimStage:
    """Use as a context. `send(name)` for each message in turn, then `finish()`, then `verdict()`."""

    def __init__(
        self,
        server: EmbeddedServer | ExternalServer,
        run: Run,
        design: str,
        struck: Mapping[str, str],
        lasts: int,
        readers: Sequence[str],
    ) -> None:
        self._run, self._design, self._lasts = run, design, lasts
        self._struck = dict(struck)
        self.hold = Hold()  # while it is closed, gw-2 cannot reconnect to the server
        options: dict[str, Any] = {"route_lifetime_s": 3_600.0} if design == "sound" else {"presence": self._presence}
        self.system = MpimSystem(
            server=server, gateways=0, messages=self._make, limits=_LIMITS, queue_config=_QUEUE_LIMITS,
            observer=run.trace, outbox_after_s=0.2, **options,
        )  # fmt: skip
        self.server, self.seats = server, {uid: Seat(self.system, uid) for uid in readers}
        self.faults = MpimFaults(self)
        self.numbers: dict[str, int] = {}
        self.sent: list[str] = []
        self._clients: dict[str, Client] = {}
        self._held: asyncio.Task[None] | None = None
        self._left: dict[str, int] = {}  # fault → how many more messages it lasts for
        self._stack = contextlib.AsyncExitStack()

    def _make(self, queue: MessageQueue, groups: Groups, offline: OfflineStore, **options: Any) -> Messages:
        if self._design == "sound":
            return _StruckMessages(self, queue, groups, offline, **options)
        return _StruckSketch(self, queue, groups, offline, **options)

    def _presence(self, queue: MessageQueue) -> SketchedPresence:
        return SketchedPresence(queue, unbinds="late unbind" in self._struck.values())

    async def __aenter__(self) -> Self:
        check_available(self.server, *self._struck.values())
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(self.system)
            await self.system.start("gw-1")
            await self.system.start("gw-2", sleep=self.hold.sleep)
            await self.system.start("gw-3")
            for device, gateways in (("phone", ["gw-1", "gw-3"]), ("tablet", ["gw-3", "gw-1"])):
                client = self.system.client("alice", at=gateways, device=device, backoff=QUICK, answer_s=2.0)
                self._clients[device] = await stack.enter_async_context(client)
            for seat in self.seats.values():
                stack.push_async_callback(seat.leave)
                await seat.arrive("gw-2")
            if len(self.seats) > 1:
                await self._clients["phone"].create_group(GROUP, *self.seats)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.hold.open()
        await self._stack.aclose()

    # Sending

    async def send(self, name: str) -> None:
        """Send the next message from alice's phone; from her tablet while the phone's last one is held up."""
        self.sent.append(name)
        fault = self._struck.get(name, "")
        if fault and fault not in AT_STEP:
            await self.strike(fault, AtTheStep(name, "", ""))
        if fault == "interleave":
            self._held = asyncio.create_task(self._say("phone", name))
            await self.faults.is_holding.wait()
        else:
            await self._say("tablet" if self._held is not None else "phone", name)
            if fault == "sent twice":
                await self.settled()
                await self._say("phone", name)
        await self.settled()
        for each in [each for each, left in self._left.items() if left <= 1]:
            await self._end(each)
        self._left = {each: left - 1 for each, left in self._left.items()}

    async def _say(self, device: str, name: str) -> None:
        client = self._clients[device]
        text = f"{name}: tea at eight?"
        try:
            send = client.send_to_group(GROUP, text, id=name) if len(self.seats) > 1 else None
            sent = await (send or client.send(next(iter(self.seats)), text, id=name))
        except MpimError:
            return  # the trace has it: alice was told
        self.numbers.setdefault(name, sent.sequence)

    async def at(self, step: str, name: str, gateway: str) -> None:
        """The message service at a gateway has come to a step of its work on a message."""
        fault = self._struck.get(name, "")
        if step in AT_STEP.get(fault, ()):
            await self.strike(fault, AtTheStep(name, step, gateway))

    async def inject(self, fault: str) -> None:
        """Have a fault strike at the next message. Raises FaultUnavailable."""
        check_available(self.server, fault)
        self._struck[f"m{len(self.sent) + 1}"] = fault

    async def strike(self, fault: str, where: AtTheStep) -> None:
        """Cause a fault, once."""
        for name in [name for name, planned in self._struck.items() if planned == fault]:
            del self._struck[name]
        self._run.trace.mark(Kind.FAULT_BEGAN, "lab", fault)
        self._left[fault] = self._lasts + (1 if fault == "interleave" else 0)
        await self.faults.begin(fault, where)

    async def _end(self, fault: str) -> None:
        await self.faults.end(fault)
        if fault == "interleave" and self._held is not None:
            await self._held
            self._held = None
        del self._left[fault]
        self._run.trace.mark(Kind.FAULT_ENDED, "lab", fault)
        await self.settled()

    # The end

    async def settled(self) -> None:
        """Wait until what is on its way has arrived."""
        for seat in self.seats.values():
            await seat.settled()

    async def finish(self) -> None:
        """End every fault, have everybody back, and wait for what still comes."""
        for fault in list(self._left):
            await self._end(fault)
        for seat in self.seats.values():
            if not seat.is_here:
                await seat.arrive("gw-3")
        await self.settled()
        if self._design == "sound":
            with contextlib.suppress(MpimError):
                await until(self._all_read, "everything read", within_s=8.0)
        await self.settled()

    def _all_read(self) -> bool:
        return all(set(self.sent) <= set(seat.read) for seat in self.seats.values())

    async def verdict(self) -> Verdict:
        """Judge what each reader was handed: each message once, in the order of the numbers that the system gave them."""
        ordered = sorted(self.sent, key=lambda name: self.numbers.get(name, len(self.sent)))
        sent, read, waiting, of = [], [], [], {}
        for uid, seat in self.seats.items():
            called = {name: f"{name}→{uid}" if len(self.seats) > 1 else name for name in ordered}
            of.update(dict.fromkeys(called.values(), uid))
            sent += [called[name] for name in ordered]
            read += [called[name] for name in seat.read]
            waiting += [called[name] for name in await self._waiting(uid) if name not in seat.read]
        for name in waiting:
            self._run.trace(
                Event(Kind.STUCK, now(), "lab", name.partition("→")[0], detail="it waits in the offline store")
            )
        promised = [each for each in sent if each.partition("→")[0] in self.numbers]
        return check(sent, read, promised, stuck=waiting, promise="success", conversation_of=of)

    async def _waiting(self, uid: str) -> list[str]:
        pages = [
            await self.system.offline.page(uid, conversation, 0, 1_000)
            for conversation in await self.system.offline.waiting(uid)
        ]
        return [message.id for page in pages for message in page]


class _StruckSketch(SketchedMessages):
    """The sketch, with faults between its steps."""

    def __init__(self, stage: MpimStage, *services: Any, **options: Any) -> None:
        super().__init__(*services, **options)
        self._stage = stage

    async def at(self, step: str, id: str) -> None:
        await self._stage.at(step, id, self.queue.name)


class _StruckMessages(Messages):
    """The sound service, with the same faults between its steps: before the atomic one, and after it."""

    def __init__(self, stage: MpimStage, *services: Any, **options: Any) -> None:
        super().__init__(*services, **options)
        self._stage = stage

    async def keep(self, message: ChatMessage, receivers: Sequence[str] = ()) -> Any:
        await self._stage.at("checked", message.id, self.queue.name)
        await self._stage.at("numbered", message.id, self.queue.name)
        kept = await super().keep(message, receivers)
        if receivers:
            await self._stage.at("pushed", message.id, self.queue.name)
        return kept

    async def push(self, message: ChatMessage, members: Sequence[str]) -> FanOut:
        """Half of the members have it; then the service may die."""
        half = len(members) // 2
        first = await super().push(message, members[:half])
        await self._stage.at("half", message.id, self.queue.name)
        rest = await super().push(message, members[half:])
        return FanOut(first.pushed + rest.pushed, first.absent + rest.absent, first.failed + rest.failed)
