"""QuickSend: a message between two, without a task of its own: for nearly every one the atomic step is all there is to do.

The command is written, the gateway reads the client's next frame, and the answer calls back. What is not so simple (an error,
a receiver who is away) goes on in a task, by the message service's own methods. After an error a message is sent again, with
its id; those of one client one after another, and what it says meanwhile waits, so that its messages keep their order.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from mpim_lab.errors import Unconfirmed
from mpim_lab.im.gateway.session import Session
from mpim_lab.im.protocol.frames import Send
from mpim_lab.im.protocol.requests import SendMessageReq, SendMessageResp
from mpim_lab.im.services.message_log import Kept, kept_of, told_to_sender
from mpim_lab.im.services.messages import Messages
from mpim_lab.mq.connection.handler import TaskCancellation

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
        if not self._is_quick or frame.to is None or session in self._again:
            return False
        request = SendMessageReq(frame.id, session.route.uid, frame.to, frame.text)
        sending = Sending(self, session, frame, request)
        return self._messages.ledger.begin_append(sending.message, (request.to, request.sender), sending)

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
        for task in tuple(self._tasks):
            task.cancel()

    def go_on(self, sending: "Sending", kept: Kept) -> None:
        """What follows the atomic step."""
        self._start(self._store(sending, kept))

    def send_again(self, sending: "Sending") -> None:
        """All of it again, after those of the same client that are to be sent again already."""
        line = self._again.get(sending.session)
        if line is None:
            line = self._again[sending.session] = deque()
            self._start(self._send_in_line(sending.session, line))
        line.append(sending)

    async def _store(self, sending: "Sending", kept: Kept) -> None:
        outcome = await _outcome(self._messages.told(sending.request, kept))
        self.said(sending.session, sending.frame, outcome)

    async def _send_in_line(self, session: Session, line: "deque[Sending]") -> None:
        """One after another; what fails takes the rest along, which would overtake its next repeat."""
        outcome: SendMessageResp | Exception | None = None
        try:
            while line:
                sending = line.popleft()
                if not isinstance(outcome, Exception):
                    outcome = await _outcome(self._messages.send_message(sending.request))
                told = sending.truth_of(outcome) if isinstance(outcome, Exception) else outcome
                self.said(session, sending.frame, told)
        finally:
            del self._again[session]

    def _start(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _outcome(work: Awaitable[SendMessageResp]) -> SendMessageResp | Exception:
    cancellations = TaskCancellation()
    try:
        return await work
    except Exception as error:
        return error
    except asyncio.CancelledError as error:
        if cancellations.was_requested:
            raise
        return Unconfirmed(f"given up by what it waited for: {error!r}")


class Sending:
    """A message under way. It stands in the line of commands in a future's place, and costs half of what a future does."""

    __slots__ = ("_error", "_is_told", "_quick", "frame", "message", "request", "session")

    def __init__(self, quick: QuickSend, session: Session, frame: Send, request: SendMessageReq) -> None:
        self._quick, self.session, self.frame = quick, session, frame
        self.request, self.message = request, request.message
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
            _log.exception("%s: not what was asked for: %r", self.message.id, reply)
            self._error = Unconfirmed(f"not what was asked for: {reply!r} ({error})")
            self._quick.send_again(self)

    def _take(self, sequence: int, is_new: int, listened: int, todo: bytes, at_ms: int) -> None:
        told = told_to_sender(is_new, listened)
        if told == "stored":
            self._quick.go_on(self, kept_of(self.message, (sequence, is_new, listened, todo, at_ms)))
        else:
            response = SendMessageResp(self.message.id, self.message.conversation, sequence, told)
            self._quick.said(self.session, self.frame, response)

    def set_exception(self, error: Any, /) -> None:
        """It may have been kept, or not."""
        if not self._is_told:
            self._is_told, self._error = True, error
            self._quick.send_again(self)

    def truth_of(self, error: Exception) -> Exception:
        """What its sender is told after it could not be sent again: that it was certainly not kept only if that is so."""
        if getattr(error, "definite", False) and not getattr(self._error, "definite", False):
            return Unconfirmed(f"{self._error}; sent again: {error}")
        return error
