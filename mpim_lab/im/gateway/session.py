"""Session: one client's connection at a gateway: what is on its way to it, and what it has not acknowledged.

A client that reads slowly must cost nothing but itself. What waits for it here is bounded: above the limit nothing more is
pushed, only the numbers are noted; when it has read what there was, one frame (`behind`) tells it how far things are, and it
pulls. Nothing is lost by that: the log is right, a push is only fast.

Outgoing: what a gateway says within one turn of its loop leaves at the turn's end, together for each client.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable
from itertools import islice

from mpim_lab.events import now
from mpim_lab.im.gateway.fast_connection import QuickConnection
from mpim_lab.im.gateway.rate_limit import TokenBucket
from mpim_lab.im.protocol.frames import Behind, encode
from mpim_lab.im.protocol.requests import BindRouteReq
from mpim_lab.mq.compression.codec import Codec
from mpim_lab.mq.compression.framing import MAX_MESSAGES, encode_batch

_log = logging.getLogger(__name__)
_PAYS_FROM_BYTES = 1_024  # below it a few bytes are saved, and the time of a push is spent


class Outgoing:
    """One for all sessions of a gateway; `mark` is each session's `on_dirty`."""

    def __init__(self) -> None:
        self._codec = Codec(threshold_bytes=_PAYS_FROM_BYTES)
        self._dirty: list[Session] = []

    def mark(self, session: "Session") -> None:
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


_MOST_NAMED = 10_000  # conversations in a frame
_MOST_OWN = 128  # more than may be under way
_MOST_BATCH_BYTES = 512 * 1024


class Session:
    """Use from the gateway's event loop. `on_dirty(session)`: there is something to flush at the end of this turn."""

    # ten thousand of them: without a dictionary each
    __slots__ = (
        "_on_dirty",
        "_out",
        "acks",
        "behind",
        "bucket",
        "faults",
        "heard_at",
        "is_ending",
        "is_welcome",
        "own",
        "packed",
        "pushed_at",
        "route",
        "stored",
        "unacked",
        "under_way",
        "watching",
        "ws",
    )

    def __init__(
        self, ws: QuickConnection, route: BindRouteReq, on_dirty: Callable[["Session"], None], bucket: TokenBucket
    ) -> None:
        self.ws, self.route, self._on_dirty, self.bucket = ws, route, on_dirty, bucket
        self.packed = self.is_welcome = self.is_ending = False
        self.heard_at = now()
        self.faults = 0.0  # frames that could not be read, or came too fast; they are forgiven by and by
        self.acks = 0  # since the patrol looked
        self._out: list[bytes] = []
        # conversation → the last number that was not pushed; None: everything is. At first it is not welcomed yet
        self.behind: dict[str, int] | None = {}
        self.unacked: dict[str, int] | None = None  # conversation → the number pushed last
        self.pushed_at = 0.0  # when the oldest of those was pushed, or it last acknowledged, or fell behind
        self.watching: set[str] | None = None
        self.under_way = 0  # frames that are not answered yet
        self.own: dict[str, None] | None = None  # messages sent from here, of which it wants no echo; None: it does
        # conversations of which the offline store may have messages for this user, and up to which number
        self.stored: dict[str, int] | None = None

    @property
    def buffered_bytes(self) -> int:
        """What was handed to the operating system and not taken, and what waits for the end of the turn."""
        return self.ws.transport.get_write_buffer_size() + sum(map(len, self._out))

    def is_flooded(self, most_bytes: int) -> bool:
        """Whether more than this was handed to the operating system and not taken."""
        return bool(self.ws.transport.get_write_buffer_size() > most_bytes)

    def say(self, frame: bytes) -> None:
        """Put a frame on its way; it leaves at the end of this loop turn, with whatever else there is by then."""
        if not self._out:
            self._on_dirty(self)
        self._out.append(frame)

    def sends(self, id: str) -> None:
        """A message comes from here: `sent` will say its number, and the client wants no echo."""
        if self.own is not None:
            self.own[id] = None
            if len(self.own) > _MOST_OWN:
                del self.own[next(iter(self.own))]

    def push(self, id: str, conversation: str, sequence: int, frame: bytes, most_bytes: int) -> bool:
        """Push a message, unless too much is on its way already: then note its number. Gives whether it was pushed."""
        if (
            self.own and id in self.own and b'"sender":"%b"' % self.route.uid.encode() in frame
        ):  # no text has bare quotes
            del self.own[id]
            return True
        if self.behind is None and self.is_flooded(most_bytes):
            self.behind, self.pushed_at = {}, now()
        if self.behind is not None:
            self.behind[conversation] = max(sequence, self.behind.get(conversation, 0))
            return False
        if not self.unacked:
            self.unacked, self.pushed_at = self.unacked or {}, now()
        self.unacked[conversation] = max(sequence, self.unacked.get(conversation, 0))
        self.say(frame)
        return True

    def acknowledge(self, conversation: str, sequence: int) -> None:
        """The client has everything up to this number."""
        if self.unacked and conversation in self.unacked:
            self.pushed_at = now()
            if sequence >= self.unacked[conversation]:
                del self.unacked[conversation]

    def forget(self, conversation: str) -> None:
        """The client has left it: say no more of it."""
        for numbers in (self.unacked, self.behind):
            if numbers:
                numbers.pop(conversation, None)

    def catch_up(self) -> None:
        """Push again from now on, and say how far things are."""
        behind, self.behind = self.behind, None
        self.say_behind(behind or {})

    def note_behind(self, lasts: dict[str, int]) -> None:
        """Have `catch_up` say these, too."""
        behind = self.behind = self.behind or {}
        for conversation, last in lasts.items():
            behind[conversation] = max(last, behind.get(conversation, 0))

    def say_behind(self, lasts: dict[str, int]) -> None:
        """Say how far things are, in frames that every client takes."""
        rest = iter(lasts.items())
        while some := dict(islice(rest, _MOST_NAMED)):
            self.say(encode(Behind(some)))

    def remind(self) -> None:
        """What was pushed and is not acknowledged: say again how far things are."""
        if self.unacked:
            self.pushed_at = now()
            self.say_behind(self.unacked)

    def flush(self, codec: Codec) -> None:
        """Write what there is: to a client that can read it, many frames as one batch, compressed if that pays."""
        out, self._out = self._out, []
        if self.packed and 1 < len(out) <= MAX_MESSAGES and sum(map(len, out)) <= _MOST_BATCH_BYTES:
            return self.ws.write_batch(codec.compress(encode_batch(out)))
        return self.ws.write(out)


async def answered(sessions: Iterable[Session], within_s: float) -> None:
    """Wait until what these clients have asked for is answered, but not for longer."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            while any(session.under_way for session in sessions):
                await asyncio.sleep(0.005)
