"""Reference solutions of chapter 5's challenges, and others that are right in their own way."""

import asyncio
import time
from collections import deque
from typing import Any

from mpim_lab.chapters.ch05_batching.challenges import Send
from mpim_lab.errors import MpimError, NotConnected, QueueFull

Batch = list[tuple[bytes, "asyncio.Future[None]"]]
RETRY_S = 0.01


class OutcomeBatcher:
    """The solution of `close_the_batch` and `lose_nothing`.

    A timer a batch, one sending task, a future a message.
    """

    def __init__(self, send: Send, max_messages: int, window_s: float) -> None:
        self.send, self.max_messages, self.window_s = send, max_messages, window_s
        self.open: Batch = []
        self.closed: list[Batch] = []
        self.timer: asyncio.TimerHandle | None = None
        self.sending: asyncio.Task[None] | None = None

    async def add(self, payload: bytes) -> None:
        """Add a message to the batch and wait for its outcome; the first one starts the timer."""
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[None] = loop.create_future()
        self.open.append((payload, outcome))
        if len(self.open) == 1:
            self.timer = loop.call_later(self.window_s, self.close_batch)
        if len(self.open) == self.max_messages:
            self.close_batch()
        await outcome

    def close_batch(self) -> None:
        """Close the open batch and have it sent behind those before it."""
        if self.timer is not None:
            self.timer.cancel()
        self.closed.append(self.open)
        self.open = []
        if self.sending is None or self.sending.done():
            # Not in the caller's own task: whoever cancels the caller would cancel the batch.
            self.sending = asyncio.create_task(self.send_all())

    async def send_all(self) -> None:
        """Send the closed batches, one after the other: what fails is not overtaken."""
        while self.closed:
            await self.send_one(self.closed[0])
            self.closed.pop(0)

    async def send_one(self, batch: Batch) -> None:
        """Send one batch, again while it certainly was not sent and may be soon.

        Then settle its messages.
        """
        while True:
            try:
                await self.send([payload for payload, _ in batch])
            except MpimError as error:
                if not self.may_pass(error):
                    return settle(batch, error)
                await asyncio.sleep(RETRY_S)
            else:
                return settle(batch)

    def may_pass(self, error: MpimError) -> bool:
        """Say whether nothing was sent and the same batch may be sent in a moment."""
        return isinstance(error, NotConnected | QueueFull)

    async def close(self) -> None:
        """Send what is left; return when all has been sent."""
        if self.open:
            self.close_batch()
        if self.sending is not None:
            # Unlike `await`, this does not cancel the sending if `close` itself is cancelled.
            await asyncio.wait([self.sending])


def settle(batch: Batch, error: MpimError | None = None) -> None:
    """Give each caller that still waits its outcome; the future of a cancelled one is done."""
    for _, outcome in batch:
        if not outcome.done():
            if error is None:
                outcome.set_result(None)
            else:
                outcome.set_exception(error)


class OneLoop:
    """Right in another style: one task that lives as long as there is work, and deadlines.

    It needs no timers, and each message has its own time; it wakes up for each message.
    """

    def __init__(self, send: Send, max_messages: int, window_s: float) -> None:
        self.send, self.max_messages, self.window_s = send, max_messages, window_s
        self.waiting: deque[tuple[bytes, float, asyncio.Future[None]]] = deque()
        self.changed, self.closing = asyncio.Event(), False
        self.task: asyncio.Task[None] | None = None

    async def add(self, payload: bytes) -> None:
        """Put the message into the queue and wait for its outcome."""
        outcome: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiting.append((payload, time.monotonic() + self.window_s, outcome))
        self.changed.set()
        if self.task is None or self.task.done():
            self.task = asyncio.create_task(self.run())
        await outcome

    async def run(self) -> None:
        """Send batch after batch while there is something to send."""
        while self.waiting:
            await self.wait_until_due()
            count = min(self.max_messages, len(self.waiting))
            first = [self.waiting.popleft() for _ in range(count)]
            settle([(b"", each[2]) for each in first], await self.attempt([m[0] for m in first]))

    async def wait_until_due(self) -> None:
        """Wait for a full batch, the end of the first message's window, or the close."""
        while len(self.waiting) < self.max_messages and not self.closing:
            left_s = self.waiting[0][1] - time.monotonic()
            if left_s <= 0:
                return
            self.changed.clear()
            waiter = asyncio.ensure_future(self.changed.wait())
            await asyncio.wait([waiter], timeout=left_s)
            waiter.cancel()

    async def attempt(self, batch: list[bytes]) -> MpimError | None:
        """Try until it is sent; return what is final. Each pause is twice the one before."""
        pause_s = 0.005
        while True:
            try:
                await self.send(batch)
            except (NotConnected, QueueFull):
                await asyncio.sleep(pause_s)
                pause_s = min(1.0, 2 * pause_s)
            except MpimError as error:
                return error
            else:
                return None

    async def close(self) -> None:
        """Have everything sent now."""
        self.closing = True
        self.changed.set()
        if self.task is not None:
            await asyncio.wait([self.task])


class PollsAndLocks:
    """Right in another style: it looks at its batch ten times a window, and sends under a lock.

    The simplest to write; a message leaves up to a tenth of a window late, and it
    never sleeps long.
    """

    def __init__(self, send: Send, max_messages: int, window_s: float) -> None:
        self.send, self.max_messages, self.window_s = send, max_messages, window_s
        self.batch: Batch = []
        self.lock, self.tasks = asyncio.Lock(), set[asyncio.Task[None]]()
        self.ticker: asyncio.Task[None] | None = None
        self.begun_at = 0.0

    async def add(self, payload: bytes) -> None:
        """Add the message; start looking with the first one."""
        if self.ticker is None:
            self.ticker = asyncio.create_task(self.look())
        if not self.batch:
            self.begun_at = asyncio.get_running_loop().time()
        outcome: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.batch.append((payload, outcome))
        if len(self.batch) >= self.max_messages:
            self.flush()
        await asyncio.shield(outcome)

    async def look(self) -> None:
        """Ask again and again whether the window is over."""
        while True:
            await asyncio.sleep(self.window_s / 10)
            waited_s = asyncio.get_running_loop().time() - self.begun_at
            if self.batch and waited_s >= self.window_s:
                self.flush()

    def flush(self) -> None:
        """Take the batch out and send it in a task of its own."""
        batch, self.batch = self.batch, []
        task = asyncio.create_task(self.deliver(batch))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def deliver(self, batch: Batch) -> None:
        """Wait for the lock, which is fair, and send until there is an outcome."""
        async with self.lock:
            while True:
                try:
                    await self.send([payload for payload, _ in batch])
                except (NotConnected, QueueFull):
                    await asyncio.sleep(1.0)
                    continue
                except MpimError as error:
                    return settle(batch, error)
                return settle(batch)

    async def close(self) -> None:
        """Stop looking, send the rest, wait for all."""
        if self.ticker is not None:
            self.ticker.cancel()
        if self.batch:
            self.flush()
        await asyncio.gather(*self.tasks)


SOLUTIONS: dict[str, type[Any]] = {
    "close_the_batch": OutcomeBatcher,
    "lose_nothing": OutcomeBatcher,
}
ALTERNATIVES: dict[str, tuple[type[Any], ...]] = {
    "close_the_batch": (OneLoop, PollsAndLocks),
    "lose_nothing": (OneLoop, PollsAndLocks),
}
