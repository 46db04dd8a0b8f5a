"""KeyLink: a link for commands that use keys. Before the first of them it is looked at how the server's keys are laid out.

| `<prefix>mpim:layout` says | then the first command ...                                                      |
|----------------------------|---------------------------------------------------------------------------------|
| nothing                    | writes `LAYOUT` there (SET NX), and goes on                                     |
| `LAYOUT`                   | goes on                                                                         |
| something else             | raises WrongLayout, and so does every other one: nothing is read or written     |
| it may not be read         | goes on: this user has no right to that key (NOPERM)                            |
| it cannot be written now   | goes on (READONLY, OOM, ...); a second later it is looked at once more          |
| no answer                  | raises NotConnected: nothing else was sent                                      |

Commands that come meanwhile wait for the same look. It is a task of its own: whoever waits for it may be cancelled, and
the others are served. It ends with its answer, with the command's time-out, or when the queue is closed.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from mpim_lab.errors import CommandRejected, CommandTimeout, ConnectionLost, NotConnected, WrongLayout
from mpim_lab.events import now
from mpim_lab.keys import LAYOUT, Keys
from mpim_lab.mq.connection.config import ConnectionConfig
from mpim_lab.mq.connection.reconnecting import Link
from mpim_lab.mq.connection.resp import Connection

_AGAIN_S = 1.0
_log = logging.getLogger(__name__)


class Layout:
    """Whether the layout of one queue's keys is known to be right. `look` makes it so, or raises."""

    def __init__(self, link: Link, keys: Keys) -> None:
        self.is_right = False
        self._link, self._keys = link, keys
        self._again_at = 0.0
        self._looking: asyncio.Task[None] | None = None

    async def look(self) -> None:
        """Return when commands may use keys. Raises WrongLayout, NotConnected and what `Link.room` raises."""
        if self.is_right or now() < self._again_at:
            return
        self._link.check_loop()
        if self._looking is None:
            if self._link.connection.blocked:
                await self._link.room()  # not open, closed, or the line is down: it says so here
            if self.is_right:
                return
        if self._looking is None:
            self._looking = asyncio.create_task(self._look())
            self._looking.add_done_callback(self._looked)
        await asyncio.shield(self._looking)

    def _looked(self, looking: "asyncio.Task[None]") -> None:
        self._looking = None
        if not looking.cancelled():
            looking.exception()  # whoever waits gets it, and nobody may wait any more

    async def _look(self) -> None:
        key = self._keys.layout
        try:
            found = await self._link.call(b"GET", key)
            if found is None and await self._link.call(b"SET", key, LAYOUT, b"NX") is None:
                found = await self._link.call(b"GET", key)  # somebody was faster
        except CommandRejected as refused:
            if refused.code == "WRONGTYPE":
                raise self._wrong("no text") from refused
            if not refused.transient and refused.code != "NOPERM":
                raise
            _log.debug("%r is not looked at: %s", key, refused)
            self.is_right, self._again_at = not refused.transient, now() + _AGAIN_S
            return
        except (ConnectionLost, CommandTimeout) as error:
            raise NotConnected(f"{key!r} could not be looked at, and nothing else was sent: {error}") from error
        if found not in (None, LAYOUT.encode()):
            raise self._wrong(repr(found))
        self.is_right = True

    def _wrong(self, found: str) -> WrongLayout:
        return WrongLayout(
            f"{self._keys.layout!r} is {found:.80}, and this version knows {LAYOUT!r}: use another prefix or database"
        )


class KeyLink:
    """A queue's link, or a dedicated one of the same queue, as long as its keys are laid out as we know them."""

    def __init__(self, link: Link, layout: Layout) -> None:
        self._link, self._layout = link, layout
        self._not_yet = Connection(link.config, lambda push: False, lambda: None, lambda reason: None)  # always blocked

    @property
    def connection(self) -> Connection:
        """The link's own; one that is `blocked` for ever until the layout was looked at."""
        return self._link.connection if self._layout.is_right else self._not_yet

    async def room(self) -> Connection:
        """Look at the layout if need be; give the connection to send a command on at once."""
        await self._layout.look()
        connection = self._link.connection
        return await self._link.room() if connection.blocked else connection

    def call(self, *command: bytes | str, blocks_s: float = 0.0) -> Coroutine[Any, Any, Any]:
        """Send one command and await its reply. Raises as the link's own does, and as the table above says."""
        if self._layout.is_right:
            return self._link.call(*command, blocks_s=blocks_s)
        return self._look_and_call(*command, blocks_s=blocks_s)

    async def _look_and_call(self, *command: bytes | str, blocks_s: float) -> Any:
        await self._layout.look()
        return await self._link.call(*command, blocks_s=blocks_s)

    @property
    def config(self) -> ConnectionConfig:
        """The link's own."""
        return self._link.config

    @property
    def is_connected(self) -> bool:
        """As the link says."""
        return self._link.is_connected

    @property
    def on_close(self) -> set[Callable[[], None]]:
        """The link's own."""
        return self._link.on_close

    @property
    def client_id(self) -> int:
        """The connection's id on the server."""
        return self._link.client_id

    async def open(self) -> None:
        """Look at the layout, and connect. Raises as `Link.open`."""
        await self._layout.look()
        await self._link.open()

    async def close(self) -> None:
        """Close the link."""
        await self._link.close()
