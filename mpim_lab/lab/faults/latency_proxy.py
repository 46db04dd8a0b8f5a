"""Latency proxy: a relay to a server some milliseconds away, with a count of its round trips."""

import asyncio
import contextlib

from mpim_lab.errors import InvalidParameter
from mpim_lab.events import now
from mpim_lab.lab.faults.relay import READ_BYTES, Relay, Streams, open_streams, running


class LatencyProxy(Relay):
    """A relay on loopback that adds latency.

    Connect to its `url`, as in `async with LatencyProxy(server.url, one_way_ms=0.5) as proxy`.
    `round_trips` counts the times that a client sent after it had received something. What is
    written together is one, as long as its replies take longer than its writing.

    Args:
        url: the server's address, as for `MessageQueue`.
        one_way_ms: how much later everything arrives, each way, in milliseconds; above 0.

    Raises:
        InvalidParameter: `one_way_ms` is not above 0, or the address is none.
        ServerFailed: it cannot listen; raised when the context is entered.
    """

    def __init__(self, url: str, *, one_way_ms: float) -> None:
        if one_way_ms <= 0:
            raise InvalidParameter(f"one_way_ms={one_way_ms}: above 0")
        super().__init__(url)
        self._delay_s = one_way_ms / 1e3
        self.round_trips = 0

    async def _relay(self, client: Streams, task: "asyncio.Task[None]") -> None:
        server = await open_streams(self._upstream)
        received = asyncio.Event()  # the client has received something since it sent last
        received.set()
        way_up = self._pass_on(client[0], server[1], received, is_up=True)
        way_down = self._pass_on(server[0], client[1], received, is_up=False)
        with contextlib.closing(server[1]):
            async with running(way_up, way_down) as ways:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)

    async def _pass_on(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        received: asyncio.Event,
        *,
        is_up: bool,
    ) -> None:
        """Have every chunk arrive later, in order, without waiting for each other."""
        waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(maxsize=1_000)

        async def read() -> None:
            chunk = b"begun"
            while chunk:
                chunk = await reader.read(READ_BYTES)
                if chunk and is_up and received.is_set():
                    self.round_trips += 1
                    received.clear()
                await waiting.put((now() + self._delay_s, chunk))

        async with running(read()):
            while True:
                due_at, chunk = await waiting.get()
                await asyncio.sleep(max(0.0, due_at - now()))
                if not chunk:
                    return
                if not is_up:
                    received.set()
                writer.write(chunk)
                await writer.drain()
