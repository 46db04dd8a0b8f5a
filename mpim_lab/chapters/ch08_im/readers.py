"""Seats: who reads in a run of MPIM: comes, goes, is cut off, comes back at another gateway, and notes what it has read."""

import asyncio
import contextlib
from collections.abc import Callable

from mpim_lab.errors import MpimError
from mpim_lab.im.client.client import Client
from mpim_lab.im.gateway.gateway import Gateway
from mpim_lab.im.protocol.frames import Status
from mpim_lab.keys import user_channel
from mpim_lab.lab.faults.injector import until
from mpim_lab.lab.system.embedded import MpimSystem
from mpim_lab.mq.connection.retry import Backoff

QUICK = Backoff(initial_s=0.02, max_s=0.1)


class Seat:
    """One reader. `read`: the ids of the messages it was handed, in order; `positions` outlive its connections."""

    def __init__(self, system: MpimSystem, uid: str) -> None:
        self.uid, self._system = uid, system
        self.read: list[str] = []
        self.positions: dict[str, int] = {}
        self.gateway = ""
        self._client: Client | None = None
        self._task: asyncio.Task[None] | None = None
        self._told = asyncio.Event()

    @property
    def is_here(self) -> bool:
        """Connected to a gateway, as far as it knows."""
        return self._client is not None

    async def arrive(self, gateway: str) -> None:
        """Connect, and read from now on."""
        client = await self.knock(gateway)
        self._client, self._task = client, asyncio.create_task(self._read(client))

    async def knock(self, gateway: str) -> Client:
        """Connect without reading anything."""
        self.gateway = gateway
        options = {"positions": self.positions, "backoff": QUICK, "on_status": self._on_status}
        client = self._system.client(self.uid, at=[gateway], **options)
        await client.__aenter__()
        return client

    async def _read(self, client: Client) -> None:
        async for message in client.messages():
            self.read.append(message.id)

    async def leave(self) -> None:
        """Disconnect; returns when the gateway has noticed."""
        client, gateway = self._client, self._system.gateways.get(self.gateway)
        has_left = None if gateway is None else self._farewell_of(gateway)
        await self._end()
        if client is not None and has_left is not None:
            await until(has_left, f"the gateway's farewell to {self.uid}")
            await until(self._nobody_listens, f"the end of the subscription for {self.uid}")

    def _farewell_of(self, gateway: Gateway) -> Callable[[], bool]:
        """Says whether the connections that are here now have been taken leave of."""
        mine = {session.ws for session in gateway.lobby.of(self.uid)}
        return lambda: not mine & gateway.connections

    async def _nobody_listens(self) -> bool:
        return not await self._system.services.queue.subscriber_count(user_channel(self.uid))

    async def _end(self) -> None:
        if self._client is not None:
            await self._client.close()
        if self._task is not None:
            await asyncio.wait([self._task])
        self._client = self._task = None

    async def move(self, gateway: str) -> None:
        """Connect to another gateway, and only then leave the old one: its farewell comes after the new welcome."""
        before, task, old = self._client, self._task, self._system.gateways[self.gateway]
        has_left = self._farewell_of(old)
        await self.arrive(gateway)
        if before is not None and task is not None:
            await before.close()
            await asyncio.wait([task])
            await until(has_left, f"the old gateway's farewell to {self.uid}")

    async def settled(self) -> None:
        """Wait until everything that its gateway has heard so far has arrived here and was read."""
        gateway = self._system.gateways.get(self.gateway)
        if self._client is None or gateway is None or not gateway.services.queue.is_connected:
            return
        await gateway.services.queue.drain()
        self._told.clear()
        with contextlib.suppress(MpimError, TimeoutError):
            await self._client.watch(self.uid)  # answered behind everything that was said before
            async with asyncio.timeout(2):
                await self._told.wait()
        await asyncio.sleep(0)

    def _on_status(self, status: Status) -> None:
        self._told.set()
