"""Service: what answers chapter 7's callers, and what the lab sees and does at the server."""

from typing import Any

from mpim_lab.lab.faults.server_admin import rights_needed
from mpim_lab.mq.connection.address import wire_client_name
from mpim_lab.mq.pubsub.queue import MessageQueue

REPLY_WITHIN_S = 60  # longer than any run: a reply ends the wait, not a time-out


class Service:
    """Answers into a list for each caller. `pool_name`: what the pool's connections are called at the server."""

    def __init__(self, queue: MessageQueue, pool_name: str) -> None:
        self._queue, self._pool_name = queue, pool_name

    def question(self, caller: str) -> tuple[str, bytes, int]:
        """The command by which a caller waits for its reply."""
        return "BLPOP", self._key(caller), REPLY_WITHIN_S

    async def answer(self, caller: str) -> None:
        """Reply to a caller, whether it still waits or not."""
        await self._command("RPUSH", self._key(caller), reply_to(caller))

    async def waiting(self) -> list[str]:
        """Which of the pool's connections wait for a reply, by the server's client ids."""
        return await self._clients(blocked=True)

    async def cut_waiting(self) -> None:
        """Cut the connections that wait for a reply (CLIENT KILL)."""
        await self._cut(await self._clients(blocked=True))

    async def cut_idle(self) -> None:
        """Cut the others, as a server's `timeout` does, or a firewall's."""
        await self._cut(await self._clients(blocked=False))

    async def _cut(self, ids: list[str]) -> None:
        for number in ids:
            await self._command("CLIENT", "KILL", "ID", number)

    async def _clients(self, *, blocked: bool) -> list[str]:
        listed = bytes(await self._command("CLIENT", "LIST")).decode()
        clients = [dict(word.partition("=")[::2] for word in line.split()) for line in listed.splitlines()]
        own = [client for client in clients if client["name"] == wire_client_name(self._pool_name)]
        return [client["id"] for client in own if ("b" in client["flags"]) == blocked]

    def _key(self, caller: str) -> bytes:
        return self._queue.keys.record(f"replies of {self._pool_name}", caller)

    async def _command(self, *words: str | bytes) -> Any:
        with rights_needed():
            return await self._queue.access(self._pool_name).commands.call(*words)


def reply_to(caller: str) -> str:
    """What the service replies to a caller.

    >>> reply_to("m3")
    'reply to m3'
    """
    return f"reply to {caller}"
