"""The stage of chapter 4's chat: two gateways write into one conversation, bob reads it.

Faults strike just before a gateway's last step for a message: the publish of the sketch, the one script of the sound design.

Gateway: a queue through which clients write into conversations, and which a fault can strike before its last step.
"""

import asyncio
import contextlib
import re
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, Self

from mpim_lab.chapters.ch04_ordering.naive import AsItComesReader, PatientReader, TwoStepConversations
from mpim_lab.errors import ConnectionLost, MpimError
from mpim_lab.events import Kind, Reporter, message_id
from mpim_lab.keys import Name, live_channel
from mpim_lab.lab.exercise.experiment import Run
from mpim_lab.lab.faults.injector import Hold, Quiet, check_available, until
from mpim_lab.lab.faults.server_admin import cut_connections
from mpim_lab.lab.server.embedded import EmbeddedServer
from mpim_lab.lab.server.external import ExternalServer
from mpim_lab.mq.connection.config import ConnectionConfig
from mpim_lab.mq.connection.context import StreamContext
from mpim_lab.mq.connection.reconnecting import ReconnectingConnection
from mpim_lab.mq.connection.retry import Backoff
from mpim_lab.mq.ordering.ordered_reader import ConversationReader
from mpim_lab.mq.ordering.sequenced_log import Conversations, Numbered
from mpim_lab.mq.pubsub.queue import MessageQueue

Strikes = Callable[[tuple[bytes | str, ...]], Awaitable[bool]]


class _StruckLink:
    """A link that lets a fault strike before a command; its answer may be lost on the way back."""

    def __init__(self, link: ReconnectingConnection, strikes: Strikes) -> None:
        self._link, self._strikes = link, strikes

    async def call(self, *command: bytes | str) -> Any:
        loses_answer = await self._strikes(command)
        reply = await self._link.call(*command)
        if loses_answer:
            raise ConnectionLost("the line broke after the command was written; it may have been run")
        return reply

    def __getattr__(self, name: str) -> Any:
        return getattr(self._link, name)


class Gateway(MessageQueue):
    """A gateway's queue: reports what is written into conversations, and meets the faults."""

    strikes: Strikes

    def context(self, name: Name) -> StreamContext:
        """As the queue's own, with the link that is struck."""
        own = super().context(name)
        return own._replace(connection=_StruckLink(own.connection, self.strikes))  # type: ignore[arg-type]

    async def publish(self, channel: Name, payload: bytes | str) -> int:
        """As the queue's own."""
        assert isinstance(payload, bytes)
        loses_answer = await self.strikes((payload.partition(b" ")[2],))
        receivers = await super().publish(channel, payload)
        if loses_answer:
            raise ConnectionLost("the line broke after the command was written; it may have been run")
        return receivers


NAME, ROOM = "chat", "room"
QUIET_S = 0.3
LIMITS = ConnectionConfig(timeout_s=1.0, connect_timeout_s=1.0, backoff=Backoff(initial_s=0.005, max_s=0.02))


class ChatDesign(NamedTuple):
    """`conversations(queue, name)` has `append(conversation, payload, id)`; `reader(conversations, conversation, handler)`
    has `run` and `stop`.
    """

    conversations: Callable[[MessageQueue, str], Any]
    reader: Callable[[Any, str, Callable[[Numbered], None]], Any]


def _sound_reader(conversations: Conversations, conversation: str, handler: Callable[[Numbered], None]) -> Any:
    return ConversationReader(conversations, conversation, handler, gap_s=0.03, check_s=0.1)


CHAT_DESIGNS = {
    "as it comes": ChatDesign(TwoStepConversations, AsItComesReader),
    "wait for ever": ChatDesign(TwoStepConversations, PatientReader),
    "sound": ChatDesign(Conversations, _sound_reader),
}


class ChatStage:
    """Two gateways, bob, and the fault that strikes one message."""

    def __init__(
        self, server: EmbeddedServer | ExternalServer, run: Run, design: ChatDesign, struck: dict[str, str], lasts: int
    ) -> None:
        self.server, self.run, self._design, self._struck, self._lasts = server, run, design, struck, lasts
        self._hold, self._bob_hold = Hold(), Hold()
        common: dict[str, Any] = {"prefix": server.prefix, "config": LIMITS}
        self._gateways = [Gateway(server.url, name=f"gateway-{number}", **common) for number in (1, 2)]
        self._bob = MessageQueue(server.url, name="bob", sleep=self._bob_hold.sleep, **common)
        for queue in (*self._gateways, self._bob):  # by hand: what travels is "<number> <payload>", not the payload
            queue.reporter = Reporter(queue.name, run.trace)
        self._shown: list[str] = []
        self._late: list[tuple[asyncio.Task[None], int]] = []  # sends that are held, and for how many more messages
        self._away_for = 0
        self._turn = 0
        self._open = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        self._check_available(*self._struck.values())
        try:
            for number, gateway in enumerate(self._gateways, 1):
                gateway.strikes = self._striker(number)
                await self._open.enter_async_context(gateway)
            await self._open.enter_async_context(self._bob)
            await self._read()
        except BaseException:
            await self._open.aclose()
            raise
        self.run.injector = self._inject
        return self

    async def _read(self) -> None:
        reader = self._design.reader(self._design.conversations(self._bob, NAME), ROOM, self._show)
        reading = asyncio.create_task(reader.run())
        self._open.push_async_callback(asyncio.wait, [reading])
        self._open.push_async_callback(reader.stop)

        async def listens() -> bool:
            return bool(await self._bob.subscriber_count(live_channel(NAME, ROOM))) or reading.done()

        await until(listens, "bob's subscription")

    async def __aexit__(self, *exc_info: object) -> None:
        self.run.injector = None
        for task, _ in self._late:
            task.cancel()
        self._bob_hold.open()
        await self._open.aclose()

    async def _inject(self, fault: str) -> None:
        self._check_available(fault)
        self._struck[f"m{self._turn + 1}"] = fault

    def _show(self, numbered: Numbered) -> None:
        self._shown.append(message_id(numbered.payload))
        self._bob.reporter.message(Kind.EFFECT, numbered.payload, NAME)

    # Faults

    def _striker(self, gateway: int) -> Strikes:
        async def strikes(command: tuple[bytes | str, ...]) -> bool:
            said = b"\n".join(word for word in command if isinstance(word, bytes))
            name = next((name for name in self._struck if re.search(rb"\b%b " % name.encode(), said)), "")
            kind = self._struck.pop(name, "")
            if kind == "interleave":
                self._begin(kind)
                await self._hold.passed()
            if kind == "gateway dies":
                self._begin(kind)
                self.run.trace.mark(Kind.FAULT_ENDED, "lab", kind)
                raise ConnectionLost(f"gateway-{gateway} is gone")
            if kind == "answer lost":
                self._begin(kind)
                self.run.trace.mark(Kind.FAULT_ENDED, "lab", kind)
            return kind == "answer lost"

        return strikes

    def _begin(self, kind: str) -> None:
        self.run.trace.mark(Kind.FAULT_BEGAN, "lab", kind)

    def _check_available(self, *faults: str) -> None:
        check_available(self.server, *("cut" if fault == "away" else fault for fault in faults))

    async def _leave(self) -> None:
        await self._bob_hold.close()
        self._begin("away")
        self._away_for = self._lasts
        await cut_connections(self.server.url, "bob")
        await until(lambda: not self._bob.is_connected, "the loss of bob's line")

    async def _come_back(self) -> None:
        self._away_for = 0
        self._bob_hold.open()
        await until(lambda: self._bob.is_connected, "the return of bob's line")
        self.run.trace.mark(Kind.FAULT_ENDED, "lab", "away")

    # One message after the other

    async def send(self, payload: bytes) -> None:
        """Somebody sends; bob has been shown it when this returns, unless something holds it up."""
        name, self._turn = message_id(payload), self._turn + 1
        if self._struck.get(name) == "away":
            del self._struck[name]
            await self._leave()
        if self._struck.get(name) == "interleave":
            await self._hold.close()
            task = asyncio.create_task(self._send_through(0, payload))
            self._late.append((task, self._lasts))
            await until(lambda: name not in self._struck or task.done(), "the fault")
        else:
            first = 0 if name in self._struck else 1 if self._late else (self._turn + 1) % 2
            await self._send_through(first, payload)
            await self._settle()
        await self._count_down()

    async def _send_through(self, first: int, payload: bytes) -> None:
        """A client sends through one gateway, and after an error through the other, with the same id."""
        for gateway in (self._gateways[first], self._gateways[1 - first]):
            conversations = self._design.conversations(gateway, NAME)
            try:
                await conversations.append(ROOM, payload, f"id-{message_id(payload)}")
                return
            except MpimError:
                await self._hear()

    async def _count_down(self) -> None:
        self._late = [(task, left - 1) for task, left in self._late]
        if self._late and self._late[0][1] < 0:
            await self._let_go()
        if self._away_for:
            self._away_for -= 1
            if not self._away_for:
                await self._come_back()
                await self._settle()

    async def _let_go(self) -> None:
        late, self._late = self._late, []
        if late:
            self._hold.open()
            await asyncio.gather(*(task for task, _ in late))
            self.run.trace.mark(Kind.FAULT_ENDED, "lab", "interleave")
            await self._settle()

    async def finish(self) -> None:
        """Let go of what is held, wait for bob, and report what he was never shown although it came to him."""
        await self._let_go()
        if self._away_for:
            await self._come_back()
        await self._settle()
        received = {event.message_id for event in self.run.trace.of(Kind.RECEIVED)}
        for name in sorted(received - set(self._shown), key=lambda name: int(name[1:])):
            self._bob.reporter.message(Kind.STUCK, name.encode(), NAME)

    async def _hear(self) -> None:
        """Return when bob has taken in everything that was published until now: an answer came after it on his line."""
        if not self._away_for:
            await self._bob.subscribe("nothing", lambda _: None)
            await self._bob.unsubscribe("nothing")
            await self._bob.drain()

    async def _settle(self) -> None:
        await self._hear()
        quiet = Quiet(self.run.trace)

        def settled() -> bool:
            added = {event.message_id for event in self.run.trace.of(Kind.ADDED)}
            if added <= set(self._shown) or self._away_for:
                return True
            return quiet.has_lasted(QUIET_S)

        await until(settled, "quiet")
