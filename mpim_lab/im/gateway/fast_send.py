"""FastSender: a direct message without a task of its own.

For nearly every one the atomic step is all there is to do. The command is written, the gateway
reads the client's next frame, and the answer calls back. What is not so simple (an error, a
receiver who is away) goes on in a task, by the message service's own methods. After an error a
message is sent again, with its id; those of one client one after another, and what it sends
meanwhile waits, so that its messages keep their order.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from mpim_lab.errors import Unconfirmed
from mpim_lab.im.gateway.session import Session
from mpim_lab.im.protocol.frames import Send
from mpim_lab.im.protocol.requests import (
    ChatMessage,
    SendMessageRequest,
    SendMessageResponse,
    direct_conversation,
)
from mpim_lab.im.services.message_log import AppendResult, parse_append
from mpim_lab.im.services.messages import MessageService
from mpim_lab.mq.connection.handler import TaskCancellation

_log = logging.getLogger(__name__)
OnDone = Callable[[Session, Send, SendMessageResponse | BaseException], None]


class FastSender:
    """The fast path of a gateway.

    `on_done(session, frame, response or error)` is called once for each message.
    """

    def __init__(self, messages: MessageService, on_done: OnDone) -> None:
        self.messages, self.on_done = messages, on_done
        self._retries: dict[Session, deque[PendingSend]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def try_send(self, session: Session, frame: Send) -> bool:
        """Send a message to one user.

        Return False if not possible now: then `wait_for_retries`, and `send_message`.
        """
        if frame.to is None or not self.messages.ordered or session in self._retries:
            return False
        pending = PendingSend(self, session, frame, frame.to)
        return self.messages.append_nowait(pending.message, frame.to, pending)

    async def wait_for_retries(self, session: Session) -> None:
        """Wait until no message of a client is to be sent again."""
        while session in self._retries:
            await asyncio.sleep(0.005)

    async def wait_idle(self) -> None:
        """Wait until no task is running."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def abort(self) -> None:
        """Cancel all tasks: the gateway dies."""
        for task in tuple(self._tasks):
            task.cancel()

    def schedule_retry(self, pending: "PendingSend") -> None:
        """Send a message again, after those of the same client that wait for it already."""
        queue = self._retries.get(pending.session)
        if queue is None:
            queue = self._retries[pending.session] = deque()
            self.start(self._retry_in_order(pending.session, queue))
        queue.append(pending)

    async def finish(self, pending: "PendingSend", appended: AppendResult) -> None:
        """Do what follows the atomic step."""
        outcome = await _outcome(self.messages.complete_send(pending.to, appended))
        self.on_done(pending.session, pending.frame, outcome)

    async def _retry_in_order(self, session: Session, queue: "deque[PendingSend]") -> None:
        """One after another.

        What fails takes the rest along, which would overtake its next repeat.
        """
        outcome: SendMessageResponse | Exception | None = None
        try:
            while queue:
                pending = queue.popleft()
                if not isinstance(outcome, Exception):
                    message = pending.message
                    request = SendMessageRequest(
                        message.id, message.sender, pending.to, message.text
                    )
                    outcome = await _outcome(self.messages.send_message(request))
                result = (
                    pending.error_for_sender(outcome) if isinstance(outcome, Exception) else outcome
                )
                self.on_done(session, pending.frame, result)
        finally:
            del self._retries[session]

    def start(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run something in a task, for which the gateway's end waits."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _outcome(work: Awaitable[SendMessageResponse]) -> SendMessageResponse | Exception:
    cancellations = TaskCancellation()
    try:
        return await work
    except Exception as error:
        return error
    except asyncio.CancelledError as error:
        if cancellations.was_requested:
            raise
        return Unconfirmed(f"given up by what it waited for: {error!r}")


class PendingSend:
    """A message in flight.

    It waits for the reply in a future's place, and costs half of what a future does.
    """

    __slots__ = ("_error", "_is_done", "_sender", "frame", "message", "session", "to")

    def __init__(self, sender: FastSender, session: Session, frame: Send, to: str) -> None:
        self._sender, self.session, self.frame, self.to = sender, session, frame, to
        uid = session.route.uid
        self.message = ChatMessage(direct_conversation(uid, to), 0, frame.id, uid, frame.text)
        self._is_done = False
        self._error: BaseException | None = None

    def done(self) -> bool:
        """Return whether the outcome is known; a late reply is ignored."""
        return self._is_done

    def set_result(self, reply: Any, /) -> None:
        """Handle the reply of append_and_push.lua.

        Raises nothing: it is called from where all replies are read.
        """
        if self._is_done:
            return
        self._is_done, sender, message = True, self._sender, self.message
        try:
            sequence, is_new, subscriber_count, _, _ = reply
            sender.messages.report_appended(message, self.to, is_new, subscriber_count)
            if is_new and not subscriber_count:
                sender.start(sender.finish(self, parse_append(message, reply)))
            else:
                status = "pushed" if is_new else "known"
                response = SendMessageResponse(message.id, message.conversation, sequence, status)
                sender.on_done(self.session, self.frame, response)
        except Exception as error:  # another script's answer, or somebody else's keys
            _log.exception("%s: not what was asked for: %r", message.id, reply)
            self._error = Unconfirmed(f"not what was asked for: {reply!r} ({error})")
            sender.schedule_retry(self)

    def set_exception(self, error: Any, /) -> None:
        """Handle an error: the message may have been stored, or not."""
        if not self._is_done:
            self._is_done, self._error = True, error
            self._sender.schedule_retry(self)

    def error_for_sender(self, error: Exception) -> Exception:
        """Return the error for the sender after a failed retry.

        Definite only if the message was certainly not stored.
        """
        if getattr(error, "definite", False) and not getattr(self._error, "definite", False):
            return Unconfirmed(f"{self._error}; sent again: {error}")
        return error
