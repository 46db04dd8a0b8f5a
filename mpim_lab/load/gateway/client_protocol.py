"""ClientProtocol: what one client says and hears, in the words of MPIM's gateway and of Socket.IO. No I/O.

| the client …      | MPIM (im/protocol/frames.py)       | Socket.IO 5 over Engine.IO 4, transport WebSocket              |
|-------------------|------------------------------------|----------------------------------------------------------------|
| connects          | `hello` → `welcome`                | `0{…}` → `40{"uid": …}` → `40{…}`                              |
| writes to another | `send` → `sent`                    | `42<n>["send", …]` → `43<n>[…]`                                |
| is written to     | `push`, in time answered by `ack`  | `42["push", …]`, answered by nothing                           |
| missed something  | `sync` → `page`, when a number lacks | does not notice                                              |
| joins a group     | `group` → `group`                  | `42<n>["join", …]` → `43<n>[…]`                                |
| hears a notice    | `notice`                           | `42["notice", …]`                                              |
| shows that it lives | `ping`, by itself → `pong`       | `2` → `3`, when it is asked                                    |

Sources: https://socket.io/docs/v4/engine-io-protocol/ and https://socket.io/docs/v4/socket-io-protocol/
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
    """One thing that a client heard, and what it says to that at once."""

    what: FrameKind
    text: str = ""
    reply: bytes = b""


class ClientProtocol(Protocol):
    """How one client speaks. Frames are what a WebSocket's text messages carry; most methods give one to send."""

    @property
    def path(self) -> str:
        """Where the server listens for WebSockets."""

    @property
    def subprotocols(self) -> Sequence[str]:
        """What the client offers to speak."""

    def opening(self) -> bytes:
        """The first frame; empty when the server begins."""

    def due(self) -> list[bytes]:
        """What is to be said now, and may have been gathered for a while."""

    def unpacked(self, batch: bytes) -> Sequence[bytes]:
        """The frames of a binary message. Raises CorruptPayload."""

    def hear(self, frame: bytes) -> Sequence[ReceivedEvent]:
        """Understand one frame. Raises CorruptPayload."""

    def live(self) -> bytes:
        """I am still here; empty when only those say so who are asked."""

    def send(self, id: str, to: str, text: str) -> bytes:
        """A message to another client."""

    def say(self, id: str, group: str, text: str) -> bytes:
        """A message to a group."""

    def make(self, group: str, members: Sequence[str]) -> tuple[bytes, int]:
        """Make a group, and how many of its members need not join it."""

    def join(self, group: str) -> bytes:
        """Become a member."""
