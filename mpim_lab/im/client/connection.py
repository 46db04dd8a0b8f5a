"""GatewayConnection: a client's WebSocket to some gateway.

It reconnects by itself, to the next one if this one is gone.
"""

import asyncio
import inspect
import itertools
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidURI, WebSocketException
from websockets.uri import parse_uri

from mpim_lab import errors
from mpim_lab.errors import CorruptPayload, InvalidParameter, MpimError, NotConnected
from mpim_lab.events import now
from mpim_lab.im.protocol.closing import close_or_abort
from mpim_lab.im.protocol.frames import (
    Close,
    ErrorFrame,
    FromGateway,
    Hello,
    Ping,
    Welcome,
    decode_gateway,
    encode,
)
from mpim_lab.mq.compression.codec import Codec
from mpim_lab.mq.compression.framing import decode_messages, frame_type
from mpim_lab.mq.connection.handler import TaskCancellation, check_handler
from mpim_lab.mq.connection.retry import Backoff

TokenSource = Callable[[], str] | Callable[[], Awaitable[str]]
_MAX_MESSAGE_BYTES = 4 * 1024 * 1024
_NORMAL_CLOSURE = 1000  # RFC 6455, section 7.4.1
_CLOSE_TIMEOUT_S = 1.0
_log = logging.getLogger(__name__)


class GatewayConnection:
    """A reconnecting connection: `await connection.run()` until cancelled.

    on_welcome and on_frame are called in the order in which the gateway sent.

    gateways: WebSocket addresses, tried one after another. token: makes a new one, for each
        attempt.

    | the gateway ...                              | then                                          |
    |----------------------------------------------|-----------------------------------------------|
    | does not answer, or not with a welcome       | given up after `timeout_s`, and the next is   |
    |                                              | tried                                         |
    | sends bye, breaks the connection, or sends   | likewise, at once                             |
    | nonsense                                     |                                               |
    | is silent for its own idle timeout           | likewise                                      |
    | does not read what is sent to it, for        | likewise; what was sent is sent again         |
    | `timeout_s`                                  |                                               |
    | does any of this while we close              | its socket is released all the same           |
    """

    def __init__(
        self,
        gateways: Sequence[str],
        token: TokenSource,
        device: str,
        *,
        on_welcome: Callable[[Welcome], None],
        on_frame: Callable[[FromGateway], None],
        backoff: Backoff,
        timeout_s: float,
    ) -> None:
        if not gateways:
            raise InvalidParameter("at least one gateway's address")
        for url in gateways:
            _check(url)
        check_handler(token)
        self._gateways, self._token, self._device = itertools.cycle(gateways), token, device
        self._on_welcome, self._on_frame = on_welcome, on_frame
        self._backoff, self._timeout_s = backoff, timeout_s
        self._ws: ClientConnection | None = None
        self._codec = Codec(max_bytes=_MAX_MESSAGE_BYTES)
        self.last_error = "not connected yet"
        self.idle_timeout_s = 60.0
        self._welcomed_at = self._last_received_at = self._last_ping_at = now()

    @property
    def is_connected(self) -> bool:
        """Whether a gateway has welcomed us, and the connection is not known to be broken."""
        return self._ws is not None

    async def send(self, frame: Any) -> bool:
        """Send a frame. Return False if there is no connection: nothing was sent."""
        ws = self._ws
        if ws is None or ws.transport.is_closing():  # given up, or closed by the gateway
            return False
        try:
            async with asyncio.timeout(self._timeout_s):
                await ws.send(encode(frame), text=True)
        except TimeoutError:
            self._abort(ws, f"what is said is not read for {self._timeout_s:g} s")
            return False
        except WebSocketException:
            return False
        return True

    async def send_keepalive(self) -> None:
        """Send a heartbeat if one is due."""
        if now() - self._last_ping_at > self.idle_timeout_s / 3:
            self._last_ping_at = now()
            await self.send(Ping())

    def check_liveness(self, idle_s: float) -> None:
        """Reconnect if nothing at all was received for so long.

        A response is overdue, and the other end may be gone.
        """
        if self._ws is not None and now() - self._last_received_at > idle_s:
            self._abort(self._ws, f"nothing was heard for {idle_s:g} s")

    def _abort(self, ws: ClientConnection, reason: str) -> None:
        if ws is self._ws:
            self.last_error = reason
        ws.transport.abort()

    async def run(self) -> None:
        """Connect, and reconnect, until cancelled."""
        failures, cancellations = 0, TaskCancellation()
        while True:
            self._welcomed_at, said_bye = now(), False
            try:
                await self._connect_once()
                said_bye = True
            except (OSError, TimeoutError, WebSocketException, MpimError) as error:
                self.last_error = f"{type(error).__name__}: {error}"
                _log.debug("no connection: %s", self.last_error)
            except (Exception, asyncio.CancelledError) as error:
                # a mistake: it ends this connection, and not the client
                if cancellations.was_requested:
                    self._ws = None
                    raise
                self.last_error = f"{type(error).__name__}: {error}"
                _log.exception("no connection")
            # A connection that lasted is no failure; one that ends at once, again and again, must
            # not be made as fast as it ends: two clients of the same device replace each other.
            has_lasted = self._ws is not None and now() - self._welcomed_at > self._backoff.max_s
            self._ws = None
            failures = (0 if said_bye else 1) if has_lasted else failures + 1
            if failures:
                await asyncio.sleep(self._backoff.delay_s(failures, random.random()))

    async def _connect_once(self) -> None:
        """Connect, and read until the gateway closes. Raises what went wrong."""
        async with asyncio.timeout(self._timeout_s):
            hello = Hello(await self._new_token(), self._device, packed=True, echo=False)
            ws = await connect(
                next(self._gateways),
                max_size=_MAX_MESSAGE_BYTES,
                compression=None,
                ping_interval=None,
                close_timeout=1,
                proxy=None,
            )
        try:
            async with asyncio.timeout(self._timeout_s):
                await ws.send(encode(hello), text=True)
                raw = await ws.recv()
            while True:
                for frame in [decode_gateway(raw)] if isinstance(raw, str) else self._unpack(raw):
                    if self._ws is None:
                        self._on_first_frame(ws, frame)
                    elif isinstance(frame, Close):
                        self.last_error = frame.reason
                        return
                    else:
                        self._on_frame(frame)
                async with asyncio.timeout(self.idle_timeout_s):
                    raw = await ws.recv()
                self._last_received_at = now()
        finally:
            await close_or_abort(ws, _NORMAL_CLOSURE, "", _CLOSE_TIMEOUT_S)

    async def _new_token(self) -> str:
        cancellations = TaskCancellation()
        try:
            token = self._token()
            token = await token if inspect.isawaitable(token) else token
            if not isinstance(token, str):
                raise TypeError(f"a token is a str, not {type(token).__name__}")
            return token
        except (Exception, asyncio.CancelledError) as error:  # whatever makes tokens is not ours
            if cancellations.was_requested:
                raise
            raise NotConnected(f"no token: {type(error).__name__}: {error}") from error

    def _on_first_frame(self, ws: ClientConnection, first: FromGateway) -> None:
        if isinstance(first, ErrorFrame):
            raise exception_from_frame(first)
        if not isinstance(first, Welcome):
            raise CorruptPayload(f"the gateway began with {type(first).__name__}")
        self._ws, self.idle_timeout_s = ws, first.idle_timeout_s
        self.last_error = "the gateway is silent"
        self._welcomed_at = self._last_received_at = now()
        self._on_welcome(first)

    def _unpack(self, raw: bytes) -> list[FromGateway]:
        if frame_type(raw) is None:
            return [decode_gateway(raw)]
        frames = [decode_gateway(each) for each in decode_messages(self._codec.decompress(raw))]
        if not frames:
            raise CorruptPayload("a batch of nothing")
        return frames


def _check(url: str) -> None:
    try:
        parse_uri(url)
    except (InvalidURI, ValueError, TypeError, AttributeError) as error:
        raise InvalidParameter(f"{url!r} is no WebSocket address: ws://host:port/ws") from error


def exception_from_frame(frame: ErrorFrame) -> MpimError:
    """Return the error that a gateway reported, as an exception of ours."""
    found = getattr(errors, frame.error, None)
    if not (isinstance(found, type) and issubclass(found, MpimError)):
        found = NotConnected if frame.definite else errors.Unconfirmed
    try:
        error: MpimError = found(frame.text)
    except TypeError:
        error = MpimError(frame.text)
    error.definite, error.transient = frame.definite, frame.transient
    return error
