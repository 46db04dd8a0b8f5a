"""OutboxWorker: finishes what a message service did not.

That is pushes of groups' messages, and the trimming of logs.

The entries are in a stream, written in the same atomic step as the message itself (transactional
outbox). Every system runs one worker, and any number may: what is done twice is a push of a number
that clients know.

Before a log is trimmed, every message that a receiver has not acknowledged is put into the offline
store (the archive): so a log stays short and nobody loses anything by being long away.
"""

import asyncio
import logging

from mpim_lab.errors import CorruptPayload, MpimError, NoSuchGroup, NotConnected
from mpim_lab.im.protocol.periodic import run_periodically
from mpim_lab.im.protocol.requests import ChatMessage, group_of
from mpim_lab.im.services.message_log import OutboxEntry
from mpim_lab.im.services.messages import MessageService
from mpim_lab.mq.connection.bounds import MAX_INT, MAX_WAIT_S, check_bounds, check_times
from mpim_lab.mq.connection.handler import TaskCancellation

MAX_LOG_LENGTH = 1_000  # messages in a conversation's log
_PAGE = 500
_log = logging.getLogger(__name__)


class OutboxWorker:
    """The worker of the outbox: every `interval_s` it processes entries older than `min_age_s`.

    Use: `async with OutboxWorker(messages)`.

    | an entry ...                                 | then it                                       |
    |----------------------------------------------|-----------------------------------------------|
    | was done                                     | is removed                                    |
    | could not be done, whatever was raised       | stays until the next run; those behind it are |
    |                                              | done                                          |
    | cannot be parsed                             | the same: it is logged each time, and not     |
    |                                              | lost                                          |
    | was done, and the worker cancelled, or died, | is done once more: a push of a number that is |
    | then                                         | known                                         |

    Args:
        messages: The service whose outbox it is.
        interval_s: Seconds between two runs.
        min_age_s: Seconds that the service has for an entry of its own.
        max_log_length: Messages that a log keeps.
        expire_interval_s: Seconds after which the offline store is searched for old messages.

    Raises:
        InvalidParameter: A number makes no sense.
    """

    def __init__(
        self,
        messages: MessageService,
        *,
        interval_s: float = 1.0,
        min_age_s: float = 2.0,
        max_log_length: int = MAX_LOG_LENGTH,
        expire_interval_s: float = 3_600.0,
    ) -> None:
        check_times(interval_s=interval_s, expire_interval_s=expire_interval_s)
        check_bounds(0.0, MAX_WAIT_S, min_age_s=min_age_s)
        check_bounds(1, MAX_INT, max_log_length=max_log_length)
        self._messages, self._log = messages, messages.log
        self._interval_s, self._min_age_ms = interval_s, int(min_age_s * 1e3)
        self.max_log_length, self._expire_interval_s = max_log_length, expire_interval_s
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "OutboxWorker":
        self._tasks = [
            asyncio.create_task(run_periodically("the outbox", self.run_once, self._interval_s)),
            asyncio.create_task(
                run_periodically(
                    "what expires", self._messages.offline.expire, self._expire_interval_s
                )
            ),
        ]
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def run_once(self, min_age_ms: int | None = None) -> int:
        """Process every entry at least this old.

        Args:
            min_age_ms: Milliseconds; None: the worker's own `min_age_s`.

        Returns:
            How many entries were done.

        Raises:
            MpimError: What the connection raises.
        """
        done, wait_ms = 0, self._min_age_ms if min_age_ms is None else min_age_ms
        some = await self._log.due_entries(wait_ms)
        while some:
            for entry in some:
                done += await self._process(entry)
            some = await self._log.due_entries(
                wait_ms, after=some[-1].entry_id
            )  # after those that could not be done
        return done

    async def _process(self, entry: OutboxEntry) -> bool:
        """Process one entry and remove it; one that fails stays in the outbox.

        Return whether it was done.
        """
        cancellations = TaskCancellation()
        try:
            if entry.action not in ("push", "trim"):
                raise CorruptPayload("nobody wrote this")
            await (self.trim(entry.conversation) if entry.action == "trim" else self._push(entry))
        except (Exception, asyncio.CancelledError) as error:
            if cancellations.was_requested:
                raise
            trace = None if isinstance(error, MpimError) else error
            _log.warning(
                "%s of %s %d: %s",
                entry.action,
                entry.conversation,
                entry.sequence,
                error,
                exc_info=trace,
            )
            return False
        await self._log.remove(entry.entry_id)
        return True

    async def _push(self, entry: OutboxEntry) -> None:
        """Push a group's message. Raises NotConnected if it could not be pushed to some."""
        found = await self._log.read_range(entry.conversation, entry.sequence, entry.sequence, 1)
        for message in found:
            members = await self._receivers(entry.conversation)
            out = await self._messages.fan_out(message, members)
            await self._messages.offline.store_many(
                [uid for uid in out.absent if uid != message.sender], found
            )
            if out.failed:
                raise NotConnected(f"{len(out.failed):,} members could not be reached")

    async def trim(self, conversation: str) -> int:
        """Trim a log to its last `max_log_length` messages.

        What is not acknowledged goes to the offline store first.

        Args:
            conversation: Whose log.

        Returns:
            Up to which number it was trimmed; 0: nothing was.

        Raises:
            MpimError: What the connection or the database raises.
        """
        before = await self._log.last_sequence(conversation) - self.max_log_length + 1
        while (
            page := await self._log.read_range(conversation, 0, before - 1, _PAGE)
            if before > 1
            else []
        ):
            await self._archive(conversation, page)
            await self._log.trim(conversation, page[-1].sequence + 1)
        return max(0, before - 1)

    async def _archive(self, conversation: str, page: list[ChatMessage]) -> None:
        """Store what each receiver has not acknowledged, and no more.

        The rest would stay, and count against the limit.
        """
        acked = await self._log.positions_of(await self._receivers(conversation), conversation)
        for far in {number for number in acked.values() if number < page[-1].sequence}:
            late = [uid for uid, number in acked.items() if number == far]
            await self._messages.offline.store_many(
                late, [each for each in page if each.sequence > far]
            )

    async def _receivers(self, conversation: str) -> list[str]:
        group = group_of(conversation)
        if group is None:
            return list(dict.fromkeys(conversation.split(":")))
        try:
            return list(await self._messages.groups.members(group))
        except NoSuchGroup:  # nobody is left to read it
            return []
