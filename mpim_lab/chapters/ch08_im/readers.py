"""SimulatedReader: connects, disconnects, is cut off, migrates, and notes what it has read."""

import asyncio
import contextlib
from collections.abc import Callable

from mpim_lab.errors import MpimError
from mpim_lab.im.client.client import Client
from mpim_lab.im.gateway.gateway import Gateway
from mpim_lab.im.protocol.frames import PresenceChanged
from mpim_lab.keys import user_channel
from mpim_lab.lab.faults.injector import wait_until
from mpim_lab.lab.system.embedded import MpimSystem
from mpim_lab.mq.connection.retry import Backoff

QUICK = Backoff(initial_s=0.02, max_s=0.1)


class SimulatedReader:
    """A simulated reader.

    `read`: the ids of the messages it was handed, in order; `positions` outlive its connections.
    """

    def __init__(self, system: MpimSystem, uid: str) -> None:
        self.uid, self._system = uid, system
        self.read: list[str] = []
        self.positions: dict[str, int] = {}
        self.gateway = ""
        self._client: Client | None = None
        self._task: asyncio.Task[None] | None = None
        self._answered = asyncio.Event()

    @property
    def is_connected(self) -> bool:
        """Whether it is connected to a gateway, as far as it knows."""
        return self._client is not None

    async def connect(self, gateway: str) -> None:
        """Connect, and read from now on."""
        client = await self.connect_idle(gateway)
        self._client, self._task = client, asyncio.create_task(self._read(client))

    async def connect_idle(self, gateway: str) -> Client:
        """Connect without reading anything."""
        self.gateway = gateway
        options = {"positions": self.positions, "backoff": QUICK, "on_presence": self._on_status}
        client = self._system.client(self.uid, at=[gateway], **options)
        await client.__aenter__()
        return client

    async def _read(self, client: Client) -> None:
        async for message in client.messages():
            self.read.append(message.id)

    async def disconnect(self) -> None:
        """Disconnect; return when the gateway has noticed."""
        client, gateway = self._client, self._system.gateways.get(self.gateway)
        has_left = None if gateway is None else self._session_gone(gateway)
        await self._end()
        if client is not None and has_left is not None:
            await wait_until(has_left, f"the end of the session of {self.uid}")
            await wait_until(self._is_unsubscribed, f"the end of the subscription for {self.uid}")

    def _session_gone(self, gateway: Gateway) -> Callable[[], bool]:
        """Return a function that says whether the sessions of now are gone at the gateway."""
        mine = {session.ws for session in gateway.sessions.sessions_of(self.uid)}
        return lambda: not mine & gateway.connections

    async def _is_unsubscribed(self) -> bool:
        return not await self._system.services.queue.subscriber_count(user_channel(self.uid))

    async def _end(self) -> None:
        if self._client is not None:
            await self._client.close()
        if self._task is not None:
            await asyncio.wait([self._task])
        self._client = self._task = None

    async def migrate(self, gateway: str) -> None:
        """Connect to another gateway, and only then disconnect from the old one.

        Its unbind comes after the new welcome.
        """
        before, task, old = self._client, self._task, self._system.gateways[self.gateway]
        has_left = self._session_gone(old)
        await self.connect(gateway)
        if before is not None and task is not None:
            await before.close()
            await asyncio.wait([task])
            await wait_until(has_left, f"the end of the old session of {self.uid}")

    async def wait_idle(self) -> None:
        """Wait until everything that its gateway has received so far was read here."""
        gateway = self._system.gateways.get(self.gateway)
        if self._client is None or gateway is None or not gateway.services.queue.is_connected:
            return
        await gateway.services.queue.drain()
        self._answered.clear()
        with contextlib.suppress(MpimError, TimeoutError):
            await self._client.watch(self.uid)  # answered behind everything that was sent before
            async with asyncio.timeout(2):
                await self._answered.wait()
        await asyncio.sleep(0)

    def _on_status(self, status: PresenceChanged) -> None:
        self._answered.set()
