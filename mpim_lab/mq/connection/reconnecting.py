"""Link: keeps one connection up. Dials, logs in, subscribes again, backs off, makes callers wait while the line is down.

state      a command ...                              when it fails, raises
up         is written at the end of this loop turn    CommandTimeout, CommandRejected, ConnectionLost
full       waits for room (max_commands, max_bytes)   QueueFull
down       waits for the line                         NotConnected
closed     is refused                                 QueueClosed
elsewhere  is refused: another loop or process        WrongLoop

`call_many`: many commands that leave in one write, one round trip, no more atomic than so many single commands.
"""

import asyncio
import contextlib
import os
import random
import weakref
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import replace
from typing import Any, Protocol

from mpim_lab.errors import (
    CommandRejected,
    LoginRejected,
    MpimError,
    NotConnected,
    QueueClosed,
    QueueFull,
)
from mpim_lab.events import Kind, Observer, Reporter, call_safely, now
from mpim_lab.mq.connection.address import Address
from mpim_lab.mq.connection.config import ConnectionConfig
from mpim_lab.mq.connection.handler import OneLoop
from mpim_lab.mq.connection.resp import Connection, Replies, pack, retrieved


class Commands(Protocol):
    """What is needed of a link in order to send commands over it."""

    @property
    def connection(self) -> Connection:
        """The connection now; if it is `blocked`, ask for `room`."""

    @property
    def config(self) -> ConnectionConfig:
        """Time-outs and sizes."""

    @property
    def is_connected(self) -> bool:
        """Whether the line is up, as far as anybody here knows."""

    @property
    def on_close(self) -> set[Callable[[], None]]:
        """What is called when it is closed."""

    async def room(self) -> Connection:
        """Wait until a command may be sent."""

    def call(self, *command: bytes | str, blocks_s: float = 0.0) -> Coroutine[Any, Any, Any]:
        """Send one command and await its reply."""


async def call_many(link: Commands, commands: Sequence[bytes]) -> list[Any]:
    """Send packed commands in order, each write as large as the link's limits allow; gives a reply or an error for each.

    What waits for room in vain, and everything after it, has that error in its place and was not written. Raises what
    `Link.room` raises when this befalls the first, so that nothing was written.
    """
    sent: list[Replies] = []
    written, error = 0, None
    while written < len(commands) and error is None:
        connection = link.connection
        try:
            if connection.blocked:
                connection = await link.room()
        except MpimError as no_room:
            if not sent:
                raise
            error = no_room
        else:
            sent.append(connection.send_many(commands[written:] if written else commands))
            written += sent[-1].count
    outcomes = [reply for replies in sent for reply in await replies]
    return outcomes + [error] * (len(commands) - written)


Greeting = tuple[bytes, Callable[[CommandRejected], None]]
_links: "weakref.WeakSet[Link]" = weakref.WeakSet()


def _orphan_all() -> None:
    """After a fork the sockets are the parent's: whatever the child wrote would come between its commands."""
    for link in list(_links):
        link.disown()


os.register_at_fork(after_in_child=_orphan_all)


class Link:
    """A connection that comes back by itself.

    `greeting` gives the commands to repeat on each new connection (subscriptions), each with who is told if the server
    refuses it. `sleep` is what waits between two
    attempts to reconnect; a laboratory may hold it back.
    """

    def __init__(
        self,
        address: Address,
        *,
        name: str = "",
        config: ConnectionConfig | None = None,
        on_push: Callable[[list[Any]], bool] = lambda push: False,
        greeting: Callable[[], Iterable[Greeting]] = tuple,
        on_gap: Callable[[float], None] | None = None,
        observer: Observer | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.address, self.name = address, name
        self.config = replace(config or ConnectionConfig(), **address.config_overrides)
        self.client_id = 0
        self._on_push, self._greeting, self._on_gap, self._sleep = on_push, greeting, on_gap, sleep
        self._reporter = Reporter(name, observer)
        self._callers: deque[asyncio.Future[None]] = deque()
        self.on_close: set[Callable[[], None]] = set()  # whoever waits elsewhere, and ends with it
        self._times_made = 0
        self._opened = self._closed = False
        self._loop = OneLoop("a connection")
        self._opening: asyncio.Task[None] | None = None
        self._openers = 0
        self._reading_allowed = asyncio.Event()
        self._reading_allowed.set()
        self._lost_at: float | None = None
        self._cause: MpimError | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._ticker: asyncio.Task[None] | None = None
        self.connection = self._new_connection()
        _links.add(self)

    @property
    def is_connected(self) -> bool:
        """Logged in, and the line has not broken as far as anybody here knows."""
        return self.connection.is_ready

    @property
    def is_open(self) -> bool:
        """Opened by its owner and not closed."""
        return self._opened and not self._closed

    async def open(self) -> None:
        """Connect for the first time. Raises NotConnected or LoginRejected. Idempotent; callers share one attempt.

        The attempt ends with its last caller, or after two `connect_timeout_s`.
        """
        self.check_loop()
        if self._closed:
            raise QueueClosed("the queue is closed")
        if self._opened:
            return
        if self._opening is None:
            self._opening = asyncio.create_task(self._open())
            self._opening.add_done_callback(retrieved)
        opening, self._openers = self._opening, self._openers + 1
        try:
            await asyncio.wait([opening])
        finally:
            self._openers -= 1
            if not self._openers and not opening.done():
                opening.cancel()
                self._opening = None
        if opening.cancelled():
            raise QueueClosed("the queue was closed")
        opening.result()

    async def _open(self) -> None:
        try:
            await self._dial()
            self._opened = True
            self._ticker = asyncio.create_task(self._tick())
        finally:
            if self._opening is asyncio.current_task():
                self._opening = None

    def check_loop(self) -> None:
        """Raise WrongLoop if this is not the event loop, thread and process in which it was opened."""
        self._loop.check()
        if self._ticker is not None and self._ticker.done() and not self._closed:  # whoever cancelled all tasks: go on
            self._ticker = asyncio.create_task(self._tick())
            if not self.is_connected and (self._keeper is None or self._keeper.done()):
                self._keeper = asyncio.create_task(self._reconnect())
            self.connection.release()

    def disown(self) -> None:
        """Have every command ask `check_loop` first: the connection may belong to another loop or process."""
        self.connection.blocked = True

    async def call(self, *command: bytes | str, blocks_s: float = 0.0) -> Any:
        """Send one command and await its reply. Raises as the table above says.

        blocks_s: for how long the command itself waits on the server (BLOCK); its time-out begins after that.
        """
        packed = pack(*command)
        connection = self.connection
        if connection.blocked:
            connection = await self.room()
        return await (connection.send_blocking(packed, blocks_s) if blocks_s else connection.send(packed))

    async def room(self) -> Connection:
        """Wait, first come, first served, until a command may be sent; gives the connection to send it on at once."""
        self.check_loop()
        if not self._opened:
            raise NotConnected("not opened yet: write `async with MessageQueue(url) as mq:`")
        if not self.connection.blocked:
            return self.connection
        first_in_line = False
        try:
            async with asyncio.timeout(self.config.timeout_s):
                while not self._closed:
                    await self._turn(first_in_line)
                    if not self.connection.is_full:
                        return self.connection
                    first_in_line = True
        except TimeoutError:
            raise self._why_no_room() from self._cause
        raise QueueClosed("the queue is closed")

    def post(self, *command: bytes | str) -> "asyncio.Future[Any] | None":
        """Write a command whose answer nobody needs; give its reply. None if there is no connection to write it to.

        Also before the connection is ready, if its greeting was begun: what this undoes may have been part of that.
        """
        if not self.connection.is_greeted:
            return None
        reply = self.connection.send(pack(*command))
        reply.add_done_callback(retrieved)
        return reply

    async def _turn(self, first_in_line: bool) -> None:
        caller: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        (self._callers.appendleft if first_in_line else self._callers.append)(caller)
        try:
            await caller
        except BaseException:  # cancelled: hand the turn on
            with contextlib.suppress(ValueError):
                self._callers.remove(caller)
            self.connection.release()
            raise

    def _why_no_room(self) -> MpimError:
        waited = f"waited {self.config.timeout_s:g} s"
        if not self.is_connected:
            return NotConnected(f"no connection to {self.address} ({self._cause or 'never opened'}); {waited}")
        most = f"{self.config.max_commands:,} commands or {self.config.max_bytes:,} bytes"
        return QueueFull(f"{most} are waiting for the server already; {waited} for room")

    def _admit(self) -> None:
        """Let as many callers go on as there are free places; whoever comes later queues behind the rest."""
        for _ in range(min(len(self._callers), self.connection.free_places)):
            caller = self._callers.popleft()
            if not caller.done():
                caller.set_result(None)
        self.connection.blocked = bool(self._callers)

    # Connecting, for the first time and again

    def _new_connection(self) -> Connection:
        return Connection(self.config, self._on_push, self._admit, self._on_lost)

    async def _dial(self) -> None:
        """Connect, log in and subscribe again, once. Raises NotConnected, LoginRejected; no caller's command was sent."""
        connection = self.connection = self._new_connection()
        try:
            async with asyncio.timeout(self.config.connect_timeout_s):
                await self.address.connect(lambda: connection)
                await self._log_in(connection)
            await self._reading_allowed.wait()  # with a full buffer, subscribing would only fill the socket
            async with asyncio.timeout(self.config.connect_timeout_s):
                count = await self._greet(connection)
        except NotConnected as error:
            self._give_up(connection, error)
            raise
        except Exception as error:
            cause = NotConnected(f"cannot reach {self.address}: {_said(connection.reason or error)}")
            self._give_up(connection, cause)
            raise cause from error
        except BaseException:
            self._give_up(connection, NotConnected("connecting was given up"))
            raise
        self._times_made += 1
        connection.ready()
        self._report_connected(count)

    def _give_up(self, connection: Connection, cause: NotConnected) -> None:
        self._cause = cause
        connection.abort(cause)

    async def _log_in(self, connection: Connection) -> None:
        try:
            replies = [connection.send(pack(*command)) for command in self.address.handshake_commands(self.name)]
            hello, *_ = await asyncio.gather(*replies)
        except CommandRejected as error:
            is_for_now = error.transient or "max number of clients" in str(error)
            refused = NotConnected if is_for_now else LoginRejected
            raise refused(f"{self.address} refused the login: {error}") from error
        if not isinstance(hello, dict) or b"id" not in hello:
            raise NotConnected(f"{self.address} is no Redis or Valkey server: it answered HELLO with {hello!r:.100}")
        self.client_id = int(hello[b"id"])

    async def _greet(self, connection: Connection) -> int:
        connection.is_greeted = True
        greeting = list(self._greeting())
        replies = [connection.send(command) for command, _ in greeting]
        answers = await asyncio.gather(*replies, return_exceptions=True)
        for (_, refuse), answer in zip(greeting, answers, strict=True):
            if isinstance(answer, CommandRejected):  # one channel is refused; the others go on
                refuse(answer)
            elif isinstance(answer, BaseException):
                raise answer
        return len(replies)

    def _on_lost(self, reason: MpimError) -> None:
        if self._closed or self._loop.is_over:
            return
        self._cause, self._lost_at = reason, now()
        self._reporter.note(Kind.DISCONNECTED, detail=str(reason))
        self._keeper = asyncio.create_task(self._reconnect())

    async def _reconnect(self) -> None:
        attempt = 0
        while not self._closed:
            attempt += 1
            await self._sleep(self.config.backoff.delay_s(attempt, random.random()))
            with contextlib.suppress(MpimError):  # kept as the cause, told to whoever waits
                return await self._dial()

    def _report_connected(self, channels: int) -> None:
        self._reporter.note(Kind.CONNECTED, count=self._times_made)
        if self._lost_at is not None and channels:
            gap_s = now() - self._lost_at
            self._reporter.note(Kind.RESUBSCRIBED, count=channels, seconds=gap_s)
            if self._on_gap is not None:
                call_safely(self._on_gap, gap_s)
        self._lost_at = None

    # Slow readers

    def pause_reading(self) -> None:
        """Take in nothing more until `resume_reading`: the buffer is full."""
        self._reading_allowed.clear()
        self.connection.pause_reading()

    @property
    def is_reading(self) -> bool:
        """Whether replies are read. Where they are not, await none: it would not come."""
        return self._reading_allowed.is_set()

    async def reading(self) -> None:
        """Wait until replies are read. Raises QueueFull after `timeout_s`: nothing was written."""
        try:
            async with asyncio.timeout(self.config.timeout_s):
                await self._reading_allowed.wait()
        except TimeoutError:
            waited = f"waited {self.config.timeout_s:g} s"
            raise QueueFull(f"a handler is behind and its buffer is full, so nothing is read; {waited}") from None

    def resume_reading(self) -> None:
        """Take in again, beginning with what was read already."""
        if not self._reading_allowed.is_set():
            self._reading_allowed.set()
            self.connection.resume_reading()

    # The end

    async def close(self, within_s: float | None = None) -> None:
        """Let what was written be answered, within the time-out; refuse everything else. Idempotent."""
        self.check_loop()
        if self._closed:
            return
        self._closed = True
        for task in (self._keeper, self._ticker, self._opening):
            if task is not None:
                task.cancel()
        for end in list(self.on_close):
            end()
        for caller in self._callers:
            if not caller.done():
                caller.set_result(None)  # it will find the link closed
        self._reading_allowed.set()
        limit_s = self.config.timeout_s if within_s is None else within_s
        await self.connection.close(QueueClosed("the queue is closed"), limit_s)

    async def _tick(self) -> None:
        try:
            while True:
                await asyncio.sleep(self.config.timeout_s / 4)
                self.connection.tick()
        finally:
            self.disown()  # the loop may end before us


def _said(error: BaseException) -> str:
    return str(error) or ("no answer in time" if isinstance(error, TimeoutError) else type(error).__name__)
