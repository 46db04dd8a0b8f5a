"""Ids: one for each message, made once by its sender and kept in every repeat."""

import uuid_utils


def new_message_id() -> str:
    """A new UUIDv7 as 32 hexadecimal digits: unique without asking anybody, and sorted by the time it was made.

    Time-ordered, so that an index of ids grows at its end. Source: RFC 9562, section 5.7.

    >>> len(new_message_id()), new_message_id() < new_message_id()
    (32, True)
    """
    return uuid_utils.uuid7().hex
