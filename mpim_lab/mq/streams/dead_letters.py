"""DeadLetterQueue: what a group gave up, with the reason.

To be read, redriven or deleted by a person.

A dead letter is an entry of a stream of its own. First come six fields of ours, then the entry's
own, byte for byte and in their order: repeated names, names that are not UTF-8, thousands of them.
Which are ours is said by their place, not by their names, so an entry may have fields called "id"
or "reason", too:

    stream orders  group billing  id 17-0  reason "tries used up"  error "KeyError: 'tea'"
    deliveries 5  |  data …

What becomes of an entry that is given up:

| `move` ...                       | then the entry is ...                                        |
|----------------------------------|--------------------------------------------------------------|
| returns True                     | a dead letter, and not pending any more: both in one step    |
| returns False                    | finished by somebody else: no dead letter was made           |
| raises, `definite`               | pending as before: try again later, if the error is          |
|                                  | `transient`                                                  |
| raises, not `definite`           | one or the other; a repeat returns False if it is a dead     |
|                                  | letter already                                               |
| finds it trimmed from its stream | a dead letter: its fields come from whoever has it in flight |

| `redrive` ...          | then the dead letter is ...                                            |
|------------------------|------------------------------------------------------------------------|
| returns an id          | gone, and the entry is the last of its stream: both in one step        |
| returns None           | not here: redriven or deleted before                                   |
| raises, `definite`     | here as before                                                         |
| raises, not `definite` | one or the other; a repeat returns None if it is in its stream already |

An entry of 50,000 fields keeps the server busy for 0.1 s in either step, one of 200,000 for a
second, one of 500,000 for some ten: then the answer comes too late, CommandTimeout is raised, and
the step is done all the same.
"""

from typing import NamedTuple

from mpim_lab.keys import Name, name_text
from mpim_lab.mq.connection.bounds import check_whole
from mpim_lab.mq.connection.context import StreamContext
from mpim_lab.mq.connection.lua_script import LuaScript
from mpim_lab.mq.streams.entries import Entry, Pairs, decode_fields, parse_entry

DEAD_LETTER = LuaScript("mq/connection/lua/call.lua", "mq/streams/lua/dead_letter.lua")
REDRIVE = LuaScript("mq/connection/lua/call.lua", "mq/streams/lua/redrive.lua")
_HEADER = (b"stream", b"group", b"id", b"reason", b"error", b"deliveries")
_MAX_ERROR_CHARS = 500


class DeadLetter(NamedTuple):
    """One entry that was given up.

    Its own `id` here, where it came from, why, and its fields as they were.

    stream: the stream's key. error: the first 500 characters of it. pairs: the entry's fields, name
    and value, all of them and in their order. What another program has put here has no origin:
    `stream` is empty and all fields are its own.
    """

    id: str
    stream: Name
    group: Name
    origin_id: str
    reason: str
    error: str
    deliveries: int
    pairs: Pairs

    @property
    def fields(self) -> dict[str, bytes]:
        """Name → value, as in `Entry.fields`; `pairs` is what loses nothing."""
        return decode_fields(self.pairs)


class DeadLetterQueue:
    """The dead-letter queue of one group: a stream in the same slot as the group's stream.

    Args:
        access: What the parts of the stream share.
        group: The group's name.
    """

    def __init__(self, access: StreamContext, group: Name) -> None:
        self._context, self._group, self._link = access, group, access.connection
        self.key = access.keys.dead_letters(access.key, group)

    async def move(self, entry: Entry, *, reason: str, error: str, deliveries: int) -> bool:
        """Move an entry from the group to here, in one atomic step.

        Args:
            entry: The entry.
            reason: Why it is given up.
            error: The last error's text.
            deliveries: How often it was handed to somebody.

        Returns:
            False if it was not pending any more.

        Raises:
            CommandRejected: The key is no stream, say.
            MpimError: What `ReconnectingConnection` raises, as the table above says.
        """
        fields = self.encode_fields(entry, reason=reason, error=error, deliveries=deliveries)
        keys = [self._context.key, self.key]
        return (
            await DEAD_LETTER.run(self._link, keys, self._group, entry.raw_id, b"*", *fields)
            is not None
        )

    def encode_fields(
        self, entry: Entry, *, reason: str, error: str, deliveries: int
    ) -> list[bytes]:
        """Return the fields of a dead letter, name and value in turn.

        Ours, then the entry's own.
        """
        about = (reason, error[:_MAX_ERROR_CHARS], str(deliveries))
        ours = (self._context.key, _encoded(self._group), entry.raw_id, *map(_encoded, about))
        return [part for pair in (*zip(_HEADER, ours, strict=True), *entry.pairs) for part in pair]

    async def list(self, *, count: int = 100, after: str = "-") -> list[DeadLetter]:
        """List dead letters, oldest first.

        Args:
            count: At most so many.
            after: From this id on; "(id" is above it, so that one page may follow the other.

        Returns:
            The dead letters.
        """
        check_whole(count=count)
        raws = await self._link.call("XRANGE", self.key, after, "+", "COUNT", str(count))
        return [_parse(parse_entry(raw)) for raw in raws]

    async def redrive(self, id: str) -> str | None:
        """Put a dead letter back at the end of its stream, as a new entry, in one atomic step.

        The stream's other groups get it as well, once more: their handlers must be idempotent.

        Args:
            id: The dead letter's own id.

        Returns:
            The entry's new id; None if the dead letter is not here.
        """
        new = await REDRIVE.run(self._link, [self._context.key, self.key], id, *_HEADER)
        return None if new is None else str(new, "ascii")

    async def delete(self, *ids: str) -> int:
        """Delete dead letters for good.

        Args:
            *ids: Their own ids.

        Returns:
            How many of them there were.
        """
        return int(await self._link.call("XDEL", self.key, *ids)) if ids else 0

    async def count(self) -> int:
        """Count the dead letters.

        Returns:
            How many there are.
        """
        return int(await self._link.call("XLEN", self.key))


def _encoded(word: Name) -> bytes:
    """An error's text may hold what UTF-8 cannot: a file's name, say."""
    return word if isinstance(word, bytes) else word.encode(errors="backslashreplace")


def _parse(entry: Entry) -> DeadLetter:
    pairs, ours = entry.pairs, len(_HEADER)
    if len(pairs) <= ours or any(
        pair[0] != name for pair, name in zip(pairs, _HEADER, strict=False)
    ):
        return DeadLetter(entry.id, "", "", "", "put here by another program", "", 0, pairs)
    stream, group, *about, deliveries = (value for _, value in pairs[:ours])
    origin, reason, error = (value.decode(errors="backslashreplace") for value in about)
    count = int(deliveries) if deliveries.isdigit() and len(deliveries) < 20 else 0
    return DeadLetter(
        entry.id, name_text(stream), name_text(group), origin, reason, error, count, pairs[ours:]
    )
