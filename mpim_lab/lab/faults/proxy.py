"""Proxy: a line on loopback between a client and its server, which breaks where it is told to: by command, not by clock.

It passes whole RESP frames, and knows which reply belongs to which command (`resp_frames.py`). A fault is armed for the next
command that matches; when it strikes, `struck` is counted up.

| fault           | the command reaches the server | the answer reaches the client | the line            |
|-----------------|--------------------------------|-------------------------------|---------------------|
| `lose_command`  | no                             | no                            | breaks              |
| `lose_reply`    | yes                            | no                            | breaks              |
| `stall_command` | after `release`                | then, if anybody is there     | stays, and is silent|
| `stall_reply`   | yes                            | after `release`               | stays, and is silent|
| `cut_at_byte`   | as far as it comes             | as far as it comes            | breaks at that byte |
| `partition`     | after `heal`                   | after `heal`                  | stays, and is silent|
"""

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import Self

from mpim_lab.errors import InvalidMessage, InvalidParameter, ServerFailed
from mpim_lab.lab.faults.relay import open_streams, url_for_clients
from mpim_lab.lab.faults.resp_framing import Command, Conversation, RespFrames
from mpim_lab.mq.connection.address import Address

READ_BYTES = 64 * 1024


@dataclass(frozen=True)
class Match:
    """Commands of this name (any, if None) of which one word contains these bytes."""

    command: str | None = None
    containing: bytes = b""

    def fits(self, command: Command) -> bool:
        """Whether a command is meant."""
        named = self.command is None or self.command.upper() == command.name
        return named and any(self.containing in word for word in command.words)


@dataclass
class _Armed:
    kind: str
    match: Match
    times: int = 1


@dataclass
class _Line:
    """One client's connection and the one to the server that belongs to it."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    task: "asyncio.Task[None]"
    talk: Conversation = field(default_factory=Conversation)
    commands: RespFrames = field(default_factory=RespFrames)
    replies: RespFrames = field(default_factory=RespFrames)
    bytes_left: int | None = None
    client_is_gone: bool = False


class Proxy:
    """Use as a context; clients connect to `url`, which has the server's user, password and database.

    Clients speak plainly to it, on loopback, also where it speaks TLS to the server.

    At most one read of each side is kept: who does not read holds up who writes.
    """

    def __init__(self, url: str) -> None:
        self._upstream = Address.parse(url)
        self.struck = 0
        self._port = 0
        self._server: asyncio.Server | None = None
        self._armed: list[_Armed] = []
        self._cut_after: int | None = None
        self._passing = asyncio.Event()
        self._passing.set()
        self._released = asyncio.Event()
        self._released.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._holding: set[asyncio.Task[None]] = set()  # lines on which a command is held

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

    def lose_command(self, match: Match, times: int = 1) -> None:
        """Break the line before the command reaches the server: it certainly is not done."""
        self._arm("lose command", match, times)

    def lose_reply(self, match: Match, times: int = 1) -> None:
        """Break the line after the server has done the command, before the client hears of it."""
        self._arm("lose reply", match, times)

    def stall_command(self, match: Match, times: int = 1) -> None:
        """Hold the command, and whatever follows it on its line, until `release`; even if the client is gone by then."""
        self._arm("stall command", match, times)

    def stall_reply(self, match: Match, times: int = 1) -> None:
        """Have the command done, and hold its answer, and whatever follows it, until `release`."""
        self._arm("stall reply", match, times)

    def release(self) -> None:
        """Let everything go that is held."""
        self._released.set()

    async def flushed(self) -> None:
        """Wait until the commands that were held are at the server."""
        if self._holding:
            await asyncio.wait(self._holding, timeout=1.0)  # a client that stays keeps its line

    def cut_at_byte(self, count: int) -> None:
        """Break the next line after `count` bytes from the server, wherever in a frame that is."""
        if count < 0:
            raise InvalidParameter(f"count={count}: at least 0")
        self._cut_after = count

    def partition(self) -> None:
        """Nothing passes from now on; lines stay, new ones are taken and hear nothing."""
        self._passing.clear()

    def heal(self) -> None:
        """Everything passes again."""
        self._passing.set()

    def _arm(self, kind: str, match: Match, times: int) -> None:
        if times < 1:
            raise InvalidParameter(f"times={times}: at least 1")
        self._armed.append(_Armed(kind, match, times))

    def _strikes(self, command: Command, kinds: tuple[str, ...]) -> str:
        for armed in self._armed:
            if armed.kind in kinds and armed.match.fits(command):
                armed.times -= 1
                if not armed.times:
                    self._armed.remove(armed)
                self.struck += 1
                return armed.kind
        return ""

    # Lines

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._carry(reader, writer, task)
        except (OSError, InvalidMessage, asyncio.CancelledError):
            pass  # a line that breaks is what lines do
        finally:
            writer.close()
            self._tasks.discard(task)
            self._holding.discard(task)

    async def _carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, task: "asyncio.Task[None]"
    ) -> None:
        await self._passing.wait()
        server_reader, server_writer = await open_streams(self._upstream)
        line = _Line(writer, server_writer, task, bytes_left=self._cut_after)
        self._cut_after = None
        ways = [asyncio.create_task(way) for way in (self._up(reader, line), self._down(server_reader, line))]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            if line.client_is_gone and not self._released.is_set():  # what is held still goes on its way
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

    async def _up(self, reader: asyncio.StreamReader, line: _Line) -> None:
        """From the client to the server."""
        while data := await reader.read(READ_BYTES):
            for frame in line.commands.feed(data):
                kind = self._strikes(line.talk.command(frame), ("lose command", "stall command"))
                if kind == "lose command":
                    return
                if kind:
                    self._released.clear()
                    line.client_is_gone = True  # as far as the held command is concerned
                    self._holding.add(line.task)
                    await self._released.wait()
                await self._passing.wait()
                line.server.write(frame)
            await line.server.drain()
        if line.client_is_gone:
            await asyncio.sleep(0.05)  # the server reads what was held before the line ends

    async def _down(self, reader: asyncio.StreamReader, line: _Line) -> None:
        """From the server to the client."""
        while data := await reader.read(READ_BYTES):
            for frame in line.replies.feed(data):
                command = line.talk.reply(frame)
                kind = self._strikes(command, ("lose reply", "stall reply")) if command is not None else ""
                if kind == "lose reply":
                    return
                if kind:
                    self._released.clear()
                    await self._released.wait()
                await self._passing.wait()
                if line.bytes_left is not None:
                    frame, line.bytes_left = frame[: line.bytes_left], line.bytes_left - len(frame)
                with contextlib.suppress(ConnectionError):
                    line.client.write(frame)
                if line.bytes_left is not None and line.bytes_left <= 0:
                    self.struck += 1
                    with contextlib.suppress(ConnectionError):
                        await line.client.drain()
                    return
            with contextlib.suppress(ConnectionError):
                await line.client.drain()
