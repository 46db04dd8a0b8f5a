"""Batcher: many messages, one write. A policy (`policies.py`) decides when a batch is flushed.

A system call, a command and an answer cost the same for one message of 100 bytes and for 500 of
them. A message passes `publish` here, the flush task (`flusher.py`), the transport
(`transports.py`), and the queue's one connection; at the other end a `FrameDecoder` decodes the
frame and the handler is called once for each message.

Order is kept by having one batch on its way at a time. What fails before it is written is kept and
tried again, in its place. What may have been run is not repeated: each of its messages gets the
error, whose `definite` is False.
"""

import asyncio
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any, Self

from mpim_lab.errors import (
    InvalidParameter,
    MpimError,
    NotConnected,
    PartlyAdded,
    QueueClosed,
    QueueFull,
    Unconfirmed,
)
from mpim_lab.events import EventKind, now
from mpim_lab.keys import Name
from mpim_lab.mq.batching.buffer import BatchFuture, PendingBuffer, single_result
from mpim_lab.mq.batching.flow_control import CreditWindow
from mpim_lab.mq.batching.flusher import BatchFlusher
from mpim_lab.mq.batching.policies import Adaptive, BatchPolicy
from mpim_lab.mq.batching.transports import BatchTransport, ChannelTransport, StreamTransport
from mpim_lab.mq.compression.codec import Codec
from mpim_lab.mq.connection.bounds import MAX_INT, check_bounds, check_times
from mpim_lab.mq.connection.encoding import encode_payload, reject_single_payload
from mpim_lab.mq.connection.handler import LoopAffinity
from mpim_lab.mq.connection.retry import Backoff
from mpim_lab.mq.connection.wait_queue import WaitQueue
from mpim_lab.mq.pubsub.queue import MessageQueue
from mpim_lab.mq.streams.stream import Stream


class Batcher:
    """A sender of batches, in order: `async with Batcher.to_channel(mq, "chat") as batcher:`.

    Args:
        transport: How a batch is sent.
        policy: When a batch is flushed; `Adaptive()` if none is given.
        max_pending_bytes: How much may wait to be sent; beyond it callers wait, first come, first
            served.
        enqueue_timeout_s: How long they wait.
        delivery_timeout_s: How old a message may become while its batch cannot be written. Then it
            gets the error, and so does what waits behind it, which would overtake a retry.
        attempt_timeout_s: How long one attempt may take; one that was begun is seen through.
        close_timeout_s: How long `close` may take.
        backoff: The pause between two attempts.

    Raises:
        InvalidParameter: A number is out of bounds.
    """

    def __init__(
        self,
        transport: BatchTransport,
        *,
        policy: BatchPolicy | None = None,
        max_pending_bytes: int = 1024 * 1024,
        enqueue_timeout_s: float = 5.0,
        delivery_timeout_s: float = 30.0,
        attempt_timeout_s: float = 30.0,
        close_timeout_s: float = 5.0,
        backoff: Backoff | None = None,
    ) -> None:
        check_bounds(1, MAX_INT, max_pending_bytes=max_pending_bytes)
        check_times(enqueue_timeout_s=enqueue_timeout_s, close_timeout_s=close_timeout_s)
        check_times(delivery_timeout_s=delivery_timeout_s, attempt_timeout_s=attempt_timeout_s)
        self.policy = policy or Adaptive()
        self._transport = transport
        self._reporter = transport.reporter
        self._is_reporting = transport.reporter.is_on
        self._max_message_bytes = transport.max_message_bytes
        self._max_pending_bytes = max_pending_bytes
        self._buffer = PendingBuffer()
        self._wait_queue = WaitQueue(self._has_room, self._rejection_error, enqueue_timeout_s)
        self._waiters = self._wait_queue.places  # looked at for each message
        self._flusher = BatchFlusher(
            transport,
            self.policy,
            self._buffer,
            backoff or Backoff(),
            delivery_timeout_s=delivery_timeout_s,
            attempt_timeout_s=attempt_timeout_s,
            on_capacity=self._wait_queue.wake,
        )
        self._flush_timeout_s = delivery_timeout_s + attempt_timeout_s
        self._close_timeout_s = close_timeout_s
        self._loop = LoopAffinity("this batcher")
        self._event_loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._opening = self._closing = False

    @classmethod
    def to_channel(
        cls,
        queue: MessageQueue,
        channel: Name,
        *,
        policy: BatchPolicy | None = None,
        codec: Codec | None = None,
        credit: CreditWindow | None = None,
        **options: Any,
    ) -> Self:
        """Make a batcher that sends one frame a batch, for subscribers with a `FrameDecoder`.

        Args:
            queue: The queue to publish on.
            channel: The channel's name.
            policy: When a batch is flushed.
            codec: Compresses the frames.
            credit: How far ahead of the receivers this may be.
            **options: Those of the class.

        Returns:
            The batcher, not yet open.
        """
        policy = policy or Adaptive()
        transport = ChannelTransport(queue, channel, codec, credit or CreditWindow(), policy)
        return cls(transport, policy=policy, **options)

    @classmethod
    def to_stream(
        cls, stream: Stream, *, policy: BatchPolicy | None = None, **options: Any
    ) -> Self:
        """Make a batcher that adds entries in one write; each may fail alone.

        Args:
            stream: The stream; its consumers see no difference.
            policy: When a batch is flushed.
            **options: Those of the class.

        Returns:
            The batcher, not yet open.
        """
        return cls(StreamTransport(stream), policy=policy, **options)

    # Life

    async def open(self) -> None:
        """Get ready.

        Raises:
            InvalidParameter: It is open already.
            QueueClosed: It was closed.
            MpimError: What subscribing raises.
        """
        self._loop.check()
        if self._closing:
            raise self._rejection_error()
        if self._task is not None or self._opening:
            raise InvalidParameter("the batcher is open already")
        self._opening = True
        try:
            await self._transport.open()
        finally:
            self._opening = False
        if self._closing:
            await self._transport.close()
            raise QueueClosed("the batcher was closed while it was opened")
        self._event_loop = asyncio.get_running_loop()
        self._task = asyncio.create_task(self._flusher.run())
        self._task.add_done_callback(lambda _: self._wait_queue.close())

    async def close(self) -> None:
        """Accept nothing more, flush everything pending, and wait for the outcomes. Idempotent.

        What is not sent within `close_timeout_s` gets its error then, whatever server, receivers,
        transport and codec do. To cancel it does not stop the sending.
        """
        self._loop.check()
        self._closing = True
        self._flusher.stop()
        self._wait_queue.close()
        if self._task is None:
            return
        begun_at = now()
        if (await asyncio.wait([self._task], timeout=self._close_timeout_s))[1]:
            self._flusher.abort()
            self._task.cancel()
        closing = asyncio.ensure_future(self._transport.close())
        left_s = max(0.0, self._close_timeout_s - (now() - begun_at))
        if (await asyncio.wait([closing], timeout=left_s))[1]:
            closing.cancel()
        elif not closing.cancelled():
            closing.result()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    # Messages

    async def publish(self, payload: bytes | str) -> int | str:
        """Send with the next batch.

        A caller that is cancelled while it waits for the outcome does not hold the message back.

        Args:
            payload: Bytes, or text, which is sent as UTF-8.

        Returns:
            This message's own outcome: how many subscribers, or the entry's id.

        Raises:
            InvalidMessage: It cannot be sent.
            QueueFull: There was no room in time; nothing was sent.
            QueueClosed: The batcher was closed; nothing was sent.
            MpimError: What the batch met; look at `definite`.
        """
        self._loop.check()
        if type(payload) is not bytes or len(payload) > self._max_message_bytes:
            payload = encode_payload(payload, self._max_message_bytes)
        if self.is_full:
            await self._wait_for_capacity()
        return single_result(await self._enqueue((payload,), len(payload)))

    async def publish_many(self, payloads: Iterable[bytes | str]) -> list[int | str]:
        """Send many, in order. All are checked before the first is enqueued.

        What is given together is enqueued together, be it more than `max_pending_bytes`.

        Args:
            payloads: Each as `publish` takes it.

        Returns:
            The outcome of each, in the same order.

        Raises:
            PartlyAdded: Some have an error of their own; it says which.
            MpimError: As `publish`.
        """
        self._loop.check()
        reject_single_payload(payloads)
        max_bytes = self._max_message_bytes
        checked = [
            payload
            if type(payload) is bytes and len(payload) <= max_bytes
            else encode_payload(payload, max_bytes)
            for payload in payloads
        ]
        if not checked:
            return []
        if self.is_full:
            await self._wait_for_capacity()
        return PartlyAdded.unless_all(await self._enqueue(checked, sum(map(len, checked))))

    def add(self, payload: bytes | str) -> BatchFuture:
        """Enqueue a message without waiting.

        Args:
            payload: Bytes, or text, which is sent as UTF-8.

        Returns:
            A future: a list with its outcome, or its error.

        Raises:
            InvalidMessage: It cannot be sent.
            QueueFull: There is no room now.
            QueueClosed: The batcher was closed.
        """
        self._loop.check()
        payload = encode_payload(payload, self._max_message_bytes)
        if self.is_full:
            raise self._rejection_error()
        return self._enqueue((payload,), len(payload))

    async def flush(self) -> None:
        """Flush the batch now, and wait until everything enqueued so far has its outcome.

        Raises:
            Unconfirmed: After `delivery_timeout_s + attempt_timeout_s` it is still being sent.
        """
        self._loop.check()
        if not self._buffer.unresolved:
            return
        try:
            async with asyncio.timeout(self._flush_timeout_s):
                await self._flusher.flush()
        except TimeoutError as error:
            waited = f"no outcome after {self._flush_timeout_s:g} s; they are still being sent"
            raise Unconfirmed(f"{self._buffer.unresolved:,} messages have {waited}") from error

    @property
    def is_full(self) -> bool:
        """Return whether a caller would have to wait now."""
        return (
            bool(self._waiters) or self._buffer.bytes >= self._max_pending_bytes or not self.is_open
        )

    @property
    def is_open(self) -> bool:
        """Return whether it accepts messages."""
        return self._task is not None and not self._closing and not self._flusher.has_ended

    @property
    def batches(self) -> int:
        """Return how many batches have had their outcome."""
        return self._flusher.batches

    @property
    def pending(self) -> int:
        """Return how many messages are pending."""
        return self._buffer.messages

    def _enqueue(self, payloads: Sequence[bytes], size: int) -> BatchFuture:
        future = BatchFuture(len(payloads), now(), loop=self._event_loop)
        self._buffer.append(payloads, size, future)
        self._flusher.notify()
        if self._is_reporting:
            for payload in payloads:
                self._reporter.message(EventKind.ACCEPTED, payload, self._transport.name)
        if self._waiters:
            self._wait_queue.wake()
        return future

    async def _wait_for_capacity(self) -> None:
        if not self.is_open:
            raise self._rejection_error()
        await self._wait_queue.wait()
        if not self.is_open:  # it ended at the moment at which there was room
            raise self._rejection_error()

    def _has_room(self) -> bool:
        return self._buffer.bytes < self._max_pending_bytes

    def _rejection_error(self) -> MpimError:
        if self._task is None:
            return NotConnected(
                "not opened yet: write `async with Batcher.to_channel(…) as batcher:`"
            )
        if not self.is_open:
            return QueueClosed("the batcher was closed; the message was not taken")
        return QueueFull(
            f"{self._buffer.messages:,} messages ({self._buffer.bytes:,} bytes) wait to be sent "
            "already"
        )
