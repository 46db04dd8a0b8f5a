"""Journal: what a client reports of its messages to a trace. Nothing is built where nobody observes."""

from collections.abc import Container

from mpim_lab.events import Kind, Observer, Reporter
from mpim_lab.im.protocol.frames import FromGateway, Page, Send
from mpim_lab.im.protocol.requests import ChatMessage


class Journal:
    """One client's."""

    def __init__(self, name: str, observer: Observer | None) -> None:
        self._name, self._reporter = name, Reporter(name, observer)

    def accepted(self, frame: Send) -> None:
        """The application handed over a message."""
        self._of(Kind.ACCEPTED, frame)

    def told(self, frame: Send, what: str) -> None:
        """The application was told what became of it."""
        self._of(Kind.TOLD, frame, what)

    def _of(self, kind: Kind, frame: Send, detail: str = "") -> None:
        if self._reporter.is_on:
            channel = f"user:{frame.to}" if frame.to is not None else f"group:{frame.group}"
            self._reporter.message(kind, frame.id.encode(), channel, detail=detail)

    def arrived(self, frame: FromGateway, gateway: str, own: Container[str]) -> None:
        """A push or a page arrived; what was sent from here is no news."""
        if self._reporter.is_on:
            arrived = frame.messages if isinstance(frame, Page) else [frame] if isinstance(frame, ChatMessage) else []
            for message in arrived:
                if message.id not in own:
                    self._reporter.passed(message.id, self._name, source=gateway)

    def read(self, message: ChatMessage) -> None:
        """The application has read a message."""
        if self._reporter.is_on:
            self._reporter.message(Kind.EFFECT, message.id.encode(), message.conversation)
