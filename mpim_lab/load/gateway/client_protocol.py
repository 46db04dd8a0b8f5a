"""ClientProtocol: what one client says and hears, in the words of MPIM's gateway and of Socket.IO.

No I/O.

| the client …      | MPIM (im/protocol/frames.py)         | Socket.IO 5 over Engine.IO 4         |
|-------------------|--------------------------------------|--------------------------------------|
| connects          | `hello` → `welcome`                  | `0{…}` → `40{"uid": …}` → `40{…}`    |
| writes to another | `send` → `sent`                      | `42<n>["send", …]` → `43<n>[…]`      |
| is written to     | `push` → `ack`, in time              | `42["push", …]`, answered by nothing |
| missed something  | `sync` → `page`, when a number lacks | does not notice                      |
| joins a group     | `group` → `group`                    | `42<n>["join", …]` → `43<n>[…]`      |
| gets a notice     | `notice`                             | `42["notice", …]`                    |
| lives             | `ping`, by itself → `pong`           | `2` → `3`, when it is asked          |

Sources: https://socket.io/docs/v4/engine-io-protocol/ and
https://socket.io/docs/v4/socket-io-protocol/
"""

from collections.abc import Sequence
from enum import Enum, auto
from typing import NamedTuple, Protocol


class FrameKind(Enum):
    """What a frame is to a client."""

    READY = auto()  # connected for good
    PUSHED = auto()  # a message from another client
    ANSWERED = auto()  # what the client asked for is done
    NOTICE = auto()
    FAILED = auto()  # `text` says why
    NOTHING = auto()


class ReceivedEvent(NamedTuple):
    """One thing that a client received, and what it replies to that at once."""

    kind: FrameKind
    text: str = ""
    reply: bytes = b""


class ClientProtocol(Protocol):
    """Protocol adapter of one client, without I/O.

    Frames are what a WebSocket's text messages carry.

    Most methods return a frame to send.
    """

    @property
    def path(self) -> str:
        """Where the server listens for WebSockets."""

    def hello(self) -> bytes:
        """The first frame; empty when the server begins."""

    def flush(self) -> list[bytes]:
        """Return what is to be sent now, and may have been gathered for a while."""

    def unpack(self, batch: bytes) -> Sequence[bytes]:
        """Return the frames of a binary message. Raise CorruptPayload for a bad one."""

    def receive(self, frame: bytes) -> Sequence[ReceivedEvent]:
        """Parse one frame. Raise CorruptPayload for a bad one."""

    def keepalive(self) -> bytes:
        """Return a keepalive; empty where the server asks for it."""

    def send(self, id: str, to: str, text: str) -> bytes:
        """Return a message to another client."""

    def send_group(self, id: str, group: str, text: str) -> bytes:
        """Return a message to a group."""

    def create_group(self, group: str, members: Sequence[str]) -> tuple[bytes, int]:
        """Create a group; also return how many of its members need not join it."""

    def join_group(self, group: str) -> bytes:
        """Become a member."""
