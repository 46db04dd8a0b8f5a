"""A WebSocket client for tests of gateways: it says what it is told to, well formed or not, and gives what it hears."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Self

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from mpim_lab.im.services.tokens import TokenService
from mpim_lab.im.system import ImSystem
from mpim_lab.lab.server.embedded import EmbeddedServer
from mpim_lab.mq.compression.codec import Codec
from mpim_lab.mq.compression.framing import decode_messages

SECRET = "a secret for tests that has more than thirty-two characters"


def system_options(**more: Any) -> dict[str, Any]:
    """What tests give to `ImSystem`: a secret they know, a database in memory, and `more`."""
    return {"secret": SECRET, "database": "sqlite+aiosqlite://"} | more


@asynccontextmanager
async def system_of_its_own(
    gateways: int = 1, *, persistence: str = "none", **options: Any
) -> AsyncIterator[ImSystem]:
    """Gateways over a server of their own. options: as `ImSystem` takes them."""
    async with (
        EmbeddedServer(persistence=persistence) as server,
        ImSystem(server.url, gateways=gateways, **system_options(**options)) as mpim,
    ):
        yield mpim


class RawClient:
    """`async with RawClient(url) as raw`: connected, and nothing is said yet."""

    def __init__(self, url: str, **options: Any) -> None:
        self._url, self._options = url, options
        self._heard: list[dict[str, Any]] = []
        self.raws: list[str | bytes] = []
        self.ws: ClientConnection

    async def __aenter__(self) -> Self:
        common: dict[str, Any] = {
            "compression": None,
            "ping_interval": None,
            "proxy": None,
            "close_timeout": 0.2,
        }
        self.ws = await connect(self._url, **common | {"max_size": 8 * 2**20} | self._options)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.ws.close()

    async def say(self, frame: dict[str, Any] | str | bytes) -> None:
        """Send a frame; a dictionary as JSON."""
        await self.ws.send(json.dumps(frame) if isinstance(frame, dict) else frame)

    async def hello(
        self, uid: str, device: str = "main", *, token: str | None = None, packed: bool = False
    ) -> Any:
        """Say hello; gives the gateway's first frame."""
        token = TokenService(SECRET).issue(uid) if token is None else token
        await self.say({"t": "hello", "token": token, "device": device, "packed": packed})
        return await self.next()

    async def next(self, within_s: float = 10.0) -> dict[str, Any]:
        """The next frame."""
        if not self._heard:
            async with asyncio.timeout(within_s):
                raw = await self.ws.recv()
            self.raws.append(raw)
            parts = (
                [raw.encode()] if isinstance(raw, str) else decode_messages(Codec().decompress(raw))
            )
            self._heard += [json.loads(part) for part in parts]
        return self._heard.pop(0)

    async def hear(self, kind: str, within_s: float = 10.0) -> dict[str, Any]:
        """The next frame of a kind; others stay to be heard later."""
        others = []
        async with asyncio.timeout(within_s):
            while (frame := await self.next(within_s))["t"] != kind:
                others.append(frame)
        self._heard[:0] = others
        return frame

    async def ask(self, frame: dict[str, Any] | str | bytes, kind: str) -> dict[str, Any]:
        """Say something and give the answer."""
        await self.say(frame)
        return await self.hear(kind)

    async def ended(self, within_s: float = 10.0) -> tuple[int, str]:
        """Read until the gateway ends the connection; gives the code and the reason."""
        async with asyncio.timeout(within_s):
            try:
                while True:
                    await self.next(within_s)
            except ConnectionClosed as closed:
                return (
                    (closed.rcvd.code, closed.rcvd.reason)
                    if closed.rcvd is not None
                    else (1006, "")
                )
