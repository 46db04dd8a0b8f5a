"""DeadLetters: what a group gave up, with the reason; to be read, replayed or dropped by a person.

A dead letter is an entry of a stream of its own. First come six fields of ours, then the entry's own, byte for byte and
in their order: repeated names, names that are not UTF-8, thousands of them. Which are ours is said by their place, not by
their names, so an entry may have fields called "id" or "reason", too:

    stream orders  group billing  id 17-0  reason "tries used up"  error "KeyError: 'tea'"  deliveries 5  |  data …

What becomes of an entry that is given up:

| `bury` ...                       | then the entry is ...                                                        |
|----------------------------------|------------------------------------------------------------------------------|
| gives True                       | a dead letter, and not pending any more: both in one step                    |
| gives False                      | finished by somebody else: no dead letter was made                           |
| raises, `definite`               | pending as before: try again later, if the error is `transient`              |
| raises, not `definite`           | one or the other; a repeat gives False if it is a dead letter already        |
| finds it trimmed from its stream | a dead letter: its fields come from whoever has it in flight                 |

| `replay` ...                     | then the dead letter is ...                                                  |
|----------------------------------|------------------------------------------------------------------------------|
| gives an id                      | gone, and the entry is the last of its stream: both in one step              |
| gives None                       | not here: replayed or dropped before                                         |
| raises, `definite`               | here as before                                                               |
| raises, not `definite`           | one or the other; a repeat gives None if it is in its stream already         |

An entry of 50,000 fields keeps the server busy for 0.1 s in either step, one of 200,000 for a second, one of 500,000 for
some ten: then the answer comes too late, CommandTimeout is raised, and the step is done all the same.
"""

from typing import NamedTuple

from mpim_lab.keys import Name, name_text
from mpim_lab.mq.connection.bounds import check_whole
from mpim_lab.mq.connection.context import Access
from mpim_lab.mq.connection.lua_script import Script
from mpim_lab.mq.streams.entries import Entry, Pairs, entry_of, fields_of

_BURY, _REPLAY = (
    Script("mq/connection/lua/call.lua", "mq/streams/lua/bury.lua"),
    Script("mq/connection/lua/call.lua", "mq/streams/lua/replay.lua"),
)
_OURS = (b"stream", b"group", b"id", b"reason", b"error", b"deliveries")
_MOST_ERROR = 500


class DeadLetter(NamedTuple):
    """One entry that was given up: its own `id` here, where it came from, why, and its fields as they were.

    stream: the stream's key. error: the first 500 characters of it. pairs: the entry's fields, name and value, all of them
    and in their order. What another program has put here has no origin: `stream` is empty and all fields are its own.
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
        return fields_of(self.pairs)


class DeadLetters:
    """The dead letters of one group, a stream of their own, in the same slot as the group's stream."""

    def __init__(self, access: Access, group: Name) -> None:
        self._access, self._group, self._link = access, group, access.commands
        self.key = access.keys.dead_letters(access.key, group)

    async def bury(self, entry: Entry, *, reason: str, error: str, deliveries: int) -> bool:
        """Take an entry from the group and put it here, in one step; False if it was not pending any more.

        Raises what `Link` raises, as the table above says: CommandRejected, say, when the key is no stream.
        """
        letter = self.letter(entry, reason=reason, error=error, deliveries=deliveries)
        keys = [self._access.key, self.key]
        return await _BURY.run(self._link, keys, self._group, entry.raw_id, b"*", *letter) is not None

    def letter(self, entry: Entry, *, reason: str, error: str, deliveries: int) -> list[bytes]:
        """Give the fields of a dead letter, name and value in turn: ours, then the entry's own."""
        about = (reason, error[:_MOST_ERROR], str(deliveries))
        ours = (self._access.key, _encoded(self._group), entry.raw_id, *map(_encoded, about))
        return [part for pair in (*zip(_OURS, ours, strict=True), *entry.pairs) for part in pair]

    async def list(self, *, count: int = 100, after: str = "-") -> list[DeadLetter]:
        """The oldest `count` of them, from the id `after` on ("(id": above it)."""
        check_whole(count=count)
        raws = await self._link.call("XRANGE", self.key, after, "+", "COUNT", str(count))
        return [_letter_of(entry_of(raw)) for raw in raws]

    async def replay(self, id: str) -> str | None:
        """Put one back at the end of its stream, as a new entry whose id this gives; None if it is not here.

        The stream's other groups get it as well, once more: their handlers must be idempotent.
        """
        new = await _REPLAY.run(self._link, [self._access.key, self.key], id, *_OURS)
        return None if new is None else str(new, "ascii")

    async def drop(self, *ids: str) -> int:
        """Forget some for good; gives how many there were."""
        return int(await self._link.call("XDEL", self.key, *ids)) if ids else 0

    async def count(self) -> int:
        """How many there are."""
        return int(await self._link.call("XLEN", self.key))


def _encoded(word: Name) -> bytes:
    """An error's text may hold what UTF-8 cannot: a file's name, say."""
    return word if isinstance(word, bytes) else word.encode(errors="backslashreplace")


def _letter_of(entry: Entry) -> DeadLetter:
    pairs, ours = entry.pairs, len(_OURS)
    if len(pairs) <= ours or any(pair[0] != name for pair, name in zip(pairs, _OURS, strict=False)):
        return DeadLetter(entry.id, "", "", "", "put here by another program", "", 0, pairs)
    stream, group, *about, deliveries = (value for _, value in pairs[:ours])
    origin, reason, error = (value.decode(errors="backslashreplace") for value in about)
    count = int(deliveries) if deliveries.isdigit() and len(deliveries) < 20 else 0
    return DeadLetter(entry.id, name_text(stream), name_text(group), origin, reason, error, count, pairs[ours:])
