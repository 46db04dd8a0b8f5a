"""ReconnectingConnection: keeps one connection up.

Connects, logs in, subscribes again, backs off; callers wait meanwhile.

state      a command ...                                when it fails, raises
up         is written at the end of this loop turn      CommandTimeout, CommandRejected,
ConnectionLost full       waits for a slot (max_commands, max_bytes)   QueueFull down       waits
for a connection                       NotConnected closed     is refused
QueueClosed elsewhere  is refused: another loop or process          WrongLoop

`call_many`: many commands that leave in one write, one round trip, no more atomic than so many
single commands.
"""

import asyncio
import contextlib
import os
import random
import weakref
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
from mpim_lab.events import EventKind, Observer, Reporter, call_safely, now
from mpim_lab.mq.connection.address import Address
from mpim_lab.mq.connection.config import ConnectionConfig
from mpim_lab.mq.connection.handler import LoopAffinity
from mpim_lab.mq.connection.resp import (
    PipelineFuture,
    RespConnection,
    encode_command,
    ignore_result,
)
from mpim_lab.mq.connection.wait_queue import WaitQueue


class CommandConnection(Protocol):
    """A connection as seen by those who only send commands over it."""

    @property
    def connection(self) -> RespConnection:
        """The connection now; if it is `is_blocked`, await `acquire_slot`."""

    @property
    def config(self) -> ConnectionConfig:
        """Time-outs and sizes."""

    @property
    def is_connected(self) -> bool:
        """Whether it is connected, as far as anybody here knows."""

    @property
    def on_close(self) -> set[Callable[[], None]]:
        """What is called when it is closed."""

    async def acquire_slot(self) -> RespConnection:
        """Wait until a command may be sent."""

    def call(self, *command: bytes | str, blocks_s: float = 0.0) -> Coroutine[Any, Any, Any]:
        """Send one command and await its reply."""


async def call_many(link: CommandConnection, commands: Sequence[bytes]) -> list[Any]:
    """Send packed commands in order, each write as large as the link's limits allow.

    Return a reply or an error for each.

    What waits for a slot in vain, and everything after it, has that error in its place and was not
    written. Raises what `ReconnectingConnection.acquire_slot` raises when this befalls the first,
    so that nothing was written.
    """
    sent: list[PipelineFuture] = []
    written, error = 0, None
    while written < len(commands) and error is None:
        connection = link.connection
        try:
            if connection.is_blocked:
                connection = await link.acquire_slot()
        except MpimError as no_room:
            if not sent:
                raise
            error = no_room
        else:
            sent.append(connection.send_many(commands[written:] if written else commands))
            written += sent[-1].count
    outcomes = [reply for replies in sent for reply in await replies]
    return outcomes + [error] * (len(commands) - written)


ResubscribeCommand = tuple[bytes, Callable[[CommandRejected], None]]
_connections: "weakref.WeakSet[ReconnectingConnection]" = weakref.WeakSet()


def _disown_all() -> None:
    """After a fork the sockets are the parent's.

    Whatever the child wrote would come between its commands.
    """
    for link in list(_connections):
        link.disown()


os.register_at_fork(after_in_child=_disown_all)


class ReconnectingConnection:
    """A connection that comes back by itself.

    `resubscribe_commands` returns the commands to repeat on each new connection (subscriptions),
    each with who is told if the server refuses it. `sleep` is what waits between two attempts to
    reconnect; a laboratory may hold it back.
    """

    def __init__(
        self,
        address: Address,
        *,
        name: str = "",
        config: ConnectionConfig | None = None,
        on_push: Callable[[list[Any]], bool] = lambda push: False,
        resubscribe_commands: Callable[[], Iterable[ResubscribeCommand]] = tuple,
        on_gap: Callable[[float], None] | None = None,
        observer: Observer | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.address, self.name = address, name
        self.config = replace(config or ConnectionConfig(), **address.config_overrides)
        self.client_id = 0
        self._wait_queue = WaitQueue(self._free_slots, self._refusal, self.config.timeout_s)
        self._on_push = on_push
        self._resubscribe_commands = resubscribe_commands
        self._on_gap = on_gap
        self._sleep = sleep
        self._reporter = Reporter(name, observer)
        self.on_close: set[Callable[[], None]] = set()  # whoever waits elsewhere, and ends with it
        self._connect_count = 0
        self._opened = self._closed = False
        self._loop = LoopAffinity("a connection")
        self._opening: asyncio.Task[None] | None = None
        self._open_waiters = 0
        self._reading_allowed = asyncio.Event()
        self._reading_allowed.set()
        self._lost_at: float | None = None
        self._last_error: MpimError | None = None
        self._reconnect_task: asyncio.Task[None] | None = None
        self._timeout_task: asyncio.Task[None] | None = None
        self.connection = self._new_connection()
        _connections.add(self)

    @property
    def is_connected(self) -> bool:
        """Logged in, and the line has not broken as far as anybody here knows."""
        return self.connection.is_ready

    @property
    def is_open(self) -> bool:
        """Opened by its owner and not closed."""
        return self._opened and not self._closed

    async def open(self) -> None:
        """Connect for the first time.

        Raises NotConnected or LoginRejected. Idempotent; callers share one attempt.

        The attempt ends with its last caller, or after two `connect_timeout_s`.
        """
        self.check_loop()
        if self._closed:
            raise QueueClosed("the queue is closed")
        if self._opened:
            return
        if self._opening is None:
            self._opening = asyncio.create_task(self._open())
            self._opening.add_done_callback(ignore_result)
        opening, self._open_waiters = self._opening, self._open_waiters + 1
        try:
            await asyncio.wait([opening])
        finally:
            self._open_waiters -= 1
            if not self._open_waiters and not opening.done():
                opening.cancel()
                self._opening = None
        if opening.cancelled():
            raise QueueClosed("the queue was closed")
        opening.result()

    async def _open(self) -> None:
        try:
            await self._connect_once()
            self._opened = True
            self._timeout_task = asyncio.create_task(self._check_timeouts())
        finally:
            if self._opening is asyncio.current_task():
                self._opening = None

    def check_loop(self) -> None:
        """Raise WrongLoop if this is not the loop, thread and process in which it was opened."""
        self._loop.check()
        if (
            self._timeout_task is not None and self._timeout_task.done() and not self._closed
        ):  # whoever cancelled all tasks: go on
            self._timeout_task = asyncio.create_task(self._check_timeouts())
            if not self.is_connected and (
                self._reconnect_task is None or self._reconnect_task.done()
            ):
                self._reconnect_task = asyncio.create_task(self._reconnect())
            self.connection.unblock()

    def disown(self) -> None:
        """Have every command ask `check_loop` first.

        The connection may belong to another loop or process.
        """
        self.connection.is_blocked = True

    async def call(self, *command: bytes | str, blocks_s: float = 0.0) -> Any:
        """Send one command and await its reply. Raises as the table above says.

        blocks_s: for how long the command itself waits on the server (BLOCK); its time-out begins
        after that.
        """
        packed = encode_command(*command)
        connection = self.connection
        if connection.is_blocked:
            connection = await self.acquire_slot()
        return await (
            connection.send_blocking(packed, blocks_s) if blocks_s else connection.send(packed)
        )

    async def acquire_slot(self) -> RespConnection:
        """Wait, first come, first served, until a command may be sent.

        Return the connection to send it on at once.
        """
        self.check_loop()
        if not self._opened:
            raise NotConnected("not opened yet: write `async with MessageQueue(url) as mq:`")
        if not self.connection.is_blocked:
            return self.connection
        try:
            await self._wait_queue.wait()
        finally:
            self.connection.is_blocked = bool(self._wait_queue) or self.connection.is_full
        return self.connection

    def post(self, *command: bytes | str) -> "asyncio.Future[Any] | None":
        """Write a command whose answer nobody needs; give its reply.

        None if there is no connection to write it to.

        Also before the connection is ready, if resubscribing was begun: what this undoes may have
        been part of that.
        """
        if not self.connection.is_resubscribing:
            return None
        reply = self.connection.send(encode_command(*command))
        reply.add_done_callback(ignore_result)
        return reply

    def _free_slots(self) -> int:
        return 0 if self.connection.is_full else self.connection.free_slots

    def _refusal(self) -> MpimError:
        if self._closed:
            return QueueClosed("the queue is closed")
        waited = f"waited {self.config.timeout_s:g} s"
        most = f"{self.config.max_commands:,} commands or {self.config.max_bytes:,} bytes"
        error: MpimError = QueueFull(
            f"{most} are waiting for the server already; {waited} for room"
        )
        if not self.is_connected:
            why = self._last_error or "never opened"
            error = NotConnected(f"no connection to {self.address} ({why}); {waited}")
        error.__cause__ = self._last_error
        return error

    def _on_writable(self) -> None:
        """Let as many callers go on as there are free slots; whoever comes later waits behind."""
        self._wait_queue.wake()
        self.connection.is_blocked = bool(self._wait_queue)

    # Connecting, for the first time and again

    def _new_connection(self) -> RespConnection:
        return RespConnection(self.config, self._on_push, self._on_writable, self._on_disconnect)

    async def _connect_once(self) -> None:
        """Connect, log in and subscribe again, once.

        Raises NotConnected, LoginRejected; no caller's command was sent.
        """
        connection = self.connection = self._new_connection()
        try:
            async with asyncio.timeout(self.config.connect_timeout_s):
                await self.address.connect(lambda: connection)
                await self._log_in(connection)
            # with a full buffer, subscribing would only fill the socket
            await self._reading_allowed.wait()
            async with asyncio.timeout(self.config.connect_timeout_s):
                count = await self._resubscribe(connection)
        except NotConnected as error:
            self._abandon(connection, error)
            raise
        except Exception as error:
            cause = NotConnected(
                f"cannot reach {self.address}: {_error_text(connection.reason or error)}"
            )
            self._abandon(connection, cause)
            raise cause from error
        except BaseException:
            self._abandon(connection, NotConnected("connecting was given up"))
            raise
        self._connect_count += 1
        connection.mark_ready()
        self._report_connected(count)

    def _abandon(self, connection: RespConnection, cause: NotConnected) -> None:
        self._last_error = cause
        connection.abort(cause)

    async def _log_in(self, connection: RespConnection) -> None:
        try:
            replies = [
                connection.send(encode_command(*command))
                for command in self.address.handshake_commands(self.name)
            ]
            hello, *_ = await asyncio.gather(*replies)
        except CommandRejected as error:
            is_for_now = error.transient or "max number of clients" in str(error)
            refused = NotConnected if is_for_now else LoginRejected
            raise refused(f"{self.address} refused the login: {error}") from error
        if not isinstance(hello, dict) or b"id" not in hello:
            raise NotConnected(
                f"{self.address} is no Redis or Valkey server: it answered HELLO with "
                f"{hello!r:.100}"
            )
        self.client_id = int(hello[b"id"])

    async def _resubscribe(self, connection: RespConnection) -> int:
        connection.is_resubscribing = True
        greeting = list(self._resubscribe_commands())
        replies = [connection.send(command) for command, _ in greeting]
        answers = await asyncio.gather(*replies, return_exceptions=True)
        for (_, refuse), answer in zip(greeting, answers, strict=True):
            if isinstance(answer, CommandRejected):  # one channel is refused; the others go on
                refuse(answer)
            elif isinstance(answer, BaseException):
                raise answer
        return len(replies)

    def _on_disconnect(self, reason: MpimError) -> None:
        if self._closed or self._loop.is_closed:
            return
        self._last_error, self._lost_at = reason, now()
        self._reporter.system(EventKind.DISCONNECTED, detail=str(reason))
        self._reconnect_task = asyncio.create_task(self._reconnect())

    async def _reconnect(self) -> None:
        attempt = 0
        while not self._closed:
            attempt += 1
            await self._sleep(self.config.backoff.delay_s(attempt, random.random()))
            with contextlib.suppress(MpimError):  # kept as the cause, told to whoever waits
                return await self._connect_once()

    def _report_connected(self, channels: int) -> None:
        self._reporter.system(EventKind.CONNECTED, count=self._connect_count)
        if self._lost_at is not None and channels:
            gap_s = now() - self._lost_at
            self._reporter.system(EventKind.RESUBSCRIBED, count=channels, seconds=gap_s)
            if self._on_gap is not None:
                call_safely(self._on_gap, gap_s)
        self._lost_at = None

    # Slow readers

    def pause_reading(self) -> None:
        """Read nothing more until `resume_reading`: the buffer is full."""
        self._reading_allowed.clear()
        self.connection.pause_reading()

    @property
    def is_reading(self) -> bool:
        """Whether replies are read. Where they are not, await none: it would not come."""
        return self._reading_allowed.is_set()

    async def wait_until_reading(self) -> None:
        """Wait until replies are read. Raises QueueFull after `timeout_s`: nothing was written."""
        try:
            async with asyncio.timeout(self.config.timeout_s):
                await self._reading_allowed.wait()
        except TimeoutError:
            waited = f"waited {self.config.timeout_s:g} s"
            raise QueueFull(
                f"a handler is behind and its buffer is full, so nothing is read; {waited}"
            ) from None

    def resume_reading(self) -> None:
        """Take in again, beginning with what was read already."""
        if not self._reading_allowed.is_set():
            self._reading_allowed.set()
            self.connection.resume_reading()

    # The end

    async def close(self, timeout_s: float | None = None) -> None:
        """Let what was written be answered, within the time-out; refuse everything else.

        Idempotent.
        """
        self.check_loop()
        if self._closed:
            return
        self._closed = True
        for task in (self._reconnect_task, self._timeout_task, self._opening):
            if task is not None:
                task.cancel()
        for end in list(self.on_close):
            end()
        self._wait_queue.close()
        self._reading_allowed.set()
        limit_s = self.config.timeout_s if timeout_s is None else timeout_s
        await self.connection.close(QueueClosed("the queue is closed"), limit_s)

    async def _check_timeouts(self) -> None:
        try:
            while True:
                await asyncio.sleep(self.config.timeout_s / 4)
                self.connection.check_timeouts()
        finally:
            self.disown()  # the loop may end before us


def _error_text(error: BaseException) -> str:
    return str(error) or (
        "no answer in time" if isinstance(error, TimeoutError) else type(error).__name__
    )
