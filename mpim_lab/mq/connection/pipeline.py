"""Pipeline: many commands that leave in one write. One round trip, and no more atomic than so many single commands."""

from collections.abc import Sequence
from typing import Any

from mpim_lab.errors import MpimError
from mpim_lab.mq.connection.layout_check import Commands
from mpim_lab.mq.connection.replies import Replies


async def call_many(link: Commands, commands: Sequence[bytes]) -> list[Any]:
    """Send packed commands in order, each write as large as the link's limits allow; gives a reply or an error for each.

    What waits for room in vain, and everything after it, has that error in its place and was not written. Raises what
    `Link.room` raises when this befalls the first, so that nothing was written.
    """
    sent: list[Replies] = []
    written, error = 0, None
    while written < len(commands) and error is None:
        connection = link.connection
        try:
            if connection.blocked:
                connection = await link.room()
        except MpimError as no_room:
            if not sent:
                raise
            error = no_room
        else:
            sent.append(connection.send_many(commands[written:] if written else commands))
            written += sent[-1].count
    outcomes = [reply for replies in sent for reply in await replies]
    return outcomes + [error] * (len(commands) - written)
