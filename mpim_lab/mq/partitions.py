"""PartitionedStream: conversations spread over some streams, so that workers can share them without parting one.

All messages of a conversation go to one partition, in the order of their numbers; a partition has one worker at a time
(`ordered_worker.py`). More partitions: more workers can be busy; a conversation stays with one either way.
"""

from collections.abc import Sequence
from typing import NamedTuple
from zlib import crc32

from mpim_lab.errors import InvalidParameter
from mpim_lab.keys import members_key, partition_key, seat_key
from mpim_lab.mq.dead_letters import DeadLetters
from mpim_lab.mq.ids import new_message_id
from mpim_lab.mq.message import wire_payload
from mpim_lab.mq.ordering import KEEP_S, Appended, append, append_keys, lifetime_ms
from mpim_lab.mq.pubsub import MessageQueue

_FIELDS = (b"conversation", b"seq", b"id", b"data")


class Ordered(NamedTuple):
    """One entry of a partition: its conversation and number, the sender's message id, the payload, the entry's own id.

    An entry that another program has put there has number 0; `parts` are its fields, name and value in turn, as they are.
    """

    conversation: str
    sequence: int
    id: str
    data: bytes
    entry_id: str
    parts: Sequence[bytes] = ()


class PartitionedStream:
    """`PartitionedStream(mq, "orders", partitions=8)`: everybody who uses it must say the same number of partitions.

    keep_s: how long a message's id is remembered, so that a repeat is not appended again. Raises what `Link` raises; after
    an error with `definite` False append again, with the same id (`Producer` does).
    """

    def __init__(self, queue: MessageQueue, name: str, *, partitions: int = 8, keep_s: int = KEEP_S) -> None:
        if not 1 <= partitions <= 1_024:
            raise InvalidParameter(f"partitions={partitions}: from 1 to 1,024")
        self.queue, self.name, self.partitions, self._keep_ms = queue, name, partitions, lifetime_ms(keep_s)
        self.keys = [queue.access(partition_key(name, number)).key for number in range(partitions)]

    def partition_of(self, conversation: str) -> int:
        """Which partition a conversation is in: the same for everybody, for ever."""
        return crc32(conversation.encode()) % self.partitions

    async def append(self, conversation: str, payload: bytes | str, id: str | None = None) -> Appended:
        """Number a message and append it, unless its id has been sent before: in one step."""
        told = wire_payload(payload, self.queue.max_payload_bytes)
        if not conversation:
            raise InvalidParameter("a conversation has a name")
        keys = append_keys(self.queue, self.name, conversation, sent := id or new_message_id())
        keys.append(self.keys[self.partition_of(conversation)])
        return await append(self.queue, self.name, told, keys, sent, told, self._keep_ms, conversation, "")

    def seat_keys(self, group: str) -> list[bytes]:
        """The keys of seat.lua: the group's members, then each partition's seat."""
        names = [members_key(self.name, group)] + [seat_key(self.name, group, n) for n in range(self.partitions)]
        return [self.queue.access(name).key for name in names]

    def dead_letters(self, group: str, partition: int) -> DeadLetters:
        """What a group gave up of one partition."""
        return DeadLetters(self.queue.access(partition_key(self.name, partition)), group)

    async def lag(self, group: str) -> int:
        """How many entries the group has not done yet, in all partitions."""
        link, behind = self.queue.access(self.name).commands, 0
        for key, seat in zip(self.keys, self.seat_keys(group)[1:], strict=True):
            after = await link.call("HGET", seat, "offset") or b"0"
            while page := await link.call("XRANGE", key, b"(" + after, "+", "COUNT", "1000"):
                behind, after = behind + len(page), page[-1][0]
        return behind


def ordered_of(raw: tuple[bytes, list[bytes]]) -> Ordered:
    """An entry as append.lua writes it, or one of another program's."""
    entry_id, parts = raw
    try:
        one, conversation, two, sequence, three, sent_as, four, data = parts
        if (one, two, three, four) == _FIELDS and (number := int(sequence)) > 0:
            return Ordered(conversation.decode(), number, sent_as.decode(), data, entry_id.decode(), parts)
    except ValueError:  # other fields, no number, names that are not UTF-8
        pass
    return Ordered("", 0, "", b"", entry_id.decode(), parts)
