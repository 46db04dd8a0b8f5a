"""Actor: a process of the lab that runs the learner's class; it can die, be cancelled, be held, lose its connection.

It has its own copy of the class, and its own way to the server: a relay that sees every command. A
process that dies stops then and there: what its code would still do (`finally`, `except`) reaches
nobody, and the server sees its connections end.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from enum import Enum
from pathlib import Path
from typing import Any, Protocol

from mpim_lab.errors import InvalidMessage
from mpim_lab.lab.exercise.schedules import AFTER, BEFORE, Step
from mpim_lab.lab.faults.relay import open_streams
from mpim_lab.lab.faults.resp_framing import Command, ReplyMatcher, RespFramer
from mpim_lab.mq.connection.address import Address

READ_BYTES = 64 * 1024
SETUP = frozenset({"HELLO", "AUTH", "SELECT", "CLIENT", "READONLY", "PING", ""})


class Fate(Enum):
    """What becomes of a step: it goes on, its connection is cut, its actor is dead."""

    GOES_ON = 0
    CUT = 1
    DEAD = 2


class Disturb(Protocol):
    """Do what the schedule has for this moment of this step; say what becomes of it."""

    async def __call__(self, actor: "Actor", moment: str, step: Step) -> Fate:
        """See above."""
        ...


async def _for_ever() -> None:
    await asyncio.get_running_loop().create_future()


class Actor:
    """One actor. Use as a context; `url` is the server, as its process sees it."""

    def __init__(
        self,
        name: str,
        server: Address,
        folder: Path,
        disturb: Disturb,
        note: Callable[[Step, bool], None],
        setup: frozenset[str] = SETUP,
    ) -> None:
        self.name, self.is_dead = name, False
        self._server, self._path = server, folder / f"{name}.sock"
        self._disturb, self._note, self._setup = disturb, note, setup
        self.lab_error: Exception | None = None
        self.goes_on = asyncio.Event()  # not set while it is held, all of it
        self.goes_on.set()
        self._counts: Counter[str] = Counter()
        self._listener: asyncio.Server | None = None
        self._relays: set[asyncio.Task[None]] = set()
        self._upstreams: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def url(self) -> str:
        """The server, through this actor's relay."""
        return f"unix://{self._path}"

    async def __aenter__(self) -> "Actor":
        self._listener = await asyncio.start_unix_server(self._serve, self._path, limit=READ_BYTES)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        assert self._listener is not None
        self._listener.close()
        for task in [*self._tasks, *self._relays]:
            task.cancel()
        if left := [*self._tasks, *self._relays]:  # a class may swallow it: then it is left behind
            await asyncio.wait(left, timeout=0.2)
        with contextlib.suppress(OSError):
            self._path.unlink()

    # What it does

    def spawn(self, work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        """Run something in this process."""
        task = asyncio.create_task(work, name=self.name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def step(
        self,
        name: str,
        call: Callable[[], Awaitable[Any]],
        raises: tuple[type[Exception], ...] = (),
    ) -> Any:
        """Make a call of the class to the lab: the handler, the work. `raises`: what it may raise."""
        if self.is_dead:
            await _for_ever()
        step = self._next(name, is_call=True)
        if await self._disturb(self, BEFORE, step) is Fate.DEAD or self.is_dead:
            await _for_ever()
        try:
            result = await call()
        except Exception as error:
            if not isinstance(error, raises):
                self.lab_error = self.lab_error or error
            raise
        if await self._disturb(self, AFTER, step) is Fate.DEAD or self.is_dead:
            await _for_ever()
        return result

    def die(self) -> None:
        """End at once."""
        self.is_dead = True
        self.cut()

    def cut(self) -> None:
        """End its connections, as the server would; it goes on, and may connect again."""
        for upstream in self._upstreams:
            upstream.transport.abort()

    def cancel(self) -> None:
        """Cancel what it does."""
        for task in self._tasks:
            task.cancel()

    def _next(self, name: str, *, is_call: bool) -> Step:
        self._counts[name] += 1
        step = Step(self.name, name, self._counts[name])
        self._note(step, is_call)
        return step

    # Its way to the server

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._relays.add(task)
        try:
            if not self.is_dead:
                await self._relay(reader, writer)
            if self.is_dead:  # nobody tells it that the connection has ended: it is dead itself
                await _for_ever()
        except (OSError, InvalidMessage, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            self._relays.discard(task)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await open_streams(self._server)
        self._upstreams.add(to_server)
        matcher, steps = ReplyMatcher(), dict[int, Step]()
        ways = [
            asyncio.create_task(self._to_server(reader, to_server, matcher, steps)),
            asyncio.create_task(self._to_actor(from_server, writer, matcher, steps)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.wait(ways)
            for way in ways:
                error = None if way.cancelled() else way.exception()
                # Of an action of the challenge's: no fault of the class, which sees a line break.
                if isinstance(error, Exception) and not isinstance(error, OSError | InvalidMessage):
                    self.lab_error = self.lab_error or error
            self._upstreams.discard(to_server)
            to_server.close()

    async def _to_server(
        self,
        reader: asyncio.StreamReader,
        server: asyncio.StreamWriter,
        matcher: ReplyMatcher,
        steps: dict[int, Step],
    ) -> None:
        framer = RespFramer()
        while data := await reader.read(READ_BYTES):
            for frame in framer.feed(data):
                command = matcher.command(frame)
                if command.name not in self._setup:
                    step = steps[id(command)] = self._next(command.name, is_call=False)
                    if await self._disturb(self, BEFORE, step) is not Fate.GOES_ON or self.is_dead:
                        return
                server.write(frame)
            await server.drain()

    async def _to_actor(
        self,
        server: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        matcher: ReplyMatcher,
        steps: dict[int, Step],
    ) -> None:
        framer = RespFramer()
        while data := await server.read(READ_BYTES):
            for frame in framer.feed(data):
                command: Command | None = matcher.reply(frame)
                step = None if command is None else steps.pop(id(command), None)
                if step is not None and await self._disturb(self, AFTER, step) is not Fate.GOES_ON:
                    return
                if self.is_dead:
                    return
                writer.write(frame)
            await writer.drain()
