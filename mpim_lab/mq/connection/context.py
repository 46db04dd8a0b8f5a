"""Access: one stream as its parts share it: where it is, over which connections, who reports."""

from collections.abc import Callable
from typing import NamedTuple

from mpim_lab.events import Reporter
from mpim_lab.keys import Keys, Name
from mpim_lab.mq.connection.layout_check import KeyLink
from mpim_lab.mq.connection.reconnecting import Commands


class Access(NamedTuple):
    """`commands` is the queue's shared connection; `dedicated(name)` makes one for blocking reads, not yet open.

    Both look first at how the keys are laid out. `keys` makes all keys of the queue, `key` is this stream's own.
    """

    name: Name
    key: bytes
    connection: Commands
    new_connection: Callable[[Name], KeyLink]
    reporter: Reporter
    keys: Keys
