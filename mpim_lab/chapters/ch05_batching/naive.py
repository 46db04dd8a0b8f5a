"""The naive versions of chapter 5: gather, send when there is enough.

The frames are those of `mpim_lab.mq.batching.batcher`.

Flaws kept on purpose. `NaiveBatcher` has them all:

- the window is checked only when the next message comes: the last messages of a burst wait until
  somebody else writes;
- the batch is taken out before it is sent: a failed flush has lost it, and its senders were
  acknowledged long ago;
- one frame, one fate: a message that is too large takes its neighbours with it;
- nothing closes the last batch when the process ends, and nothing bounds what is gathered.

`TimedBatcher` fixes the first flaw alone, with a timer. The others stay.
"""

import asyncio
import contextlib
from collections.abc import Callable

from mpim_lab.errors import MpimError
from mpim_lab.events import EventKind, now
from mpim_lab.mq.compression.framing import encode_batch
from mpim_lab.mq.connection.encoding import encode_payload
from mpim_lab.mq.pubsub.queue import MessageQueue


class NaiveBatcher:
    """Batch as most candidates would write it. `clock` tells the time, in seconds."""

    def __init__(
        self,
        queue: MessageQueue,
        channel: str,
        *,
        max_messages: int = 4,
        window_ms: float = 20.0,
        clock: Callable[[], float] = now,
    ) -> None:
        self._queue, self._channel, self._clock = queue, channel, clock
        self._max_messages, self._window_s = max_messages, window_ms / 1e3
        self._flushed_at = clock()
        self.held: list[bytes] = []

    async def publish(self, payload: bytes) -> str:
        """Put a message into the batch; return "accepted".

        Raise what the flush raises that it happens to cause.
        """
        self._queue.reporter.message(EventKind.ACCEPTED, payload, self._channel)
        self.held.append(payload)
        if (
            len(self.held) >= self._max_messages
            or self._clock() - self._flushed_at >= self._window_s
        ):
            await self._flush()
        return "accepted"

    async def _flush(self) -> None:
        batch, self.held = self.held, []
        self._flushed_at = self._clock()
        reporter = self._queue.reporter
        for payload in batch:
            reporter.message(EventKind.BATCHED, payload, self._channel, count=len(batch))
        try:
            receivers = await self._send(encode_batch(batch))
        except MpimError as error:
            for payload in batch:
                reporter.message(EventKind.FAILED, payload, self._channel, error=error)
            raise
        for payload in batch:
            reporter.message(EventKind.PUBLISHED, payload, self._channel, count=receivers)

    async def _send(self, frame: bytes) -> int:
        """Publish as `MessageQueue` does, which would report the frame as one message."""
        frame = encode_payload(frame, self._queue.max_payload_bytes)
        return int(
            await self._queue.connection.call(
                b"PUBLISH", self._queue.keys.channel(self._channel), frame
            )
        )

    async def close(self) -> None:
        """There is nothing of the kind in the naive version.

        What is held is forgotten with the process.
        """


class TimedBatcher(NaiveBatcher):
    """The same with a timer of its own; what goes wrong in the timer, nobody hears."""

    _timer: "asyncio.Task[None] | None" = None

    async def publish(self, payload: bytes) -> str:
        """Put a message into the batch, and start the timer with the first one."""
        if not self.held:
            self._timer = asyncio.create_task(self._flush_later())
        return await super().publish(payload)

    async def _flush_later(self) -> None:
        await asyncio.sleep(self._window_s)
        with contextlib.suppress(MpimError):
            if self.held:
                await self._flush()

    async def _flush(self) -> None:
        if self._timer is not None and self._timer is not asyncio.current_task():
            self._timer.cancel()
        await super()._flush()

    async def close(self) -> None:
        """The process ends, and the timer with it."""
        if self._timer is not None:
            self._timer.cancel()
            await asyncio.wait([self._timer])

    async def wait_idle(self) -> None:
        """Wait for the timer, if one runs."""
        if self._timer is not None:
            await asyncio.wait([self._timer])
