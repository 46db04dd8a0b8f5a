"""Relay: what stands between a client and a server has in common: its way to the server, and the URL for clients."""

import asyncio
from urllib.parse import quote

from mpim_lab.mq.connection.address import Address


async def open_streams(address: Address) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open a bare socket to a server, by TCP, unix socket or TLS; nothing is sent.

    Raises OSError.
    """
    reader = asyncio.StreamReader()
    protocol = _Streams(reader)
    await address.connect(lambda: protocol)
    return reader, asyncio.StreamWriter(
        protocol.transport, protocol, reader, asyncio.get_running_loop()
    )


class _Streams(asyncio.StreamReaderProtocol):
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
