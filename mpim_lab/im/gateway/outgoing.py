"""Outgoing: what a gateway says within one turn of its loop leaves at the turn's end, together for each client."""

import asyncio
import logging

from mpim_lab.im.gateway.session import Session
from mpim_lab.mq.compression.codec import Codec

_log = logging.getLogger(__name__)
_PAYS_FROM_BYTES = 1_024  # below it a few bytes are saved, and the time of a push is spent


class Outgoing:
    """One for all sessions of a gateway; `mark` is each session's `on_dirty`."""

    def __init__(self) -> None:
        self._codec = Codec(threshold_bytes=_PAYS_FROM_BYTES)
        self._dirty: list[Session] = []

    def mark(self, session: Session) -> None:
        """A session has something to say, the first in this turn."""
        if not self._dirty:
            asyncio.get_running_loop().call_soon(self._flush)
        self._dirty.append(session)

    def _flush(self) -> None:
        dirty, self._dirty = self._dirty, []
        for session in dirty:
            try:
                session.flush(self._codec)
            except Exception:  # one connection's trouble, and no other's
                _log.exception("%s is cut off", session.route.uid)
                session.ws.transport.abort()
