"""RESP framing: where frames begin and end, and which reply belongs to which command.

Rules without I/O, for a proxy.

A parser returns values; whoever passes bytes on, holds them or cuts them needs the bytes. RESP2 and
RESP3, as servers send them and as clients pack them (arrays of bulk strings); not inline commands
and not RESP3's streamed types, which no server sends.

Source: https://github.com/redis/redis-specifications/blob/master/protocol/RESP3.md
"""

import re
from collections import deque
from dataclasses import dataclass

import hiredis

from mpim_lab.errors import InvalidMessage

_LINES, _BLOBS = b"+-:,#(_", b"$=!"
_ELEMENTS = {
    ord("*"): 1,
    ord("~"): 1,
    ord(">"): 1,
    ord("%"): 2,
    ord("|"): 2,
}  # how many values each one counted takes
_LENGTH = re.compile(rb"\d{1,18}|-1")
_MAX_LINE_BYTES = 1024 * 1024


class RespFramer:
    r"""Framer that cuts a stream of bytes into whole frames, however it arrives.

    An attribute belongs to the next frame.

    Raises InvalidMessage for bytes that are no RESP and for a frame above `max_bytes`; the stream
    is over then.

        >>> frames = RespFramer()
        >>> frames.feed(b"+OK\r\n*2\r\n$1\r")
        [b'+OK\r\n']
        >>> frames.feed(b"\na\r\n:1\r\n")
        [b'*2\r\n$1\r\na\r\n:1\r\n']
    """

    def __init__(self, *, max_bytes: int = 64 * 1024 * 1024) -> None:
        self._buffer = bytearray()
        self._max_bytes = max_bytes
        self._at = 0  # so far the frame is parsed
        self._missing = (
            1  # values that must follow until it is whole: nesting needs no more than their number
        )

    def feed(self, data: bytes) -> list[bytes]:
        """Feed bytes; return the frames that became whole, in order."""
        self._buffer += data
        frames: list[bytes] = []
        while self._buffer and self._parse_one():
            if self._missing == 0:
                frames.append(bytes(self._buffer[: self._at]))
                del self._buffer[: self._at]
                self._at, self._missing = 0, 1
        if len(self._buffer) > self._max_bytes:
            raise InvalidMessage(f"a RESP frame of more than {self._max_bytes:,} bytes")
        return frames

    def _parse_one(self) -> bool:
        """Parse one line with what it announces; False if more bytes are needed."""
        kind = self._buffer[self._at] if self._at < len(self._buffer) else None
        end = self._buffer.find(b"\r\n", self._at)
        if kind is not None and kind not in _LINES and kind not in _BLOBS and kind not in _ELEMENTS:
            raise self._no_resp()
        if kind is None or end < 0:
            if len(self._buffer) - self._at > _MAX_LINE_BYTES:
                raise self._no_resp()
            return False
        after, announced = end + 2, 0
        if kind not in _LINES:
            length = self._length(end)
            if kind in _BLOBS and length >= 0:
                after += length + 2
                if len(self._buffer) < after:
                    return False
                if self._buffer[after - 2 : after] != b"\r\n":
                    raise self._no_resp()
            elif kind in _ELEMENTS:
                announced = max(0, length) * _ELEMENTS[kind]
        self._at = after
        self._missing += announced - (kind != ord("|"))  # an attribute is no value itself
        return True

    def _length(self, end: int) -> int:
        length = bytes(self._buffer[self._at + 1 : end])
        if _LENGTH.fullmatch(length) is None:
            raise self._no_resp()
        return int(length)

    def _no_resp(self) -> InvalidMessage:
        return InvalidMessage(f"no RESP frame: {bytes(self._buffer[self._at : self._at + 40])!r}")


# Which reply belongs to which command

_SUBSCRIBING = frozenset(
    f"{kind}{verb}" for kind in ("", "P", "S") for verb in ("SUBSCRIBE", "UNSUBSCRIBE")
)
_MESSAGES = frozenset({"MESSAGE", "PMESSAGE", "SMESSAGE"})
_UNCOUNTABLE = frozenset({"MONITOR", "SYNC", "PSYNC"})


@dataclass(eq=False)
class Command:
    """One command of a client; its name in capitals.

    `replies_left`: how many frames still answer it.
    """

    words: list[bytes]
    replies_left: int = 1

    @property
    def name(self) -> str:
        """The first word, in capitals; "" for an empty array, which the server does not answer."""
        return self.words[0].decode("latin-1").upper() if self.words else ""


class ReplyMatcher:
    r"""Matcher of replies to commands: the n-th reply belongs to the n-th command.

    Pushes and messages belong to none.

    A subscription is answered by a push, one for each channel; in RESP2 messages are arrays like
    any reply.

        >>> matcher = ReplyMatcher()
        >>> matcher.command(b"*1\r\n$4\r\nPING\r\n").name
        'PING'
        >>> matcher.reply(b">2\r\n$7\r\nmessage\r\n$1\r\na\r\n")
        >>> matcher.reply(b"+PONG\r\n").name
        'PING'
    """

    def __init__(self) -> None:
        self.waiting: deque[Command] = deque()
        self._is_resp2_subscriber = False

    def command(self, frame: bytes) -> Command:
        """Note a command that is sent now, and return it.

        Raise InvalidMessage for one whose replies cannot be counted.
        """
        command = Command(words_of(frame))
        if command.name in _UNCOUNTABLE or [word.upper() for word in command.words[:2]] == [
            b"CLIENT",
            b"REPLY",
        ]:
            raise InvalidMessage(f"the replies to {command.name} cannot be counted")
        if command.name in _SUBSCRIBING:
            command.replies_left = max(1, len(command.words) - 1)
        if command.words:
            self.waiting.append(command)
        return command

    def reply(self, frame: bytes) -> Command | None:
        """Return the command that a frame from the server answers.

        None: it is a push, a message or a farewell.
        """
        word, is_push = _first_word(frame), frame.startswith(b">")
        if self.waiting and word == self.waiting[0].name and word in _SUBSCRIBING:
            self._is_resp2_subscriber = not is_push
            self.waiting[0].replies_left -= 1
            return self.waiting[0] if self.waiting[0].replies_left else self.waiting.popleft()
        if is_push or (self._is_resp2_subscriber and word in _MESSAGES) or not self.waiting:
            return None
        return self.waiting.popleft()


def words_of(frame: bytes) -> list[bytes]:
    r"""The words of a packed command. Raises InvalidMessage for any other frame.

    >>> words_of(b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n")
    [b'GET', b'k']
    """
    reader = hiredis.Reader()
    reader.feed(frame)
    words = reader.gets()
    if not frame.startswith(b"*") or not all(isinstance(word, bytes) for word in words or []):
        raise InvalidMessage(f"no packed command: {frame[:40]!r}")
    return list(words or [])


def _first_word(frame: bytes) -> str:
    """The first element of an array or push that is a bulk string, in capitals; otherwise ""."""
    parts = frame[:64].split(b"\r\n", 3)
    is_named = len(parts) == 4 and frame[:1] in b"*>" and parts[1].startswith(b"$")
    return parts[2].decode("latin-1").upper() if is_named else ""
