"""Batcher: many messages, one write. When a batch is closed is said by a rule (`batch_rules.py`).

A system call, a command and an answer cost the same for one message of 100 bytes and for 500 of them. A message passes
`publish` here, the sender's task below, the carrier (`batch_carriers.py`), and the queue's one connection; at the other
end an `Unpacker` opens the frame and the handler is called once for each message.

Order is kept by having one batch on its way at a time. What fails before it is written is kept and tried again, in its
place. What may have been run is not repeated: each of its messages gets the error, whose `definite` is False.
"""

import asyncio
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any, Self

from mpim_lab.errors import InvalidParameter, MpimError, NotConnected, QueueClosed, QueueFull, Unconfirmed
from mpim_lab.events import Kind, now
from mpim_lab.keys import Name
from mpim_lab.mq.batching.buffer import Backlog, Receipt, all_of, first_of
from mpim_lab.mq.batching.flow_control import Credit
from mpim_lab.mq.batching.flusher import BatchSender
from mpim_lab.mq.batching.policies import Adaptive, BatchRule
from mpim_lab.mq.batching.transports import Carrier, EntryCarrier, FrameCarrier
from mpim_lab.mq.compression.codec import Codec
from mpim_lab.mq.connection.bounds import MAX_INT, check_bounds, check_times
from mpim_lab.mq.connection.encoding import encode_payload, reject_single_payload
from mpim_lab.mq.connection.handler import LoopAffinity
from mpim_lab.mq.connection.retry import Backoff
from mpim_lab.mq.connection.wait_queue import WaitQueue
from mpim_lab.mq.pubsub.queue import MessageQueue
from mpim_lab.mq.streams.stream import Stream


class Batcher:
    """Gathers messages and sends them in batches, in order: `async with Batcher.to_channel(mq, "chat") as batcher:`.

    rule: when a batch is closed; `Adaptive()` if none is given. max_waiting_bytes: how much may wait to be sent; beyond it
    callers wait, first come, first served, for at most `wait_s`. give_up_after_s: how old a message may become while its
    batch cannot be written; then it gets the error, and so does what waits behind it, which would overtake a repeat. An
    attempt that was begun is seen through, for at most `attempt_timeout_s`. close_timeout_s: how long `close` may take.
    """

    def __init__(
        self,
        carrier: Carrier,
        *,
        rule: BatchRule | None = None,
        max_waiting_bytes: int = 1024 * 1024,
        wait_s: float = 5.0,
        give_up_after_s: float = 30.0,
        attempt_timeout_s: float = 30.0,
        close_timeout_s: float = 5.0,
        backoff: Backoff | None = None,
    ) -> None:
        check_bounds(1, MAX_INT, max_waiting_bytes=max_waiting_bytes)
        check_times(wait_s=wait_s, close_timeout_s=close_timeout_s)
        check_times(give_up_after_s=give_up_after_s, attempt_timeout_s=attempt_timeout_s)
        self.rule = rule or Adaptive()
        self._carrier, self._reporter, self._is_reporting = carrier, carrier.reporter, carrier.reporter.is_on
        self._most_bytes, self._max_waiting_bytes = carrier.max_message_bytes, max_waiting_bytes
        self._backlog, self._callers = Backlog(), WaitQueue(wait_s)
        self._line = self._callers.waiters  # looked at for each message
        self._sender = BatchSender(
            carrier,
            self.rule,
            self._backlog,
            backoff or Backoff(),
            give_up_after_s=give_up_after_s,
            attempt_timeout_s=attempt_timeout_s,
            on_room=self._admit,
        )
        self._flush_timeout_s, self._close_timeout_s = give_up_after_s + attempt_timeout_s, close_timeout_s
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
        rule: BatchRule | None = None,
        codec: Codec | None = None,
        credit: Credit | None = None,
        **options: Any,
    ) -> Self:
        """One frame a batch, for subscribers with an `Unpacker`. `options` are those of the class.

        codec: compresses the frames. credit: how far ahead of the receivers this may be.
        """
        rule = rule or Adaptive()
        carrier = FrameCarrier(queue, channel, codec, credit or Credit(), rule)
        return cls(carrier, rule=rule, **options)

    @classmethod
    def to_stream(cls, stream: Stream, *, rule: BatchRule | None = None, **options: Any) -> Self:
        """Entries in one write; consumers see no difference, and each may fail alone. `options` are those of the class."""
        return cls(EntryCarrier(stream), rule=rule, **options)

    # Life

    async def open(self) -> None:
        """Get ready. Raises what subscribing raises, InvalidParameter if it is open, QueueClosed once it was closed."""
        self._loop.check()
        if self._closing:
            raise self._why_not()
        if self._task is not None or self._opening:
            raise InvalidParameter("the batcher is open already")
        self._opening = True
        try:
            await self._carrier.open()
        finally:
            self._opening = False
        if self._closing:
            await self._carrier.close()
            raise QueueClosed("the batcher was closed while it was opened")
        self._event_loop = asyncio.get_running_loop()
        self._task = asyncio.create_task(self._sender.run())
        self._task.add_done_callback(lambda _: self._callers.fail_all(self._why_not()))

    async def close(self) -> None:
        """Take nothing more, send everything that was taken, and wait for the outcomes. Twice is harmless.

        What is not sent within `close_timeout_s` gets its error then, whatever server, receivers, carrier and codec do. To
        cancel it does not stop the sending.
        """
        self._loop.check()
        self._closing = True
        self._sender.end()
        self._callers.fail_all(self._why_not())
        if self._task is None:
            return
        begun_at = now()
        if (await asyncio.wait([self._task], timeout=self._close_timeout_s))[1]:
            self._sender.abandon()
            self._task.cancel()
        closing = asyncio.ensure_future(self._carrier.close())
        left_s = max(0.0, self._close_timeout_s - (now() - begun_at))
        if (await asyncio.wait([closing], timeout=left_s))[1]:
            closing.cancel()
        elif not closing.cancelled():
            closing.result()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # Taking in

    async def publish(self, payload: bytes | str) -> int | str:
        """Send with the next batch; gives this message's own outcome: how many subscribers, or the entry's id.

        Raises InvalidMessage, QueueFull, QueueClosed (nothing was sent), and what the batch met; look at `definite`.
        A caller that is cancelled while it waits for the outcome does not hold the message back.
        """
        self._loop.check()
        if type(payload) is not bytes or len(payload) > self._most_bytes:
            payload = encode_payload(payload, self._most_bytes)
        if self.is_full:
            await self._room()
        return first_of(await self._take_in((payload,), len(payload)))

    async def publish_many(self, payloads: Iterable[bytes | str]) -> list[int | str]:
        """Send many, in order, and give the outcome of each. All are checked before the first is taken in.

        What is given together is taken in together, be it more than `max_waiting_bytes`. Raises as `publish` does, and
        PartlyAdded, which says which, once some have an error of their own.
        """
        self._loop.check()
        reject_single_payload(payloads)
        most = self._most_bytes
        checked = [
            payload if type(payload) is bytes and len(payload) <= most else encode_payload(payload, most)
            for payload in payloads
        ]
        if not checked:
            return []
        if self.is_full:
            await self._room()
        return all_of(await self._take_in(checked, sum(map(len, checked))))

    def add(self, payload: bytes | str) -> Receipt:
        """Take a message in without waiting; the receipt can be awaited for a list with its outcome, or its error.

        Raises InvalidMessage, QueueClosed, and QueueFull at once if there is no room.
        """
        self._loop.check()
        payload = encode_payload(payload, self._most_bytes)
        if self.is_full:
            raise self._why_not()
        return self._take_in((payload,), len(payload))

    async def flush(self) -> None:
        """Close the batch now, and wait until everything taken in so far has its outcome.

        Raises Unconfirmed after `give_up_after_s + attempt_timeout_s`: it is still being sent.
        """
        self._loop.check()
        if not self._backlog.unsettled:
            return
        try:
            async with asyncio.timeout(self._flush_timeout_s):
                await self._sender.flush()
        except TimeoutError as error:
            waited = f"{self._backlog.unsettled:,} messages have no outcome after {self._flush_timeout_s:g} s"
            raise Unconfirmed(f"{waited}; they are still being sent") from error

    @property
    def is_full(self) -> bool:
        """Whether a caller would have to wait now."""
        return bool(self._line) or self._backlog.bytes >= self._max_waiting_bytes or not self.is_open

    @property
    def is_open(self) -> bool:
        """Whether it takes messages."""
        return self._task is not None and not self._closing and not self._sender.has_ended

    @property
    def batches(self) -> int:
        """How many batches have had their outcome."""
        return self._sender.batches

    @property
    def waiting(self) -> int:
        """How many messages wait to be sent."""
        return self._backlog.messages

    def _take_in(self, payloads: Sequence[bytes], size: int) -> Receipt:
        receipt = Receipt(len(payloads), now(), loop=self._event_loop)
        self._backlog.put(payloads, size, receipt)
        self._sender.more()
        if self._is_reporting:
            for payload in payloads:
                self._reporter.message(Kind.ACCEPTED, payload, self._carrier.name)
        if self._line:
            self._admit()
        return receipt

    async def _room(self) -> None:
        if not self.is_open:
            raise self._why_not()
        try:
            await self._callers.wait(self._why_not)
        except BaseException:
            self._admit()
            raise
        if not self.is_open:  # it ended at the moment at which there was room
            raise self._why_not()

    def _admit(self) -> None:
        if self._backlog.bytes < self._max_waiting_bytes:
            self._callers.wake_next()

    def _why_not(self) -> MpimError:
        if self._task is None:
            return NotConnected("not opened yet: write `async with Batcher.to_channel(…) as batcher:`")
        if not self.is_open:
            return QueueClosed("the batcher was closed; the message was not taken")
        return QueueFull(f"{self._backlog.messages:,} messages ({self._backlog.bytes:,} bytes) wait to be sent already")
