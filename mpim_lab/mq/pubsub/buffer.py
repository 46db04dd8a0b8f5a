"""Inbox: a bounded queue between the connection and a handler that takes time, with a stated policy for when it is full."""

import asyncio
from collections import deque
from collections.abc import Callable
from enum import StrEnum

from mpim_lab.errors import HandlerTimeout, InvalidParameter, MpimError, SlowSubscriber
from mpim_lab.mq.connection.bounds import check_whole
from mpim_lab.mq.connection.encoding import Message


class WhenFull(StrEnum):
    """What to do with a subscriber that is slower than its messages."""

    WAIT = (
        "wait"  # stop reading from the server: nothing is lost here, but the server's buffer grows until it cuts us off
    )
    DROP_OLDEST = "drop oldest"  # the newest matter more: positions, prices
    DISCONNECT = "disconnect"  # end the subscription with SlowSubscriber: fail fast


class Inbox:
    """Hold at most `limit` messages until a handler, or whoever listens, asks for them.

    `pause` and `resume` stop and restart the reading of the connection (policy WAIT); `dropped` is told of every message
    thrown away (DROP_OLDEST, or it came after the end). With DISCONNECT `put` gives False once the inbox is full, and the
    reader gets SlowSubscriber after what is held.

    | a message leaves by | then it is ...                                      |
    |---------------------|-----------------------------------------------------|
    | `get`               | done when the next one is asked for                 |
    | DROP_OLDEST         | reported to `dropped`                               |
    | `empty`             | its caller's, to be reported                        |
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
        check_whole(limit=limit)
        if when_full not in list(WhenFull):
            raise InvalidParameter(f"when_full={when_full!r}: must be one of {', '.join(WhenFull)}")
        self.limit, self.when_full = limit, WhenFull(when_full)
        self.feeders = 0  # subscriptions that put messages in
        self.is_paused = False
        self.done = 0  # messages that have left it, and of which the last one is handled
        self._pause, self._resume, self._dropped = pause, resume, dropped
        self._messages: deque[Message] = deque()
        self._readers: deque[asyncio.Future[None]] = deque()
        self._watchers: list[asyncio.Future[None]] = []  # of what is done
        self._taken_in, self._is_in_hand = 0, False
        self._end: MpimError | None = None

    def put(self, message: Message) -> bool:
        """Take a message in; False when this made the inbox end (DISCONNECT)."""
        if self._end is not None:
            self._dropped(message)
            return True
        if len(self._messages) >= self.limit and self.when_full is not WhenFull.WAIT:
            if self.when_full is WhenFull.DISCONNECT:
                self.end(SlowSubscriber(f"the handler was {self.limit} messages behind: its subscription was ended"))
                return False
            self._dropped(self._messages.popleft())
            self._count_done(1)
        self._messages.append(message)
        self._taken_in += 1
        if self._readers:
            self._wake()
        if len(self._messages) >= self.limit and self.when_full is WhenFull.WAIT and not self.is_paused:
            self.is_paused = True
            self._pause(self)
        return True

    async def get(self) -> Message:
        """The oldest message; waits for one. Raises what the inbox was ended with, after what it held.

        Asking for the next one says that the last one is done. A caller that is cancelled takes nothing.
        """
        if self._is_in_hand:
            self._is_in_hand = False
            self._count_done(1)
        while not self._messages:
            if self._end is not None:
                raise self._end
            await self._something()
        message = self._messages.popleft()
        self._is_in_hand = True
        if self.is_paused and len(self._messages) <= self.limit // 2:
            self.is_paused = False
            self._resume(self)
        return message

    async def _something(self) -> None:
        reader: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._readers.append(reader)
        try:
            await reader
        except BaseException:
            self._readers.remove(reader)
            if self._messages:
                self._wake()  # it may have been woken for another reader's message
            raise
        self._readers.remove(reader)

    def _wake(self) -> None:
        for reader in self._readers:
            if not reader.done():
                return reader.set_result(None)

    async def handled(self, stall_s: float) -> None:
        """Wait until everything taken in so far is done. Raises HandlerTimeout when for `stall_s` nothing was."""
        wanted = self._taken_in
        while self.done < wanted:
            watcher: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._watchers.append(watcher)
            try:
                async with asyncio.timeout(stall_s):
                    await watcher
            except TimeoutError:
                waiting = wanted - self.done
                raise HandlerTimeout(f"{waiting:,} messages wait, and none was handled in {stall_s:g} s") from None
            finally:
                self._watchers.remove(watcher)

    def _count_done(self, count: int) -> None:
        self.done += count
        for watcher in self._watchers:
            if not watcher.done():
                watcher.set_result(None)

    def end(self, reason: MpimError) -> None:
        """Take nothing more in; readers get `reason` after what is held."""
        self._end = self._end or reason
        for reader in self._readers:
            if not reader.done():
                reader.set_result(None)
        if self.is_paused:
            self.is_paused = False
            self._resume(self)

    def empty(self) -> list[Message]:
        """Give up what is held; gives it."""
        left = list(self._messages)
        self._messages.clear()
        self._count_done(len(left))
        return left

    def __len__(self) -> int:
        return len(self._messages)
