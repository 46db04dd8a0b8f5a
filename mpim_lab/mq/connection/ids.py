"""Ids: the name by which a message is recognised when it comes again."""

import uuid_utils


def new_message_id() -> str:
    """Make a message's id.

    A UUIDv7 as 32 hexadecimal digits, the time in milliseconds first, then chance.

    Made ONCE, by whoever sends the message, and kept in every repeat: an id made anew for each
    attempt recognises nothing. No coordination: any number of senders make ids at the same time.
    Time first, so ids sort roughly by when they were made (strictly within one process), and new
    ones go to the end of an index instead of all over it.

        >>> earlier, later = new_message_id(), new_message_id()
        >>> len(earlier), earlier[12], earlier < later
        (32, '7', True)

    Source: RFC 9562, section 5.7.
    """
    return uuid_utils.uuid7().hex
