"""Entries: what a stream holds, and how the server sends it."""

from typing import Any, NamedTuple

DATA = "data"
_FIELD_NAMES: dict[bytes, str] = {b"data": DATA}  # spelled once: a name is decoded once, not once an entry


class Entry(NamedTuple):
    """One entry: its id ("<milliseconds>-<number>", ascending) and its fields."""

    id: str
    fields: dict[str, bytes]

    @property
    def data(self) -> bytes:
        """The field "data": what `Stream.add` writes when it is given a payload; empty if there is none."""
        return self.fields.get(DATA, b"")


def entry_of(raw: Any) -> Entry:
    """An entry as the server sends it: [id, [name, value, name, value, …]]."""
    name, parts = raw
    names = [_FIELD_NAMES.get(part) or _spell(part) for part in parts[::2]]
    return Entry(name.decode(), dict(zip(names, parts[1::2], strict=True)))


def entries_of(reply: Any) -> list[Entry]:
    """The entries of one stream in an answer to XREAD or XREADGROUP; None when there are none."""
    return [entry_of(raw) for raws in (reply or {}).values() for raw in raws]


def _spell(name: bytes) -> str:
    spelled = name.decode("utf-8", "replace")
    if len(_FIELD_NAMES) < 1_024:
        _FIELD_NAMES[name] = spelled
    return spelled
