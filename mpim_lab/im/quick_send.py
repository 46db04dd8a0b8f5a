"""QuickSend: a message between two, without a task of its own: for nearly every one the atomic step is all there is to do.

The command is written, the gateway reads the client's next frame, and the answer calls back. What is not so simple (an error,
a receiver who is away) goes on in a task, by the message service's own methods. After an error a message is sent again, with
its id; those of one client one after another, and what it says meanwhile waits, so that its messages keep their order.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from mpim_lab.errors import Unconfirmed
from mpim_lab.im.ledger import Kept, kept_of
from mpim_lab.im.messages import Messages
from mpim_lab.im.protocol import ChatMessage, SendMessageReq, SendMessageResp, direct_conversation
from mpim_lab.im.session import Session
from mpim_lab.im.wire import Send

_log = logging.getLogger(__name__)
Said = Callable[[Session, Send, SendMessageResp | BaseException], None]


class QuickSend:
    """One for all clients of a gateway. `said(session, frame, response or error)` is told once for each that was begun."""

    def __init__(self, messages: Messages, said: Said, *, is_observed: bool) -> None:
        self._messages, self.said = messages, said
        # somebody who observes, or who has steps of his own, gets them one by one
        is_observed = is_observed or messages.reporter.is_on
        self._is_quick = messages.ordered and not is_observed and type(messages).keep is Messages.keep
        self._again: dict[Session, deque[Sending]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, session: Session, frame: Send) -> bool:
        """Send a message to one user. False: not at this moment, use `send_message` once they are `settled`."""
        sender, to = session.route.uid, frame.to
        if not self._is_quick or to is None or session in self._again:
            return False
        message = ChatMessage(direct_conversation(sender, to), 0, frame.id, sender, frame.text)
        sending = Sending(self, session, frame, message)
        return self._messages.ledger.begin_append(message, (to, sender), sending)

    async def settled(self, session: Session) -> None:
        """Wait until nothing is sent again for a client."""
        while session in self._again:
            await asyncio.sleep(0.005)

    async def ended(self) -> None:
        """Wait until everything that was begun is told."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def drop(self) -> None:
        """Do nothing more: the gateway dies."""
        for task in self._tasks:
            task.cancel()

    def go_on(self, sending: "Sending", kept: Kept) -> None:
        """What follows the atomic step."""
        self._start(self._finish(sending, kept))

    def send_again(self, sending: "Sending") -> None:
        """All of it again, after those of the same client that are to be sent again already."""
        line = self._again.get(sending.session)
        if line is None:
            line = self._again[sending.session] = deque()
            self._start(self._send_in_line(sending.session, line))
        line.append(sending)

    async def _send_in_line(self, session: Session, line: "deque[Sending]") -> None:
        """One after another; what fails takes the rest along, which would overtake its next repeat."""
        error: BaseException | None = None
        try:
            while line:
                sending = line.popleft()
                error = error or await self._finish(sending, None)
                if error is not None:
                    self.said(session, sending.frame, sending.told_of(error))
        finally:
            del self._again[session]
            for sending in line:
                self.said(session, sending.frame, Unconfirmed("the gateway ended"))

    async def _finish(self, sending: "Sending", kept: Kept | None) -> BaseException | None:
        """Gives what went wrong, once nobody has been told: only of what is sent again."""
        session, frame, messages = sending.session, sending.frame, self._messages
        request = SendMessageReq(frame.id, session.route.uid, str(frame.to), frame.text)
        try:
            response = await (messages.send_message(request) if kept is None else messages.told(request, kept))
        except asyncio.CancelledError:
            self.said(session, frame, Unconfirmed("the gateway ended"))
            raise
        except Exception as error:
            if kept is None:
                return error
            self.said(session, frame, error)
        else:
            self.said(session, frame, response)
        return None

    def _start(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class Sending:
    """A message under way. It stands in the line of commands in a future's place, and costs half of what a future does."""

    __slots__ = ("_error", "_is_told", "_message", "_quick", "frame", "session")

    def __init__(self, quick: QuickSend, session: Session, frame: Send, message: ChatMessage) -> None:
        self._quick, self.session, self.frame, self._message = quick, session, frame, message
        self._is_told = False
        self._error: BaseException | None = None

    def done(self) -> bool:
        """It was told; what comes late is not read."""
        return self._is_told

    def set_result(self, reply: Any, /) -> None:
        """What send.lua answered. Raises nothing: it is called from where all replies of the server are read."""
        if self._is_told:
            return
        try:
            self._is_told = True
            self._take(*reply)
        except Exception as error:  # another script's answer, or somebody else's keys
            _log.exception("%s: not what was asked for: %r", self._message.id, reply)
            self._error = Unconfirmed(f"not what was asked for: {reply!r} ({error})")
            self._quick.send_again(self)

    def _take(self, sequence: int, is_new: int, listened: int, todo: bytes, at_ms: int) -> None:
        if listened or not is_new:
            told, message = "pushed" if is_new else "known", self._message
            response = SendMessageResp(message.id, message.conversation, sequence, told)
            self._quick.said(self.session, self.frame, response)
        else:
            self._quick.go_on(self, kept_of(self._message, (sequence, is_new, listened, todo, at_ms)))

    def set_exception(self, error: Any, /) -> None:
        """It may have been kept, or not."""
        if not self._is_told:
            self._is_told, self._error = True, error
            self._quick.send_again(self)

    def told_of(self, error: BaseException) -> BaseException:
        """What its sender is told after it could not be sent again: that it was certainly not kept only if that is so."""
        if getattr(error, "definite", False) and not getattr(self._error, "definite", False):
            return Unconfirmed(f"{self._error}; sent again: {error}")
        return error
