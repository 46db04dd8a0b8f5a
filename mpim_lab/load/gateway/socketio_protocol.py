"""Socket.IO's packets, as one client says and hears them.

The table of both protocols is in `client_protocol.py`.
"""

from collections.abc import Sequence

import msgspec

from mpim_lab.errors import CorruptPayload
from mpim_lab.load.gateway.client_protocol import FrameKind, ReceivedEvent

_EVENTS = {"push": FrameKind.PUSHED, "notice": FrameKind.NOTICE}


class SocketIoProtocol:
    """Socket.IO's packets as text. A message that is not pushed is never heard of again."""

    path: str = "/socket.io/?EIO=4&transport=websocket"

    def __init__(self, uid: str) -> None:
        self._uid, self._asked = uid, 0

    def hello(self) -> bytes:
        """The server begins."""
        return b""

    def keepalive(self) -> bytes:
        """The server asks."""
        return b""

    def flush(self) -> list[bytes]:
        """Nothing: nobody asks whether a message came."""
        return []

    def unpack(self, batch: bytes) -> Sequence[bytes]:
        """There are none."""
        raise CorruptPayload(f"not a packet as text: {batch[:20]!r}")

    def send(self, id: str, to: str, text: str) -> bytes:
        """A message to another client."""
        return self._event("send", {"id": id, "to": to, "text": text})

    def send_group(self, id: str, group: str, text: str) -> bytes:
        """A message to a group."""
        return self._event("say", {"id": id, "group": group, "text": text})

    def create_group(self, group: str, members: Sequence[str]) -> tuple[bytes, int]:
        """A group is there as soon as one joins it."""
        return self.join_group(group), 0

    def join_group(self, group: str) -> bytes:
        """Become a member."""
        return self._event("join", {"group": group})

    def notice(self, id: str, text: str) -> bytes:
        """A notice to everybody, by the server that one client asks."""
        return b"42" + msgspec.json.encode(["notice", {"id": id, "text": text}])

    def receive(self, frame: bytes) -> Sequence[ReceivedEvent]:
        """Understand one packet."""
        kind = frame[:2]
        if kind == b"42":
            return (self._event_of(frame[2:]),)
        if kind == b"43":
            return (ReceivedEvent(FrameKind.ANSWERED),)
        if frame == b"2":
            return (ReceivedEvent(FrameKind.NOTHING, reply=b"3"),)
        if kind == b"0{":
            return (
                ReceivedEvent(
                    FrameKind.NOTHING, reply=b"40" + msgspec.json.encode({"uid": self._uid})
                ),
            )
        if kind == b"40":
            return (ReceivedEvent(FrameKind.READY),)
        return (ReceivedEvent(FrameKind.FAILED, f"the server said {frame[:100]!r}"),)

    def _event(self, name: str, data: dict[str, str]) -> bytes:
        self._asked += 1
        return b"42%d" % self._asked + msgspec.json.encode([name, data])

    def _event_of(self, event: bytes) -> ReceivedEvent:
        try:
            name, data = msgspec.json.decode(event)
            return ReceivedEvent(_EVENTS.get(name, FrameKind.NOTHING), data["text"])
        except (msgspec.DecodeError, ValueError, TypeError, KeyError) as error:
            raise CorruptPayload(f"not an event: {event[:100]!r}") from error
