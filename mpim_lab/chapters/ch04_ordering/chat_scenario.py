"""ChatScenario of chapter 4: two gateways write into one conversation, bob reads it.

Faults are injected just before a gateway's last step for a message: the publish of the naive
version, the one script of the correct design.

FaultyGateway: a queue through which clients write into conversations; a fault can hit it before its
last step.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from mpim_lab.chapters.ch04_ordering.naive import (
    AsItComesReader,
    PatientReader,
    TwoStepConversations,
)
from mpim_lab.chapters.shared.intercepted_queue import Command, InterceptedQueue, Send
from mpim_lab.chapters.shared.scenario import Scenario, Server
from mpim_lab.errors import ConnectionLost, MpimError
from mpim_lab.events import EventKind, Reporter, message_id
from mpim_lab.keys import Name, live_channel
from mpim_lab.lab.exercise.experiment import Run
from mpim_lab.lab.faults.injector import Fault, Gate, IdleDetector, wait_until
from mpim_lab.lab.faults.server_admin import cut_connections
from mpim_lab.mq.connection.config import ConnectionConfig
from mpim_lab.mq.connection.retry import Backoff
from mpim_lab.mq.ordering.ordered_reader import OrderedReader
from mpim_lab.mq.ordering.sequenced_log import SequencedLog, SequencedMessage
from mpim_lab.mq.pubsub.queue import MessageQueue

FaultHook = Callable[[Command], Awaitable[bool]]


class FaultyGateway(InterceptedQueue):
    """The queue of a gateway, whose writes into conversations meet the faults.

    `fault_hook` is called before a command; it returns whether the answer is lost.
    """

    fault_hook: FaultHook

    async def intercept(self, command: Command, send: Send) -> Any:
        """Send a command once the fault that is due has begun."""
        loses_answer = await self.fault_hook(command)
        reply = await send()
        if loses_answer:
            raise ConnectionLost(
                "the line broke after the command was written; it may have been run"
            )
        return reply

    async def publish(self, channel: Name, payload: bytes | str) -> int:
        """Publish once the fault that is due has begun."""
        assert isinstance(payload, bytes)
        text = payload.partition(b" ")[2]
        return int(await self.intercept((text,), partial(super().publish, channel, payload)))


NAME, CONVERSATION = "chat", "room"
IDLE_S = 0.3


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


class ChatScenario(Scenario):
    """The scenario of chapter 4's chat: two gateways, bob, and the fault that hits one message."""

    limits = ConnectionConfig(
        timeout_s=1.0, connect_timeout_s=1.0, backoff=Backoff(initial_s=0.005, max_s=0.02)
    )

    def __init__(
        self, server: Server, run: Run, design: ChatDesign, planned: Sequence[Fault], duration: int
    ) -> None:
        super().__init__(server, run, planned, duration)
        self._design = design
        self._hold, self._bob_hold = Gate(), Gate()
        url = server.url
        # By hand: what travels is "<number> <payload>", not the payload.
        by_hand: dict[str, Any] = {"observer": None}
        self._gateways: list[FaultyGateway] = [
            self.queue(f"gateway-{number}", url, kind=FaultyGateway, **by_hand) for number in (1, 2)
        ]
        self._bob: MessageQueue = self.queue("bob", url, sleep=self._bob_hold.sleep, **by_hand)
        for queue in (*self._gateways, self._bob):
            queue.reporter = Reporter(queue.name, run.trace)
        self._shown: list[str] = []
        # Sends that are held, and for how many more messages.
        self._delayed: list[tuple[asyncio.Task[None], int]] = []
        self._away_for = 0

    async def open(self) -> None:
        """Open the gateways, and have bob read."""
        for number, gateway in enumerate(self._gateways, 1):
            gateway.fault_hook = self._fault_hook(number)
            await self.parts.enter_async_context(gateway)
        await self.parts.enter_async_context(self._bob)
        await self._read()
        self.parts.callback(self._bob_hold.open)
        self.parts.callback(self._cancel_delayed)

    def _cancel_delayed(self) -> None:
        for task, _ in self._delayed:
            task.cancel()

    async def _read(self) -> None:
        reader = self._design.reader(
            self._design.conversations(self._bob, NAME), CONVERSATION, self._show
        )
        reading = asyncio.create_task(reader.run())
        self.parts.push_async_callback(asyncio.wait, [reading])
        self.parts.push_async_callback(reader.stop)

        async def listens() -> bool:
            return (
                bool(await self._bob.subscriber_count(live_channel(NAME, CONVERSATION)))
                or reading.done()
            )

        await wait_until(listens, "bob's subscription")

    def _show(self, numbered: SequencedMessage) -> None:
        self._shown.append(message_id(numbered.payload))
        self._bob.reporter.message(EventKind.EFFECT, numbered.payload, NAME)

    # Faults

    def _fault_hook(self, gateway: int) -> FaultHook:
        async def fault_hook(command: Command) -> bool:
            said = b"\n".join(word for word in command if isinstance(word, bytes))
            name = next(
                (name for name in self.fault_of if re.search(rb"\b%b " % name.encode(), said)), ""
            )
            kind = self.fault_of.pop(name, "")
            if kind:
                self.record_began(kind)
            if kind == "interleave":
                await self._hold.wait()
            elif kind:
                self.record_ended(kind)
            if kind == "gateway dies":
                raise ConnectionLost(f"gateway-{gateway} is gone")
            return kind == "answer lost"

        return fault_hook

    def check_available(self, *faults: str) -> None:
        """Raise FaultUnavailable for the first of these that this server does not offer."""
        super().check_available(*("cut" if fault == "away" else fault for fault in faults))

    async def _disconnect_bob(self) -> None:
        await self._bob_hold.close()
        self.record_began("away")
        self._away_for = self.duration
        await cut_connections(self.server.url, "bob")
        await wait_until(lambda: not self._bob.is_connected, "the loss of bob's connection")

    async def _reconnect_bob(self) -> None:
        self._away_for = 0
        self._bob_hold.open()
        await wait_until(lambda: self._bob.is_connected, "the return of bob's connection")
        self.record_ended("away")

    # One message after the other

    async def send(self, payload: bytes) -> None:
        """Send one message.

        Bob has been shown it when this returns, unless something holds it up.
        """
        name = message_id(payload)
        self.sent.append(name)
        if self.fault_of.get(name) == "away":
            del self.fault_of[name]
            await self._disconnect_bob()
        if self.fault_of.get(name) == "interleave":
            await self._hold.close()
            task = asyncio.create_task(self._send_through(0, payload))
            self._delayed.append((task, self.duration))
            await wait_until(lambda: name not in self.fault_of or task.done(), "the fault")
        else:
            in_turns = 1 if self._delayed else (len(self.sent) + 1) % 2
            await self._send_through(0 if name in self.fault_of else in_turns, payload)
            await self._wait_idle()
        await self._advance()

    async def _send_through(self, first: int, payload: bytes) -> None:
        """Send as a client through one gateway, after an error through the other, under one id."""
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
            self.record_ended("interleave")
            await self._wait_idle()

    async def finish(self) -> None:
        """Release what is held, wait for bob, and report what came and was never shown to him."""
        await self._release()
        if self._away_for:
            await self._reconnect_bob()
        await self._wait_idle()
        received = {event.message_id for event in self.trace.by_kind(EventKind.RECEIVED)}
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
        quiet = IdleDetector(self.trace)

        def is_idle() -> bool:
            added = {event.message_id for event in self.trace.by_kind(EventKind.ADDED)}
            if added <= set(self._shown) or self._away_for:
                return True
            return quiet.is_idle_for(IDLE_S)

        await wait_until(is_idle, "quiet")
