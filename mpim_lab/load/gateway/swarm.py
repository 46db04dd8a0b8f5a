"""ClientSwarm: thousands of clients in one process."""

import asyncio
import gc
import itertools
import time
from collections.abc import Sequence
from typing import Any

from mpim_lab.errors import LoadFailed
from mpim_lab.events import now
from mpim_lab.im.services.tokens import TokenService
from mpim_lab.load.gateway.client import Client
from mpim_lab.load.gateway.mpim_protocol import MAX_BATCH_BYTES, MpimProtocol
from mpim_lab.load.gateway.plan import MPIM, SwarmPlan
from mpim_lab.load.gateway.socketio_protocol import SocketIoProtocol
from mpim_lab.mq.compression.codec import Codec

HOST = "127.0.0.1"
CONNECT_TIMEOUT_S, ANSWER_TIMEOUT_S = 30.0, 10.0
TOKEN_LIFETIME_S = 600.0  # tokens are made before the clock runs, and 10,000 clients take a while
FLUSH_EVERY_S = 0.05
KEEPALIVE_EVERY_S = 25  # as Engine.IO's servers ask
Found = dict[str, Any]


class ClientSwarm:
    """One process's clients, in the order of their numbers."""

    def __init__(self, plan: SwarmPlan) -> None:
        self.plan = plan
        self.clients: list[Client] = []
        self._why: str | None = None
        self._codec = Codec(max_bytes=MAX_BATCH_BYTES) if plan.packed else None
        self._senders: dict[Client, None] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def connect(self, up_to: int) -> Found:
        """Connect until there are `up_to` clients, some at a time; gives when that began and ended.

        Raises LoadFailed when one of them is refused.
        """
        numbers = self.plan.mine[len(self.clients) : up_to]
        tokens = (
            TokenService(self.plan.secret, ttl_s=TOKEN_LIFETIME_S)
            if self.plan.protocol == MPIM
            else None
        )
        gc.disable()  # it would look at all clients again and again
        clients = [self._client(number, tokens) for number in numbers]
        waiting, started_at, cpu_s = iter(clients), now(), time.process_time()

        async def connect_one_by_one() -> None:
            for client in waiting:
                await self._connect(client)

        async with asyncio.TaskGroup() as group:
            for _ in range(self.plan.at_once):
                group.create_task(connect_one_by_one())
        self.clients += clients
        gc.freeze()  # they stay: a collection that looked at them would be a pause in every latency
        gc.enable()
        self._tasks = self._tasks or [
            asyncio.create_task(work()) for work in (self._keep_alive, self._flush_due)
        ]
        return {"started_at": started_at, "ended_at": now(), "cpu_s": time.process_time() - cpu_s}

    def _client(self, number: int, tokens: TokenService | None) -> Client:
        uid = self.plan.uid(number)
        protocol = (
            SocketIoProtocol(uid) if tokens is None else MpimProtocol(uid, tokens, self._codec)
        )
        return Client(protocol, f"{HOST}:{self.plan.port}", self._on_failed, self._on_received)

    async def _connect(self, client: Client) -> None:
        assert client.ready is not None
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await asyncio.get_running_loop().create_connection(
                    lambda: client, HOST, self.plan.port
                )
                await client.ready
        except (OSError, TimeoutError) as error:
            raise LoadFailed(
                f"a client could not connect: {str(error) or 'no answer in time'}"
            ) from error
        client.ready = None

    async def _keep_alive(self) -> None:
        """Have each client say now and then that it is still here.

        A few each second, so that nobody notices.
        """
        for turn in itertools.count():
            await asyncio.sleep(1.0)
            for client in self.clients[turn % KEEPALIVE_EVERY_S :: KEEPALIVE_EVERY_S]:
                if frame := client.protocol.keepalive():
                    client.send(frame)

    async def _flush_due(self) -> None:
        """Have clients say what they gathered, as often as MPIM's own client does."""
        while True:
            await asyncio.sleep(FLUSH_EVERY_S)
            senders, self._senders = self._senders, {}
            for client in senders:
                client.flush_due()

    def _on_received(self, client: Client) -> None:
        self._senders[client] = None

    def _on_failed(self, why: str) -> None:
        self._why = self._why or why

    def check(self) -> None:
        """Raise LoadFailed if a client was cut off, or was told that something was not done."""
        if self._why is not None:
            raise LoadFailed(self._why)

    def by_number(self, number: int) -> Client:
        """One of ours, by its number in the whole swarm."""
        return self.clients[number - self.plan.mine.start]

    async def ask(self, client: Client, frame: bytes) -> None:
        """Send a frame and wait for its answer. Raises LoadFailed."""
        answer = asyncio.get_running_loop().create_future()
        client.on_answer = lambda: None if answer.done() else answer.set_result(None)
        client.send(frame)
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                await answer
        except TimeoutError:
            self.check()
            raise LoadFailed(f"no answer to {frame[:80]!r}") from None


def spread(count: int, over: Sequence[Any]) -> list[Any]:
    """Take `count` of many, evenly.

    >>> spread(3, range(10))
    [0, 3, 6]
    """
    count = min(count, len(over))
    return [over[place * len(over) // count] for place in range(count)]
