"""Relay: what every proxy of the lab is: a listener on loopback between clients and a server."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from typing import Any, Self
from urllib.parse import quote

from mpim_lab.errors import InvalidMessage, ServerFailed
from mpim_lab.mq.connection.address import Address

READ_BYTES = 64 * 1024
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Relay:
    """A relay on loopback between clients and one server.

    Each kind says in `_relay` what it does to what passes. Clients speak plainly to it, also where
    it speaks TLS to the server.

    Args:
        url: the server's address, with its user, password and database.

    Raises:
        InvalidParameter: the address is none.
        ServerFailed: it cannot listen on loopback; raised when the context is entered.
    """

    def __init__(self, url: str) -> None:
        self._upstream = Address.parse(url)
        self._server: asyncio.Server | None = None
        self._port = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """Where clients connect: redis://127.0.0.1:PORT/DB, with the server's user and password."""
        return url_for_clients(self._upstream, self._port)

    async def __aenter__(self) -> Self:
        try:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=READ_BYTES)
        except OSError as error:
            raise ServerFailed(f"the proxy cannot listen: {error}") from error
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        assert self._server is not None
        self._server.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._relay((reader, writer), task)
        except (OSError, InvalidMessage, asyncio.CancelledError):
            pass  # a connection that breaks is what connections do
        finally:
            writer.close()
            self._tasks.discard(task)

    async def _relay(self, client: Streams, task: "asyncio.Task[None]") -> None:
        """Connect one client to the server, until one of them ends; `task` does it."""
        raise NotImplementedError


@contextlib.asynccontextmanager
async def running(*ways: Coroutine[Any, Any, None]) -> AsyncIterator[list["asyncio.Task[None]"]]:
    """Run both ways of a connection as tasks, and end them; whatever broke them is dropped."""
    tasks = [asyncio.create_task(way) for way in ways]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def open_streams(address: Address) -> Streams:
    """Open a bare socket to a server, by TCP, unix socket or TLS. Raise OSError."""
    reader = asyncio.StreamReader()
    protocol = _Protocol(reader)
    await address.connect(lambda: protocol)
    loop = asyncio.get_running_loop()
    return reader, asyncio.StreamWriter(protocol.transport, protocol, reader, loop)


class _Protocol(asyncio.StreamReaderProtocol):
    transport: asyncio.WriteTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.transport = transport  # type: ignore[assignment]


def url_for_clients(address: Address, port: int) -> str:
    """Say where clients connect: redis://127.0.0.1:PORT/DB, with the server's user and password.

    >>> url_for_clients(Address.parse("rediss://alice:a%20b@far:6380/2"), 7000)
    'redis://alice:a%20b@127.0.0.1:7000/2'
    """
    user, password = (quote(word or "", safe="") for word in (address.username, address.password))
    login = f"{user}:{password}@" if address.password is not None else ""
    return f"redis://{login}127.0.0.1:{port}/{address.db}"
