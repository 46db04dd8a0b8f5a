"""QuickSend: a message between two, without a task of its own: for nearly every one the atomic step is all there is to do.

The command is written, the gateway reads the client's next frame, and the answer calls back. What is not so simple (an error,
a server that does not know the script, a receiver who is away) goes on in a task, by the message service's own methods: after
an error the message is simply sent again, with its id.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from mpim_lab.im.ledger import Kept, kept_of
from mpim_lab.im.messages import Messages
from mpim_lab.im.protocol import ChatMessage, SendMessageReq, SendMessageResp, direct_conversation
from mpim_lab.im.session import Session
from mpim_lab.im.wire import Send

Said = Callable[[Session, Send, SendMessageResp | BaseException], None]


class QuickSend:
    """One for all clients of a gateway. `said(session, frame, response or error)` is told once for each that was begun."""

    def __init__(self, messages: Messages, said: Said) -> None:
        self.messages, self.said = messages, said
        # somebody who observes, or who has steps of his own, gets them one by one
        self._is_quick = messages.ordered and not messages.reporter.is_on and type(messages).keep is Messages.keep
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, session: Session, frame: Send) -> bool:
        """Send a message to one user. False: not at this moment, use `send_message`."""
        sender, to = session.route.uid, frame.to
        if not self._is_quick or to is None:
            return False
        message = ChatMessage(direct_conversation(sender, to), 0, frame.id, sender, frame.text)
        sending = Sending(self, session, frame, message)
        return self.messages.ledger.begin_append(message, (to, sender), sending)

    def go_on(self, sending: "Sending", kept: Kept | None) -> None:
        """Do the rest in a task: what follows the atomic step, or, if it failed, all of it again."""
        task = asyncio.create_task(self._finish(sending, kept))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _finish(self, sending: "Sending", kept: Kept | None) -> None:
        session, frame, messages = sending.session, sending.frame, self.messages
        request = SendMessageReq(frame.id, session.route.uid, str(frame.to), frame.text)
        try:
            response = await (messages.send_message(request) if kept is None else messages.told(request, kept))
        except Exception as error:
            self.said(session, frame, error)
        except asyncio.CancelledError as error:
            self.said(session, frame, error)
            raise
        else:
            self.said(session, frame, response)


class Sending:
    """A message under way. It stands in the line of commands in a future's place, and costs half of what a future does."""

    __slots__ = ("_is_told", "_message", "_quick", "frame", "session")

    def __init__(self, quick: QuickSend, session: Session, frame: Send, message: ChatMessage) -> None:
        self._quick, self.session, self.frame, self._message = quick, session, frame, message
        self._is_told = False

    def done(self) -> bool:
        """It was told; what comes late is not read."""
        return self._is_told

    def set_result(self, reply: Any, /) -> None:
        """What send.lua answered."""
        if self._is_told:
            return
        self._is_told = True
        sequence, is_new, listened, _, _ = reply
        if listened or not is_new:
            told, message = "pushed" if is_new else "known", self._message
            response = SendMessageResp(message.id, message.conversation, sequence, told)
            self._quick.said(self.session, self.frame, response)
        else:
            self._quick.go_on(self, kept_of(self._message, reply))

    def set_exception(self, error: Any, /) -> None:
        """It may have been kept, or not."""
        if not self._is_told:
            self._is_told = True
            self._quick.go_on(self, None)
