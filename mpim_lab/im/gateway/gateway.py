"""Gateway: clients connect to it by WebSocket; it asks the services for them, and passes pushes on to them.

A client's message: `QuickConnection`, `Desk.answer_at_once`, `QuickSend`, one script on the server; or, if it needs more,
`_converse` here, `Desk.answer`, `Messages.send_message`, the same script. A push: the server, `_on_push` here,
`Session.push`, the client. A gateway subscribes to the channels of its own clients and to nobody else's; any number of them
work side by side over one server, and know nothing of each other.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Self, cast

from websockets.asyncio.server import Server, serve
from websockets.exceptions import ConnectionClosed

from mpim_lab.errors import GatewayClosed, MpimError, ServerFailed
from mpim_lab.events import Observer, Reporter
from mpim_lab.im.gateway.ack_buffer import Acknowledgements
from mpim_lab.im.gateway.config import GatewayLimits, Services
from mpim_lab.im.gateway.fast_connection import QuickConnection
from mpim_lab.im.gateway.frame_handler import Desk, TooManyFaults
from mpim_lab.im.gateway.handshake import Incoming, Reception, is_of_the_client
from mpim_lab.im.gateway.http import Pages
from mpim_lab.im.gateway.maintenance import Patrol
from mpim_lab.im.gateway.metrics import Figures, GatewayCollector, exposition
from mpim_lab.im.gateway.session import Outgoing, Session, answered
from mpim_lab.im.gateway.session_registry import Lobby, Watching
from mpim_lab.im.protocol.closing import GOING_AWAY, POLICY, TRY_LATER, hang_up
from mpim_lab.im.protocol.frames import MOST_FRAME_BYTES, Bye, encode, push_of
from mpim_lab.im.protocol.requests import checked_name
from mpim_lab.keys import BROADCAST_CHANNEL, gateway_channel
from mpim_lab.mq.connection.bounds import check_bounds
from mpim_lab.mq.connection.encoding import Message
from mpim_lab.mq.connection.handler import LoopAffinity

_A_CLIENT_S = 0.002
_log = logging.getLogger(__name__)


class Gateway:
    """`async with Gateway("gw-1", services) as gateway`: listens on loopback until the block ends, then drains.

    port 0: any that is free. allow_login: hand out tokens to whoever names a user: for the lab alone.
    name: clients and metrics are told it. Two gateways of one name do not take each other's pushes or routes, which go by
    user and by connection; only their figures cannot be told apart.

    | it ends by ...               | connections          | routes, subscriptions | acknowledgements | socket, tasks  |
    |------------------------------|----------------------|-----------------------|------------------|----------------|
    | `drain`                      | bye, then closed     | given back            | written          | given back     |
    | `drain`, server or peers     | bye, then cut off    | end by themselves     | lost: pulled     | given back     |
    | hang; or it is cancelled     |                      |                       | once more        |                |
    | a start that failed          | none                 | given back            | none             | given back     |
    | `die`                        | cut off              | end by themselves     | lost             | given back     |
    """

    def __init__(
        self,
        name: str,
        services: Services,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        limits: GatewayLimits | None = None,
        allow_login: bool = False,
        observer: Observer | None = None,
    ) -> None:
        check_bounds(0, 65_535, port=port)  # 0: any that is free
        self._reporter = reporter = Reporter(name, observer)
        self.name, self.services, self.host, self.port = checked_name("gateway", name), services, host, port
        self.limits, self.figures = limits or GatewayLimits(), Figures()
        self.lobby = Lobby(services.queue, self._on_push, self._on_status)
        self._acks = Acknowledgements(services.messages, self.limits.ack_every_s)
        watching = Watching(self.lobby, services.presence)
        self._desk = Desk(services, watching, self._acks, self.figures, self.limits, reporter)
        self._reception = Reception(name, services, self.lobby, self.limits, Outgoing().mark)
        self.patrol = Patrol(services, self.lobby, watching, self.figures, self.limits, self.end)
        self._pages = Pages(
            login=services.tokens.issue if allow_login else None, is_healthy=self.is_healthy, metrics=self.metrics
        )
        self._tasks: set[asyncio.Task[None]] = set()
        self._home = LoopAffinity(f"gateway {name}")
        self._handlers: set[asyncio.Task[Any]] = set()  # one for each connection
        self._stack, self._incoming = contextlib.AsyncExitStack(), Incoming()
        self.connections: set[QuickConnection] = set()  # those, too, before hello and in farewell
        self._server: Server | None = None
        self._draining = self._dead = False

    # Life

    @property
    def url(self) -> str:
        """Where clients connect to."""
        return f"ws://{self.host}:{self.port}/ws"

    def is_healthy(self) -> bool:
        """Whether it can do its work: it is not closing, and the lines to the server are up."""
        return not self._draining and self.services.queue.is_connected

    def metrics(self) -> bytes:
        """Its figures, as Prometheus reads them."""
        return exposition(GatewayCollector(self.name, self.figures, lambda: len(self.lobby), self.is_healthy))

    async def __aenter__(self) -> Self:
        if self._server is not None or self._draining:
            raise GatewayClosed(f"the gateway {self.name} is used once; make another one")
        self._home.check()
        async with contextlib.AsyncExitStack() as stack:
            await self._hear(stack, BROADCAST_CHANNEL, self._on_notice)
            await self._hear(stack, gateway_channel(self.name), self._on_own_channel)
            await stack.enter_async_context(self._acks)
            try:
                self._server = await self._listen()
            except OSError as error:
                raise ServerFailed(f"{self.name} cannot listen on {self.host}:{self.port}: {error}") from error
            if self._draining:
                self._server.close()
                raise GatewayClosed(f"the gateway {self.name} was closed while it was opened")
            self._stack = stack.pop_all()
        self.port = next(iter(self._server.sockets)).getsockname()[1]
        self._start(self.patrol.run())
        return self

    async def _hear(self, stack: contextlib.AsyncExitStack, channel: str, take: Callable[[Message], None]) -> None:
        await self.services.queue.subscribe(channel, take)
        stack.push_async_callback(self._leave, channel)

    async def _leave(self, channel: str) -> None:
        with contextlib.suppress(MpimError):
            await self.services.queue.unsubscribe(channel)

    async def _listen(self) -> Server:
        return await serve(
            cast(Any, self._serve),  # of the connections that `make` makes
            self.host,
            self.port,
            process_request=self._pages.answer,
            create_connection=cast(Any, self._incoming.make),  # it calls like the class
            max_size=MOST_FRAME_BYTES,
            compression=None,  # packed frames are compressed by us, and a context a client would cost 64 KiB
            ping_interval=None,  # the patrol knows who is silent, without a task a client
            max_queue=8,
            close_timeout=2,
            open_timeout=self.limits.hello_s,
            backlog=1_024,
        )

    async def __aexit__(self, *exc_info: object) -> None:
        await self.drain()

    async def drain(self) -> None:
        """Take in nobody new, let what was begun end, send everybody elsewhere, write what is due. Twice is harmless.

        Takes `drain_s` for what is under way and `close_timeout_s` for the rest, whatever clients and server do; and two
        milliseconds a client, so that ten thousand who part in good order are not cut off.
        """
        self._home.check()
        if self._draining:
            return
        self._draining = True
        if self._server is None:  # not open; if it is being opened, that ends it
            return
        try:
            self._server.close(close_connections=False)
            for session in self.lobby:
                session.ws.on_frame = None
                session.say(encode(Bye("the gateway closes; connect to another one")))
            await answered(self.lobby, self.limits.drain_s)
            within_s = self.limits.close_timeout_s + _A_CLIENT_S * len(self.connections)
            async with asyncio.timeout(within_s):
                await self._let_end(self._server)
        except TimeoutError:
            _log.warning("%s: not everything ended in time: it is cut off", self.name)
        finally:
            self._cut_off()

    async def _let_end(self, server: Server) -> None:
        await asyncio.gather(*(hang_up(ws, GOING_AWAY, "the gateway closes") for ws in list(self.connections)))
        self._incoming.drop()
        await server.wait_closed()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._desk.quick.ended()
        await self._stack.aclose()

    def _cut_off(self) -> None:
        """Give back what is left, without waiting for anything or anybody."""
        for ws in self.connections:
            ws.transport.abort()
        self._incoming.drop()
        self._desk.quick.drop()
        self._acks.cut_off()
        self.lobby.channels.cut_off()
        for task in (*self._tasks, *self._handlers):
            task.cancel()

    async def die(self) -> None:
        """End at once, as a process does that is killed: no good-bye, no unbinding, nothing written."""
        self._home.check()
        self._draining = self._dead = True
        if self._server is not None:
            self._server.close()
        self._cut_off()

    # Clients

    async def _serve(self, ws: QuickConnection) -> None:
        if self._draining or len(self.connections) >= self.limits.most_clients:
            return await ws.close(TRY_LATER, "connect to another gateway")
        self.connections.add(ws)
        self._handlers.add(task := cast("asyncio.Task[Any]", asyncio.current_task()))
        self._incoming.is_in(ws)
        try:
            session = await self._reception.welcome(ws)
            self.figures.welcomed += 1
            try:
                await self._converse(session)
            finally:
                if not self._dead:
                    await self._reception.farewell(session)
        except MpimError as error:
            self.figures.refused += is_of_the_client(error)
            await self._reception.turn_away(ws, error)
        except ConnectionClosed:
            pass
        finally:
            await self._let_go(ws, task)
        return None

    async def _let_go(self, ws: QuickConnection, task: asyncio.Task[Any]) -> None:
        """However its handler ended: nothing of it is left."""
        try:
            if not self._dead:
                await hang_up(ws, GOING_AWAY, "")
        finally:
            self.connections.discard(ws)
            self._handlers.discard(task)

    async def _converse(self, session: Session) -> None:
        ws = session.ws
        ws.waiting -= 1  # hello
        ws.on_frame = partial(self._desk.answer_at_once, session)
        try:
            async for frame in ws:
                if self._draining:  # it will say this again, elsewhere
                    continue
                session.under_way += 1
                try:
                    await self._desk.answer(session, frame)
                finally:
                    session.under_way -= 1
                    ws.waiting -= 1
                if session.is_flooded(self.limits.most_bytes):
                    return self.patrol.end_slow(session)
        except ConnectionClosed:
            pass
        except TooManyFaults as error:
            ws.on_frame = None  # whatever else it says
            await answered([session], self.limits.drain_s)
            await hang_up(ws, POLICY, f"too many faults: {error}")
        finally:
            ws.on_frame = None

    def end(self, session: Session, reason: str) -> None:
        """End a connection, once, and say why if it still listens."""
        if not session.is_ending:
            session.is_ending = True
            session.say(encode(Bye(reason)))
            self._start(hang_up(session.ws, POLICY, reason))

    # From the server

    def _on_push(self, message: Message) -> None:
        message_id, conversation, sequence, frame = push_of(message.payload)
        channel: Any = message.channel  # text: users' names are narrow
        self._reporter.passed(message_id, self.name, source=channel)
        for session in self.lobby.of(channel[5:]):  # what follows "user:"
            if session.push(message_id, conversation, sequence, frame, self.limits.outbox_bytes):
                self.figures.pushed += 1
            else:
                self.figures.held_back += 1

    def _on_status(self, message: Message) -> None:
        uid = str(message.channel).removeprefix("user:status:")
        self.lobby.note_status(uid)
        self.patrol.tell_status(uid, message.text.partition(":")[0])

    def _on_notice(self, message: Message) -> None:
        frame = message.payload.partition(b" ")[2]
        for session in self.lobby:
            if session.is_welcome and session.behind is None:
                session.say(frame)

    def _on_own_channel(self, message: Message) -> None:
        word, _, connection = message.text.partition(" ")
        session = self.lobby.by_connection(connection)
        if word == "replaced" and session is not None:
            self.figures.replaced += 1
            self.end(session, "replaced: this device is connected elsewhere")

    def on_gap(self, gap_s: float) -> None:
        """The line from the server was down for so long: pushes were lost. For the queue's `on_gap`."""
        _log.info("%s: nothing was heard for %.2f s", self.name, gap_s)
        self.patrol.note_gap()  # it tells them in its next round

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
