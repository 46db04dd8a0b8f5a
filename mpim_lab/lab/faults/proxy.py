"""Fault proxy: a relay on loopback between a client and its server, which breaks where it is told to: by command.

It passes whole RESP frames, and knows which reply belongs to which command (`resp_framing.py`). A
fault is armed for the next command that matches; when it is triggered, `triggered` is counted up.

| fault           | the request reaches the server | the reply reaches the client  | the connection      |
|-----------------|--------------------------------|-------------------------------|---------------------|
| `drop_request`  | no                             | no                            | breaks              |
| `drop_reply`    | yes                            | no                            | breaks              |
| `delay_request` | after `release`                | then, if anybody is there     | stays, and is silent|
| `delay_reply`   | yes                            | after `release`               | stays, and is silent|
| `cut_at_byte`   | as far as it comes             | as far as it comes            | breaks at that byte |
| `partition`     | after `heal`                   | after `heal`                  | stays, and is silent|
"""

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import Self

from mpim_lab.errors import InvalidMessage, InvalidParameter, ServerFailed
from mpim_lab.lab.faults.relay import open_streams, url_for_clients
from mpim_lab.lab.faults.resp_framing import Command, ReplyMatcher, RespFramer
from mpim_lab.mq.connection.address import Address

READ_BYTES = 64 * 1024


@dataclass(frozen=True)
class Match:
    """Commands of this name (any, if None) of which one word contains these bytes."""

    command: str | None = None
    containing: bytes = b""

    def matches(self, command: Command) -> bool:
        """Return whether a command is meant."""
        named = self.command is None or self.command.upper() == command.name
        return named and any(self.containing in word for word in command.words)


@dataclass
class _ArmedFault:
    kind: str
    match: Match
    times: int = 1


@dataclass
class _ProxiedConnection:
    """One client's connection and the one to the server that belongs to it."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    task: "asyncio.Task[None]"
    matcher: ReplyMatcher = field(default_factory=ReplyMatcher)
    commands: RespFramer = field(default_factory=RespFramer)
    replies: RespFramer = field(default_factory=RespFramer)
    bytes_left: int | None = None
    client_is_gone: bool = False


class FaultProxy:
    """Proxy that injects faults.

    Clients connect to `url`, which has the server's user, password and database.

    Clients speak plainly to it, on loopback, also where it speaks TLS to the server.

    At most one read of each side is kept: who does not read holds up who writes.
    """

    def __init__(self, url: str) -> None:
        self._upstream = Address.parse(url)
        self.triggered = 0
        self._port = 0
        self._server: asyncio.Server | None = None
        self._armed: list[_ArmedFault] = []
        self._cut_after: int | None = None
        self._passing = asyncio.Event()
        self._passing.set()
        self._released = asyncio.Event()
        self._released.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._holding: set[asyncio.Task[None]] = set()  # connections on which a command is held

    @property
    def url(self) -> str:
        """Where clients connect: redis://127.0.0.1:PORT/DB, with the server's user and password."""
        return url_for_clients(self._upstream, self._port)

    async def __aenter__(self) -> Self:
        try:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=READ_BYTES)
        except OSError as error:
            raise ServerFailed(f"the proxy cannot listen: {error}") from error
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        assert self._server is not None
        self._server.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._server.wait_closed()

    # Faults

    def drop_request(self, match: Match, times: int = 1) -> None:
        """Break the connection before the command reaches the server: it certainly is not done."""
        self._arm("drop request", match, times)

    def drop_reply(self, match: Match, times: int = 1) -> None:
        """Break the connection after the server has done the command, before the client gets its reply."""
        self._arm("drop reply", match, times)

    def delay_request(self, match: Match, times: int = 1) -> None:
        """Hold the command, and whatever follows it on its connection, until `release`, even if the client is gone then."""
        self._arm("delay request", match, times)

    def delay_reply(self, match: Match, times: int = 1) -> None:
        """Have the command done, and hold its reply, and whatever follows it, until `release`."""
        self._arm("delay reply", match, times)

    def disarm(self) -> None:
        """Forget every fault that was armed and has not been triggered."""
        self._armed.clear()

    def release(self) -> None:
        """Release everything that is held."""
        self._released.set()

    async def wait_flushed(self) -> None:
        """Wait until the commands that were held are at the server."""
        if self._holding:
            await asyncio.wait(
                self._holding, timeout=1.0
            )  # a client that stays keeps its connection

    def cut_at_byte(self, count: int) -> None:
        """Break the next connection after `count` bytes from the server, wherever in a frame that is."""
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

    def _trigger(self, command: Command, kinds: tuple[str, ...]) -> str:
        for armed in self._armed:
            if armed.kind in kinds and armed.match.matches(command):
                armed.times -= 1
                if not armed.times:
                    self._armed.remove(armed)
                self.triggered += 1
                return armed.kind
        return ""

    # Connections

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._relay(reader, writer, task)
        except (OSError, InvalidMessage, asyncio.CancelledError):
            pass  # a connection that breaks is what connections do
        finally:
            writer.close()
            self._tasks.discard(task)
            self._holding.discard(task)

    async def _relay(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, task: "asyncio.Task[None]"
    ) -> None:
        await self._passing.wait()
        server_reader, server_writer = await open_streams(self._upstream)
        connection = _ProxiedConnection(writer, server_writer, task, bytes_left=self._cut_after)
        self._cut_after = None
        ways = [
            asyncio.create_task(way)
            for way in (
                self._to_server(reader, connection),
                self._to_client(server_reader, connection),
            )
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            if (
                connection.client_is_gone and not self._released.is_set()
            ):  # what is held still goes on its way
                await self._released.wait()
                await asyncio.wait(ways, timeout=1.0)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.wait(ways)
            for way in ways:
                if not way.cancelled():
                    way.exception()
            server_writer.close()

    async def _to_server(
        self, reader: asyncio.StreamReader, connection: _ProxiedConnection
    ) -> None:
        """From the client to the server."""
        while data := await reader.read(READ_BYTES):
            for frame in connection.commands.feed(data):
                kind = self._trigger(
                    connection.matcher.command(frame), ("drop request", "delay request")
                )
                if kind == "drop request":
                    return
                if kind:
                    self._released.clear()
                    connection.client_is_gone = True  # as far as the held command is concerned
                    self._holding.add(connection.task)
                    await self._released.wait()
                await self._passing.wait()
                connection.server.write(frame)
            await connection.server.drain()
        if connection.client_is_gone:
            await asyncio.sleep(0.05)  # the server reads what was held before the connection ends

    async def _to_client(
        self, reader: asyncio.StreamReader, connection: _ProxiedConnection
    ) -> None:
        """From the server to the client."""
        while data := await reader.read(READ_BYTES):
            for frame in connection.replies.feed(data):
                command = connection.matcher.reply(frame)
                kind = (
                    self._trigger(command, ("drop reply", "delay reply"))
                    if command is not None
                    else ""
                )
                if kind == "drop reply":
                    return
                if kind:
                    self._released.clear()
                    await self._released.wait()
                await self._passing.wait()
                if connection.bytes_left is not None:
                    frame, connection.bytes_left = (
                        frame[: connection.bytes_left],
                        connection.bytes_left - len(frame),
                    )
                with contextlib.suppress(ConnectionError):
                    connection.client.write(frame)
                if connection.bytes_left is not None and connection.bytes_left <= 0:
                    self.triggered += 1
                    with contextlib.suppress(ConnectionError):
                        await connection.client.drain()
                    return
            with contextlib.suppress(ConnectionError):
                await connection.client.drain()
