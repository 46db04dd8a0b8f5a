"""What can happen to a message, as frozen records that observers take.

Every part of the system reports to an optional observer, a plain callable that takes one `Event`.
Nothing is built and nothing is paid where there is none. `mpim_lab.lab.trace.trace.Trace` is an
observer; every picture is drawn from one.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b


class EventKind(StrEnum):
    """What happened. The history of a message reads from top to bottom."""

    ACCEPTED = "accepted"  # the application handed the message to the queue
    CHECKED = "checked"  # the sender asked whether anybody listens; `count` = listeners
    BATCHED = "batched"  # its batch was closed and is being sent; `count` = messages in it
    PUBLISHED = "published"  # the server answered; `count` = subscribers it handed the message to
    RECEIVED = "received"  # it arrived at a subscriber's connection
    HANDLED = "handled"  # the subscriber's handler returned
    EFFECT = "effect"  # the work that a message asks for was done: money moved, a line was shown
    DROPPED = "dropped"  # a full buffer threw it away
    FAILED = "failed"  # publish or handler raised; `error` = its class, `detail` = all of it
    # the server appended it to a stream; `detail` = the entry's id, or `sequence` = its number
    ADDED = "added"
    CLAIMED = "claimed"  # a consumer took it over from another; `count` = deliveries so far
    RETRIED = "retried"  # the same consumer tries again; `count` = deliveries so far
    ACKED = "acked"  # the group will not deliver it again
    RELEASED = "released"  # a consumer that stops gave it back unhandled
    DEAD_LETTERED = "dead-lettered"  # given up and moved to the dead-letter queue; `detail` = why
    STALLED = "stalled"  # at the end of a run it is pending, or was never delivered
    CRASHED = "crashed"  # the consumer that had it died; `detail` = when
    CONFIRMED = "confirmed"  # the receiver's end-to-end acknowledgement came back to the sender
    HOP = "hop"  # it went on from `actor` to `channel`, which are nodes of MPIM here
    # what `send` returned or raised: `outcome`, e.g. the acknowledgement "delivered"
    OUTCOME = "outcome"

    CONNECTED = "connected"  # `count` = how many times this connection has been made
    DISCONNECTED = "disconnected"  # `detail` = why
    RESUBSCRIBED = "resubscribed"  # the gap is over: `seconds` long, `count` = channels
    SUBSCRIBED = "subscribed"
    UNSUBSCRIBED = "unsubscribed"

    FAULT_BEGAN = "fault began"  # `detail` = which fault
    FAULT_ENDED = "fault ended"


# What a trace of MPIM calls the nodes that are no client, gateway or channel.
SERVICE, CHAT_LOG, OFFLINE_STORE = "messages", "chat log", "offline store"


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened at one place.

    `at` is in seconds of the machine's monotonic clock, comparable between processes of one
    machine.
    """

    kind: EventKind
    at: float
    actor: str
    message_id: str = ""
    channel: str = ""
    detail: str = ""
    count: int | None = None
    seconds: float | None = None
    sequence: int | None = None  # the number in its conversation
    error: str = ""  # of what FAILED: the class of the error
    outcome: str = ""  # of an OUTCOME


Observer = Callable[[Event], None]
_MAX_ID_BYTES = 64
_log = logging.getLogger(__name__)

now = time.monotonic


def first_word(payload: bytes) -> bytes:
    """Return a payload up to its first blank: by agreement, the message's id.

    >>> first_word(b"m17 see you at eight")
    b'm17'
    """
    end = payload.find(b" ")
    return payload if end < 0 else payload[:end]


def message_id(payload: bytes) -> str:
    r"""Name a message in a trace: the first word of its payload.

    A word that is no text, or longer than 64 bytes, is named by its beginning and its hash, so that
    no two become the same.

    >>> message_id(b"m17 see you at eight"), message_id(b"\xfd\x00")
    ('m17', '�\x00~ee77370136ae')
    """
    word = first_word(payload)
    try:
        if len(word) <= _MAX_ID_BYTES:
            return word.decode()
    except UnicodeDecodeError:
        pass
    return f"{word[:16].decode(errors='replace')}~{blake2b(word, digest_size=6).hexdigest()}"


class Reporter:
    """Reports what happens at one actor.

    `is_on` is False where there is no observer: then build nothing.

    An observer that raises is logged, and nothing else happens.
    """

    def __init__(self, actor: str, observer: Observer | None) -> None:
        self.actor, self.is_on, self._observer = actor, observer is not None, observer

    def message(
        self,
        kind: EventKind,
        payload: bytes,
        channel: str | bytes,
        *,
        detail: str = "",
        count: int | None = None,
        actor: str = "",
        sequence: int | None = None,
        error: BaseException | None = None,
        outcome: str = "",
    ) -> None:
        """Report what happened to a message, here or at another `actor` that reports through us."""
        if self._observer is not None:
            who, where = actor or self.actor, shown_name(channel)
            name, text = _name_and_text(error, detail)
            event = Event(
                kind,
                now(),
                who,
                message_id(payload),
                where,
                text,
                count,
                None,
                sequence,
                name,
                outcome,
            )
            self._report(event)

    def hop(
        self, id: str, to: str, *, source: str = "", count: int | None = None, detail: str = ""
    ) -> None:
        """Report that a message went on from here, or from `source`, to another node."""
        if self._observer is not None:
            self._report(Event(EventKind.HOP, now(), source or self.actor, id, to, detail, count))

    def system(
        self,
        kind: EventKind,
        *,
        channel: str | bytes = "",
        detail: str = "",
        count: int | None = None,
        seconds: float | None = None,
        error: BaseException | None = None,
    ) -> None:
        """Report what happened to no message in particular.

        To a connection, a subscription, a server.
        """
        if self._observer is not None:
            name, text = _name_and_text(error, detail)
            self._report(
                Event(
                    kind,
                    now(),
                    self.actor,
                    "",
                    shown_name(channel),
                    text,
                    count,
                    seconds,
                    error=name,
                )
            )

    def _report(self, event: Event) -> None:
        assert self._observer is not None
        call_safely(self._observer, event)


def call_safely(callback: Callable[..., object], *arguments: object) -> None:
    """Call a plain callback of the user's. What it raises is logged, and nothing else happens.

    A CancelledError is one of those: a plain call cannot be cancelled, so it is somebody else's.
    """
    try:
        callback(*arguments)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:
        _log.exception("the callback %r raised; nothing else happens", callback)


def error_name(error: BaseException) -> str:
    """Return the class of an error, with its module where that is what names it.

    >>> import zlib
    >>> error_name(ValueError()), error_name(zlib.error())
    ('ValueError', 'zlib.error')
    """
    kind = type(error)
    return f"{kind.__module__}.{kind.__name__}" if kind.__name__ == "error" else kind.__name__


def _name_and_text(error: BaseException | None, detail: str) -> tuple[str, str]:
    name = "" if error is None else error_name(error)
    return name, detail if error is None else f"{name}: {error}"


def shown_name(name: str | bytes) -> str:
    """Return a name as it is shown to people; bytes that are not UTF-8 are escaped."""
    return name if isinstance(name, str) else name.decode("utf-8", "backslashreplace")
