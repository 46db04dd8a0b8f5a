"""Handshake: from hello to a session (who is it, what has it missed), and its end."""

import asyncio
import contextlib
import logging
from itertools import islice

from websockets.exceptions import ConnectionClosed

from mpim_lab.errors import InvalidMessage, InvalidToken, MpimError, NotConnected
from mpim_lab.events import now
from mpim_lab.im.gateway.config import GatewayConfig, GatewayServices
from mpim_lab.im.gateway.fast_connection import FastServerConnection
from mpim_lab.im.gateway.presence_watcher import PresenceWatcher
from mpim_lab.im.gateway.session import Session, TokenBucket, WriteCoalescer
from mpim_lab.im.gateway.session_registry import SessionRegistry
from mpim_lab.im.protocol.closing import POLICY_VIOLATION, TRY_AGAIN_LATER, close_or_abort
from mpim_lab.im.protocol.frames import Hello, Welcome, decode_client, encode, error_frame
from mpim_lab.im.protocol.requests import BindRouteRequest
from mpim_lab.mq.connection.encoding import new_message_id

# that a welcome names; of the others, those with news get a sync hint right after it
MAX_CONVERSATIONS = 10_000
_log = logging.getLogger(__name__)


class Handshake:
    """The handshake with the clients of one gateway: hello, welcome, session."""

    def __init__(
        self,
        gateway: str,
        services: GatewayServices,
        sessions: SessionRegistry,
        presence_watcher: PresenceWatcher,
        config: GatewayConfig,
    ) -> None:
        self._gateway, self._services, self._sessions = gateway, services, sessions
        self._presence_watcher, self._config = presence_watcher, config
        self._coalescer = WriteCoalescer()

    async def accept(self, ws: FastServerConnection) -> Session:
        """Accept a client.

        Raises InvalidToken, InvalidMessage, NotConnected, and what the connection raises.

        First subscribe, then read what there is: nothing is lost between the two.
        """
        hello = await self._receive_hello(ws)
        try:
            async with asyncio.timeout(self._config.handshake_timeout_s):
                return await self._open_session(ws, hello)
        except TimeoutError as error:
            raise NotConnected(
                f"the gateway was not ready within {self._config.handshake_timeout_s:g} s"
            ) from error

    async def _open_session(self, ws: FastServerConnection, hello: Hello) -> Session:
        """Open a session completely, or release what was acquired by then."""
        uid = await self._services.tokens.redeem(hello.token, self._services.queue)
        route = BindRouteRequest(uid, hello.device, self._gateway, new_message_id())
        config = self._config
        bucket = TokenBucket(rate_per_s=config.rate_per_s, burst=config.burst, now=now())
        session = Session(ws, route, self._coalescer, bucket)
        session.packed, session.sent_ids = hello.packed, None if hello.echo else {}
        try:
            await self._sessions.add(session)
            await self._services.presence.bind_route(route)
            await self._send_welcome(session)
        except BaseException:
            await self.disconnect(session)
            raise
        return session

    async def _receive_hello(self, ws: FastServerConnection) -> Hello:
        try:
            async with asyncio.timeout(self._config.handshake_timeout_s):
                hello = decode_client(await ws.recv())
        except TimeoutError as error:
            raise InvalidToken(f"no hello within {self._config.handshake_timeout_s:g} s") from error
        if not isinstance(hello, Hello):
            raise InvalidMessage("the first frame must be hello")
        return hello

    async def _send_welcome(self, session: Session) -> None:
        uid, messages = session.route.uid, self._services.messages
        known = await messages.conversations(uid)
        conversations = dict(islice(known.items(), MAX_CONVERSATIONS))
        late = {name: last for name, (acked, last) in known.items() if acked < last}
        session.offline = late or None
        frames = await messages.backlog_frames(uid)
        # from here on without an await: what was pushed meanwhile is in `resume_pushes`, and
        # nothing comes in between
        whole, silent_s = len(conversations) == len(known), self._config.idle_timeout_s
        session.enqueue(
            encode(Welcome(uid, self._gateway, conversations, messages.ordered, silent_s, whole))
        )
        for frame in frames:
            session.enqueue(frame)
        session.is_welcome = True
        session.note_lag({name: last for name, last in late.items() if name not in conversations})
        session.resume_pushes()

    async def reject(self, ws: FastServerConnection, error: MpimError) -> None:
        """Reject a client, with an error."""
        problem = error_frame(error)
        with contextlib.suppress(ConnectionClosed, TimeoutError):
            async with asyncio.timeout(self._config.handshake_timeout_s):
                await ws.send(encode(problem), text=True)
        await close_or_abort(
            ws, POLICY_VIOLATION if is_client_error(error) else TRY_AGAIN_LATER, problem.error
        )

    async def disconnect(self, session: Session) -> None:
        """Delete the route of a client that is gone, and unsubscribe from its channel."""
        unneeded = self._sessions.discard(session) + self._presence_watcher.discard(session)
        work = (
            self._sessions.channels.unsubscribe(*unneeded),
            self._services.presence.unbind_route(session.route),
        )
        for error in await asyncio.gather(*work, return_exceptions=True):
            if isinstance(error, MpimError):
                _log.info("%s: what it had is released later: %s", session.route.uid, error)
            elif isinstance(error, BaseException):
                raise error


def is_client_error(error: Exception) -> bool:
    """Return whether the client itself is the reason that it is rejected."""
    return isinstance(error, InvalidToken | InvalidMessage)
