"""ImSystem: the whole system in one process.

Each gateway has its services and its queue; all share one server and one database.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Any, Self

from sqlalchemy.engine import URL

from mpim_lab.errors import InvalidParameter, MpimError, NotConnected, QueueClosed
from mpim_lab.events import Observer
from mpim_lab.im.client.client import Client
from mpim_lab.im.gateway.config import GatewayConfig, GatewayServices
from mpim_lab.im.gateway.gateway import Gateway
from mpim_lab.im.protocol.requests import BroadcastSystemMessageRequest, checked_name
from mpim_lab.im.services.groups import GroupService
from mpim_lab.im.services.messages import MessageService
from mpim_lab.im.services.offline import OfflineStore, database_url
from mpim_lab.im.services.outbox import OutboxWorker
from mpim_lab.im.services.presence import ROUTE_TTL_S, Presence
from mpim_lab.im.services.tokens import TokenService, new_secret
from mpim_lab.mq.connection.bounds import MAX_INT, MAX_WAIT_S, check_bounds, check_times
from mpim_lab.mq.connection.config import ConnectionConfig
from mpim_lab.mq.connection.encoding import new_message_id
from mpim_lab.mq.connection.handler import LoopAffinity
from mpim_lab.mq.idempotency.sql_database import SqlDatabase
from mpim_lab.mq.pubsub.queue import MessageQueue

MAX_GATEWAYS = 1_000  # in one process
MessageServiceFactory = Callable[..., Any]  # (queue, groups, offline, observer=…)
PresenceFactory = Callable[[MessageQueue], Any]


class ImSystem:
    """A whole system: gateways on loopback, and clients for them.

    Use: `async with ImSystem(redis_url) as mpim`. It is used once.

    Args:
        url: The Redis or Valkey server.
        gateways: How many to start, 0 to 1,000.
        database: An SQLAlchemy URL; by default MPIM_DATABASE_URL, or SQLite in memory.
        prefix: Put before every key and channel.
        secret: What tokens are signed with. Several processes need the same one.
        port: The first gateway's; the others' follow. 0: any that are free.
        first: The number in the first gateway's name, "gw-1".
        messages: Makes a message service; the naive one has the same methods.
        presence: Makes a presence service, likewise.
        route_ttl_s: Seconds that a route counts after its gateway's last heartbeat.
        gateway_config: The limits and times of each gateway.
        queue_config: The limits and times of each queue.
        outbox_min_age_s: Seconds after which the outbox is processed for a service that died.
        allow_login: Hand out tokens to whoever names a user. For the lab alone.
        observer: Gets an event for each step of a message.

    Raises:
        InvalidParameter: A number makes no sense, or it is opened twice.
        QueueClosed: It is opened once more after its end.
    """

    def __init__(
        self,
        url: str,
        *,
        gateways: int = 1,
        database: str | URL | None = None,
        prefix: str = "",
        secret: str | None = None,
        port: int = 0,
        first: int = 1,
        messages: MessageServiceFactory = MessageService,
        presence: PresenceFactory | None = None,
        route_ttl_s: float = ROUTE_TTL_S,
        gateway_config: GatewayConfig | None = None,
        queue_config: ConnectionConfig | None = None,
        outbox_min_age_s: float = 2.0,
        allow_login: bool = False,
        observer: Observer | None = None,
    ) -> None:
        check_bounds(0, MAX_GATEWAYS, gateways=gateways)
        check_bounds(0, 65_536 - gateways, port=port)
        check_bounds(0, MAX_INT, first=first)
        check_times(route_ttl_s=route_ttl_s)
        check_bounds(0.0, MAX_WAIT_S, outbox_min_age_s=outbox_min_age_s)
        self.url, self._prefix, self._observer = url, prefix, observer
        self._names = [f"gw-{number}" for number in range(first, first + gateways)]
        self._port, self._gateway_config, self._queue_config = port, gateway_config, queue_config
        self.tokens = TokenService(secret or new_secret())
        self.store = SqlDatabase(database or database_url())
        self.offline = OfflineStore(self.store)
        self._make_messages = messages
        self._make_presence = presence or (lambda queue: Presence(queue, ttl_s=route_ttl_s))
        self._outbox_min_age_s, self._allow_login = outbox_min_age_s, allow_login
        self.gateways: dict[str, Gateway] = {}
        self._running: dict[str, contextlib.AsyncExitStack] = {}
        self._starting, self._home = set[str](), LoopAffinity("this system")
        self._is_opened = self._is_closed = False
        self._stack = contextlib.AsyncExitStack()
        self._own = self._queue("mpim")
        self.services = self._services(self._own)

    # Start and stop

    async def __aenter__(self) -> Self:
        self._home.check()
        if self._is_closed:
            raise self._not_open_error()
        if self._is_opened:
            raise InvalidParameter("the system is open already")
        self._is_opened = True
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(self._own)
            await stack.enter_async_context(self.store)
            stack.push_async_callback(self._stop_all)
            for number, name in enumerate(self._names):
                await self.start(name, port=self._port + number if self._port else 0)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._is_closed = True
        await self._stack.aclose()

    async def start(self, name: str, *, port: int = 0, **queue_options: Any) -> Gateway:
        """Start one more gateway.

        Args:
            name: The gateway's name.
            port: The port to listen on; 0: any that is free.
            queue_options: For its own queue, as `MessageQueue` takes them.

        Returns:
            The gateway, which listens.

        Raises:
            InvalidParameter: One of this name is running or starting.
            NotConnected: The system is not open yet, or the server does not answer.
            QueueClosed: The system is closed.
            ServerFailed: It cannot listen on that port.
        """
        self._home.check()
        if not self._is_opened or self._is_closed:
            raise self._not_open_error()
        if name in self._running or name in self._starting:
            raise InvalidParameter(f"{name!r} is running already")
        self._starting.add(name)
        try:
            return await self._start(name, port, queue_options)
        finally:
            self._starting.discard(name)

    async def _start(self, name: str, port: int, queue_options: dict[str, Any]) -> Gateway:
        async with contextlib.AsyncExitStack() as stack:
            made: list[Gateway] = []  # the queue is there before its gateway
            queue = self._queue(name, on_gap=lambda gap_s: made[0].on_gap(gap_s), **queue_options)
            services = self._services(queue)
            gateway = Gateway(
                name,
                services,
                port=port,
                config=self._gateway_config,
                allow_login=self._allow_login,
                observer=self._observer,
            )
            made.append(gateway)
            await stack.enter_async_context(queue)
            await stack.enter_async_context(gateway)
            if services.messages.ordered:  # the naive version has no outbox
                await stack.enter_async_context(
                    OutboxWorker(services.messages, min_age_s=self._outbox_min_age_s)
                )
            if self._is_closed:  # meanwhile: it is not among those that were stopped
                raise self._not_open_error()
            self._running[name], self.gateways[name] = stack.pop_all(), gateway
        return gateway

    async def stop(self, name: str) -> None:
        """Close a gateway: its clients are sent elsewhere, and nothing is lost.

        Args:
            name: The gateway's name.

        Raises:
            InvalidParameter: No gateway of this name is running.
        """
        self._home.check()
        self._gateway(name)
        del self.gateways[name]
        await self._running.pop(name).aclose()

    async def kill(self, name: str) -> None:
        """End a gateway as if its process had died.

        No bye, its routes stay, what it had begun is left undone.

        Args:
            name: The gateway's name.

        Raises:
            InvalidParameter: No gateway of this name is running.
        """
        self._home.check()
        gateway = self._gateway(name)
        del self.gateways[name]
        await gateway.abort()
        await self._running.pop(name).aclose()

    async def _stop_all(self) -> None:
        """Stop all at the same time.

        It takes as long as the slowest, and each is stopped whatever another raises.
        """
        stops = [self.stop(name) for name in self.gateways]
        for error in await asyncio.gather(*stops, return_exceptions=True):
            if isinstance(error, BaseException):
                raise error

    def _not_open_error(self) -> MpimError:
        if self._is_closed:
            return QueueClosed("the system is closed; make another one")
        return NotConnected(f"not opened yet: write `async with {type(self).__name__}(…) as mpim:`")

    def _queue(self, name: str, **options: Any) -> MessageQueue:
        common: dict[str, Any] = {"prefix": self._prefix, "config": self._queue_config}
        return MessageQueue(self.url, name=name, **common, **options)

    def _services(self, queue: MessageQueue) -> GatewayServices:
        groups = GroupService(self.store, queue)
        messages = self._make_messages(queue, groups, self.offline, observer=self._observer)
        return GatewayServices(queue, self._make_presence(queue), groups, messages, self.tokens)

    # Using it

    @property
    def addresses(self) -> list[str]:
        """The addresses that clients connect to."""
        return [gateway.url for gateway in self.gateways.values()]

    def client(self, uid: str, *, at: Sequence[str] = (), **options: Any) -> Client:
        """Make a client for a user, not yet connected.

        Args:
            uid: The user.
            at: Names of the gateways that it tries, in this order; all if none is named.
            options: As `Client` takes them.

        Returns:
            The client: `async with` connects it.

        Raises:
            InvalidParameter: `uid` is no name, or no such gateway is running.
        """
        checked_name("uid", uid)
        addresses = [
            self._gateway(name).url
            for name in ([at] if isinstance(at, str) else at) or self.gateways
        ]
        given = {"name": uid, "observer": self._observer} | options
        return Client(addresses, lambda: self.tokens.issue(uid), **given)

    def _gateway(self, name: str) -> Gateway:
        if name not in self.gateways:
            raise InvalidParameter(
                f"no gateway {name!r} is running; there are: {', '.join(self.gateways) or 'none'}"
            )
        return self.gateways[name]

    async def broadcast(self, text: str) -> int:
        """Send a system notice to everybody who is online.

        Args:
            text: 1 to 100,000 characters.

        Returns:
            How many gateways have it.

        Raises:
            InvalidMessage: The text is too long, or none.
        """
        request = BroadcastSystemMessageRequest(new_message_id(), text)
        return (await self.services.messages.broadcast_system_message(request)).gateways
