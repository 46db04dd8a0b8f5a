"""What can go wrong in MPIM, and how it is caused: at a message, at a step of its service.

Ended some messages later.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import NamedTuple, Protocol

from mpim_lab.chapters.ch08_im.readers import SimulatedReader
from mpim_lab.chapters.shared.scenario import Server
from mpim_lab.lab.faults.injector import Gate, wait_until
from mpim_lab.lab.faults.server_admin import cut_connections
from mpim_lab.lab.system.embedded import MpimSystem

RECEIVER, SPARE = "gw-2", "gw-3"
# At which steps a fault is injected; what is not here is injected before the message is sent.
STEP_FAULTS = {
    "receiver flaps": ("checked",),
    "gateway killed": ("checked",),
    "server restart": ("checked",),
    "partition": ("checked",),
    "dies before the push": ("checked",),
    "dies after the push": ("pushed",),
    "interleave": ("numbered",),
    "half the group": ("half",),
}
IM_FAULTS = (*STEP_FAULTS, "sent twice", "return breaks", "late unbind")


class FaultPoint(NamedTuple):
    """The point of a fault: a message, a step of its service, the gateway that it runs in."""

    message: str
    step: str
    gateway: str


class FaultTarget(Protocol):
    """The system and the readers that faults act on."""

    system: MpimSystem
    server: Server
    readers: dict[str, SimulatedReader]
    reconnect_gate: Gate


Cause = Callable[[FaultPoint], Awaitable[None]]


class ImFaults:
    """The faults of a scenario, begun and ended.

    They hit the first reader; a gateway's death hits all of its readers.
    """

    def __init__(self, scenario: FaultTarget) -> None:
        self._scenario = scenario
        self.is_holding, self._resumed = asyncio.Event(), asyncio.Event()
        self._dead: dict[str, int] = {}  # gateway → its port
        self._begin: dict[str, Cause] = {
            "receiver flaps": self._disconnect_reader,
            "return breaks": self._disconnect_reader,
            "gateway killed": self._kill_gateway,
            "server restart": self._restart_server,
            "partition": self._cut_off,
            "dies before the push": self._die,
            "dies after the push": self._die,
            "half the group": self._die,
            "interleave": self._pause,
            "late unbind": self._migrate,
        }
        self._end: dict[str, Callable[[], Awaitable[None]]] = {
            "receiver flaps": self._reconnect_readers,
            "return breaks": self._reconnect_twice,
            "gateway killed": self._reconnect_readers,
            "dies before the push": self._restart_gateways,
            "dies after the push": self._restart_gateways,
            "half the group": self._restart_gateways,
            "server restart": self._reconnect_gateway,
            "partition": self._reconnect_gateway,
            "interleave": self._resume,
        }

    async def begin(self, fault: str, where: FaultPoint) -> None:
        """Cause a fault.

        Readers migrate home first: an earlier fault may have sent them elsewhere.
        """
        for reader in self._scenario.readers.values():
            if (
                reader.is_connected
                and reader.gateway != RECEIVER
                and RECEIVER in self._scenario.system.gateways
            ):
                await reader.migrate(RECEIVER)
        if fault in self._begin:
            await self._begin[fault](where)

    async def end(self, fault: str) -> None:
        """End it, if there is anything to end."""
        if fault in self._end:
            await self._end[fault]()

    # Readers

    @property
    def _reader(self) -> SimulatedReader:
        return next(iter(self._scenario.readers.values()))

    async def _disconnect_reader(self, where: FaultPoint) -> None:
        await self._reader.disconnect()

    async def _reconnect_readers(self) -> None:
        for reader in self._scenario.readers.values():
            if not reader.is_connected:
                await reader.connect(SPARE)
        await self._restart_gateways()

    async def _restart_gateways(self) -> None:
        """Start the gateways that died again, where they were."""
        for name, port in self._dead.items():
            options = {"sleep": self._scenario.reconnect_gate.sleep} if name == RECEIVER else {}
            await self._scenario.system.start(name, port=port, **options)
        self._dead.clear()

    async def _kill(self, name: str) -> None:
        self._dead[name] = self._scenario.system.gateways[name].port
        await self._scenario.system.kill(name)

    async def _reconnect_twice(self) -> None:
        """Reconnect twice: the first connection breaks once the gateway has sent what it had."""
        client = await self._reader.connect_idle(RECEIVER)
        await client.abort()
        gateway = self._scenario.system.gateways[RECEIVER]
        await wait_until(
            lambda: not gateway.sessions.sessions_of(self._reader.uid),
            "the gateway's notice of the broken connection",
        )
        await self._reconnect_readers()

    async def _migrate(self, where: FaultPoint) -> None:
        await self._reader.migrate(SPARE)

    # Gateways and the server

    async def _kill_gateway(self, where: FaultPoint) -> None:
        await self._kill(RECEIVER)
        for reader in self._scenario.readers.values():
            await reader.disconnect()

    async def _restart_server(self, where: FaultPoint) -> None:
        await self._scenario.reconnect_gate.close()
        self._scenario.server.kill()
        await self._scenario.server.start()
        queue = self._scenario.system.gateways[where.gateway].services.queue
        await wait_until(lambda: queue.is_connected, "the sender's gateway's reconnection")

    async def _cut_off(self, where: FaultPoint) -> None:
        await self._scenario.reconnect_gate.close()
        queue = self._scenario.system.gateways[RECEIVER].services.queue
        await cut_connections(self._scenario.server.url, RECEIVER)
        await wait_until(lambda: queue.open_connections == 0, "the cut")

    async def _reconnect_gateway(self) -> None:
        self._scenario.reconnect_gate.open()
        queue = self._scenario.system.gateways[RECEIVER].services.queue
        await wait_until(lambda: queue.is_connected, "the gateway's reconnection")

    # The message service

    async def _die(self, where: FaultPoint) -> None:
        """The process with the sender's gateway and its service dies here.

        Nothing after this line happens.
        """
        await self._kill(where.gateway)
        raise asyncio.CancelledError(f"{where.gateway} died")

    async def _pause(self, where: FaultPoint) -> None:
        self._resumed.clear()
        self.is_holding.set()
        await self._resumed.wait()

    async def _resume(self) -> None:
        self.is_holding.clear()
        self._resumed.set()
