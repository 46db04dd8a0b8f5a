"""RawConnection: one dedicated connection, redis-py's.

No retries, no silent reconnecting, errors of ours.

redis-py connects again by itself when it is to send and is not connected; for a connection with
state (WATCH, MULTI) the second half of a transaction would then run without the first. Here a
connection that is broken stays broken.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    DataError,
    RedisError,
    ResponseError,
)

from mpim_lab.errors import (
    CommandRejected,
    CommandTimeout,
    ConnectionLost,
    InvalidMessage,
    LoginRejected,
    MpimError,
    NotConnected,
)
from mpim_lab.mq.connection.address import Address, sanitize_client_name
from mpim_lab.mq.pool.command_state import Word


class RawConnection:
    """One connection to one server.

    It belongs to one task at a time; whose turn it is is not known here.

    `pending_replies`: replies that are still to come. Whoever reads next reads the first of them,
    whoever asked for it.
    """

    def __init__(self, address: Address, name: str = "") -> None:
        self.address = address
        self.pending_replies = 0
        self.opened_at = self.idle_since = 0.0
        self._is_lost = False
        self._redis = _redis_connection(address, name)

    @property
    def is_open(self) -> bool:
        """Connected, as far as anybody here knows."""
        return bool(self._redis.is_connected) and not self._is_lost

    async def open(self, timeout_s: float) -> None:
        """Connect and log in.

        Raises NotConnected or LoginRejected; whatever is raised, nothing stays open.
        """
        try:
            async with asyncio.timeout(timeout_s):
                await self._redis.connect()  # type: ignore[no-untyped-call]
        except BaseException as error:
            await self.close()
            if isinstance(error, TimeoutError):
                raise NotConnected(
                    f"{self.address} did not answer within {timeout_s:g} s"
                ) from error
            if isinstance(error, AuthenticationError | AuthorizationError | ResponseError):
                raise LoginRejected(f"{self.address} refused the login: {error}") from error
            if isinstance(
                error, Exception
            ):  # also a host's name that cannot be one, or what a TLS library says
                raise NotConnected(
                    f"cannot reach {self.address}: {error or type(error).__name__}"
                ) from error
            raise

    async def health_check(self) -> str:
        """Return why it is not fit to be lent, as far as one can see without a round trip.

        "" if nothing is seen.
        """
        if not self.is_open:
            return "ended by the server"
        try:
            if not await self._redis.can_read():
                return ""
            # It has ended, or something is there to read that nobody asked for; a look that does
            # not wait tells which
            await self._redis.read_response(timeout=0, disconnect_on_error=False)
        except (RedisError, OSError) as error:
            return "unasked reply" if isinstance(error, ResponseError) else "ended by the server"
        return "unasked reply"

    async def execute(self, commands: Sequence[Sequence[Word]], timeout_s: float) -> list[Any]:
        """Write the commands at once, read as many replies.

        Return a reply or CommandRejected for each.

        Raises InvalidMessage or NotConnected: nothing was written. ConnectionLost or
        CommandTimeout: some or all may have been run, and the line is of no use any more. Cancelled
        in the middle of a reply, likewise.
        """
        if not self.is_open:
            raise NotConnected(f"the connection to {self.address} is broken; nothing was sent")
        try:
            packed = self._redis.pack_commands(commands)
        except (DataError, TypeError, UnicodeError) as error:
            raise InvalidMessage(f"not a command: {error}") from error
        self.pending_replies += len(commands)
        try:
            async with asyncio.timeout(timeout_s):
                await self._redis.send_packed_command(packed, check_health=False)
                return [await self._reply() for _ in commands]
        except TimeoutError as error:
            text = f"{commands[0][0]!r} to {self.address}: no answer within {timeout_s:g} s"
            raise CommandTimeout(text) from error
        except Exception as error:
            self._is_lost = True
            raise ConnectionLost(
                f"lost {self.address} after {commands[0][0]!r} was sent: {error}"
            ) from error

    async def _reply(self) -> Any:
        """The next reply, CommandRejected if it is an error.

        Cancelled, the line is as it was: the reply is still to come.
        """
        try:
            # without disconnect_on_error: whether to close it is the pool's question, and the naive
            # pool answers it wrongly
            reply = await self._redis.read_response(disconnect_on_error=False)
        except RedisError as error:
            if getattr(error, "status_code", None) is None and not isinstance(error, ResponseError):
                raise
            self.pending_replies -= 1
            return _rejected(error)
        self.pending_replies -= 1
        if isinstance(reply, list):  # EXEC's
            return [_rejected(item) if isinstance(item, RedisError) else item for item in reply]
        return reply

    async def close(self) -> None:
        """Close at once, whatever is under way. Twice is harmless."""
        with contextlib.suppress(RedisError, OSError):
            await self._redis.disconnect(nowait=True)


def _rejected(error: RedisError) -> MpimError:
    code = getattr(error, "status_code", None)
    text = str(error)
    rejected = CommandRejected(text if code is None or text.startswith(code) else f"{code} {text}")
    rejected.__cause__ = error
    return rejected


def _redis_connection(address: Address, name: str) -> AbstractConnection:
    options: dict[str, Any] = {
        "db": address.db,
        "username": address.username,
        "password": address.password,
        "client_name": sanitize_client_name(address.client_name or name) or None,
        "protocol": 3,
        # our own time-outs; redis-py's turns a blocking read that takes long into an error
        "socket_timeout": None,
        "socket_connect_timeout": None,
        "driver_info": None,
    }
    if address.path is not None:
        return UnixDomainSocketConnection(path=address.path, **options)
    if address.tls is not None:
        return SSLConnection(host=address.host, port=address.port, **address.tls, **options)
    return Connection(host=address.host, port=address.port, **options)
