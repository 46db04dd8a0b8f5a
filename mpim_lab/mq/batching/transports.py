"""BatchTransport: how one batch is sent.

To a channel as one frame (`framing.py`), to a stream as entries in one write.
"""

import asyncio
import os
from collections.abc import Sequence
from typing import Protocol

from mpim_lab.errors import InvalidParameter
from mpim_lab.events import Reporter, now, shown_name
from mpim_lab.keys import Name, batch_ack_channel
from mpim_lab.mq.batching.buffer import Outcome
from mpim_lab.mq.batching.flow_control import CreditWindow
from mpim_lab.mq.batching.policies import BatchPolicy
from mpim_lab.mq.compression.codec import Codec
from mpim_lab.mq.compression.framing import (
    MAX_CHANNEL_BYTES,
    OVERHEAD_BYTES,
    decode_ack,
    encode_batch,
)
from mpim_lab.mq.connection.encoding import Message
from mpim_lab.mq.connection.resp import encode_command
from mpim_lab.mq.pubsub.queue import MessageQueue
from mpim_lab.mq.streams.stream import Stream


class BatchTransport(Protocol):
    """The way a batcher's batches are sent."""

    name: str
    reporter: Reporter
    max_message_bytes: int

    async def open(self) -> None:
        """Get ready."""

    async def close(self) -> None:
        """Release what `open` acquired: nothing more will be sent."""

    async def send(self, payloads: Sequence[bytes]) -> Sequence[Outcome]:
        """Send the first of the payloads, at least one, in one write.

        Return an outcome for each of those.

        Raise MpimError when none of them was written. What is definite and transient is sent again,
        if nothing behind it was done.
        """


class ChannelTransport:
    """The transport to a channel.

    One PUBLISH of one frame, compressed by `codec` if there is one, within the `credit`.
    """

    def __init__(
        self,
        queue: MessageQueue,
        channel: Name,
        codec: Codec | None,
        credit: CreditWindow,
        policy: BatchPolicy,
    ) -> None:
        self._link, self._channel = queue.connection, queue.keys.channel(channel)
        self.name, self.reporter = shown_name(channel), queue.reporter
        whose, limit = "queue", queue.max_payload_bytes
        if codec is not None and codec.max_bytes < limit:  # what it refuses would be a whole batch
            whose, limit = "codec", codec.max_bytes
        self.max_message_bytes = max_bytes = limit - OVERHEAD_BYTES
        if policy.max_bytes + 4 * policy.max_messages > max_bytes:
            raise InvalidParameter(
                f"{policy} makes frames of more than the {whose}'s {limit:,} bytes"
            )
        self._queue, self._codec, self._credit = queue, codec, credit
        self._ack_channel = batch_ack_channel(os.urandom(8).hex())
        self._ack_key = queue.keys.channel(self._ack_channel)
        if len(self._ack_key) > MAX_CHANNEL_BYTES:
            raise InvalidParameter(
                "no batch can name its channel for acknowledgements: it has "
                f"{len(self._ack_key)} bytes"
            )
        self._number = 0
        self._wakeup: asyncio.Future[None] | None = None

    async def open(self) -> None:
        """Subscribe to the acknowledgements."""
        await self._queue.subscribe(self._ack_channel, self._on_ack)

    async def close(self) -> None:
        """Unsubscribe."""
        await self._queue.unsubscribe(self._ack_channel)

    async def send(self, payloads: Sequence[bytes]) -> Sequence[Outcome]:
        """Publish the frame.

        Every message's outcome is the number of subscribers that it was handed to.
        """
        if not self._credit.has_credit(now()):
            await self._wait_for_credit()
        self._number += 1
        frame = encode_batch(payloads, self._ack_key, self._number)
        if self._codec is not None:
            frame = self._codec.compress(frame)
        connection = self._link.connection
        if connection.is_blocked:
            connection = await self._link.acquire_slot()
        self._credit.sent(self._number, len(frame), now())
        reply = connection.send(encode_command(b"PUBLISH", self._channel, frame))
        # a batch has gathered enough: it need not wait for the end of the event-loop iteration
        connection.flush()
        try:
            receivers: int = await reply
        except BaseException:  # cancelled, too
            self._credit.no_receivers(
                self._number
            )  # if it arrived after all, its acknowledgement does no harm
            raise
        if not receivers:
            self._credit.no_receivers(self._number)
        return [receivers] * len(payloads)

    async def _wait_for_credit(self) -> None:
        loop = asyncio.get_running_loop()
        while not self._credit.has_credit(now()):
            self._wakeup = loop.create_future()
            timer = loop.call_later(max(0.001, self._credit.stall_deadline() - now()), self._wake)
            try:
                await self._wakeup
            finally:
                timer.cancel()

    def _on_ack(self, message: Message) -> None:
        receiver, number = decode_ack(message.payload)
        self._credit.acked(receiver, number, now())
        self._wake()

    def _wake(self) -> None:
        if self._wakeup is not None and not self._wakeup.done():
            self._wakeup.set_result(None)


class StreamTransport:
    """The transport to a stream: an XADD for each message, in one write.

    The outcome is the entry's id.
    """

    def __init__(self, stream: Stream) -> None:
        self.name = stream.name
        self.reporter = stream.reporter
        self.max_message_bytes = stream.max_payload_bytes
        self._stream = stream

    async def open(self) -> None:
        """Nothing to do: the queue is open."""

    async def close(self) -> None:
        """Nothing to do: the queue stays open."""

    async def send(self, payloads: Sequence[bytes]) -> Sequence[Outcome]:
        """Add as many as the connection has room for."""
        return await self._stream.add_available(payloads)
