"""Inbox: a bounded queue between the connection and a handler that takes time, with a stated policy for when it is full."""

import asyncio
from collections import deque
from collections.abc import Callable
from enum import StrEnum

from mpim_lab.errors import InvalidParameter, MpimError, SlowSubscriber
from mpim_lab.mq.message import Message


class WhenFull(StrEnum):
    """What to do with a subscriber that is slower than its messages."""

    WAIT = (
        "wait"  # stop reading from the server: nothing is lost here, but the server's buffer grows until it cuts us off
    )
    DROP_OLDEST = "drop oldest"  # the newest matter more: positions, prices
    DISCONNECT = "disconnect"  # end the subscription with SlowSubscriber: fail fast


class Inbox:
    """Hold at most `limit` messages for one reader.

    `pause` and `resume` stop and restart the reading of the connection (policy WAIT); `dropped` is told of every message
    thrown away (DROP_OLDEST). With DISCONNECT `put` gives False once the inbox is full, and the reader gets
    SlowSubscriber after what is held.
    """

    def __init__(
        self,
        limit: int,
        when_full: WhenFull | str,
        *,
        pause: Callable[["Inbox"], None],
        resume: Callable[["Inbox"], None],
        dropped: Callable[[Message], None],
    ) -> None:
        if not isinstance(limit, int) or limit < 1:
            raise InvalidParameter(f"limit={limit!r}: an inbox holds at least 1 message")
        if when_full not in list(WhenFull):
            raise InvalidParameter(f"when_full={when_full!r}: must be one of {', '.join(WhenFull)}")
        self.limit, self.when_full = limit, WhenFull(when_full)
        self._pause, self._resume, self._dropped = pause, resume, dropped
        self._messages: deque[Message] = deque()
        self._reader: asyncio.Future[None] | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self._end: MpimError | None = None
        self._paused = False

    def put(self, message: Message) -> bool:
        """Take a message in; False when this made the inbox end (DISCONNECT)."""
        if self._end is not None:
            return True
        if len(self._messages) >= self.limit and self.when_full is not WhenFull.WAIT:
            if self.when_full is WhenFull.DISCONNECT:
                self.end(SlowSubscriber(f"the handler was {self.limit} messages behind: its subscription was ended"))
                return False
            self._dropped(self._messages.popleft())
        self._messages.append(message)
        self._idle.clear()
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)
        if len(self._messages) >= self.limit and self.when_full is WhenFull.WAIT and not self._paused:
            self._paused = True
            self._pause(self)
        return True

    async def get(self) -> Message:
        """The oldest message; waits for one. Raises what the inbox was ended with, after what it held.

        Asking for the next one says that the last one is done.
        """
        if not self._messages:
            self._idle.set()
        while not self._messages:
            if self._end is not None:
                raise self._end
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        message = self._messages.popleft()
        if self._paused and len(self._messages) <= self.limit // 2:
            self._paused = False
            self._resume(self)
        return message

    async def idle(self) -> None:
        """Wait until everything taken in so far is done."""
        await self._idle.wait()

    def end(self, reason: MpimError) -> None:
        """Take nothing more in; the reader gets `reason` after what is held."""
        self._end = self._end or reason
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)
        if self._paused:
            self._paused = False
            self._resume(self)

    def empty(self) -> list[Message]:
        """Give up what is held; gives it."""
        left = list(self._messages)
        self._messages.clear()
        return left

    def __len__(self) -> int:
        return len(self._messages)
