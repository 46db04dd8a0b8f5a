"""Reference solution of chapter 5's challenges."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from mpim_lab.errors import MpimError, NotConnected, QueueFull

Batch = list[tuple[bytes, "asyncio.Future[None]"]]


class OutcomeBatcher:
    """The solution of `close_the_batch` and `lose_nothing`.

    A timer a batch, one sending task, a future a message.
    """

    def __init__(
        self, send: Callable[[list[bytes]], Awaitable[None]], max_messages: int, window_s: float
    ) -> None:
        self.send, self.max_messages, self.window_s = send, max_messages, window_s
        self.open: Batch = []
        self.closed: list[Batch] = []
        self.timer: asyncio.TimerHandle | None = None
        self.sending: asyncio.Task[None] | None = None

    async def add(self, payload: bytes) -> None:
        """Add a message to the batch and wait for its outcome; the first one starts the timer."""
        outcome = asyncio.get_running_loop().create_future()
        self.open.append((payload, outcome))
        if len(self.open) == 1:
            self.timer = asyncio.get_running_loop().call_later(self.window_s, self.close_batch)
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
            self.sending = asyncio.create_task(self.send_all())

    async def send_all(self) -> None:
        """Send the closed batches, one after the other."""
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
                    for _, outcome in batch:
                        outcome.set_exception(error)
                    return
                await asyncio.sleep(0.01)
            else:
                for _, outcome in batch:
                    outcome.set_result(None)
                return

    def may_pass(self, error: MpimError) -> bool:
        """Say whether nothing was sent and the same batch may be sent in a moment."""
        return isinstance(error, NotConnected | QueueFull)

    async def close(self) -> None:
        """Send what is left; return when all has been sent."""
        if self.open:
            self.close_batch()
        if self.sending is not None:
            await self.sending


SOLUTIONS: dict[str, type[Any]] = {
    "close_the_batch": OutcomeBatcher,
    "lose_nothing": OutcomeBatcher,
}
