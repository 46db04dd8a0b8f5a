"""Entries as the server sends them, decoded when asked for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpim_lab.mq.streams.entries import Delivery, Entry, parse_deliveries, parse_entries

PAIRS = st.lists(st.tuples(st.text(), st.binary()), min_size=1, max_size=5)


@given(PAIRS)
def test_an_entry_has_the_fields_it_was_given(pairs):
    """Of two fields with one name the last one counts.

    `data` is the field of that name, or empty.
    """
    entry = Entry(b"17-0", [part for name, value in pairs for part in (name.encode(), value)])
    assert (entry.id, entry.raw_id, entry.fields) == ("17-0", b"17-0", dict(pairs))
    assert (entry.data, entry.first_value) == (dict(pairs).get("data", b""), pairs[0][1])


@given(st.lists(st.tuples(st.binary(), st.binary()), max_size=5))
def test_an_entry_loses_nothing_of_fields_by_other_programs(pairs):
    """Any bytes, repeated or empty.

    `pairs` has all of them in order, and no two names become the same in `fields`.
    """
    entry = Entry(b"1-0", [part for pair in pairs for part in pair])
    assert entry.pairs == tuple(pairs)
    assert {
        name.encode(errors="surrogateescape"): value for name, value in entry.fields.items()
    } == dict(pairs)
    assert entry == Entry(b"1-0", [part for pair in reversed(pairs) for part in pair])


def test_entries_with_repeated_names_differ_when_one_of_the_values_does():
    """Also where a dict would have the same."""
    assert Entry(b"1-0", [b"a", b"1", b"a", b"2"]) != Entry(b"1-0", [b"a", b"3", b"a", b"2"])


def test_entries_are_equal_when_id_and_fields_are():
    """Whatever order the fields have.

    A delivery equals its entry, and another delivery with the same count.
    """
    entry = Entry(b"1-0", [b"a", b"1", b"b", b"2"])
    assert entry == Entry(b"1-0", [b"b", b"2", b"a", b"1"])
    assert entry != Entry(b"2-0", [b"a", b"1", b"b", b"2"])
    assert entry != Entry(b"1-0", [b"a", b"1"])
    assert entry != ("1-0", {"a": b"1", "b": b"2"})
    once, twice = (Delivery(b"1-0", [b"a", b"1", b"b", b"2"], count) for count in (1, 2))
    assert (once.entry == entry, once == once.entry, once == twice) == (True, True, False)


def test_an_entry_does_not_change():
    """Neither its attributes nor, through the dict it gives, its fields."""
    delivery = Delivery(b"1-0", [b"data", b"x"])
    for name in ("id", "raw_id", "fields", "data", "deliveries", "entry", "anything"):
        with pytest.raises(AttributeError):
            setattr(delivery, name, "y")
    delivery.fields["data"] = b"y"
    assert delivery.data == b"x"


def test_an_entry_shows_what_it_is():
    """Id, fields and, once delivered, how often."""
    assert repr(Entry(b"1-0", [b"data", b"x"])) == "Entry(id='1-0', fields={'data': b'x'})"
    assert (
        repr(Delivery(b"1-0", [b"a", b"x"], 3))
        == "Delivery(id='1-0', fields={'a': b'x'}, deliveries=3)"
    )


def test_an_answer_without_entries_gives_none():
    """The server says nil when a read waited in vain."""
    assert parse_entries(None) == parse_deliveries(None) == []
    assert parse_deliveries({b"orders": [[b"1-0", [b"data", b"x"]]]}) == [
        Delivery(b"1-0", [b"data", b"x"], 1)
    ]
