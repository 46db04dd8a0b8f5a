"""Chapter 5: the learner's class in the place of a batcher, for the trials of the challenges."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from mpim_lab.chapters.ch05_batching.scenario import BATCH, WINDOW_MS
from mpim_lab.errors import CommandTimeout, InvalidMessage, MpimError, NotConnected, QueueFull
from mpim_lab.events import EventKind, message_id
from mpim_lab.lab.server.embedded import open_server
from mpim_lab.mq.batching.decoder import FrameDecoder
from mpim_lab.mq.compression.framing import encode_batch
from mpim_lab.mq.connection.resp import encode_command
from mpim_lab.mq.pubsub.queue import MessageQueue

TIMEOUT_S = 2.0


class LearnerBatcherAdapter:
    """An adapter that puts the learner's class in the place of a batcher.

    Reports for it, and never waits for ever.
    """

    def __init__(
        self,
        solution: type[Any],
        queue: MessageQueue,
        channel: str,
        *,
        max_messages: int = BATCH,
        window_ms: float = WINDOW_MS,
        refuses: bytes = b"",
        never: bytes = b"",
    ) -> None:
        self._refuses = refuses  # the first attempt to send a batch with this message finds no room
        self._never = never  # no batch with this message is ever sent
        self.connection_is_free = asyncio.Event()
        self.connection_is_free.set()
        self.unknown: set[str] = set()  # messages of which nobody knows whether they were sent
        self._channel, self._max_messages = channel, max_messages
        self._queue, self._reporter = queue, queue.reporter
        self._accepted = self._sent = 0
        self.batches: list[int] = []
        self.sent_at: list[float] = []  # when `send` was called
        self.problem: str = ""
        self._own = solution(self._send, max_messages, window_ms / 1e3)

    async def publish(self, payload: bytes) -> str:
        """Hand one message to the learner's `add`.

        Raises what that raises, and CommandTimeout if it never returns.
        """
        self._reporter.message(EventKind.ACCEPTED, payload, self._channel)
        self._accepted += 1
        try:
            async with asyncio.timeout(0 if self.problem else TIMEOUT_S):
                await self._own.add(payload)
        except TimeoutError:
            self.problem = (
                self.problem or f"add({payload[:12]!r}) did not return within {TIMEOUT_S:g} s"
            )
            raise CommandTimeout(self.problem) from None
        return "accepted"

    async def _send(self, batch: list[bytes]) -> None:
        """What the learner calls with a batch."""
        messages = list(batch)
        self.sent_at.append(time.monotonic())
        if not messages or len(messages) > self._max_messages:
            self.problem = (
                f"a batch of {len(messages)} was sent: from 1 to {self._max_messages} were wanted"
            )
            raise InvalidMessage(self.problem)
        frame = encode_batch(messages)
        connection = self._queue.connection.connection
        if self._refuses and self._refuses in messages:
            self._refuses = b""
            raise QueueFull("too many commands wait for the server already; nothing was sent")
        if self._never and self._never in messages:
            raise InvalidMessage(f"{self._never.decode()} is too large; nothing was sent")
        if (
            not connection.is_ready
        ):  # not waited for: a fault ends before a patient sender notices it
            raise NotConnected("the line is down; nothing was sent")
        for payload in messages:
            self._reporter.message(EventKind.BATCHED, payload, self._channel, count=len(messages))
        await self.connection_is_free.wait()
        try:
            await connection.send(
                encode_command(b"PUBLISH", self._queue.keys.channel(self._channel), frame)
            )
        except MpimError as error:
            if not error.definite:
                self.unknown.update(map(message_id, messages))
            raise
        self.batches.append(len(messages))
        self._sent += len(messages)

    async def close(self) -> None:
        """Let the learner's close do what it does."""
        async with asyncio.timeout(TIMEOUT_S):
            await self._own.close()

    async def wait_idle(self) -> None:
        """Wait until everything was sent, or as long as any window could last."""
        give_up_at = time.monotonic() + TIMEOUT_S
        while self._sent < self._accepted and time.monotonic() < give_up_at:
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def adapt_learner(
    solution: type[Any], **options: Any
) -> AsyncIterator[tuple[LearnerBatcherAdapter, Callable[[], Awaitable[list[bytes]]]]]:
    """Yield the learner's batcher on a server of its own, and how to see what bob read."""
    async with open_server() as server, MessageQueue(server.url, prefix=server.prefix) as queue:
        got: list[bytes] = []
        await queue.subscribe(
            "trial", lambda message: got.append(message.payload), decode=FrameDecoder(queue)
        )
        own = LearnerBatcherAdapter(solution, queue, "trial", **options)

        async def what_bob_read() -> list[bytes]:
            await own.wait_idle()
            await queue.drain()
            return got

        yield own, what_bob_read
        with contextlib.suppress(
            Exception
        ):  # what its close does was judged; here it ends tasks of the learner's
            await own.close()
