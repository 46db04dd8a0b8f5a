"""Ordering: every conversation's messages are numbered where they are written, and read in that order.

"Take a number, then publish" is two steps, and another gateway fits between them. Here one script recognises a repeated
message id, takes the number, appends to the conversation's log and publishes: whoever is first at the server is first.

On the wire: the channel carries "<number> <payload>"; the log's entries have the id "<number>-0" and the fields id and
data, so that a reader who missed some asks for exactly those numbers (`XRANGE log 17-0 19-0`).

Pub/Sub loses what is published while a reader is away. The number tells: a gap is open, and the log has what is missing.
"""

from collections.abc import Sequence
from typing import NamedTuple

from mpim_lab.errors import InvalidParameter
from mpim_lab.events import Kind
from mpim_lab.keys import Name, name_bytes
from mpim_lab.mq.connection.bounds import check_whole
from mpim_lab.mq.connection.context import StreamContext
from mpim_lab.mq.connection.encoding import encode_payload
from mpim_lab.mq.connection.ids import new_message_id
from mpim_lab.mq.connection.lua_script import LuaScript
from mpim_lab.mq.pubsub.queue import MessageQueue

KEEP_S = 86_400
_APPEND = LuaScript("mq/ordering/lua/append.lua")


class Appended(NamedTuple):
    """What became of a message: its number, and whether it is new (False: its id had been sent before)."""

    sequence: int
    is_new: bool


class Numbered(NamedTuple):
    """One message of a conversation, by number."""

    conversation: Name
    sequence: int
    payload: bytes


class Conversations:
    """Conversations of one kind: `Conversations(mq, "chat")`.

    keep_s: how long a message's id is remembered, so that a repeat gets the same number; longer than a sender repeats.
    Raises what `ReconnectingConnection` raises; after an error with `definite` False append again, with the same id.
    """

    def __init__(self, queue: MessageQueue, name: Name, *, keep_s: int = KEEP_S) -> None:
        name_bytes(name, "name of conversations", error=InvalidParameter)
        self.queue, self.name, self._keep_ms = queue, name, lifetime_ms(keep_s)
        self._access = queue.context(name)

    async def append(self, conversation: Name, payload: bytes | str, id: Name | None = None) -> Appended:
        """Number a message, keep it, and hand it to whoever listens, in one step."""
        told = encode_payload(payload, self.queue.max_payload_bytes)
        sent, keys = message_name(id), self.queue.keys
        names = [
            keys.sequence(self.name, conversation),
            keys.sent(self.name, conversation, sent),
            keys.log(self.name, conversation),
        ]
        words = (sent, told, self._keep_ms, "", keys.live(self.name, conversation))
        return await append(self._access, told, names, *words)

    async def between(
        self, conversation: Name, first: int, last: int | None = None, count: int = 500
    ) -> list[Numbered]:
        """What the log still has from number `first` to `last` (to its end), at most `count`."""
        check_whole(0, first=first)
        check_whole(count=count)
        key = self._log(conversation)
        end = "+" if last is None else f"{last}-0"
        raws = await self._access.connection.call("XRANGE", key, f"{first}-0", end, "COUNT", str(count))
        return [
            Numbered(conversation, int(raw_id.partition(b"-")[0]), parts[3])
            for raw_id, parts in raws
            if len(parts) == 4 and parts[2] == b"data"  # else another program's: no message of that number
        ]

    async def last(self, conversation: Name) -> int:
        """The last number that was given in a conversation; 0 if there is none."""
        key = self.queue.keys.sequence(self.name, conversation)
        return int(await self._access.connection.call("GET", key) or 0)

    async def trim(self, conversation: Name, *, keep: int) -> int:
        """Forget all but the last `keep` of a conversation; gives how many were."""
        check_whole(0, keep=keep)
        key = self._log(conversation)
        return int(await self._access.connection.call("XTRIM", key, "MAXLEN", "=", str(keep)))

    def _log(self, conversation: Name) -> bytes:
        return self.queue.keys.log(self.name, conversation)


def lifetime_ms(keep_s: int) -> str:
    """How long a message's id is remembered, as append.lua takes it. Raises InvalidParameter."""
    check_whole(keep_s=keep_s)  # the server would refuse it, after the message was written
    return str(keep_s * 1_000)


def message_name(id: Name | None) -> bytes:
    """The sender's id of a message as the server has it; a new one if there is none. Raises InvalidMessage."""
    return new_message_id().encode() if id is None else name_bytes(id, "message id")


async def append(access: StreamContext, payload: bytes, keys: Sequence[bytes], *words: bytes | str) -> Appended:
    """Run append.lua and report what became of the message."""
    reporter, name = access.reporter, access.name
    if reporter.is_on:
        reporter.message(Kind.ACCEPTED, payload, name)
    try:
        sequence, is_new = await _APPEND.run(access.connection, keys, *words)
    except Exception as error:
        reporter.message(Kind.FAILED, payload, name, detail=f"{type(error).__name__}: {error}")
        raise
    if reporter.is_on:
        reporter.message(Kind.ADDED, payload, name, detail=f"number {sequence}" + ("" if is_new else ", known"))
    return Appended(sequence, bool(is_new))
