"""Address: where a server is and who we are to it, read from a URL as redis-py reads it."""

import asyncio
import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from redis.asyncio.connection import SSLConnection, parse_url

from mpim_lab.errors import InvalidParameter


@dataclass(frozen=True)
class Address:
    """A server's address. The password is never shown.

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

    @classmethod
    def parse(cls, url: str) -> "Address":
        """Read `redis://`, `rediss://` or `unix://`; user, password, db and ssl_* options as redis-py has them.

        Raises InvalidParameter for anything else.
        """
        try:
            options: dict[str, Any] = dict(parse_url(url))
        except (ValueError, AttributeError, TypeError) as error:
            raise InvalidParameter(
                f"not a server's URL ({error}); write redis://host:port/db or unix:///path"
            ) from error
        secure = options.pop("connection_class", None) is SSLConnection
        known = {
            name: options[name] for name in ("host", "port", "path", "username", "password", "db") if name in options
        }
        tls = {name: value for name, value in options.items() if name.startswith("ssl_")}
        return cls(**known, tls=tls if secure else None)

    def login(self, client_name: str) -> list[tuple[bytes | str, ...]]:
        """The commands that begin every connection: protocol, user, name, database."""
        hello: tuple[bytes | str, ...] = (b"HELLO", b"3")
        if self.password is not None:
            hello += (b"AUTH", self.username or "default", self.password)
        if client_name:
            hello += (b"SETNAME", wire_client_name(client_name))
        return [hello, (b"SELECT", str(self.db))] if self.db else [hello]

    async def connect(self, protocol: Callable[[], asyncio.Protocol]) -> None:
        """Open a socket and hand it to the protocol. Raises OSError, ssl.SSLError included."""
        loop = asyncio.get_running_loop()
        if self.path is not None:
            await loop.create_unix_connection(protocol, self.path)
            return
        context = None if self.tls is None else _ssl_context(self.tls)
        await loop.create_connection(protocol, self.host, self.port, ssl=context)

    def __str__(self) -> str:
        login = f"{self.username or ''}:***@" if self.password is not None else ""
        db = f"/{self.db}" if self.db else ""
        if self.path is not None:
            return f"unix://{login}{self.path}" + (f"?db={self.db}" if self.db else "")
        return f"{'redis' if self.tls is None else 'rediss'}://{login}{self.host}:{self.port}{db}"

    def __repr__(self) -> str:
        return f"Address({self})"


def wire_client_name(name: str) -> str:
    """A client's name as the server takes it: without spaces, and ASCII.

    >>> wire_client_name("orders reader")
    'orders-reader'
    """
    return re.sub(r"[^!-~]", "-", name)


def _ssl_context(options: dict[str, Any]) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=options.get("ssl_ca_certs"), cadata=options.get("ssl_ca_data"))
    if options.get("ssl_certfile"):
        context.load_cert_chain(options["ssl_certfile"], options.get("ssl_keyfile"))
    requirement = str(options.get("ssl_cert_reqs", "required")).lower()
    if requirement == "none" or str(options.get("ssl_check_hostname", "true")).lower() == "false":
        context.check_hostname = False
    if requirement == "none":
        context.verify_mode = ssl.CERT_NONE
    return context
