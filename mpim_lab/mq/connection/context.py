"""StreamContext: one stream as its parts share it: its key, its connections, its reporter."""

from collections.abc import Callable
from typing import NamedTuple

from mpim_lab.events import Reporter
from mpim_lab.keys import Keys, Name
from mpim_lab.mq.connection.layout_check import LayoutCheckedConnection
from mpim_lab.mq.connection.reconnecting import CommandConnection


class StreamContext(NamedTuple):
    """What the parts of one stream share.

    `connection` is the queue's shared one; `new_connection(name)` makes one for blocking reads, not
    yet open.

    Both first check how the keys are laid out. `keys` makes all keys of the queue, `key` is this
    stream's own.
    """

    name: Name
    key: bytes
    connection: CommandConnection
    new_connection: Callable[[Name], LayoutCheckedConnection]
    reporter: Reporter
    keys: Keys
