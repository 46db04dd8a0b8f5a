"""DeadLetters: what a group gave up, with the reason; to be read, replayed or dropped by a person."""

from typing import NamedTuple

from mpim_lab.keys import Name, name_bytes
from mpim_lab.mq.access import Access
from mpim_lab.mq.entries import Entry, entry_of
from mpim_lab.mq.script import Script

_BURY, _REPLAY = Script("bury"), Script("replay")


class DeadLetter(NamedTuple):
    """One entry that was given up: its own `id` here, where it came from, why, and its fields as they were."""

    id: str
    stream: str
    group: str
    origin_id: str
    reason: str
    error: str
    deliveries: int
    fields: dict[str, bytes]


class DeadLetters:
    """The dead letters of one group, a stream of their own: `<stream>:dead:<group>`."""

    def __init__(self, access: Access, group: Name) -> None:
        self._access, self._group, self._link = access, group, access.commands
        self.key = b"%b:dead:%b" % (access.key, name_bytes(group))

    async def bury(self, entry: Entry, *, reason: str, error: str, deliveries: int) -> bool:
        """Take an entry from the group and put it here, in one step; False if it was not pending any more."""
        fields = [part for name, value in entry.fields.items() for part in (name.encode(), value)]
        words = (self._group, entry.id, reason, _encoded(error[:500]), str(deliveries))
        return await _BURY.run(self._link, [self._access.key, self.key], *words, *fields) is not None

    def burial(self, *words: bytes | str) -> tuple[bytes, ...]:
        """The command that writes a letter of these fields and values, for who runs it together with something else."""
        return (b"XADD", self.key, b"*", *map(_encoded, words))

    async def list(self, *, count: int = 100, after: str = "-") -> list[DeadLetter]:
        """The oldest `count` of them, from the id `after` on ("(id": above it)."""
        raws = await self._link.call("XRANGE", self.key, after, "+", "COUNT", str(count))
        return [_letter_of(entry_of(raw)) for raw in raws]

    async def replay(self, id: str) -> str | None:
        """Put one back at the end of its stream, as a new entry whose id this gives; None if it is not here.

        The stream's other groups get it as well, once more: their handlers must be idempotent.
        """
        new = await _REPLAY.run(self._link, [self._access.key, self.key], id)
        return None if new is None else str(new, "ascii")

    async def drop(self, *ids: str) -> int:
        """Forget some for good; gives how many there were."""
        return int(await self._link.call("XDEL", self.key, *ids)) if ids else 0

    async def count(self) -> int:
        """How many there are."""
        return int(await self._link.call("XLEN", self.key))


def _encoded(word: bytes | str) -> bytes:
    """An error's text may hold what UTF-8 cannot: a file's name, say."""
    return word if isinstance(word, bytes) else word.encode(errors="backslashreplace")


def _letter_of(entry: Entry) -> DeadLetter:
    own = {name[1:]: value.decode("utf-8", "replace") for name, value in entry.fields.items() if name[:1] == "_"}
    fields = {name: value for name, value in entry.fields.items() if name[:1] != "_"}
    words = (own["stream"], own["group"], own["id"], own["reason"], own["error"])
    return DeadLetter(entry.id, *words, int(own["deliveries"]), fields)
