"""PartitionedStream: conversations spread over some streams, for workers to share.

All messages of a conversation go to one partition, in the order of their numbers; a partition has
one worker at a time (`ordered_worker.py`). More partitions: more workers can be busy; a
conversation stays with one either way.
"""

from collections.abc import Sequence
from typing import NamedTuple
from zlib import crc32

from mpim_lab.errors import InvalidParameter
from mpim_lab.keys import Name, joinable, joined, name_bytes, name_text
from mpim_lab.mq.connection.bounds import check_whole
from mpim_lab.mq.connection.encoding import encode_payload
from mpim_lab.mq.ordering.sequenced_log import (
    ID_TTL_S,
    AppendResult,
    append,
    encode_message_id,
    ttl_ms,
)
from mpim_lab.mq.pubsub.queue import MessageQueue
from mpim_lab.mq.streams.dead_letters import DeadLetterQueue

_FIELDS = (b"conversation", b"seq", b"id", b"data")


class PartitionEntry(NamedTuple):
    """One entry of a partition.

    Its conversation and sequence number, message id, payload, and the entry's own id.

    An entry that another program has put there has number 0; `parts` are its fields, name and value
    in turn, as they are.
    """

    conversation: Name
    sequence: int
    id: Name
    data: bytes
    entry_id: str
    parts: Sequence[bytes] = ()


class PartitionedStream:
    """A stream in partitions: `PartitionedStream(mq, "orders", partitions=8)`.

    After an error with `definite` False append again, with the same id, as `IdempotentProducer`
    does.

    Args:
        queue: The queue on whose server it is.
        name: The stream's name.
        partitions: Everybody who uses it must say the same number.
        id_ttl_s: How long a message's id is remembered, so that a repeat is not appended again.

    Raises:
        InvalidParameter: A number is out of bounds.
    """

    def __init__(
        self, queue: MessageQueue, name: Name, *, partitions: int = 8, id_ttl_s: int = ID_TTL_S
    ) -> None:
        check_whole(partitions=partitions)
        if partitions > 1_024:
            raise InvalidParameter(f"partitions={partitions}: from 1 to 1,024")
        name_bytes(name, "name of a stream", error=InvalidParameter)
        self.queue = queue
        self.name = name
        self.partitions = partitions
        self._id_ttl_ms = ttl_ms(id_ttl_s)
        self.keys = [queue.keys.partition(name, number) for number in range(partitions)]
        self._prefixes = [
            queue.keys.partition_prefixes(name, number) for number in range(partitions)
        ]
        self._access = queue.context(name)

    def partition_of(self, conversation: Name) -> int:
        """Return the partition of a conversation: the same for everybody, for ever.

        Args:
            conversation: The conversation's name.

        Returns:
            The partition's number, from 0.
        """
        return crc32(name_bytes(conversation, "conversation")) % self.partitions

    async def append(
        self, conversation: Name, payload: bytes | str, id: Name | None = None
    ) -> AppendResult:
        """Give a message its sequence number and append it, atomically.

        Args:
            conversation: The conversation's name.
            payload: Bytes, or text, which is sent as UTF-8.
            id: The message's id; one that was sent before is not appended again.

        Returns:
            The sequence number, and whether it is new.

        Raises:
            InvalidMessage: It cannot be sent.
            MpimError: What `ReconnectingConnection` raises.
        """
        data = encode_payload(payload, self.queue.max_payload_bytes)
        raw, message_id = name_bytes(conversation, "conversation"), encode_message_id(id)
        partition = crc32(raw) % self.partitions
        counters, records = self._prefixes[partition]
        names = [counters + joinable(raw), records + joined(raw, message_id), self.keys[partition]]
        return await append(self._access, data, names, message_id, data, self._id_ttl_ms, raw, "")

    def assignment_keys(self, group: Name) -> list[bytes]:
        """Return the keys of heartbeat.lua.

        The group's members, then each partition's assignment.
        """
        keys = self.queue.keys
        assignments = [
            keys.assignment(self.name, number, group) for number in range(self.partitions)
        ]
        return [keys.members(self.name, group), *assignments]

    def dead_letters(self, group: Name, partition: int) -> DeadLetterQueue:
        """Return the dead letters of a group from one partition.

        Args:
            group: The group's name.
            partition: The partition's number.

        Returns:
            The queue with them.
        """
        return DeadLetterQueue(
            self.queue.context(self.name)._replace(key=self.keys[partition]), group
        )

    async def lag(self, group: Name) -> int:
        """Count what the group has not done yet.

        Args:
            group: The group's name.

        Returns:
            How many entries, in all partitions.
        """
        link, behind = self.queue.context(self.name).connection, 0
        for key, assignment in zip(self.keys, self.assignment_keys(group)[1:], strict=True):
            after = await link.call("HGET", assignment, "offset") or b"0"
            while page := await link.call("XRANGE", key, b"(" + after, "+", "COUNT", "1000"):
                behind, after = behind + len(page), page[-1][0]
        return behind


def parse_entry(raw: tuple[bytes, list[bytes]]) -> PartitionEntry:
    """Parse an entry as append.lua writes it, or one of another program's."""
    entry_id, parts = raw
    try:
        one, conversation, two, sequence, three, sent_as, four, data = parts
        if (one, two, three, four) == _FIELDS and (number := int(sequence)) > 0:
            return PartitionEntry(
                name_text(conversation), number, name_text(sent_as), data, entry_id.decode(), parts
            )
    except ValueError:  # other fields, or no number
        pass
    return PartitionEntry("", 0, "", b"", entry_id.decode(), parts)
