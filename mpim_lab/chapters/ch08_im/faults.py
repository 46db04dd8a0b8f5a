"""What can go wrong in MPIM, and how it is caused: at a message, at a step of its service; ended some messages later."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import NamedTuple, Protocol

from mpim_lab.chapters.ch08_im.readers import Seat
from mpim_lab.lab.faults.injector import Hold, until
from mpim_lab.lab.faults.server_admin import cut_connections
from mpim_lab.lab.server.embedded import EmbeddedServer
from mpim_lab.lab.server.external import ExternalServer
from mpim_lab.lab.system.embedded import MpimSystem

RECEIVER, SPARE = "gw-2", "gw-3"
# At which steps a fault strikes; what is not here strikes before the message is sent.
AT_STEP = {
    "receiver flaps": ("checked",),
    "gateway killed": ("checked",),
    "server restart": ("checked",),
    "partition": ("checked",),
    "dies before the push": ("checked",),
    "dies after the push": ("pushed",),
    "interleave": ("numbered",),
    "half the group": ("half",),
}
MPIM_FAULTS = (*AT_STEP, "sent twice", "return breaks", "late unbind")


class AtTheStep(NamedTuple):
    """Where a fault strikes: a message, a step of its service, the gateway that it runs in."""

    message: str
    step: str
    gateway: str


class Stage(Protocol):
    """What faults act on."""

    system: MpimSystem
    server: EmbeddedServer | ExternalServer
    seats: dict[str, Seat]
    hold: Hold


Cause = Callable[[AtTheStep], Awaitable[None]]


class MpimFaults:
    """Begins and ends faults on a stage. They strike the first reader; a gateway's death strikes all who are there."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self.is_holding, self._let_go = asyncio.Event(), asyncio.Event()
        self._dead: dict[str, int] = {}  # gateway → its port
        self._begin: dict[str, Cause] = {
            "receiver flaps": self._flap,
            "return breaks": self._flap,
            "gateway killed": self._kill_gateway,
            "server restart": self._restart_server,
            "partition": self._cut_off,
            "dies before the push": self._die,
            "dies after the push": self._die,
            "half the group": self._die,
            "interleave": self._hold_up,
            "late unbind": self._move,
        }
        self._end: dict[str, Callable[[], Awaitable[None]]] = {
            "receiver flaps": self._come_back,
            "return breaks": self._come_back_twice,
            "gateway killed": self._come_back,
            "dies before the push": self._start_again,
            "dies after the push": self._start_again,
            "half the group": self._start_again,
            "server restart": self._reconnect,
            "partition": self._reconnect,
            "interleave": self._go_on,
        }

    async def begin(self, fault: str, where: AtTheStep) -> None:
        """Cause a fault. Whoever reads is at home first: an earlier fault may have sent them elsewhere."""
        for seat in self._stage.seats.values():
            if seat.is_here and seat.gateway != RECEIVER and RECEIVER in self._stage.system.gateways:
                await seat.move(RECEIVER)
        if fault in self._begin:
            await self._begin[fault](where)

    async def end(self, fault: str) -> None:
        """End it, if there is anything to end."""
        if fault in self._end:
            await self._end[fault]()

    # Readers

    @property
    def _reader(self) -> Seat:
        return next(iter(self._stage.seats.values()))

    async def _flap(self, where: AtTheStep) -> None:
        await self._reader.leave()

    async def _come_back(self) -> None:
        for seat in self._stage.seats.values():
            if not seat.is_here:
                await seat.arrive(SPARE)
        await self._start_again()

    async def _start_again(self) -> None:
        """Gateways that died are started again, where they were."""
        for name, port in self._dead.items():
            options = {"sleep": self._stage.hold.sleep} if name == RECEIVER else {}
            await self._stage.system.start(name, port=port, **options)
        self._dead.clear()

    async def _kill(self, name: str) -> None:
        self._dead[name] = self._stage.system.gateways[name].port
        await self._stage.system.kill(name)

    async def _come_back_twice(self) -> None:
        """The first time the line breaks as soon as the gateway has given what it had."""
        client = await self._reader.knock(RECEIVER)
        await client.die()
        gateway = self._stage.system.gateways[RECEIVER]
        await until(lambda: not gateway.lobby.of(self._reader.uid), "the gateway's notice of the broken line")
        await self._come_back()

    async def _move(self, where: AtTheStep) -> None:
        await self._reader.move(SPARE)

    # Gateways and the server

    async def _kill_gateway(self, where: AtTheStep) -> None:
        await self._kill(RECEIVER)
        for seat in self._stage.seats.values():
            await seat.leave()

    async def _restart_server(self, where: AtTheStep) -> None:
        await self._stage.hold.close()
        self._stage.server.kill()
        await self._stage.server.start()
        queue = self._stage.system.gateways[where.gateway].services.queue
        await until(lambda: queue.is_connected, "the sender's gateway's reconnection")

    async def _cut_off(self, where: AtTheStep) -> None:
        await self._stage.hold.close()
        queue = self._stage.system.gateways[RECEIVER].services.queue
        await cut_connections(self._stage.server.url, RECEIVER)
        await until(lambda: queue.open_connections == 0, "the cut")

    async def _reconnect(self) -> None:
        self._stage.hold.open()
        queue = self._stage.system.gateways[RECEIVER].services.queue
        await until(lambda: queue.is_connected, "the gateway's reconnection")

    # The message service

    async def _die(self, where: AtTheStep) -> None:
        """The process with the sender's gateway and its service dies here: nothing after this line happens."""
        await self._kill(where.gateway)
        raise asyncio.CancelledError(f"{where.gateway} died")

    async def _hold_up(self, where: AtTheStep) -> None:
        self._let_go.clear()
        self.is_holding.set()
        await self._let_go.wait()

    async def _go_on(self) -> None:
        self.is_holding.clear()
        self._let_go.set()
