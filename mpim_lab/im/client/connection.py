"""Line: a client's connection to some gateway, which comes back by itself: at the next gateway if this one is gone."""

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
from mpim_lab.im.protocol.closing import hang_up
from mpim_lab.im.protocol.frames import Bye, FromGateway, Hello, Ping, Problem, Welcome, encode, from_gateway
from mpim_lab.mq.compression.codec import Codec
from mpim_lab.mq.compression.framing import decode_messages, frame_type
from mpim_lab.mq.connection.handler import TaskCancellation, check_handler
from mpim_lab.mq.connection.retry import Backoff

Token = Callable[[], str] | Callable[[], Awaitable[str]]
_MOST_BYTES = 4 * 1024 * 1024
_NORMAL = 1000  # RFC 6455, section 7.4.1
_POLITE_S = 1.0  # for hanging up
_log = logging.getLogger(__name__)


class Line:
    """`await line.run()` until cancelled. on_welcome and on_frame are called in the order in which the gateway spoke.

    gateways: WebSocket addresses, tried one after another. token: makes a new one, for each attempt.

    | the gateway ...                                     | then                                            |
    |-----------------------------------------------------|-------------------------------------------------|
    | does not answer, or not with a welcome              | given up after `timeout_s`, and the next is tried |
    | says bye, breaks the connection, or talks nonsense  | likewise, at once                               |
    | is silent for as long as it bears our own silence   | likewise                                        |
    | does not read what is said to it, for `timeout_s`   | likewise; what was said is said again           |
    | does any of this while we hang up                   | its socket is given back all the same           |
    """

    def __init__(
        self,
        gateways: Sequence[str],
        token: Token,
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
        self._codec = Codec(max_bytes=_MOST_BYTES)
        self.why = "not connected yet"
        self.silent_s = 60.0
        self._welcomed_at = self._heard_at = self._pinged_at = now()

    @property
    def is_connected(self) -> bool:
        """Welcomed by a gateway, and the line has not broken as far as anybody here knows."""
        return self._ws is not None

    async def say(self, frame: Any) -> bool:
        """Send a frame; False: there is no line, nothing was sent."""
        ws = self._ws
        if ws is None or ws.transport.is_closing():  # given up, or closed by the gateway
            return False
        try:
            async with asyncio.timeout(self._timeout_s):
                await ws.send(encode(frame), text=True)
        except TimeoutError:
            self._give_up(ws, f"what is said is not read for {self._timeout_s:g} s")
            return False
        except WebSocketException:
            return False
        return True

    async def say_alive(self) -> None:
        """Say a sign of life if it is time for one."""
        if now() - self._pinged_at > self.silent_s / 3:
            self._pinged_at = now()
            await self.say(Ping())

    def doubt(self, silent_s: float) -> None:
        """An answer is overdue: if nothing at all was heard for so long, the other end may be gone. Connect anew."""
        if self._ws is not None and now() - self._heard_at > silent_s:
            self._give_up(self._ws, f"nothing was heard for {silent_s:g} s")

    def _give_up(self, ws: ClientConnection, why: str) -> None:
        if ws is self._ws:
            self.why = why
        ws.transport.abort()

    async def run(self) -> None:
        """Connect, again and again."""
        failures, cancellations = 0, TaskCancellation()
        while True:
            self._welcomed_at, said_bye = now(), False
            try:
                await self._once()
                said_bye = True
            except (OSError, TimeoutError, WebSocketException, MpimError) as error:
                self.why = f"{type(error).__name__}: {error}"
                _log.debug("no line: %s", self.why)
            except (Exception, asyncio.CancelledError) as error:  # a mistake: this line is given up, and not the client
                if cancellations.was_requested:
                    self._ws = None
                    raise
                self.why = f"{type(error).__name__}: {error}"
                _log.exception("no line")
            # A connection that lasted is no failure; one that ends at once, again and again, must not be made as fast as
            # it ends: two clients that say they are the same device throw each other out.
            has_lasted = self._ws is not None and now() - self._welcomed_at > self._backoff.max_s
            self._ws = None
            failures = (0 if said_bye else 1) if has_lasted else failures + 1
            if failures:
                await asyncio.sleep(self._backoff.delay_s(failures, random.random()))

    async def _once(self) -> None:
        """Connect, and read until the gateway closes. Raises what went wrong."""
        async with asyncio.timeout(self._timeout_s):
            hello = Hello(await self._new_token(), self._device, packed=True, echo=False)
            ws = await connect(
                next(self._gateways),
                max_size=_MOST_BYTES,
                compression=None,
                ping_interval=None,
                close_timeout=1,
                proxy=None,
            )
        try:
            await self._read(ws, hello)
        finally:
            await hang_up(ws, _NORMAL, "", _POLITE_S)

    async def _read(self, ws: ClientConnection, hello: Hello) -> None:
        async with asyncio.timeout(self._timeout_s):
            await ws.send(encode(hello), text=True)
            frames = self._frames(await ws.recv())
        self._begin(ws, frames.pop(0))
        for frame in frames:
            self._on_frame(frame)
        while True:
            async with asyncio.timeout(self.silent_s):
                raw = await ws.recv()
            self._heard_at = now()
            for frame in self._frames(raw):
                if isinstance(frame, Bye):
                    self.why = frame.reason
                    return
                self._on_frame(frame)

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

    def _begin(self, ws: ClientConnection, first: FromGateway) -> None:
        if isinstance(first, Problem):
            raise error_of(first)
        if not isinstance(first, Welcome):
            raise CorruptPayload(f"the gateway began with {type(first).__name__}")
        self._ws, self.silent_s, self.why = ws, first.silent_s, "the gateway is silent"
        self._welcomed_at = self._heard_at = now()
        self._on_welcome(first)

    def _frames(self, raw: str | bytes) -> list[FromGateway]:
        if isinstance(raw, str) or frame_type(raw) is None:
            return [from_gateway(raw)]
        frames = [from_gateway(each) for each in decode_messages(self._codec.decompress(raw))]
        if not frames:
            raise CorruptPayload("a batch of nothing")
        return frames


def _check(url: str) -> None:
    try:
        parse_uri(url)
    except (InvalidURI, ValueError, TypeError, AttributeError) as error:
        raise InvalidParameter(f"{url!r} is no WebSocket address: ws://host:port/ws") from error


def error_of(problem: Problem) -> MpimError:
    """The error that a gateway reported, as an exception of ours."""
    found = getattr(errors, problem.error, None)
    if not (isinstance(found, type) and issubclass(found, MpimError)):
        found = NotConnected if problem.definite else errors.Unconfirmed
    try:
        error: MpimError = found(problem.text)
    except TypeError:
        error = MpimError(problem.text)
    error.definite, error.transient = problem.definite, problem.transient
    return error
