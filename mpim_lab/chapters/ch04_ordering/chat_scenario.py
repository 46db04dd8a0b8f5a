"""ChatScenario of chapter 4: two gateways write into one conversation, bob reads it.

Faults are injected just before a gateway's last step for a message: the publish of the naive
version, the one script of the correct design.

FaultyGateway: a queue through which clients write into conversations; a fault can hit it before its
last step.
"""

import asyncio
import contextlib
import re
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, Self

from mpim_lab.chapters.ch04_ordering.naive import (
    AsItComesReader,
    PatientReader,
    TwoStepConversations,
)
from mpim_lab.errors import ConnectionLost, MpimError
from mpim_lab.events import EventKind, Reporter, message_id
from mpim_lab.keys import Name, live_channel
from mpim_lab.lab.exercise.experiment import Run
from mpim_lab.lab.faults.injector import Gate, IdleDetector, check_available, wait_until
from mpim_lab.lab.faults.server_admin import cut_connections
from mpim_lab.lab.server.embedded import EmbeddedServer
from mpim_lab.lab.server.external import ExternalServer
from mpim_lab.mq.connection.config import ConnectionConfig
from mpim_lab.mq.connection.context import StreamContext
from mpim_lab.mq.connection.reconnecting import ReconnectingConnection
from mpim_lab.mq.connection.retry import Backoff
from mpim_lab.mq.ordering.ordered_reader import OrderedReader
from mpim_lab.mq.ordering.sequenced_log import SequencedLog, SequencedMessage
from mpim_lab.mq.pubsub.queue import MessageQueue

FaultHook = Callable[[tuple[bytes | str, ...]], Awaitable[bool]]


class _FaultyConnection:
    """A connection that lets a fault be injected before a command.

    Its answer may be lost on the way back.
    """

    def __init__(self, link: ReconnectingConnection, fault_hook: FaultHook) -> None:
        self._link, self._fault_hook = link, fault_hook

    async def call(self, *command: bytes | str) -> Any:
        loses_answer = await self._fault_hook(command)
        reply = await self._link.call(*command)
        if loses_answer:
            raise ConnectionLost(
                "the line broke after the command was written; it may have been run"
            )
        return reply

    def __getattr__(self, name: str) -> Any:
        return getattr(self._link, name)


class FaultyGateway(MessageQueue):
    """The queue of a gateway: reports what is written into conversations, and meets the faults."""

    fault_hook: FaultHook

    def context(self, name: Name) -> StreamContext:
        """Return the queue's own access, over a faulty connection."""
        own = super().context(name)
        return own._replace(connection=_FaultyConnection(own.connection, self.fault_hook))  # type: ignore[arg-type]

    async def publish(self, channel: Name, payload: bytes | str) -> int:
        """As the queue's own."""
        assert isinstance(payload, bytes)
        loses_answer = await self.fault_hook((payload.partition(b" ")[2],))
        receivers = await super().publish(channel, payload)
        if loses_answer:
            raise ConnectionLost(
                "the line broke after the command was written; it may have been run"
            )
        return receivers


NAME, CONVERSATION = "chat", "room"
IDLE_S = 0.3
LIMITS = ConnectionConfig(
    timeout_s=1.0, connect_timeout_s=1.0, backoff=Backoff(initial_s=0.005, max_s=0.02)
)


class ChatDesign(NamedTuple):
    """A design of chapter 4: how a conversation is written, and how it is read.

    `conversations(queue, name)` has `append(conversation, payload, id)`; `reader(conversations,
    conversation, handler)` has `run` and `stop`.
    """

    conversations: Callable[[MessageQueue, str], Any]
    reader: Callable[[Any, str, Callable[[SequencedMessage], None]], Any]


def _correct_reader(
    conversations: SequencedLog, conversation: str, handler: Callable[[SequencedMessage], None]
) -> Any:
    return OrderedReader(
        conversations, conversation, handler, gap_timeout_s=0.03, poll_interval_s=0.1
    )


CHAT_DESIGNS = {
    "as it comes": ChatDesign(TwoStepConversations, AsItComesReader),
    "wait for ever": ChatDesign(TwoStepConversations, PatientReader),
    "correct": ChatDesign(SequencedLog, _correct_reader),
}


class ChatScenario:
    """The scenario of chapter 4's chat: two gateways, bob, and the fault that hits one message."""

    def __init__(
        self,
        server: EmbeddedServer | ExternalServer,
        run: Run,
        design: ChatDesign,
        fault_of: dict[str, str],
        duration: int,
    ) -> None:
        self.server, self.run, self._design, self._fault_of, self._duration = (
            server,
            run,
            design,
            fault_of,
            duration,
        )
        self._hold, self._bob_hold = Gate(), Gate()
        common: dict[str, Any] = {"prefix": server.prefix, "config": LIMITS}
        self._gateways = [
            FaultyGateway(server.url, name=f"gateway-{number}", **common) for number in (1, 2)
        ]
        self._bob = MessageQueue(server.url, name="bob", sleep=self._bob_hold.sleep, **common)
        for queue in (
            *self._gateways,
            self._bob,
        ):  # by hand: what travels is "<number> <payload>", not the payload
            queue.reporter = Reporter(queue.name, run.trace)
        self._shown: list[str] = []
        self._delayed: list[
            tuple[asyncio.Task[None], int]
        ] = []  # sends that are held, and for how many more messages
        self._away_for = 0
        self._message_number = 0
        self._open = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        self._check_available(*self._fault_of.values())
        try:
            for number, gateway in enumerate(self._gateways, 1):
                gateway.fault_hook = self._fault_hook(number)
                await self._open.enter_async_context(gateway)
            await self._open.enter_async_context(self._bob)
            await self._read()
        except BaseException:
            await self._open.aclose()
            raise
        self.run.injector = self._inject
        return self

    async def _read(self) -> None:
        reader = self._design.reader(
            self._design.conversations(self._bob, NAME), CONVERSATION, self._show
        )
        reading = asyncio.create_task(reader.run())
        self._open.push_async_callback(asyncio.wait, [reading])
        self._open.push_async_callback(reader.stop)

        async def listens() -> bool:
            return (
                bool(await self._bob.subscriber_count(live_channel(NAME, CONVERSATION)))
                or reading.done()
            )

        await wait_until(listens, "bob's subscription")

    async def __aexit__(self, *exc_info: object) -> None:
        self.run.injector = None
        for task, _ in self._delayed:
            task.cancel()
        self._bob_hold.open()
        await self._open.aclose()

    async def _inject(self, fault: str) -> None:
        self._check_available(fault)
        self._fault_of[f"m{self._message_number + 1}"] = fault

    def _show(self, numbered: SequencedMessage) -> None:
        self._shown.append(message_id(numbered.payload))
        self._bob.reporter.message(EventKind.EFFECT, numbered.payload, NAME)

    # Faults

    def _fault_hook(self, gateway: int) -> FaultHook:
        async def fault_hook(command: tuple[bytes | str, ...]) -> bool:
            said = b"\n".join(word for word in command if isinstance(word, bytes))
            name = next(
                (name for name in self._fault_of if re.search(rb"\b%b " % name.encode(), said)), ""
            )
            kind = self._fault_of.pop(name, "")
            if kind == "interleave":
                self._begin(kind)
                await self._hold.wait()
            if kind == "gateway dies":
                self._begin(kind)
                self.run.trace.record(EventKind.FAULT_ENDED, "lab", kind)
                raise ConnectionLost(f"gateway-{gateway} is gone")
            if kind == "answer lost":
                self._begin(kind)
                self.run.trace.record(EventKind.FAULT_ENDED, "lab", kind)
            return kind == "answer lost"

        return fault_hook

    def _begin(self, kind: str) -> None:
        self.run.trace.record(EventKind.FAULT_BEGAN, "lab", kind)

    def _check_available(self, *faults: str) -> None:
        check_available(self.server, *("cut" if fault == "away" else fault for fault in faults))

    async def _disconnect_bob(self) -> None:
        await self._bob_hold.close()
        self._begin("away")
        self._away_for = self._duration
        await cut_connections(self.server.url, "bob")
        await wait_until(lambda: not self._bob.is_connected, "the loss of bob's connection")

    async def _reconnect_bob(self) -> None:
        self._away_for = 0
        self._bob_hold.open()
        await wait_until(lambda: self._bob.is_connected, "the return of bob's connection")
        self.run.trace.record(EventKind.FAULT_ENDED, "lab", "away")

    # One message after the other

    async def send(self, payload: bytes) -> None:
        """Send one message.

        Bob has been shown it when this returns, unless something holds it up.
        """
        name, self._message_number = message_id(payload), self._message_number + 1
        if self._fault_of.get(name) == "away":
            del self._fault_of[name]
            await self._disconnect_bob()
        if self._fault_of.get(name) == "interleave":
            await self._hold.close()
            task = asyncio.create_task(self._send_through(0, payload))
            self._delayed.append((task, self._duration))
            await wait_until(lambda: name not in self._fault_of or task.done(), "the fault")
        else:
            first = (
                0
                if name in self._fault_of
                else 1
                if self._delayed
                else (self._message_number + 1) % 2
            )
            await self._send_through(first, payload)
            await self._wait_idle()
        await self._advance()

    async def _send_through(self, first: int, payload: bytes) -> None:
        """Send as a client through one gateway, and after an error through the other, with the same id."""
        for gateway in (self._gateways[first], self._gateways[1 - first]):
            conversations = self._design.conversations(gateway, NAME)
            try:
                await conversations.append(CONVERSATION, payload, f"id-{message_id(payload)}")
                return
            except MpimError:
                await self._wait_received()

    async def _advance(self) -> None:
        self._delayed = [(task, left - 1) for task, left in self._delayed]
        if self._delayed and self._delayed[0][1] < 0:
            await self._release()
        if self._away_for:
            self._away_for -= 1
            if not self._away_for:
                await self._reconnect_bob()
                await self._wait_idle()

    async def _release(self) -> None:
        late, self._delayed = self._delayed, []
        if late:
            self._hold.open()
            await asyncio.gather(*(task for task, _ in late))
            self.run.trace.record(EventKind.FAULT_ENDED, "lab", "interleave")
            await self._wait_idle()

    async def finish(self) -> None:
        """Release what is held, wait for bob, and report what he was never shown although it came to him."""
        await self._release()
        if self._away_for:
            await self._reconnect_bob()
        await self._wait_idle()
        received = {event.message_id for event in self.run.trace.by_kind(EventKind.RECEIVED)}
        for name in sorted(received - set(self._shown), key=lambda name: int(name[1:])):
            self._bob.reporter.message(EventKind.STALLED, name.encode(), NAME)

    async def _wait_received(self) -> None:
        """Wait until bob has received everything that was published so far.

        An answer came after it on his connection.
        """
        if not self._away_for:
            await self._bob.subscribe("nothing", lambda _: None)
            await self._bob.unsubscribe("nothing")
            await self._bob.drain()

    async def _wait_idle(self) -> None:
        await self._wait_received()
        quiet = IdleDetector(self.run.trace)

        def is_idle() -> bool:
            added = {event.message_id for event in self.run.trace.by_kind(EventKind.ADDED)}
            if added <= set(self._shown) or self._away_for:
                return True
            return quiet.is_idle_for(IDLE_S)

        await wait_until(is_idle, "quiet")
