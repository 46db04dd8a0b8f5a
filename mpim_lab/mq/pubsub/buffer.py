"""SubscriberBuffer: a bounded queue between the connection and a slow handler."""

import asyncio
from collections import deque
from collections.abc import Callable
from enum import StrEnum

from mpim_lab.errors import HandlerTimeout, InvalidParameter, MpimError, SlowSubscriber
from mpim_lab.mq.connection.bounds import check_whole
from mpim_lab.mq.connection.encoding import Message


class OverflowPolicy(StrEnum):
    """What to do with a subscriber that is slower than its messages."""

    # stop reading from the server: nothing is lost here, but the server's buffer grows until it
    # cuts us off
    WAIT = "wait"
    DROP_OLDEST = "drop oldest"  # the newest matter more: positions, prices
    DISCONNECT = "disconnect"  # end the subscription with SlowSubscriber: fail fast


class SubscriberBuffer:
    """A bounded buffer.

    At most `max_messages` messages wait until a handler, or whoever listens, asks.

    `pause` and `resume` stop and restart the reading of the connection (policy WAIT); `dropped` is
    told of every message thrown away (DROP_OLDEST, or it came after the end). With DISCONNECT `put`
    returns False once the buffer is full, and the reader gets SlowSubscriber after what is held.

    | a message leaves by | then it is ...                                      |
    |---------------------|-----------------------------------------------------|
    | `get`               | handled when the next one is asked for              |
    | DROP_OLDEST         | reported to `dropped`                               |
    | `drain`             | its caller's, to be reported                        |
    """

    def __init__(
        self,
        max_messages: int,
        overflow_policy: OverflowPolicy | str,
        *,
        pause: Callable[["SubscriberBuffer"], None],
        resume: Callable[["SubscriberBuffer"], None],
        dropped: Callable[[Message], None],
    ) -> None:
        check_whole(max_messages=max_messages)
        if overflow_policy not in list(OverflowPolicy):
            raise InvalidParameter(
                f"overflow_policy={overflow_policy!r}: must be one of {', '.join(OverflowPolicy)}"
            )
        self.max_messages, self.overflow_policy = max_messages, OverflowPolicy(overflow_policy)
        self.subscription_count = 0  # subscriptions that put messages in
        self.is_paused = False
        self.handled_count = 0  # messages that have left it, and of which the last one is handled
        self._pause, self._resume, self._dropped = pause, resume, dropped
        self._messages: deque[Message] = deque()
        self._readers: deque[asyncio.Future[None]] = deque()
        self._join_waiters: list[asyncio.Future[None]] = []  # whoever is in `join`
        self._accepted_count, self._is_handling = 0, False
        self._closed_by: MpimError | None = None

    def put(self, message: Message) -> bool:
        """Take a message in; False when this made the buffer end (DISCONNECT)."""
        if self._closed_by is not None:
            self._dropped(message)
            return True
        if (
            len(self._messages) >= self.max_messages
            and self.overflow_policy is not OverflowPolicy.WAIT
        ):
            if self.overflow_policy is OverflowPolicy.DISCONNECT:
                self.close(
                    SlowSubscriber(
                        f"the handler was {self.max_messages} messages behind: its subscription "
                        "was ended"
                    )
                )
                return False
            self._dropped(self._messages.popleft())
            self._count_handled(1)
        self._messages.append(message)
        self._accepted_count += 1
        if self._readers:
            self._wake()
        if (
            len(self._messages) >= self.max_messages
            and self.overflow_policy is OverflowPolicy.WAIT
            and not self.is_paused
        ):
            self.is_paused = True
            self._pause(self)
        return True

    async def get(self) -> Message:
        """The oldest message; waits for one.

        Raises what the buffer was ended with, after what it held.

        Asking for the next one says that the last one is handled. A caller that is cancelled takes
        nothing.
        """
        if self._is_handling:
            self._is_handling = False
            self._count_handled(1)
        while not self._messages:
            if self._closed_by is not None:
                raise self._closed_by
            await self._wait_for_message()
        message = self._messages.popleft()
        self._is_handling = True
        if self.is_paused and len(self._messages) <= self.max_messages // 2:
            self.is_paused = False
            self._resume(self)
        return message

    async def _wait_for_message(self) -> None:
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

    async def join(self, stall_timeout_s: float) -> None:
        """Wait until everything taken in so far is handled.

        Raises HandlerTimeout when for `stall_timeout_s` nothing was.
        """
        wanted = self._accepted_count
        while self.handled_count < wanted:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._join_waiters.append(waiter)
            try:
                async with asyncio.timeout(stall_timeout_s):
                    await waiter
            except TimeoutError:
                waiting = wanted - self.handled_count
                raise HandlerTimeout(
                    f"{waiting:,} messages wait, and none was handled in {stall_timeout_s:g} s"
                ) from None
            finally:
                self._join_waiters.remove(waiter)

    def _count_handled(self, count: int) -> None:
        self.handled_count += count
        for waiter in self._join_waiters:
            if not waiter.done():
                waiter.set_result(None)

    def close(self, reason: MpimError) -> None:
        """Take nothing more in; readers get `reason` after what is held."""
        self._closed_by = self._closed_by or reason
        for reader in self._readers:
            if not reader.done():
                reader.set_result(None)
        if self.is_paused:
            self.is_paused = False
            self._resume(self)

    def drain(self) -> list[Message]:
        """Give up what is held; gives it."""
        left = list(self._messages)
        self._messages.clear()
        self._count_handled(len(left))
        return left

    def __len__(self) -> int:
        return len(self._messages)
