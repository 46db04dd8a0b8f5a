"""Address: where a server is and who we are to it, read from a URL as redis-py reads it."""

import asyncio
import inspect
import math
import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from redis.asyncio.connection import SSLConnection, parse_url
from redis.exceptions import RedisError

from mpim_lab.errors import InvalidParameter

_WHERE = ("host", "port", "path", "username", "password", "db")
# What redis-py's other options are called here. Any option that is in neither list is refused by
# name.
_CONFIG_FIELDS = {
    "socket_timeout": "timeout_s",
    "socket_connect_timeout": "connect_timeout_s",
    "health_check_interval": "heartbeat_s",
}
_TLS = frozenset(
    name for name in inspect.signature(SSLConnection.__init__).parameters if name.startswith("ssl_")
)


@dataclass(frozen=True)
class Address:
    """A server's address, who we are to it, and how long we wait for it.

    The password is never shown.

    >>> Address.parse("redis://alice:secret@127.0.0.1:6380/2")
    Address(redis://alice:***@127.0.0.1:6380/2)
    >>> Address.parse("unix:///tmp/v.sock")
    Address(unix:///tmp/v.sock)
    """

    host: str = "127.0.0.1"
    port: int = 6379
    path: str | None = None
    username: str | None = None
    password: str | None = None
    db: int = 0
    tls: dict[str, Any] | None = field(default=None, compare=False)
    client_name: str = ""
    config_overrides: dict[str, Any] = field(
        default_factory=dict, compare=False
    )  # names and values of `ConnectionConfig`

    @classmethod
    def parse(cls, url: str) -> "Address":
        """Read `redis://`, `rediss://` or `unix://` as redis-py reads it.

        User, password, db, client_name, protocol=3, socket_timeout, socket_connect_timeout,
        health_check_interval and, for `rediss://`, every ssl_* option; certificates and keys are
        looked at now. Raises InvalidParameter for anything else.
        """
        try:
            options: dict[str, Any] = dict(parse_url(url))
            _check(url, options)
        except (ValueError, AttributeError, TypeError) as error:
            raise InvalidParameter(
                f"not a server's URL ({_complaint(error)})"
            ) from None  # its words may hold a password
        tls = None
        if options.pop("connection_class", None) is SSLConnection:
            tls = {name: options.pop(name) for name in list(options) if name in _TLS}
            tls.setdefault("ssl_password", _no_pass_phrase)
            ssl_context(tls)
        if options.pop("protocol", 3) != 3:
            raise InvalidParameter("protocol: only 3 (RESP3) is spoken here")
        overrides = {
            _CONFIG_FIELDS[name]: float(options.pop(name))
            for name in list(options)
            if name in _CONFIG_FIELDS
        }
        if overrides.get("heartbeat_s") == 0:  # redis-py's word for never
            overrides["heartbeat_s"] = math.inf
        if not all(seconds > 0 for seconds in overrides.values()):
            raise InvalidParameter("times in the URL must be above 0")
        known = {name: options.pop(name) for name in (*_WHERE, "client_name") if name in options}
        if options:
            raise InvalidParameter(f"unknown option in the URL: {', '.join(sorted(options))}")
        return cls(**known, tls=tls, config_overrides=overrides)

    def handshake_commands(self, client_name: str) -> list[tuple[bytes | str, ...]]:
        """The commands that begin every connection: protocol, user, name, database."""
        hello: tuple[bytes | str, ...] = (b"HELLO", b"3")
        if self.username or self.password:
            hello += (b"AUTH", self.username or "default", self.password or "")
        if name := self.client_name or client_name:
            hello += (b"SETNAME", sanitize_client_name(name))
        return [hello, (b"SELECT", str(self.db))] if self.db else [hello]

    async def connect(self, protocol: Callable[[], asyncio.Protocol]) -> None:
        """Open a socket and hand it to the protocol. Raises OSError, ssl.SSLError included."""
        loop = asyncio.get_running_loop()
        if self.path is not None:
            await loop.create_unix_connection(protocol, self.path)
            return
        # read anew: certificates are renewed
        context = None if self.tls is None else ssl_context(self.tls)
        await loop.create_connection(protocol, self.host, self.port, ssl=context)

    def __str__(self) -> str:
        login = f"{quote(self.username or '', safe='')}{':***' if self.password else ''}@"
        login = login if len(login) > 1 else ""
        db = f"/{self.db}" if self.db else ""
        if self.path is not None:
            return f"unix://{login}{self.path}" + (f"?db={self.db}" if self.db else "")
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'redis' if self.tls is None else 'rediss'}://{login}{host}:{self.port}{db}"

    def __repr__(self) -> str:
        return f"Address({self})"


def sanitize_client_name(name: str) -> str:
    """A client's name as the server takes it: without spaces, and ASCII.

    >>> sanitize_client_name("orders reader")
    'orders-reader'
    """
    return re.sub(r"[^!-~]", "-", name)


def ssl_context(options: dict[str, Any]) -> ssl.SSLContext:
    """Make a TLS context of redis-py's ssl_* options.

    Raises InvalidParameter for a file or a value that is no good.
    """
    try:
        connection: Any = SSLConnection(**options)
        context: ssl.SSLContext = connection.ssl_context.get()
    except (OSError, ValueError, TypeError, RedisError) as error:  # ssl.SSLError is an OSError
        raise InvalidParameter(
            f"the ssl_* options cannot be used: {error or type(error).__name__}"
        ) from error
    return context


def _no_pass_phrase() -> str:
    """Refuse, where OpenSSL would ask the terminal."""
    raise ValueError("the private key is encrypted: give ssl_password")


_COMPLAINTS = (
    *("Redis URL must specify", "Invalid value for", "Invalid IPv6 URL", "Port out of range"),
    *("the database", "a # or ?", "the socket's path", "path: only"),
)


def _complaint(error: Exception) -> str:
    """Give what is wrong, but no piece of the URL.

    Where it is taken apart wrongly, that may be a piece of the password.
    """
    said = (
        str(error)
        if str(error).startswith(_COMPLAINTS)
        else "its host, port or path cannot be read"
    )
    form = "redis://user:password@host:port/db or unix:///path"
    return f"{said}; write {form}, and other characters in them as %XX"


def _check(url: str, options: dict[str, Any]) -> None:
    """Refuse what redis-py passes over.

    It would be another server, or another database, than was meant.
    """
    parts = urlsplit(url)
    if "port" in options:
        options["port"] = int(options["port"])
    if "#" in url or any("=" not in option for option in parts.query.split("&") if option):
        raise ValueError("a # or ? in a name or a password is written %23 or %3F")
    if parts.scheme == "unix":
        if "path" not in options or parts.hostname:
            raise ValueError(
                "the socket's path is missing; an absolute one has three slashes before it"
            )
    elif "path" in options:
        raise ValueError("path: only for unix://")
    elif (database := unquote(parts.path).strip("/")) and not (
        database.isdecimal() and database.isascii()
    ):
        raise ValueError("the database is no number")
