"""Gateway: clients connect to it by WebSocket.

It calls the services for them, and passes pushes on to them.

A client's message: `FastServerConnection`, `FrameHandler.on_frame`, `FastSender`, one script on the
server. If it has to wait, `_read_loop` here goes on with it: `FrameHandler.handle`,
`MessageService.send_message`, the same script. A push: the server, `_on_push` here, `Session.push`,
the client. A gateway subscribes to the channels of its own clients and to nobody else's; any number
of them work side by side over one server, and know nothing of each other.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Self, cast
from weakref import WeakSet

from websockets.asyncio.server import Server, serve
from websockets.exceptions import ConnectionClosed

from mpim_lab.errors import GatewayClosed, MpimError, ServerFailed
from mpim_lab.events import Observer, Reporter
from mpim_lab.im.gateway.ack_buffer import AckBuffer
from mpim_lab.im.gateway.config import GatewayConfig, GatewayServices
from mpim_lab.im.gateway.fast_connection import FastServerConnection
from mpim_lab.im.gateway.frame_handler import FrameHandler, TooManyViolations
from mpim_lab.im.gateway.handshake import Handshake, is_client_error
from mpim_lab.im.gateway.http import HttpRoutes
from mpim_lab.im.gateway.maintenance import GatewayMaintenance
from mpim_lab.im.gateway.metrics import GatewayMetrics, MetricsCollector, render_metrics
from mpim_lab.im.gateway.presence_watcher import PresenceWatcher
from mpim_lab.im.gateway.session import Session, wait_until_idle
from mpim_lab.im.gateway.session_registry import SessionRegistry
from mpim_lab.im.protocol.closing import (
    GOING_AWAY,
    POLICY_VIOLATION,
    TRY_AGAIN_LATER,
    close_or_abort,
)
from mpim_lab.im.protocol.frames import MAX_FRAME_BYTES, Close, decode_push, encode
from mpim_lab.im.protocol.requests import checked_name
from mpim_lab.keys import BROADCAST_CHANNEL, gateway_channel
from mpim_lab.mq.connection.bounds import check_bounds
from mpim_lab.mq.connection.encoding import Message
from mpim_lab.mq.connection.handler import LoopAffinity

_CLOSE_PER_CLIENT_S = 0.002
_log = logging.getLogger(__name__)


class Gateway:
    """One gateway, to which clients connect.

    `async with Gateway("gw-1", services) as gateway` listens until the block ends, then drains. It
    is used once.

    | it ends by ...    | connections       | routes, channels | acks              | socket, tasks |
    |-------------------|-------------------|------------------|-------------------|---------------|
    | `drain`           | bye, then closed  | released         | written           | released      |
    | `drain`, and the  | bye, then aborted | expire           | lost: pulled once | released      |
    | server or peers   |                   |                  | more              |               |
    | hang, or it is    |                   |                  |                   |               |
    | cancelled         |                   |                  |                   |               |
    | a start that      | none              | released         | none              | released      |
    | failed            |                   |                  |                   |               |
    | `abort`           | aborted           | expire           | lost              | released      |

    Args:
        name: For clients and metrics. Two gateways may share one; pushes and routes go by user and
            connection, so only their metrics cannot be told apart.
        services: What it calls for its clients.
        host: The address to listen on.
        port: The port to listen on; 0: any that is free.
        config: Its limits and times.
        allow_login: Hand out tokens to whoever names a user. For the lab alone.
        observer: Gets an event for each step of a message.

    Raises:
        InvalidParameter: `name` is no name, or `port` no port.
        GatewayClosed: It is opened once more.
        ServerFailed: It cannot listen there.
    """

    def __init__(
        self,
        name: str,
        services: GatewayServices,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        config: GatewayConfig | None = None,
        allow_login: bool = False,
        observer: Observer | None = None,
    ) -> None:
        check_bounds(0, 65_535, port=port)  # 0: any that is free
        self._reporter = reporter = Reporter(name, observer)
        self.name, self.services = checked_name("gateway", name), services
        self.host, self.port = host, port
        self.config, self.metrics = config or GatewayConfig(), GatewayMetrics()
        self.sessions = SessionRegistry(services.queue, self._on_push)
        self._acks = AckBuffer(services.messages, self.config.ack_flush_interval_s)
        self.presence_watcher = watcher = PresenceWatcher(self.sessions, services.presence)
        self._frame_handler = FrameHandler(
            services, watcher, self._acks, self.metrics, self.config, reporter
        )
        self._handshake = Handshake(name, services, self.sessions, watcher, self.config)
        self.maintenance = GatewayMaintenance(
            services, self.sessions, watcher, self.metrics, self.config, self.close_session
        )
        self._routes = HttpRoutes(
            login=services.tokens.issue if allow_login else None,
            is_healthy=self.is_healthy,
            metrics=self.render_metrics,
        )
        self._tasks: set[asyncio.Task[None]] = set()
        self._home = LoopAffinity(f"gateway {name}")
        self._handlers: set[asyncio.Task[Any]] = set()  # one for each connection
        self._stack = contextlib.AsyncExitStack()
        # before the WebSocket handshake is done; then, also before hello and after the session
        self._opening: WeakSet[FastServerConnection] = WeakSet()
        self.connections: set[FastServerConnection] = set()
        self._server: Server | None = None
        self._draining = self._dead = False

    # Start and stop

    @property
    def url(self) -> str:
        """Where clients connect to."""
        return f"ws://{self.host}:{self.port}/ws"

    def is_healthy(self) -> bool:
        """Check whether it can do its work.

        Returns:
            True while it is not closing, and the connections to the server are up.
        """
        return not self._draining and self.services.queue.is_connected

    def render_metrics(self) -> bytes:
        """Render its metrics.

        Returns:
            The text that Prometheus reads.
        """
        return render_metrics(
            MetricsCollector(self.name, self.metrics, lambda: len(self.sessions), self.is_healthy)
        )

    async def __aenter__(self) -> Self:
        if self._server is not None or self._draining:
            raise GatewayClosed(f"the gateway {self.name} is used once; make another one")
        self._home.check()
        async with contextlib.AsyncExitStack() as stack:
            await self._subscribe(stack, BROADCAST_CHANNEL, self._on_broadcast)
            await self._subscribe(stack, gateway_channel(self.name), self._on_control_message)
            await stack.enter_async_context(self._acks)
            try:
                self._server = await self._listen()
            except OSError as error:
                raise ServerFailed(
                    f"{self.name} cannot listen on {self.host}:{self.port}: {error}"
                ) from error
            if self._draining:
                self._server.close()
                raise GatewayClosed(f"the gateway {self.name} was closed while it was opened")
            self._stack = stack.pop_all()
        self.port = next(iter(self._server.sockets)).getsockname()[1]
        self._start(self.maintenance.run())
        return self

    async def _subscribe(
        self, stack: contextlib.AsyncExitStack, channel: str, handler: Callable[[Message], None]
    ) -> None:
        await self.services.queue.subscribe(channel, handler)
        stack.push_async_callback(self._unsubscribe, channel)

    async def _unsubscribe(self, channel: str) -> None:
        with contextlib.suppress(MpimError):
            await self.services.queue.unsubscribe(channel)

    async def _listen(self) -> Server:
        return await serve(
            cast(Any, self._serve),  # of the connections that `create` makes
            self.host,
            self.port,
            process_request=self._routes.handle,
            create_connection=cast(Any, self._create_connection),  # it calls like the class
            max_size=MAX_FRAME_BYTES,
            # packed frames are compressed by us, and a context a client would cost 64 KiB
            compression=None,
            # maintenance knows who is silent, without a task a client
            ping_interval=None,
            max_queue=8,
            close_timeout=2,
            open_timeout=self.config.handshake_timeout_s,
            backlog=1_024,
        )

    def _create_connection(self, *arguments: Any, **options: Any) -> FastServerConnection:
        ws = FastServerConnection(*arguments, **options)
        self._opening.add(ws)
        return ws

    def _abort_opening(self) -> None:
        """Abort handshakes: a silent one would delay the end."""
        for ws in list(self._opening):
            if hasattr(ws, "transport"):  # it has one as soon as the loop has given it its socket
                ws.transport.abort()

    async def __aexit__(self, *exc_info: object) -> None:
        await self.drain()

    async def drain(self) -> None:
        """Accept nobody new, finish what was begun, send everybody elsewhere, flush what is due.

        Idempotent. It takes `drain_timeout_s` for what is in flight and `close_timeout_s` for the
        rest, whatever clients and server do. Each client adds two milliseconds, so that ten
        thousand that close in good order are not aborted.

        Raises:
            WrongLoop: It is used in another event loop or process.
        """
        self._home.check()
        if self._draining:
            return
        self._draining = True
        if self._server is None:  # not open; if it is being opened, that ends it
            return
        try:
            self._server.close(close_connections=False)
            for session in self.sessions:
                session.ws.on_frame = None
                session.enqueue(encode(Close("the gateway closes; connect to another one")))
            await wait_until_idle(self.sessions, self.config.drain_timeout_s)
            timeout_s = self.config.close_timeout_s + _CLOSE_PER_CLIENT_S * len(self.connections)
            async with asyncio.timeout(timeout_s):
                await self._close_gracefully(self._server)
        except TimeoutError:
            _log.warning("%s: not everything ended in time: it is aborted", self.name)
        finally:
            self._abort_all()

    async def _close_gracefully(self, server: Server) -> None:
        await asyncio.gather(
            *(close_or_abort(ws, GOING_AWAY, "the gateway closes") for ws in list(self.connections))
        )
        self._abort_opening()
        await server.wait_closed()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._frame_handler.fast_sender.wait_idle()
        await self._stack.aclose()

    def _abort_all(self) -> None:
        """Release what is left, without waiting for anything."""
        for ws in self.connections:
            ws.transport.abort()
        self._abort_opening()
        self._frame_handler.fast_sender.abort()
        self._acks.abort()
        self.sessions.channels.abort()
        for task in (*self._tasks, *self._handlers):
            task.cancel()

    async def abort(self) -> None:
        """End at once, like a killed process: no bye, no unbinding, nothing flushed.

        Raises:
            WrongLoop: It is used in another event loop or process.
        """
        self._home.check()
        self._draining = self._dead = True
        if self._server is not None:
            self._server.close()
        self._abort_all()

    # Clients

    async def _serve(self, ws: FastServerConnection) -> None:
        if self._draining or len(self.connections) >= self.config.max_clients:
            return await ws.close(TRY_AGAIN_LATER, "connect to another gateway")
        self.connections.add(ws)
        self._handlers.add(task := cast("asyncio.Task[Any]", asyncio.current_task()))
        self._opening.discard(ws)
        try:
            session = await self._handshake.accept(ws)
            self.metrics.welcomed += 1
            try:
                await self._read_loop(session)
            finally:
                if not self._dead:
                    await self._handshake.disconnect(session)
        except MpimError as error:
            self.metrics.refused += is_client_error(error)
            await self._handshake.reject(ws, error)
        except ConnectionClosed:
            pass
        finally:
            await self._release(ws, task)
        return None

    async def _release(self, ws: FastServerConnection, task: asyncio.Task[Any]) -> None:
        """Release a connection, however its handler ended."""
        try:
            if not self._dead:
                await close_or_abort(ws, GOING_AWAY, "")
        finally:
            self.connections.discard(ws)
            self._handlers.discard(task)

    async def _read_loop(self, session: Session) -> None:
        ws = session.ws
        ws.unread_frames -= 1  # hello
        ws.on_frame = partial(self._frame_handler.on_frame, session)
        try:
            async for frame in ws:
                if self._draining:  # it will send this again, elsewhere
                    continue
                session.in_flight += 1
                try:
                    await self._frame_handler.handle(session, frame)
                finally:
                    session.in_flight -= 1
                    ws.unread_frames -= 1
                if session.is_over_limit(self.config.max_send_buffer_bytes):
                    return self.maintenance.close_slow_consumer(session)
        except ConnectionClosed:
            pass
        except TooManyViolations as error:
            ws.on_frame = None  # whatever else it sends
            await wait_until_idle([session], self.config.drain_timeout_s)
            await close_or_abort(ws, POLICY_VIOLATION, f"too many violations: {error}")
        finally:
            ws.on_frame = None

    def close_session(self, session: Session, reason: str) -> None:
        """Close a session, once.

        Args:
            session: The client to close.
            reason: What its `bye` says.
        """
        if not session.is_ending:
            session.is_ending = True
            session.enqueue(encode(Close(reason)))
            self._start(close_or_abort(session.ws, POLICY_VIOLATION, reason))

    # Messages from the server

    def _on_push(self, message: Message) -> None:
        message_id, conversation, sequence, frame = decode_push(message.payload)
        channel: Any = message.channel  # text: user names are ASCII
        if self._reporter.is_on:
            self._reporter.hop(message_id, self.name, source=channel)
        for session in self.sessions.by_user.get(channel[5:], ()):  # what follows "user:"
            if session.push(
                message_id, conversation, sequence, frame, self.config.max_push_buffer_bytes
            ):
                self.metrics.pushed += 1
            else:
                self.metrics.held_back += 1

    def _on_broadcast(self, message: Message) -> None:
        frame = message.payload.partition(b" ")[2]
        for session in self.sessions:
            if session.is_welcome and session.lagging is None:
                session.enqueue(frame)

    def _on_control_message(self, message: Message) -> None:
        word, _, connection = message.text.partition(" ")
        session = self.sessions.by_connection.get(connection)
        if word == "replaced" and session is not None:
            self.metrics.replaced += 1
            self.close_session(session, "replaced: this device is connected elsewhere")

    def on_gap(self, gap_s: float) -> None:
        """Note that the connection from the server was down: pushes were lost.

        Args:
            gap_s: For how many seconds. The queue's `on_gap` calls this.
        """
        _log.info("%s: nothing was received for %.2f s", self.name, gap_s)
        self.maintenance.note_gap()  # its next round notifies them

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
