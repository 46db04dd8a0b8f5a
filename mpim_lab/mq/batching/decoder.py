"""Unpacker: the receiving half of batching and compression. `await mq.subscribe("chat", handler, decode=Unpacker(mq))`."""

import asyncio
import os

from mpim_lab.mq.compression.codec import Codec
from mpim_lab.mq.compression.framing import BATCH, decode_batch, decode_messages, encode_ack, frame_type
from mpim_lab.mq.connection.resp import encode_command, ignore_result
from mpim_lab.mq.pubsub.queue import MessageQueue


class Unpacker:
    """Gives the messages of a payload, whatever its sender made of them, and confirms batches to their senders.

    One serves any number of subscriptions of its queue. codec: knows the dictionaries and the limit of size; a plain
    `Codec()` if none is given. A batch is confirmed at the end of the loop turn in which its messages were handed over; of
    several, the last one, for all. A queue that has stopped reading (a full buffer) confirms nothing, which holds its
    senders back.
    """

    gives_payloads = True  # whoever subscribes need not look at each of them

    def __init__(self, queue: MessageQueue, codec: Codec | None = None) -> None:
        self._commands = queue.connection
        self._expand = (codec or Codec()).decompress
        self._name = os.urandom(8)
        self._due: dict[bytes, int] = {}  # channel for confirmations → number of the last batch

    def __call__(self, payload: bytes) -> list[bytes]:
        """The messages in a payload, at least one. Raises CorruptPayload, OversizedPayload, UnknownFormat."""
        if frame_type(payload) is None:
            return [payload]
        framed = self._expand(payload)
        if frame_type(framed) != BATCH:
            return decode_messages(framed)
        batch = decode_batch(framed)
        if batch.confirm_to:
            self._confirm(batch.confirm_to, batch.number)
        return batch.messages

    def _confirm(self, channel: bytes, number: int) -> None:
        if not self._due:
            asyncio.get_running_loop().call_soon(self._send)
        self._due[channel] = number

    def _send(self) -> None:
        connection = self._commands.connection
        due, self._due = self._due, {}
        for channel, number in due.items():
            if (
                not connection.is_blocked
            ):  # otherwise a later one says it, too; at worst the sender waits for its patience
                told = encode_ack(self._name, number)
                connection.send(encode_command(b"PUBLISH", channel, told)).add_done_callback(ignore_result)
