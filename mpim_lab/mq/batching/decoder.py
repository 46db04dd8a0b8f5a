"""FrameDecoder: the receiving half of batching and compression.

Use it as `await mq.subscribe("chat", handler, decode=FrameDecoder(mq))`.
"""

import asyncio
import os

from mpim_lab.mq.compression.codec import Codec
from mpim_lab.mq.compression.framing import (
    BATCH,
    decode_batch,
    decode_messages,
    encode_ack,
    frame_type,
)
from mpim_lab.mq.connection.resp import encode_command, ignore_result
from mpim_lab.mq.pubsub.queue import MessageQueue


class FrameDecoder:
    """A decoder of payloads, whatever their sender made of them: `subscribe(..., decode=decoder)`.

    It acknowledges batches to their senders, at the end of the event-loop iteration in which the
    messages were handed over; of several, the last one, for all. A queue that has stopped reading
    (a full buffer) acknowledges nothing: that is the back-pressure on its senders.

    Args:
        queue: The queue whose subscriptions it serves, any number of them.
        codec: Knows the dictionaries and the limit of size; a plain `Codec()` if none is given.
    """

    returns_payloads = True  # whoever subscribes need not look at each of them

    def __init__(self, queue: MessageQueue, codec: Codec | None = None) -> None:
        self._commands = queue.connection
        self._expand = (codec or Codec()).decompress
        self._name = os.urandom(8)
        self._pending_acks: dict[
            bytes, int
        ] = {}  # channel for acknowledgements → number of the last batch

    def __call__(self, payload: bytes) -> list[bytes]:
        """Return the messages in a payload, at least one.

        Raise CorruptPayload, OversizedPayload, UnknownFormat.
        """
        if frame_type(payload) is None:
            return [payload]
        framed = self._expand(payload)
        if frame_type(framed) != BATCH:
            return decode_messages(framed)
        batch = decode_batch(framed)
        if batch.confirm_to:
            self._acknowledge(batch.confirm_to, batch.number)
        return batch.messages

    def _acknowledge(self, channel: bytes, number: int) -> None:
        if not self._pending_acks:
            asyncio.get_running_loop().call_soon(self._send_acks)
        self._pending_acks[channel] = number

    def _send_acks(self) -> None:
        connection = self._commands.connection
        due, self._pending_acks = self._pending_acks, {}
        for channel, number in due.items():
            if (
                not connection.is_blocked
            ):  # a later one acknowledges this, too; else the stall time-out
                ack = encode_ack(self._name, number)
                connection.send(encode_command(b"PUBLISH", channel, ack)).add_done_callback(
                    ignore_result
                )
