"""Fault proxy: a relay that breaks where it is told to, by command.

It passes whole RESP frames, and knows which reply belongs to which command (`resp_framing.py`). A
fault is armed for the next command that matches; when it is triggered, `triggered` is counted up.

| fault           | the server gets the request | the client gets the reply | the connection       |
|-----------------|-----------------------------|---------------------------|----------------------|
| `drop_request`  | no                          | no                        | breaks               |
| `drop_reply`    | yes                         | no                        | breaks               |
| `delay_request` | after `release`             | then, if it is there      | stays, and is silent |
| `delay_reply`   | yes                         | after `release`           | stays, and is silent |
| `cut_at_byte`   | as far as it comes          | as far as it comes        | breaks at that byte  |
| `partition`     | after `heal`                | after `heal`              | stays, and is silent |
"""

import asyncio
import contextlib
from dataclasses import dataclass, field

from mpim_lab.errors import InvalidParameter
from mpim_lab.lab.faults.relay import READ_BYTES, Relay, Streams, open_streams, running
from mpim_lab.lab.faults.resp_framing import Command, ReplyMatcher, RespFramer


@dataclass(frozen=True)
class Match:
    """Which commands a fault is for.

    Args:
        command: the name, in any case; None: any.
        containing: bytes that one of the command's words contains.
    """

    command: str | None = None
    containing: bytes = b""

    def matches(self, command: Command) -> bool:
        """Return whether a command is meant.

        Args:
            command: as a client sent it.

        Returns:
            True if its name and its words match.
        """
        named = self.command is None or self.command.upper() == command.name
        return named and any(self.containing in word for word in command.words)


@dataclass
class _ArmedFault:
    kind: str
    match: Match
    times: int = 1


@dataclass
class _ProxiedConnection:
    """One client's connection, and the one to the server that belongs to it."""

    client: Streams
    server: Streams
    task: "asyncio.Task[None]"
    matcher: ReplyMatcher = field(default_factory=ReplyMatcher)
    commands: RespFramer = field(default_factory=RespFramer)
    replies: RespFramer = field(default_factory=RespFramer)
    bytes_left: int | None = None  # from the server, until it is cut
    holds_command: bool = False  # or has held one


class FaultProxy(Relay):
    """A relay on loopback that injects faults where it is told to.

    Clients connect to its `url`. `triggered` counts the faults that were triggered. At most one
    read of each side is kept: who does not read holds up who writes.

    Args:
        url: the server's address, with its user, password and database.

    Raises:
        InvalidParameter: the address is none.
        ServerFailed: it cannot listen; raised when the context is entered.
    """

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.triggered = 0
        self._armed: list[_ArmedFault] = []
        self._cut_after: int | None = None
        self._passing = asyncio.Event()
        self._passing.set()
        self._released = asyncio.Event()
        self._released.set()
        self._holding: set[asyncio.Task[None]] = set()  # connections on which a command is held

    # Faults

    def drop_request(self, match: Match, times: int = 1) -> None:
        """Break the connection before a command reaches the server: it certainly is not done.

        Args:
            match: which commands.
            times: how many of them, from the next one on; at least 1.

        Raises:
            InvalidParameter: `times` is below 1.
        """
        self._arm("drop request", match, times)

    def drop_reply(self, match: Match, times: int = 1) -> None:
        """Break the connection after the server has done a command, before its reply arrives.

        Args:
            match: which commands.
            times: how many of them, from the next one on; at least 1.

        Raises:
            InvalidParameter: `times` is below 1.
        """
        self._arm("drop reply", match, times)

    def delay_request(self, match: Match, times: int = 1) -> None:
        """Hold a command, and whatever follows it on its connection, until `release`.

        It goes on its way then even if the client is gone.

        Args:
            match: which commands.
            times: how many of them, from the next one on; at least 1.

        Raises:
            InvalidParameter: `times` is below 1.
        """
        self._arm("delay request", match, times)

    def delay_reply(self, match: Match, times: int = 1) -> None:
        """Have a command done, and hold its reply, and whatever follows it, until `release`.

        Args:
            match: which commands.
            times: how many of them, from the next one on; at least 1.

        Raises:
            InvalidParameter: `times` is below 1.
        """
        self._arm("delay reply", match, times)

    def disarm(self) -> None:
        """Forget every fault that was armed and has not been triggered."""
        self._armed.clear()

    def release(self) -> None:
        """Release everything that is held."""
        self._released.set()

    async def wait_flushed(self) -> None:
        """Wait until the commands that were held are at the server."""
        if self._holding:  # a client that stays keeps its connection
            await asyncio.wait(self._holding, timeout=1.0)

    def cut_at_byte(self, count: int) -> None:
        """Break the next connection somewhere in a frame.

        Args:
            count: how many bytes from the server arrive before.

        Raises:
            InvalidParameter: `count` is below 0.
        """
        if count < 0:
            raise InvalidParameter(f"count={count}: at least 0")
        self._cut_after = count

    def partition(self) -> None:
        """Let nothing pass from now on; connections stay, new ones are accepted and get nothing."""
        self._passing.clear()

    def heal(self) -> None:
        """Let everything pass again."""
        self._passing.set()

    def _arm(self, kind: str, match: Match, times: int) -> None:
        if times < 1:
            raise InvalidParameter(f"times={times}: at least 1")
        self._armed.append(_ArmedFault(kind, match, times))

    def _trigger(self, command: Command | None, kinds: tuple[str, ...]) -> str:
        for armed in self._armed:
            if command is not None and armed.kind in kinds and armed.match.matches(command):
                armed.times -= 1
                if not armed.times:
                    self._armed.remove(armed)
                self.triggered += 1
                return armed.kind
        return ""

    # Connections

    async def _relay(self, client: Streams, task: "asyncio.Task[None]") -> None:
        await self._passing.wait()
        server = await open_streams(self._upstream)
        connection = _ProxiedConnection(client, server, task, bytes_left=self._cut_after)
        self._cut_after = None
        with contextlib.closing(server[1]):
            async with running(self._to_server(connection), self._to_client(connection)) as ways:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                if connection.holds_command and not self._released.is_set():
                    await self._released.wait()  # what is held still goes on its way
                    await asyncio.wait(ways, timeout=1.0)

    async def _to_server(self, connection: _ProxiedConnection) -> None:
        reader, writer = connection.client[0], connection.server[1]
        while data := await reader.read(READ_BYTES):
            for frame in connection.commands.feed(data):
                command = connection.matcher.command(frame)
                kind = self._trigger(command, ("drop request", "delay request"))
                if kind == "drop request":
                    return
                if kind:
                    connection.holds_command = True
                    self._holding.add(connection.task)
                    connection.task.add_done_callback(self._holding.discard)
                    await self._hold()
                await self._passing.wait()
                writer.write(frame)
            await writer.drain()
        if connection.holds_command:
            await asyncio.sleep(0.05)  # the server reads what was held before the connection ends

    async def _to_client(self, connection: _ProxiedConnection) -> None:
        reader, writer = connection.server[0], connection.client[1]
        while data := await reader.read(READ_BYTES):
            for frame in connection.replies.feed(data):
                command = connection.matcher.reply(frame)
                kind = self._trigger(command, ("drop reply", "delay reply"))
                if kind == "drop reply":
                    return
                if kind:
                    await self._hold()
                await self._passing.wait()
                left = connection.bytes_left
                with contextlib.suppress(ConnectionError):
                    writer.write(frame[:left])
                if left is not None:
                    connection.bytes_left = max(0, left - len(frame))
                if connection.bytes_left == 0:
                    break
            with contextlib.suppress(ConnectionError):
                await writer.drain()
            if connection.bytes_left == 0:
                self.triggered += 1
                return

    async def _hold(self) -> None:
        self._released.clear()
        await self._released.wait()
