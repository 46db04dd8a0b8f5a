"""Reception: a client comes (who is it, what has it missed), and goes.

Incoming: connections of a gateway before their first frame.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from itertools import islice
from typing import Any
from weakref import WeakSet

from websockets.exceptions import ConnectionClosed

from mpim_lab.errors import InvalidMessage, InvalidToken, MpimError, NotConnected
from mpim_lab.events import now
from mpim_lab.im.gateway.config import GatewayLimits, Services
from mpim_lab.im.gateway.fast_connection import QuickConnection
from mpim_lab.im.gateway.rate_limit import TokenBucket
from mpim_lab.im.gateway.session import Session
from mpim_lab.im.gateway.session_registry import Lobby
from mpim_lab.im.protocol.closing import POLICY, TRY_LATER, hang_up
from mpim_lab.im.protocol.frames import Hello, Welcome, encode, from_client, problem_of
from mpim_lab.im.protocol.requests import BindRouteReq
from mpim_lab.mq.connection.ids import new_message_id


class Incoming:
    """Sockets that were taken in and have not done the WebSocket handshake. `make` is for `serve(create_connection=…)`."""

    def __init__(self) -> None:
        self._waiting: WeakSet[QuickConnection] = WeakSet()

    def make(self, *arguments: Any, **options: Any) -> QuickConnection:
        """A connection for a socket that has just been taken in."""
        ws = QuickConnection(*arguments, **options)
        self._waiting.add(ws)
        return ws

    def is_in(self, ws: QuickConnection) -> None:
        """The handshake is done."""
        self._waiting.discard(ws)

    def drop(self) -> None:
        """Drop those that still wait: whoever says nothing would hold up a gateway that closes."""
        for ws in list(self._waiting):
            if hasattr(ws, "transport"):  # it has one as soon as the loop has given it its socket
                ws.transport.abort()


MOST_CONVERSATIONS = 10_000  # that a welcome names; of the others, those with news are told of right after it
_log = logging.getLogger(__name__)


class Reception:
    """One for all clients of a gateway."""

    def __init__(
        self, gateway: str, services: Services, lobby: Lobby, limits: GatewayLimits, on_dirty: Callable[[Session], None]
    ) -> None:
        self._gateway, self._services, self._lobby = gateway, services, lobby
        self._limits, self._on_dirty = limits, on_dirty

    async def welcome(self, ws: QuickConnection) -> Session:
        """Let a client in. Raises InvalidToken, InvalidMessage, NotConnected, and what `ReconnectingConnection` raises.

        First listen, then look what there is: whatever comes in between is heard, and nothing falls between the two.
        """
        hello = await self._hear_hello(ws)
        try:
            async with asyncio.timeout(self._limits.hello_s):
                return await self._let_in(ws, hello)
        except TimeoutError as error:
            raise NotConnected(f"the gateway was not ready within {self._limits.hello_s:g} s") from error

    async def _let_in(self, ws: QuickConnection, hello: Hello) -> Session:
        """Either all of it, or none: what was taken by then is given back."""
        uid = await self._services.tokens.admit(hello.token, self._services.queue)
        route = BindRouteReq(uid, hello.device, self._gateway, new_message_id())
        session = Session(ws, route, self._on_dirty, self._bucket())
        session.packed, session.own = hello.packed, None if hello.echo else {}
        try:
            await self._lobby.enter(session)
            await self._services.presence.bind_route(route)
            await self._say_welcome(session)
        except BaseException:
            await self.farewell(session)
            raise
        return session

    async def _hear_hello(self, ws: QuickConnection) -> Hello:
        try:
            async with asyncio.timeout(self._limits.hello_s):
                hello = from_client(await ws.recv())
        except TimeoutError as error:
            raise InvalidToken(f"no hello within {self._limits.hello_s:g} s") from error
        if not isinstance(hello, Hello):
            raise InvalidMessage("the first frame must be hello")
        return hello

    async def _say_welcome(self, session: Session) -> None:
        uid, messages = session.route.uid, self._services.messages
        known = await messages.conversations(uid)
        conversations = dict(islice(known.items(), MOST_CONVERSATIONS))
        late = {name: last for name, (acked, last) in known.items() if acked < last}
        session.stored = late or None
        frames = await messages.on_welcome(uid)
        # from here on in one turn: what was pushed meanwhile is told of by `catch_up`, and nothing comes in between
        whole, silent_s = len(conversations) == len(known), self._limits.silent_s
        session.say(encode(Welcome(uid, self._gateway, conversations, messages.ordered, silent_s, whole)))
        for frame in frames:
            session.say(frame)
        session.is_welcome = True
        session.note_behind({name: last for name, last in late.items() if name not in conversations})
        session.catch_up()

    async def turn_away(self, ws: QuickConnection, error: MpimError) -> None:
        """Tell a client why it is not let in."""
        problem = problem_of(error)
        with contextlib.suppress(ConnectionClosed, TimeoutError):
            async with asyncio.timeout(self._limits.hello_s):
                await ws.send(encode(problem), text=True)
        await hang_up(ws, POLICY if is_of_the_client(error) else TRY_LATER, problem.error)

    async def farewell(self, session: Session) -> None:
        """A client is gone: its route is deleted, and its channel not listened to any more."""
        unneeded = self._lobby.take_out(session)
        work = (self._lobby.channels.drop(*unneeded), self._services.presence.unbind_route(session.route))
        for error in await asyncio.gather(*work, return_exceptions=True):
            if isinstance(error, MpimError):
                _log.info("%s: what it had is given back later: %s", session.route.uid, error)
            elif isinstance(error, BaseException):
                raise error

    def _bucket(self) -> TokenBucket:
        return TokenBucket(rate_per_s=self._limits.rate_per_s, burst=self._limits.burst, now=now())


def is_of_the_client(error: Exception) -> bool:
    """Whether it is the client's own fault that it is not let in."""
    return isinstance(error, InvalidToken | InvalidMessage)
