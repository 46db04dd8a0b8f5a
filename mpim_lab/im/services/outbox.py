"""Outbox: finishes what a message service began and did not end: pushes of groups' messages, and the trimming of logs.

What is to be done stands in a stream, written in the same atomic step as the message itself. Every system runs one of
these, and any number may: what is done twice is a push of a number that clients know.

Before a log is trimmed, every message that a receiver has not acknowledged is put into the offline store (the archive): so a
log stays short and nobody loses anything by being long away.
"""

import asyncio
import logging

from mpim_lab.errors import CorruptPayload, MpimError, NoSuchGroup, NotConnected
from mpim_lab.im.protocol.periodic import go_round
from mpim_lab.im.protocol.requests import ChatMessage, group_of
from mpim_lab.im.services.message_log import ToDo
from mpim_lab.im.services.messages import Messages
from mpim_lab.mq.connection.bounds import MAX_INT, MAX_WAIT_S, check_bounds, check_times
from mpim_lab.mq.connection.handler import TaskCancellation

KEEP = 1_000  # messages in a conversation's log
_PAGE = 500
_log = logging.getLogger(__name__)


class Outbox:
    """Looks every `every_s` for entries older than `after_s`: `async with Outbox(messages)`. keep: messages in a log.

    Every `expire_every_s` what has waited too long in the offline store goes. Raises InvalidParameter.

    | an entry ...                                        | then it                                               |
    |-----------------------------------------------------|-------------------------------------------------------|
    | was done                                            | is struck                                             |
    | could not be done, whatever was raised              | stays until the next look; those behind it are done   |
    | cannot be read                                      | the same: it is told of each time, and not lost       |
    | was done, and the outbox cancelled, or died, then   | is done once more: a push of a number that is known   |
    """

    def __init__(
        self,
        messages: Messages,
        *,
        every_s: float = 1.0,
        after_s: float = 2.0,
        keep: int = KEEP,
        expire_every_s: float = 3_600.0,
    ) -> None:
        check_times(every_s=every_s, expire_every_s=expire_every_s)
        check_bounds(0.0, MAX_WAIT_S, after_s=after_s)
        check_bounds(1, MAX_INT, keep=keep)
        self._messages, self._ledger = messages, messages.ledger
        self._every_s, self._after_ms, self.keep = every_s, int(after_s * 1e3), keep
        self._expire_every_s = expire_every_s
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "Outbox":
        self._tasks = [
            asyncio.create_task(go_round("the outbox", self.sweep, self._every_s)),
            asyncio.create_task(go_round("what expires", self._messages.offline.expire, self._expire_every_s)),
        ]
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def sweep(self, after_ms: int | None = None) -> int:
        """Do everything that has waited for so long; gives how much that was. Raises what `ReconnectingConnection` raises."""
        did, wait_ms = 0, self._after_ms if after_ms is None else after_ms
        some = await self._ledger.to_do(wait_ms)
        while some:
            for todo in some:
                did += await self._do(todo)
            some = await self._ledger.to_do(wait_ms, after=some[-1].entry_id)  # past those that could not be done
        return did

    async def _do(self, todo: ToDo) -> bool:
        """Do one entry and strike it; one that could not be done stays in the outbox. Gives whether it was done."""
        cancellations = TaskCancellation()
        try:
            if todo.do not in ("push", "trim"):
                raise CorruptPayload("nobody wrote this")
            await (self.trim(todo.conversation) if todo.do == "trim" else self._push(todo))
        except (Exception, asyncio.CancelledError) as error:
            if cancellations.was_requested:
                raise
            trace = None if isinstance(error, MpimError) else error
            _log.warning("%s of %s %d: %s", todo.do, todo.conversation, todo.sequence, error, exc_info=trace)
            return False
        await self._ledger.done(todo.entry_id)
        return True

    async def _push(self, todo: ToDo) -> None:
        """Push a group's message. Raises NotConnected if some could not be told."""
        found = await self._ledger.between(todo.conversation, todo.sequence, todo.sequence, 1)
        for message in found:
            members = await self._receivers(todo.conversation)
            out = await self._messages.push(message, members)
            await self._messages.offline.store_many([uid for uid in out.absent if uid != message.sender], found)
            if out.failed:
                raise NotConnected(f"{len(out.failed):,} members could not be told")

    async def trim(self, conversation: str) -> int:
        """Shorten a log to its last `keep` messages; what somebody has not acknowledged goes to the offline store first."""
        before = await self._ledger.last(conversation) - self.keep + 1
        while page := await self._ledger.between(conversation, 0, before - 1, _PAGE) if before > 1 else []:
            await self._archive(conversation, page)
            await self._ledger.trim(conversation, page[-1].sequence + 1)
        return max(0, before - 1)

    async def _archive(self, conversation: str, page: list[ChatMessage]) -> None:
        """Each receiver's part of it, and no more: what is acknowledged would stay, and take the place of something else."""
        acked = await self._ledger.acked_by(await self._receivers(conversation), conversation)
        for far in {number for number in acked.values() if number < page[-1].sequence}:
            late = [uid for uid, number in acked.items() if number == far]
            await self._messages.offline.store_many(late, [each for each in page if each.sequence > far])

    async def _receivers(self, conversation: str) -> list[str]:
        group = group_of(conversation)
        if group is None:
            return list(dict.fromkeys(conversation.split(":")))
        try:
            return list(await self._messages.groups.members(group))
        except NoSuchGroup:  # nobody is left to read it
            return []
