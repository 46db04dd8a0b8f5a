"""Carriers: how one batch travels. To a channel as one frame (`frames.py`), to a stream as so many entries in one write."""

import asyncio
import os
from collections.abc import Sequence
from typing import Protocol

from mpim_lab.errors import InvalidParameter
from mpim_lab.events import Reporter, now, shown_name
from mpim_lab.keys import Name, batches_channel
from mpim_lab.mq.batching.buffer import Outcome
from mpim_lab.mq.batching.flow_control import Credit
from mpim_lab.mq.batching.policies import BatchRule
from mpim_lab.mq.compression.codec import Codec
from mpim_lab.mq.compression.framing import MAX_CHANNEL_BYTES, OVERHEAD_BYTES, decode_ack, encode_batch
from mpim_lab.mq.connection.encoding import Message
from mpim_lab.mq.connection.resp import encode_command
from mpim_lab.mq.pubsub.queue import MessageQueue
from mpim_lab.mq.streams.stream import Stream


class Carrier(Protocol):
    """What a batcher needs of the way its batches go."""

    name: str
    reporter: Reporter
    max_message_bytes: int

    async def open(self) -> None:
        """Get ready."""

    async def close(self) -> None:
        """Nothing more will be carried."""

    async def carry(self, payloads: Sequence[bytes]) -> Sequence[Outcome]:
        """Send the first of the payloads, at least one, in one write; gives an outcome for each of those.

        Raises MpimError when none of them was written. What is definite and transient is sent again, if nothing behind
        it was done.
        """


class FrameCarrier:
    """A batch to a channel is one PUBLISH of one frame, compressed by `codec` if there is one, within the `credit`."""

    def __init__(
        self, queue: MessageQueue, channel: Name, codec: Codec | None, credit: Credit, rule: BatchRule
    ) -> None:
        self._link, self._channel = queue.connection, queue.keys.channel(channel)
        self.name, self.reporter = shown_name(channel), queue.reporter
        whose, limit = "queue", queue.max_payload_bytes
        if codec is not None and codec.max_bytes < limit:  # what it refuses would be a whole batch
            whose, limit = "codec", codec.max_bytes
        self.max_message_bytes = most = limit - OVERHEAD_BYTES
        if rule.max_bytes + 4 * rule.max_messages > most:
            raise InvalidParameter(f"{rule} makes frames of more than the {whose}'s {limit:,} bytes")
        self._queue, self._codec, self._credit = queue, codec, credit
        self._confirmations = batches_channel(os.urandom(8).hex())
        self._confirm_to = queue.keys.channel(self._confirmations)
        if len(self._confirm_to) > MAX_CHANNEL_BYTES:
            raise InvalidParameter(
                f"no batch can name its channel for confirmations: it has {len(self._confirm_to)} bytes"
            )
        self._number = 0
        self._news: asyncio.Future[None] | None = None

    async def open(self) -> None:
        """Listen for confirmations."""
        await self._queue.subscribe(self._confirmations, self._on_confirmation)

    async def close(self) -> None:
        """Listen no longer."""
        await self._queue.unsubscribe(self._confirmations)

    async def carry(self, payloads: Sequence[bytes]) -> Sequence[Outcome]:
        """Publish the frame; every message's outcome is the number of subscribers that it was handed to."""
        if not self._credit.has_room(now()):
            await self._room()
        self._number += 1
        frame = encode_batch(payloads, self._confirm_to, self._number)
        if self._codec is not None:
            frame = self._codec.compress(frame)
        connection = self._link.connection
        if connection.is_blocked:
            connection = await self._link.acquire_slot()
        self._credit.sent(self._number, len(frame), now())
        reply = connection.send(encode_command(b"PUBLISH", self._channel, frame))
        connection.flush()  # a batch has gathered enough: it need not wait for the end of the loop turn
        try:
            receivers: int = await reply
        except BaseException:  # cancelled, too
            self._credit.nobody(self._number)  # if it arrived after all, its confirmation does no harm
            raise
        if not receivers:
            self._credit.nobody(self._number)
        return [receivers] * len(payloads)

    async def _room(self) -> None:
        loop = asyncio.get_running_loop()
        while not self._credit.has_room(now()):
            self._news = loop.create_future()
            timer = loop.call_later(max(0.001, self._credit.waits_until() - now()), self._wake)
            try:
                await self._news
            finally:
                timer.cancel()

    def _on_confirmation(self, message: Message) -> None:
        receiver, number = decode_ack(message.payload)
        self._credit.confirmed(receiver, number, now())
        self._wake()

    def _wake(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)


class EntryCarrier:
    """A batch to a stream is an XADD for each message, in one write; the outcome is the entry's id."""

    def __init__(self, stream: Stream) -> None:
        self.name, self.reporter, self.max_message_bytes = stream.name, stream.reporter, stream.max_payload_bytes
        self._stream = stream

    async def open(self) -> None:
        """Nothing to do: the queue is open."""

    async def close(self) -> None:
        """Nothing to do: the queue stays open."""

    async def carry(self, payloads: Sequence[bytes]) -> Sequence[Outcome]:
        """Add as many as the connection has room for."""
        return await self._stream.add_available(payloads)
