"""StreamContext: one stream as its parts share it: its key, its connections, its reporter.

LayoutCheckedConnection: a connection for commands that use keys. Before the first of them it
checks how the keys are laid out.

| `<prefix>mpim:layout` says | then the first command ...                                          |
|----------------------------|---------------------------------------------------------------------|
| nothing                    | writes `LAYOUT` there (SET NX), and goes on                         |
| `LAYOUT`                   | goes on                                                             |
| something else             | raises WrongLayout, and so does every other one: nothing is read or |
|                            | written                                                             |
| it may not be read         | goes on: this user has no right to that key (NOPERM)                |
| it cannot be written now   | goes on (READONLY, OOM, ...); a second later it is checked once     |
|                            | more                                                                |
| no answer                  | raises NotConnected: nothing else was sent                          |

Commands that come meanwhile wait for the same check. It is a task of its own: whoever waits for it
may be cancelled, and the others are served. It ends with its answer, with the command's time-out,
or when the queue is closed.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple

from mpim_lab.errors import (
    CommandRejected,
    CommandTimeout,
    ConnectionLost,
    NotConnected,
    WrongLayout,
)
from mpim_lab.events import Reporter, now
from mpim_lab.keys import LAYOUT, Keys, Name
from mpim_lab.mq.connection.config import ConnectionConfig
from mpim_lab.mq.connection.reconnecting import CommandConnection, ReconnectingConnection
from mpim_lab.mq.connection.resp import RespConnection

_RECHECK_S = 1.0
_log = logging.getLogger(__name__)


class LayoutCheck:
    """The check that the layout of one queue's keys is the one we know.

    `verify` makes sure, or raises.
    """

    def __init__(self, link: ReconnectingConnection, keys: Keys) -> None:
        self.is_verified = False
        self._link, self._keys = link, keys
        self._recheck_at = 0.0
        self._check_task: asyncio.Task[None] | None = None

    async def verify(self) -> None:
        """Return when commands may use keys.

        Raises WrongLayout, NotConnected and what `acquire_slot` raises.
        """
        if self.is_verified or now() < self._recheck_at:
            return
        self._link.check_loop()
        if self._check_task is None:
            if self._link.connection.is_blocked:
                # not open, closed, or the line is down: it says so here
                await self._link.acquire_slot()
            if self.is_verified:
                return
        if self._check_task is None:
            self._check_task = asyncio.create_task(self._check())
            self._check_task.add_done_callback(self._on_checked)
        await asyncio.shield(self._check_task)

    def _on_checked(self, task: "asyncio.Task[None]") -> None:
        self._check_task = None
        if not task.cancelled():
            task.exception()  # whoever waits gets it, and nobody may wait any more

    async def _check(self) -> None:
        key = self._keys.layout
        try:
            found = await self._link.call(b"GET", key)
            if found is None and await self._link.call(b"SET", key, LAYOUT, b"NX") is None:
                found = await self._link.call(b"GET", key)  # somebody was faster
        except CommandRejected as refused:
            if refused.code == "WRONGTYPE":
                raise self._wrong_layout("no text") from refused
            if not refused.transient and refused.code != "NOPERM":
                raise
            _log.debug("%r is not looked at: %s", key, refused)
            self.is_verified, self._recheck_at = not refused.transient, now() + _RECHECK_S
            return
        except (ConnectionLost, CommandTimeout) as error:
            raise NotConnected(
                f"{key!r} could not be looked at, and nothing else was sent: {error}"
            ) from error
        if found not in (None, LAYOUT.encode()):
            raise self._wrong_layout(repr(found))
        self.is_verified = True

    def _wrong_layout(self, found: str) -> WrongLayout:
        return WrongLayout(
            f"{self._keys.layout!r} is {found:.80}, and this version knows {LAYOUT!r}: use "
            "another prefix or database"
        )


class LayoutCheckedConnection:
    """A queue's link, or a dedicated one, once its keys are laid out as we know them."""

    def __init__(self, link: ReconnectingConnection, layout: LayoutCheck) -> None:
        self._link, self._layout = link, layout
        self._always_blocked = RespConnection(
            link.config, lambda push: False, lambda: None, lambda reason: None
        )  # always blocked

    @property
    def connection(self) -> RespConnection:
        """The link's own; one that is `is_blocked` for ever until the layout was looked at."""
        return self._link.connection if self._layout.is_verified else self._always_blocked

    async def acquire_slot(self) -> RespConnection:
        """Verify the layout if need be; return the connection to send a command on at once."""
        await self._layout.verify()
        connection = self._link.connection
        return await self._link.acquire_slot() if connection.is_blocked else connection

    def call(self, *command: bytes | str, blocks_s: float = 0.0) -> Coroutine[Any, Any, Any]:
        """Send one command and await its reply.

        Raises as the link's own does, and as the table above says.
        """
        if self._layout.is_verified:
            return self._link.call(*command, blocks_s=blocks_s)
        return self._verify_and_call(*command, blocks_s=blocks_s)

    async def _verify_and_call(self, *command: bytes | str, blocks_s: float) -> Any:
        await self._layout.verify()
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
        """Verify the layout, and connect. Raises as `ReconnectingConnection.open`."""
        await self._layout.verify()
        await self._link.open()

    async def close(self) -> None:
        """Close the link."""
        await self._link.close()


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
