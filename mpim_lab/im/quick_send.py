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
from mpim_lab.im.protocol import ChatMessage, SendMessageReq, SendMessageResp

Said = Callable[[SendMessageResp | BaseException], None]


class QuickSend:
    """One for all clients of a gateway. Raises nothing: what goes wrong is told to `said`."""

    def __init__(self, messages: Messages) -> None:
        self._messages = messages
        # somebody who observes, or who has steps of his own, gets them one by one
        self._is_quick = messages.ordered and not messages.reporter.is_on and type(messages).keep is Messages.keep
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, request: SendMessageReq, said: Said) -> bool:
        """Send; `said` gets the response or the error. False: not at this moment, use `send_message`."""
        if not self._is_quick:
            return False
        message = request.message
        answer = self._messages.ledger.begin_append(message, [request.to, request.sender])
        if answer is None:
            return False
        answer.add_done_callback(lambda answer: self._answered(request, message, answer, said))
        return True

    def _answered(self, request: SendMessageReq, message: ChatMessage, answer: asyncio.Future[Any], said: Said) -> None:
        kept = None if answer.cancelled() or answer.exception() is not None else kept_of(message, answer.result())
        if kept is not None and kept.told != "stored":
            return said(SendMessageResp(request.id, message.conversation, kept.message.sequence, kept.told))
        task = asyncio.create_task(self._finish(request, kept, said))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _finish(self, request: SendMessageReq, kept: Kept | None, said: Said) -> None:
        messages = self._messages
        try:
            said(await (messages.send_message(request) if kept is None else messages.told(request, kept)))
        except Exception as error:
            said(error)
        except asyncio.CancelledError as error:
            said(error)
            raise
