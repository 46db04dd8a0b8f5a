"""Entries: what a stream holds, and how the server sends it.

Decoded when asked for: most readers want `data` only.
"""

from collections.abc import Iterable, Sequence
from typing import Any

DATA = "data"
_DATA_NAME = b"data"
_FIELD_NAMES: dict[bytes, str] = {
    _DATA_NAME: DATA
}  # spelled once: a name is decoded once, not once an entry
Pairs = tuple[
    tuple[bytes, bytes], ...
]  # an entry's fields, name and value: all of them, in their order


class Entry:
    """One entry: its id ("<milliseconds>-<number>", ascending) and its fields. It does not change.

    Args:
        raw_id: The id as the server has it, for commands about this entry.
        parts: The fields, name and value in turn.

        >>> entry = Entry(b"1700000000000-0", [b"order", b"17", b"item", b"tea"])
        >>> entry
        Entry(id='1700000000000-0', fields={'order': b'17', 'item': b'tea'})
        >>> entry.fields["item"], entry.data
        (b'tea', b'')
    """

    __slots__ = ("_id", "_parts")

    def __init__(self, raw_id: bytes, parts: Sequence[bytes]) -> None:
        self._id, self._parts = raw_id, parts

    @property
    def raw_id(self) -> bytes:
        """The id in bytes."""
        return self._id

    @property
    def id(self) -> str:
        """The id as text."""
        return self._id.decode()

    @property
    def fields(self) -> dict[str, bytes]:
        r"""Name → value; a dict of the caller's own.

        Of fields with the same name the last one counts. A name that is not UTF-8 has its bytes as
        Python writes those of file names, so that no two become the same:
        `name.encode(errors="surrogateescape")` gives them back.

            >>> Entry(b"1-0", [b"\xff", b"1", b"\xfe", b"2", b"\xfe", b"3"]).fields
            {'\udcff': b'1', '\udcfe': b'3'}
        """
        return decode_fields(self.pairs)

    @property
    def pairs(self) -> Pairs:
        """The fields as they are in the stream, name and value: all of them, in their order."""
        parts = self._parts
        return tuple(zip(parts[::2], parts[1::2], strict=True))

    @property
    def data(self) -> bytes:
        """The field "data": what `Stream.add` writes when it is given a payload.

        Empty if there is none.
        """
        parts = self._parts
        if len(parts) == 2:
            return parts[1] if parts[0] == _DATA_NAME else b""
        return self.fields.get(DATA, b"")

    @property
    def first_value(self) -> bytes:
        """The first field's value, by which a trace knows the entry."""
        return self._parts[1] if self._parts else b""

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Entry):
            return NotImplemented
        return self._id == other._id and sorted(self.pairs) == sorted(other.pairs)

    __hash__ = None  # type: ignore[assignment]  # as anything that holds a dict

    def __repr__(self) -> str:
        return f"{type(self).__name__}(id={self.id!r}, fields={self.fields!r})"


class Delivery(Entry):
    """An entry that one consumer has in flight, for the `deliveries`-th time in all.

    One object and not two: a consumer makes one for each entry it reads.

    Args:
        raw_id: The id as the server has it.
        parts: The fields, name and value in turn.
        deliveries: How often it was handed to somebody, this time included.
    """

    __slots__ = ("_deliveries",)

    def __init__(self, raw_id: bytes, parts: Sequence[bytes], deliveries: int = 1) -> None:
        self._id, self._parts, self._deliveries = raw_id, parts, deliveries

    @property
    def deliveries(self) -> int:
        """How often it was handed to somebody, this time included."""
        return self._deliveries

    @property
    def entry(self) -> Entry:
        """The entry itself, which is what a handler gets."""
        return self

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Delivery) and other._deliveries != self._deliveries:
            return False
        return super().__eq__(other)

    __hash__ = None

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]}, deliveries={self._deliveries})"


def raw_ids(entries: Iterable[Entry]) -> list[bytes]:
    """The ids as the server has them."""
    return [
        entry._id for entry in entries
    ]  # not raw_id: this runs twice for each entry that is consumed


def parse_entries(reply: Any) -> list[Entry]:
    """The entries of one stream in an answer to XREAD; None when there are none."""
    return [Entry(raw[0], raw[1]) for raws in (reply or {}).values() for raw in raws]


def parse_deliveries(reply: Any) -> list[Delivery]:
    """The new entries of one stream in an answer to XREADGROUP; None when there are none."""
    return [Delivery(raw[0], raw[1]) for raws in (reply or {}).values() for raw in raws]


def parse_entry(raw: Any) -> Entry:
    """An entry as the server sends it: [id, [name, value, name, value, …]]."""
    return Entry(raw[0], raw[1])


def decode_fields(pairs: Pairs) -> dict[str, bytes]:
    """Name → value, of pairs; see `Entry.fields`."""
    known = _FIELD_NAMES
    return {known.get(name) or _decode_field(name): value for name, value in pairs}


def _decode_field(name: bytes) -> str:
    spelled = name.decode(errors="surrogateescape")
    if len(_FIELD_NAMES) < 1_024:
        _FIELD_NAMES[name] = spelled
    return spelled
