"""Session: one client's connection at a gateway.

It knows what is on its way to the client, and what that has not acknowledged.

A client that reads slowly must cost nothing but itself. What waits for it here is bounded: above
the limit nothing more is pushed, only the numbers are noted; when it has read what there was, one
sync hint (`behind`) has the last numbers, and it pulls. Nothing is lost by that: the log is the
source of truth, a push is only fast.

WriteCoalescer: what a gateway sends within one event-loop iteration leaves at its end, together for
each client.

TokenBucket: how much one client may request.
"""

import asyncio
import contextlib
import logging
from collections.abc import Iterable
from itertools import islice

from mpim_lab.events import now
from mpim_lab.im.gateway.fast_connection import BINARY, FastServerConnection
from mpim_lab.im.protocol.frames import ErrorFrame, FromClient, SyncHint, encode
from mpim_lab.im.protocol.requests import BindRouteRequest
from mpim_lab.mq.compression.codec import Codec
from mpim_lab.mq.compression.framing import MAX_MESSAGES, encode_batch

_log = logging.getLogger(__name__)
# below it a few bytes are saved, and the time of a push is spent
_COMPRESSION_THRESHOLD_BYTES = 1_024
_MAX_CONVERSATIONS = 10_000  # in one frame
_MAX_SENT_IDS = 128  # more than may be in flight
_MAX_BATCH_BYTES = 512 * 1024


class TokenBucket:
    """A rate limit: `rate_per_s` requests a second, and `burst` at once after a rest.

    A rule without a clock: time is passed in.

        >>> bucket = TokenBucket(rate_per_s=10, burst=2)
        >>> [bucket.try_acquire(now=0.0) for _ in range(3)]
        [True, True, False]
        >>> bucket.try_acquire(now=0.1), bucket.try_acquire(now=0.1)
        (True, False)

    Source: "token bucket", RFC 2697's single rate meter without its colours.
    """

    __slots__ = ("_burst", "_rate", "_tokens", "_updated_at")

    def __init__(self, *, rate_per_s: float, burst: float, now: float = 0.0) -> None:
        self._rate, self._burst = rate_per_s, burst
        self._tokens, self._updated_at = burst, now

    def try_acquire(self, now: float) -> bool:
        """Take a token. Return False if there is none: the request must not pass now."""
        self._tokens = min(self._burst, self._tokens + (now - self._updated_at) * self._rate)
        self._updated_at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class WriteCoalescer:
    """The coalescer of the writes of one gateway's sessions."""

    def __init__(self) -> None:
        self._codec = Codec(threshold_bytes=_COMPRESSION_THRESHOLD_BYTES)
        self._dirty: list[Session] = []

    def schedule(self, session: "Session") -> None:
        """Flush a session at the end of this event-loop iteration."""
        if not self._dirty:
            asyncio.get_running_loop().call_soon(self._flush)
        self._dirty.append(session)

    def _flush(self) -> None:
        """Write what there is.

        To a client that can read it, many frames as one batch, compressed if that pays.
        """
        dirty, self._dirty = self._dirty, []
        for session in dirty:
            frames, session.outgoing = session.outgoing, []
            try:
                if (
                    session.packed
                    and 1 < len(frames) <= MAX_MESSAGES
                    and sum(map(len, frames)) <= _MAX_BATCH_BYTES
                ):
                    session.ws.write([self._codec.compress(encode_batch(frames))], BINARY)
                else:
                    session.ws.write(frames)
            except Exception:  # of one connection, and of no other
                _log.exception("%s is aborted", session.route.uid)
                session.ws.transport.abort()


class Session:
    """The connection of one client: what is in flight to it, and what it has not acknowledged.

    Use from the gateway's event loop.
    """

    # ten thousand of them: without a dictionary each
    __slots__ = (
        "_coalescer",
        "ack_count",
        "bucket",
        "in_flight",
        "is_ending",
        "is_welcome",
        "lagging",
        "last_received_at",
        "offline",
        "outgoing",
        "packed",
        "pushed_at",
        "route",
        "sent_ids",
        "unacked",
        "undone",
        "violations",
        "watched",
        "ws",
    )

    def __init__(
        self,
        ws: FastServerConnection,
        route: BindRouteRequest,
        coalescer: WriteCoalescer,
        bucket: TokenBucket,
    ) -> None:
        self.ws, self.route, self._coalescer, self.bucket = ws, route, coalescer, bucket
        self.packed = self.is_welcome = self.is_ending = False
        self.last_received_at = now()
        self.violations = 0.0  # frames that could not be read, or came too fast; they decay
        self.ack_count = 0  # since the last maintenance round
        self.outgoing: list[bytes] = []  # leaves at the end of this iteration
        # A frame that is decoded and charged, and has to wait; or the error that answers it.
        self.undone: FromClient | ErrorFrame | None = None
        # conversation → the last number that was not pushed; None: everything is. At first there
        # was no welcome yet
        self.lagging: dict[str, int] | None = {}
        self.unacked: dict[str, int] | None = None  # conversation → the number pushed last
        # when the oldest of those was pushed, or it last acknowledged, or fell behind
        self.pushed_at = 0.0
        self.watched: set[str] | None = None
        self.in_flight = 0  # frames that are not answered yet
        # messages sent from here, of which it wants no echo; None: it does
        self.sent_ids: dict[str, None] | None = None
        # conversations of which the offline store may have messages for this user, and up to which
        # number
        self.offline: dict[str, int] | None = None

    @property
    def buffered_bytes(self) -> int:
        """What waits for the operating system, and for the end of this iteration."""
        return self.ws.transport.get_write_buffer_size() + sum(map(len, self.outgoing))

    def is_over_limit(self, max_bytes: int) -> bool:
        """Return whether more than this waits for the operating system."""
        return bool(self.ws.transport.get_write_buffer_size() > max_bytes)

    def enqueue(self, frame: bytes) -> None:
        """Enqueue a frame.

        It leaves at the end of this event-loop iteration, with what else there is by then.
        """
        if not self.outgoing:
            self._coalescer.schedule(self)
        self.outgoing.append(frame)

    def note_sent(self, id: str) -> None:
        """Note a message sent from here, of which the client may want no echo."""
        if self.sent_ids is not None:
            self.sent_ids[id] = None
            if len(self.sent_ids) > _MAX_SENT_IDS:
                del self.sent_ids[next(iter(self.sent_ids))]

    def push(self, id: str, conversation: str, sequence: int, frame: bytes, max_bytes: int) -> bool:
        """Push a message, unless too much waits already: then note its number.

        Return whether it was pushed.
        """
        own = self.sent_ids
        # no text has bare quotes
        if own and id in own and b'"sender":"%b"' % self.route.uid.encode() in frame:
            del own[id]
            return True
        if self.lagging is None and self.is_over_limit(max_bytes):
            self.lagging, self.pushed_at = {}, now()
        if self.lagging is not None:
            self.lagging[conversation] = max(sequence, self.lagging.get(conversation, 0))
            return False
        if not self.unacked:
            self.unacked, self.pushed_at = self.unacked or {}, now()
        self.unacked[conversation] = max(sequence, self.unacked.get(conversation, 0))
        self.enqueue(frame)
        return True

    def on_ack(self, conversation: str, sequence: int) -> None:
        """Note that the client has everything up to this number."""
        if self.unacked and conversation in self.unacked:
            self.pushed_at = now()
            if sequence >= self.unacked[conversation]:
                del self.unacked[conversation]

    def drop_conversation(self, conversation: str) -> None:
        """Forget a conversation that the client has left."""
        for numbers in (self.unacked, self.lagging):
            if numbers:
                numbers.pop(conversation, None)

    def resume_pushes(self) -> None:
        """Push again from now on, and send a sync hint for what was not pushed."""
        lagging, self.lagging = self.lagging, None
        self.send_hints(lagging or {})

    def note_lag(self, lasts: dict[str, int]) -> None:
        """Add last numbers to the hint of `resume_pushes`."""
        lagging = self.lagging = self.lagging or {}
        for conversation, last in lasts.items():
            lagging[conversation] = max(last, lagging.get(conversation, 0))

    def send_hints(self, lasts: dict[str, int]) -> None:
        """Send the last numbers as sync hints, in frames of a bounded size."""
        rest = iter(lasts.items())
        while some := dict(islice(rest, _MAX_CONVERSATIONS)):
            self.enqueue(encode(SyncHint(some)))

    def remind(self) -> None:
        """Send a sync hint for what was pushed and is not acknowledged."""
        if self.unacked:
            self.pushed_at = now()
            self.send_hints(self.unacked)


async def wait_until_idle(sessions: Iterable[Session], timeout_s: float) -> None:
    """Wait until no request of these clients is in flight, for at most `timeout_s`."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            while any(session.in_flight for session in sessions):
                await asyncio.sleep(0.005)
