"""SequencedLog: messages get their sequence numbers where they are written.

"Take a number, then publish" is two steps, and another gateway fits between them. Here one script
recognises a repeated message id, takes the number, appends to the conversation's log and publishes:
whoever is first at the server is first.

On the wire: the channel carries "<number> <payload>"; the log's entries have the id "<number>-0"
and the fields id and data, so that a reader who missed some asks for exactly those numbers (`XRANGE
log 17-0 19-0`).

Pub/Sub loses what is published while a reader is away. The number tells: a gap is open, and the log
has what is missing.
"""

from collections.abc import Sequence
from typing import NamedTuple

from mpim_lab.errors import InvalidParameter
from mpim_lab.events import EventKind
from mpim_lab.keys import Name, name_bytes
from mpim_lab.mq.connection.bounds import check_whole
from mpim_lab.mq.connection.context import StreamContext
from mpim_lab.mq.connection.encoding import encode_payload, new_message_id
from mpim_lab.mq.connection.lua_script import LuaScript
from mpim_lab.mq.pubsub.queue import MessageQueue

ID_TTL_S = 86_400
APPEND = LuaScript("mq/ordering/lua/append.lua")


class AppendResult(NamedTuple):
    """The result of an append.

    The sequence number, and whether the message is new (False: its id had been sent before).
    """

    sequence: int
    is_new: bool


class SequencedMessage(NamedTuple):
    """One message of a conversation, with its sequence number."""

    conversation: Name
    sequence: int
    payload: bytes


class SequencedLog:
    """A message log with sequence numbers for each conversation: `SequencedLog(mq, "chat")`.

    After an error with `definite` False append again, with the same id.

    Args:
        queue: The queue on whose server it is.
        name: The log's name.
        id_ttl_s: How long a message's id is remembered, so that a repeat gets the same number;
            longer than a sender repeats.

    Raises:
        InvalidParameter: The name is none.
        MpimError: What `ReconnectingConnection` raises, in all methods.
    """

    def __init__(self, queue: MessageQueue, name: Name, *, id_ttl_s: int = ID_TTL_S) -> None:
        name_bytes(name, "name of conversations", error=InvalidParameter)
        self.queue, self.name, self._id_ttl_ms = queue, name, ttl_ms(id_ttl_s)
        self._access = queue.context(name)

    async def append(
        self, conversation: Name, payload: bytes | str, id: Name | None = None
    ) -> AppendResult:
        """Give a message its sequence number, append it, and publish it, atomically.

        Args:
            conversation: The conversation's name.
            payload: Bytes, or text, which is sent as UTF-8.
            id: The message's id; one that was sent before keeps its number.

        Returns:
            The sequence number, and whether it is new.
        """
        data = encode_payload(payload, self.queue.max_payload_bytes)
        message_id, keys = encode_message_id(id), self.queue.keys
        names = [
            keys.sequence(self.name, conversation),
            keys.message_id(self.name, conversation, message_id),
            keys.log(self.name, conversation),
        ]
        words = (message_id, data, self._id_ttl_ms, "", keys.live(self.name, conversation))
        return await append(self._access, data, names, *words)

    async def read_range(
        self, conversation: Name, first: int, last: int | None = None, count: int = 500
    ) -> list[SequencedMessage]:
        """Read what the log has of a conversation.

        Args:
            conversation: The conversation's name.
            first: The first sequence number.
            last: The last one; None: to the end.
            count: At most so many.

        Returns:
            The messages, in order.
        """
        check_whole(0, first=first)
        check_whole(count=count)
        key = self._log_key(conversation)
        end = "+" if last is None else f"{last}-0"
        raws = await self._access.connection.call(
            "XRANGE", key, f"{first}-0", end, "COUNT", str(count)
        )
        return [
            SequencedMessage(conversation, int(raw_id.partition(b"-")[0]), parts[3])
            for raw_id, parts in raws
            if len(parts) == 4
            and parts[2] == b"data"  # else another program's: no message of that number
        ]

    async def last_sequence(self, conversation: Name) -> int:
        """Return the last sequence number of a conversation.

        Args:
            conversation: The conversation's name.

        Returns:
            The number; 0 if there is none.
        """
        key = self.queue.keys.sequence(self.name, conversation)
        return int(await self._access.connection.call("GET", key) or 0)

    async def trim(self, conversation: Name, *, max_entries: int) -> int:
        """Delete the oldest messages of a conversation.

        Args:
            conversation: The conversation's name.
            max_entries: How many stay.

        Returns:
            How many were deleted.
        """
        check_whole(0, max_entries=max_entries)
        key = self._log_key(conversation)
        return int(
            await self._access.connection.call("XTRIM", key, "MAXLEN", "=", str(max_entries))
        )

    def _log_key(self, conversation: Name) -> bytes:
        return self.queue.keys.log(self.name, conversation)


def ttl_ms(id_ttl_s: int) -> str:
    """Return how long a message's id is remembered, as append.lua takes it.

    Raise InvalidParameter.
    """
    check_whole(id_ttl_s=id_ttl_s)  # the server would refuse it, after the message was written
    return str(id_ttl_s * 1_000)


def encode_message_id(id: Name | None) -> bytes:
    """Encode the sender's id of a message; make a new one if there is none.

    Raise InvalidMessage.
    """
    return new_message_id().encode() if id is None else name_bytes(id, "message id")


async def append(
    access: StreamContext, payload: bytes, keys: Sequence[bytes], *words: bytes | str
) -> AppendResult:
    """Run append.lua and report what became of the message."""
    reporter, name = access.reporter, access.name
    if reporter.is_on:
        reporter.message(EventKind.ACCEPTED, payload, name)
    try:
        sequence, is_new = await APPEND.run(access.connection, keys, *words)
    except Exception as error:
        reporter.message(EventKind.FAILED, payload, name, error=error)
        raise
    if reporter.is_on:
        reporter.message(
            EventKind.ADDED, payload, name, sequence=sequence, detail="" if is_new else "known"
        )
    return AppendResult(sequence, bool(is_new))
