"""Incoming: connections of a gateway before their first frame."""

from typing import Any
from weakref import WeakSet

from mpim_lab.im.gateway.fast_connection import QuickConnection


class Incoming:
    """Sockets that were taken in and have not done the WebSocket handshake. `make` is for `serve(create_connection=…)`."""

    def __init__(self) -> None:
        self._waiting: WeakSet[QuickConnection] = WeakSet()

    def make(self, *arguments: Any, **options: Any) -> QuickConnection:
        """A connection for a socket that has just been taken in."""
        ws = QuickConnection(*arguments, **options)
        self._waiting.add(ws)
        return ws

    def is_in(self, ws: QuickConnection) -> None:
        """The handshake is done."""
        self._waiting.discard(ws)

    def drop(self) -> None:
        """Drop those that still wait: whoever says nothing would hold up a gateway that closes."""
        for ws in list(self._waiting):
            if hasattr(ws, "transport"):  # it has one as soon as the loop has given it its socket
                ws.transport.abort()
