"""Latency proxy: a connection to a server that is some milliseconds away, with a count of its round trips."""

import asyncio
import contextlib
from typing import Self

from mpim_lab.errors import InvalidParameter
from mpim_lab.events import now
from mpim_lab.lab.faults.relay import open_streams, url_for_clients
from mpim_lab.mq.connection.address import Address

_CHUNK = 64 * 1024


class LatencyProxy:
    """Relay on loopback that adds latency: `async with LatencyProxy(server.url, one_way_ms=0.5) as proxy`.

    Connect to its `url`. `round_trips` counts the times that a client sent after it had received
    something: what is written together is one, however long it is, as long as its replies take
    longer than its writing.
    """

    def __init__(self, url: str, *, one_way_ms: float) -> None:
        if one_way_ms <= 0:
            raise InvalidParameter(f"one_way_ms={one_way_ms}: above 0")
        self._address, self._delay_s = Address.parse(url), one_way_ms / 1e3
        self.round_trips = 0
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """Where clients connect: redis://127.0.0.1:PORT/DB, with the server's user and password."""
        assert self._server is not None
        return url_for_clients(self._address, self._server.sockets[0].getsockname()[1])

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._server is not None:
            self._server.close()
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            async with asyncio.TaskGroup() as both:
                up_reader, up_writer = await open_streams(self._address)
                seen = _ReplySeen()
                both.create_task(self._relay(reader, up_writer, seen, is_up=True))
                both.create_task(self._relay(up_reader, writer, seen, is_up=False))
        except* (OSError, asyncio.CancelledError):
            pass
        finally:
            self._connections.discard(task)
            writer.close()

    async def _relay(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        seen: "_ReplySeen",
        *,
        is_up: bool,
    ) -> None:
        """Every chunk arrives as much later as the way is long.

        They keep their order and do not wait for each other.
        """
        waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(maxsize=1_000)

        async def arrive() -> None:
            while True:
                due_at, chunk = await waiting.get()
                await asyncio.sleep(max(0.0, due_at - now()))
                if not is_up:
                    seen.something = True
                if not chunk:
                    return writer.close()
                writer.write(chunk)
                await writer.drain()

        arriving = asyncio.create_task(arrive())
        try:
            while chunk := await reader.read(_CHUNK):
                if is_up and seen.something:
                    self.round_trips, seen.something = self.round_trips + 1, False
                await waiting.put((now() + self._delay_s, chunk))
            await waiting.put((now() + self._delay_s, b""))
            await arriving
        finally:
            arriving.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError):
                await arriving


class _ReplySeen:
    """Whether the client has received something since it sent last."""

    something = True
