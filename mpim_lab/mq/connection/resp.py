"""RespConnection: one pipelined RESP3 connection that every task shares.

CommandConnection of one turn of the event loop leave in one write; the server answers in order, so
the n-th reply belongs to the n-th command that waits. That is all it takes to be fast: 128 tasks
that each await one reply cost one system call a turn instead of 128.

This file is the message path and knows nothing of reconnecting: `reconnecting.py` replaces a lost
connection by a new one. A command that was written is never written again, because the server may
have run it.

PipelineFuture: many commands, one future. A task that sends a hundred commands at once need not be
woken a hundred times.

Source: https://valkey.io/topics/pipelining/

CoarseTimeouts: which commands have waited too long, at no cost per command.
"""

import asyncio
from _thread import get_ident
from collections import deque
from collections.abc import Callable, Sequence
from itertools import accumulate, repeat
from typing import Any, Protocol, cast

import hiredis
from hiredis import PushNotification, ReplyError

from mpim_lab.errors import (
    CommandRejected,
    CommandTimeout,
    ConnectionLost,
    MpimError,
    NotConnected,
)
from mpim_lab.mq.connection.config import ConnectionConfig
from mpim_lab.mq.connection.handler import LoopAffinity


class CoarseTimeouts:
    """Time-outs for commands that are answered in order, without a timer or a clock reading each.

    A checkpoint is how many commands have been issued in all by now. When one is `timeout_s` old,
    whatever was issued before it and is unanswered is overdue. Precise to the interval between two
    checkpoints.

        >>> timeouts = CoarseTimeouts(timeout_s=5.0)
        >>> timeouts.checkpoint(now=100.0, issued=7)
        >>> timeouts.overdue(now=104.0, answered=3)
        0
        >>> timeouts.overdue(now=105.0, answered=3), timeouts.overdue(now=105.1, answered=6)
        (4, 1)
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._checkpoints: deque[tuple[float, int]] = deque()
        self._expired = 0  # so many have been issued for longer than the time-out

    def checkpoint(self, now: float, issued: int) -> None:
        """Remember that `issued` commands have been issued by `now` (seconds)."""
        self._checkpoints.append((now, issued))

    def overdue(self, now: float, answered: int) -> int:
        """How many of the oldest unanswered commands are overdue."""
        while self._checkpoints and now - self._checkpoints[0][0] >= self._timeout_s:
            self._expired = self._checkpoints.popleft()[1]
        return max(0, self._expired - answered)


class ReplySink(Protocol):
    """Whoever gets the reply to one command: a future, or an object that is called at once."""

    def done(self) -> bool:
        """It has been told, or nobody waits any more: what comes after that is read by nobody."""

    def set_result(self, reply: Any, /) -> None:
        """The command's reply."""

    def set_exception(self, error: Any, /) -> None:
        """What went wrong instead."""


class PipelineFuture(asyncio.Future[list[Any]]):
    """The replies of `count` commands in their order; an error stands in the place of a reply.

    It stands in the queue of waiting commands once for each of them, as the futures of single
    commands do, and is done when all have been answered, or have failed. What comes after that, or
    after it was cancelled, is read by nobody.

        >>> loop = asyncio.new_event_loop()
        >>> replies = PipelineFuture(2, loop=loop)
        >>> replies.set_result(b"1-0"), replies.done()
        (None, False)
        >>> replies.set_result(b"2-0"), replies.result()
        (None, [b'1-0', b'2-0'])
        >>> loop.close()
    """

    def __init__(self, count: int, *, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self._count, self._replies = count, list[Any]()

    @property
    def count(self) -> int:
        """How many commands it stands for."""
        return self._count

    def set_result(self, reply: Any) -> None:
        """Take in the next command's reply."""
        replies = self._replies
        replies.append(reply)
        if len(replies) == self._count and not self.done():
            self._replies = []  # what comes late is not put into the list that was given away
            super().set_result(replies)

    set_exception = set_result  # what became of one command, not of all


def fail_reply(reply: ReplySink, error: Exception) -> None:
    """Fail a reply with what went wrong instead, if somebody still waits for it."""
    if not reply.done():
        reply.set_exception(error)


def ignore_result(reply: asyncio.Future[Any]) -> None:
    """Ignore the outcome of a command that nobody awaits, an error included."""
    if not reply.cancelled():
        reply.exception()


def take_fitting(commands: Sequence[bytes], max_commands: int, max_bytes: int) -> Sequence[bytes]:
    """Return the first of the packed commands.

    At most `max_commands`, until `max_bytes` are reached; at least one.

    >>> take_fitting([b"PING"] * 5, max_commands=3, max_bytes=100)
    [b'PING', b'PING', b'PING']
    >>> take_fitting([b"PING"] * 5, max_commands=3, max_bytes=5)
    [b'PING', b'PING']
    """
    some = commands[: max(1, max_commands)]
    sizes = list(accumulate(map(len, some)))
    if sizes[-1] <= max_bytes:
        return some
    return some[: 1 + sum(size < max_bytes for size in sizes)]


_NOTHING = object()
_Future = asyncio.Future


def encode_command(*command: bytes | str) -> bytes:
    r"""Encode a command in RESP.

    >>> encode_command("PING")
    b'*1\r\n$4\r\nPING\r\n'
    """
    packed: bytes = hiredis.pack_command(command)  # type: ignore[arg-type]
    return packed


PING = encode_command("PING")


class RespConnection(asyncio.Protocol):
    """The two halves of the path: `send` a command, take in replies and pushes.

    `is_blocked` is True while the connection is not ready or its limits are reached: do not `send`
    then. `on_push` gets every RESP3 push and returns False for one that is a reply: the answer to
    SUBSCRIBE is a push, in the order of the other replies. `on_writable` is called when a slot is
    free again, `on_disconnect` once, with the reason, at the end.
    """

    def __init__(
        self,
        config: ConnectionConfig,
        on_push: Callable[[list[Any]], bool],
        on_writable: Callable[[], None],
        on_disconnect: Callable[[MpimError], None],
    ) -> None:
        self.is_blocked = True
        self.is_ready = False
        self.is_resubscribing = False  # the login is done, and what follows it was written
        self._config = config
        self._on_push = on_push
        self._on_writable = on_writable
        self._on_disconnect = on_disconnect
        self._max_commands, self._max_bytes = config.max_commands, config.max_bytes
        self._affinity = LoopAffinity("a connection")
        self._loop: asyncio.AbstractEventLoop
        self._thread = 0  # of the loop: looked at here for each command
        self._transport: asyncio.Transport | None = None
        self._reader = hiredis.Reader(notEnoughData=_NOTHING)
        self._outgoing: list[bytes] = []
        self._outgoing_bytes = 0
        self._waiting: deque[ReplySink] = deque()
        self._issued = 0
        self._timeouts = CoarseTimeouts(config.timeout_s)
        # commands that may block: their numbers, and until when
        self._blocking: deque[tuple[int, float]] = deque()
        self._last_received_at = 0.0
        self._writing_paused = self._reading_paused = False
        self.reason: MpimError | None = None  # why it ends, or has ended

    # The path

    def send(self, packed: bytes) -> asyncio.Future[Any]:
        """Write a packed command at the end of this loop turn; the future is its reply.

        Raises WrongLoop.
        """
        loop = self._loop
        if get_ident() != self._thread or not loop.is_running():
            self._affinity.check()
        reply: asyncio.Future[Any] = _Future(loop=loop)
        self.send_to(reply, packed)
        return reply

    def send_blocking(self, packed: bytes, blocks_s: float) -> asyncio.Future[Any]:
        """The same for a command that the server may hold back for `blocks_s`.

        Its time-out begins after that.
        """
        reply = self.send(packed)
        until = self._loop.time() + blocks_s + self._config.timeout_s
        self._blocking.append((self._issued + len(self._outgoing), until))
        return reply

    def send_to(self, sink: ReplySink, packed: bytes) -> None:
        """The same for a sink that gets the reply as it is read, and must not raise then."""
        outgoing, waiting = self._outgoing, self._waiting
        if not outgoing:
            self._loop.call_soon(self.flush)
        outgoing.append(packed)
        waiting.append(sink)
        self._outgoing_bytes = size = self._outgoing_bytes + len(packed)
        if size >= self._max_bytes or len(waiting) >= self._max_commands:
            self.is_blocked = True

    def send_many(self, commands: Sequence[bytes]) -> PipelineFuture:
        """Write the first of many packed commands, as many as there are slots for.

        One future for all of them.
        """
        self._affinity.check()
        some = take_fitting(commands, self.free_slots, self._max_bytes - self._outgoing_bytes)
        replies = PipelineFuture(len(some), loop=self._loop)
        if not self._outgoing:
            self._loop.call_soon(self.flush)
        self._outgoing += some
        self._waiting += repeat(replies, len(some))
        self._outgoing_bytes += sum(map(len, some))
        self.is_blocked = self.is_blocked or self.is_full  # blocked: others may be in line
        return replies

    def flush(self) -> None:
        """Write what was sent so far, without waiting for the end of the loop turn."""
        if self._transport is not None and self._outgoing:
            self._issued += len(self._outgoing)
            written = b"".join(self._outgoing)
            self._outgoing.clear()
            self._outgoing_bytes = 0
            self._transport.write(written)

    def data_received(self, data: bytes) -> None:
        """Take in what the server sent.

        Replies go to the commands that wait, pushes to `on_push`.
        """
        self._last_received_at = self._loop.time()
        self._reader.feed(data)
        self._process_replies()

    def _process_replies(self, *, all_of_it: bool = False) -> None:
        gets, waiting, on_push = self._reader.gets, self._waiting, self._on_push
        try:
            while (all_of_it or not self._reading_paused) and (reply := gets()) is not _NOTHING:
                kind = type(reply)
                if kind is PushNotification and on_push(reply):
                    continue
                future = waiting.popleft()
                try:
                    if kind is ReplyError:
                        future.set_exception(CommandRejected(str(reply)))
                    else:
                        future.set_result(reply)
                except asyncio.InvalidStateError:
                    # timed out or cancelled: its place in the order is used up, nobody reads it
                    pass
        except hiredis.HiredisError as error:
            self.abort(ConnectionLost(f"the server did not speak RESP: {error}"))
        except IndexError:
            # nobody waits: a server that takes no more clients says so before it is asked
            self.abort(ConnectionLost(f"the server said, unasked: {reply!s:.200}"))
        if self.is_blocked:
            self.unblock()

    def unblock(self) -> None:
        """Lift the block if the limits allow it."""
        if not self.is_full:
            self.is_blocked = False
            self._on_writable()

    @property
    def is_full(self) -> bool:
        """No command may be sent now: not logged in, or a limit is reached."""
        too_much = self._writing_paused or self._outgoing_bytes >= self._config.max_bytes
        return too_much or self.free_slots <= 0 or not self.is_ready or self.reason is not None

    @property
    def free_slots(self) -> int:
        """How many more commands may wait for an answer."""
        return self._config.max_commands - len(self._waiting)

    def mark_ready(self) -> None:
        """The login is done: commands of all callers may come."""
        self.is_ready = True
        self.unblock()

    # How long is too long

    def check_timeouts(self) -> None:
        """Fail what is overdue, and give up a line on which nothing was heard meanwhile.

        Called a few times per time-out.
        """
        if self._transport is None:
            return
        now = self._loop.time()
        overdue = self._timeouts.overdue(now, self._answered)
        self._timeouts.checkpoint(now, self._issued)
        if self._has_blocking_command and now < self._blocking[0][1]:
            overdue = min(overdue, self._blocking[0][0] - 1 - self._answered)
        error = CommandTimeout(
            f"written, but not answered within {self._config.timeout_s:g} s; it may have been run"
        )
        for _, future in zip(range(overdue), self._waiting, strict=False):
            fail_reply(future, error)
        if self._reading_paused:  # we are the slow one: answers may be unread
            return
        silence_s = now - self._last_received_at
        if overdue and silence_s >= self._config.timeout_s:
            self.abort(ConnectionLost(f"the server has been silent for {silence_s:.1f} s"))
        elif not self._waiting and silence_s >= self._config.heartbeat_s:
            self.send(PING).add_done_callback(ignore_result)

    @property
    def _answered(self) -> int:
        return self._issued + len(self._outgoing) - len(self._waiting)

    @property
    def _has_blocking_command(self) -> bool:
        """A command that may block on the server is not answered yet."""
        while self._blocking and self._blocking[0][0] <= self._answered:
            self._blocking.popleft()
        return bool(self._blocking)

    # Slow readers, slow sockets

    def pause_reading(self) -> None:
        """Take in nothing more, from this moment on: the caller's buffer is full."""
        self._reading_paused = True
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Take in again, beginning with what was read already."""
        self._reading_paused = False
        self._last_received_at = self._loop.time()
        self._process_replies()
        if (
            not self._reading_paused
            and self._transport is not None
            and not self._transport.is_closing()
        ):
            self._transport.resume_reading()

    def pause_writing(self) -> None:
        """The socket takes no more for now."""
        self._writing_paused = self.is_blocked = True

    def resume_writing(self) -> None:
        """The socket takes more again."""
        self._writing_paused = False
        self.unblock()

    # From the first byte to the last

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is open."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one by shape only
        self._loop, self._thread = self._affinity.check(), get_ident()
        self._last_received_at = self._loop.time()
        self._transport.set_write_buffer_limits(high=self._config.max_bytes)

    def abort(self, reason: MpimError) -> None:
        """Give the line up at once."""
        self.reason = self.reason or reason
        self.is_blocked = True
        if self._transport is not None:
            self._transport.abort()

    async def close(self, reason: MpimError, timeout_s: float) -> None:
        """Take no more commands, wait until everything written is answered, then close.

        A command that still blocks on the server is not waited for.
        """
        can_answer = self._transport is not None and not (
            self._reading_paused or self._has_blocking_command
        )
        last = self.send(PING) if self._waiting and can_answer else None
        self.is_blocked, self.reason = True, self.reason or reason
        try:
            if last is not None:
                last.add_done_callback(ignore_result)
                await asyncio.wait([last], timeout=max(0.0, timeout_s))
        finally:
            if self._transport is not None and last is not None and last.done():
                self._transport.close()
            else:  # a peer that takes nothing would keep what is written, and the socket with it
                self.flush()
                self.abort(reason)

    def connection_lost(self, exc: Exception | None) -> None:
        """The line is gone.

        What was written may have been run, what was not written certainly was not.
        """
        self._process_replies(all_of_it=True)  # a paused reader may hold whole messages
        reason = self.reason = self.reason or ConnectionLost(
            f"the line broke: {exc or 'the server closed it'}"
        )
        was_ready, self.is_ready, self.is_resubscribing, self.is_blocked = (
            self.is_ready,
            False,
            False,
            True,
        )
        written = len(self._waiting) - len(self._outgoing)
        for index, future in enumerate(self._waiting):
            if index < written:
                fail_reply(
                    future,
                    ConnectionLost(f"{reason}; the command was written and may have been run"),
                )
            else:
                fail_reply(future, NotConnected(f"{reason}; the command was not written"))
        self._waiting.clear()
        self._outgoing.clear()
        self._outgoing_bytes = 0
        if was_ready:
            self._on_disconnect(reason)
