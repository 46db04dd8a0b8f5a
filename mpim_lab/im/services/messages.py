"""MessageService: the correct message service.

A message it has acknowledged is delivered once and in order, whoever dies.

| step | what                                        | if the service dies after it                |
|------|---------------------------------------------|---------------------------------------------|
| 1    | one atomic step: known? otherwise number,   | the client sends again with the same id,    |
|      | append to the log, push to the receiver; of | and gets "known"; the outbox pushes to a    |
|      | a group's message, add to the outbox        | group                                       |
| 2    | for whom nobody is subscribed: into the     | the log has it; it is archived before it is |
|      | offline store                               | trimmed                                     |
| 3    | of a group's message: remove it from the    | it is pushed again; clients know its number |
|      | outbox                                      |                                             |
| 4    | acknowledge it to the sender                | as after step 1                             |

A push may be lost on its way (Pub/Sub is at most once). The receiving client acknowledges numbers,
sees gaps, and pulls by
number: from the log, and what was trimmed there from the offline store. A push only has to be fast;
the log is the source of truth.

A group's message is written once and read by everybody (fan-out on read), and its push costs a
fixed number of round trips: members (one), step 1 (one), all members' pushes in one pipeline, with
the members again (one), step 3 (one).
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

from mpim_lab.errors import AccessDenied, MpimError, NotAMember
from mpim_lab.events import CHAT_LOG, OFFLINE_STORE, SERVICE, Observer, Reporter
from mpim_lab.im.protocol.frames import Broadcast, encode, encode_push
from mpim_lab.im.protocol.requests import (
    MAX_BROADCAST_CHARS,
    AckRequest,
    AckResponse,
    BroadcastSystemMessageRequest,
    BroadcastSystemMessageResponse,
    ChatMessage,
    PullOfflineRequest,
    PullOfflineResponse,
    SendGroupMessageRequest,
    SendGroupMessageResponse,
    SendMessageRequest,
    SendMessageResponse,
    checked_id,
    checked_text,
    group_conversation,
    group_of,
    takes_part,
)
from mpim_lab.im.services.groups import GroupService
from mpim_lab.im.services.message_log import AppendResult, MessageLog
from mpim_lab.im.services.offline import MAX_PAGE, OfflineStore
from mpim_lab.keys import BROADCAST_CHANNEL, user_channel
from mpim_lab.mq.connection.bounds import MAX_INT, check_bounds
from mpim_lab.mq.connection.encoding import publish_prefix
from mpim_lab.mq.connection.reconnecting import call_many
from mpim_lab.mq.connection.resp import ReplySink
from mpim_lab.mq.pubsub.queue import MessageQueue

_MAX_PIPELINE_BYTES = 4 * 1024 * 1024  # of a group's pushes
_log = logging.getLogger(__name__)


class FanOutResult(NamedTuple):
    """The result of a fan-out.

    To how many it was pushed, for whom it waits, to whom it could not be pushed.
    """

    pushed: int
    absent: tuple[str, ...]
    failed: tuple[str, ...]


class MessageService:
    """The message service over one server and one database.

    Every method raises what the connection raises: then send again, with the same id.

    Args:
        queue: Over which it talks to the server.
        groups: Who is in which group.
        offline: What waits for users who are away.
        log: The log of all conversations; None: one over `queue`.
        observer: Gets an event for each step of a message.
    """

    ordered: ClassVar[bool] = True

    def __init__(
        self,
        queue: MessageQueue,
        groups: GroupService,
        offline: OfflineStore,
        *,
        log: MessageLog | None = None,
        observer: Observer | None = None,
    ) -> None:
        self.queue, self.groups, self.offline = queue, groups, offline
        self.log, self.reporter = log or MessageLog(queue), Reporter(SERVICE, observer)

    # Sending

    async def send_message(self, request: SendMessageRequest) -> SendMessageResponse:
        """Append a message for one user and push it. The same id again is the same message.

        Args:
            request: The message.

        Returns:
            Its number, and its status: "pushed", "stored" or "known".

        Raises:
            InvalidMessage: Its id or its text is none.
            InvalidParameter: One of the users' names is none.
        """
        appended = await self.append(request.message, [request.to, request.sender])
        return await self.complete_send(request.to, appended)

    async def complete_send(self, to: str, appended: AppendResult) -> SendMessageResponse:
        """Return the response for the sender.

        If nobody was subscribed, store the message first (step 2).

        Args:
            to: The receiver.
            appended: The result of step 1.

        Returns:
            What `send_message` returns.
        """
        message, status = appended.message, appended.status
        if status == "stored":
            await self.store_offline([to], message)
        return SendMessageResponse(message.id, message.conversation, message.sequence, status)

    async def send_group_message(
        self, request: SendGroupMessageRequest
    ) -> SendGroupMessageResponse:
        """Append a message for a group and push it to its members.

        Args:
            request: The message.

        Returns:
            Its number, its status, and how many members it was pushed to.

        Raises:
            NoSuchGroup: There is no such group.
            NotAMember: The sender is not in it.
            InvalidMessage: The id or the text is none.
        """
        members = await self.groups.members(request.group)
        if request.sender not in members:
            raise NotAMember(f"{request.sender} is not in the group {request.group}")
        conversation = group_conversation(request.group)
        appended = await self.append(request.message)
        if not appended.is_new:
            return SendGroupMessageResponse(
                request.id, conversation, appended.message.sequence, "known"
            )
        # Read again, with the pushes: who joined meanwhile begins before this number, and needs the
        # push.
        out, now_in = await asyncio.gather(
            self.fan_out(appended.message, members), self.groups.members(request.group)
        )
        if joined := sorted(set(now_in) - set(members)):
            more = await self.fan_out(appended.message, joined)
            out = FanOutResult(
                out.pushed + more.pushed, out.absent + more.absent, out.failed + more.failed
            )
        waiting = [uid for uid in out.absent if uid != request.sender]
        await self.store_offline(waiting, appended.message)
        if not out.failed:
            await self.complete_outbox(appended.outbox_entry)
        status = "pushed" if out.pushed else "stored"
        return SendGroupMessageResponse(
            request.id,
            conversation,
            appended.message.sequence,
            status,
            out.pushed,
            len(waiting),
            out.failed,
        )

    async def append(self, message: ChatMessage, receivers: Sequence[str] = ()) -> AppendResult:
        """Number, append and push a message (step 1).

        Args:
            message: The message, which has no number yet.
            receivers: The users to push to; without any it is a group's message.

        Returns:
            The message with its number and time, and whether it is new.

        Raises:
            InvalidMessage: Its id or its text is none.
        """
        checked_id(message.id)
        checked_text(message.text)
        appended = await self.log.append(message, receivers, is_group=not receivers)
        self.report_appended(
            message, receivers[0] if receivers else "", appended.is_new, appended.subscriber_count
        )
        return appended

    def append_nowait(self, message: ChatMessage, to: str, sink: ReplySink) -> bool:
        """Do step 1 of a direct message without waiting.

        Args:
            message: The message, which has no number yet.
            to: Its receiver.
            sink: Gets the reply, which is for `parse_append`.

        Returns:
            False if that is not possible now: then use `send_message`.
        """
        return self.log.append_nowait(message, to, sink)

    def report_appended(
        self, message: ChatMessage, receiver: str, is_new: object, subscriber_count: int
    ) -> None:
        """Report step 1 to the observer: where the message is now.

        Args:
            message: The message.
            receiver: The user to whom it was pushed; "" for a group's message.
            is_new: Whether it was not sent before.
            subscriber_count: How many gateways have it.
        """
        if self.reporter.is_on:
            self.reporter.hop(message.id, CHAT_LOG)
            if receiver and is_new:
                self.reporter.hop(message.id, user_channel(receiver), count=subscriber_count)

    async def fan_out(self, message: ChatMessage, members: Sequence[str]) -> FanOutResult:
        """Push to many in one pipeline.

        Each reply says how many gateways were subscribed, at that moment.

        Args:
            message: The message, with its number.
            members: The users to push to.

        Returns:
            To how many it was pushed, and to whom it was not.
        """
        payload = encode_push(message)
        tail = b"%d\r\n%b\r\n" % (len(payload), payload)
        at_once = max(1, _MAX_PIPELINE_BYTES // (len(tail) + 128))
        counts, channel = list[Any](), self.queue.keys.channel
        for begin in range(
            0, len(members), at_once
        ):  # once, unless the text is long and the group is large
            some = members[begin : begin + at_once]
            commands = [publish_prefix(channel(user_channel(uid))) + tail for uid in some]
            try:
                counts += await call_many(self.queue.connection, commands)
            except MpimError as error:  # nothing was written
                counts += [error] * len(some)
        failed = tuple(
            uid
            for uid, count in zip(members, counts, strict=True)
            if isinstance(count, BaseException)
        )
        absent = tuple(uid for uid, count in zip(members, counts, strict=True) if count == 0)
        if self.reporter.is_on:
            for uid, count in zip(members, counts, strict=True):
                if uid != message.sender and not isinstance(count, BaseException):
                    self.reporter.hop(message.id, user_channel(uid), count=count)
        return FanOutResult(len(members) - len(absent) - len(failed), absent, failed)

    async def store_offline(self, uids: Sequence[str], message: ChatMessage) -> None:
        """Store a message for absent users (step 2).

        A database that is away loses nothing: the log has the message, and stores it before it is
        trimmed.

        Args:
            uids: The absent users.
            message: The message, with its number.
        """
        if not uids:
            return
        try:
            await self.offline.store_many(uids, [message])
            self.reporter.hop(message.id, OFFLINE_STORE)
        except MpimError as error:
            _log.warning(
                "%s %d waits in the log alone: %s", message.conversation, message.sequence, error
            )

    async def complete_outbox(self, entry_id: bytes) -> None:
        """Remove the outbox entry (step 3). An entry that stays is done once more, later.

        Args:
            entry_id: The entry's id.
        """
        try:
            await self.log.remove(entry_id)
        except MpimError as error:
            _log.warning("an outbox entry stays: %s", error)

    async def broadcast_system_message(
        self, request: BroadcastSystemMessageRequest
    ) -> BroadcastSystemMessageResponse:
        """Push a notice to everybody who is online; to nobody else, and to nobody twice.

        Args:
            request: The notice.

        Returns:
            How many gateways have it.

        Raises:
            InvalidMessage: Its id or its text is none.
        """
        payload = f"{checked_id(request.id)} ".encode() + encode(
            Broadcast(request.id, checked_text(request.text, MAX_BROADCAST_CHARS))
        )
        return BroadcastSystemMessageResponse(await self.queue.publish(BROADCAST_CHANNEL, payload))

    # Reading

    async def conversations(self, uid: str) -> dict[str, tuple[int, int]]:
        """Return the conversations of a user.

        Args:
            uid: The user.

        Returns:
            Read position and last number by conversation, those with news first.
        """
        direct, groups, acked = await asyncio.gather(
            self.log.direct_conversations(uid),
            self.groups.groups_of(uid),
            self.log.read_positions(uid),
        )
        lasts = await self.log.last_sequences([*direct, *map(group_conversation, groups)])
        found = sorted(lasts.items(), key=lambda each: each[1] <= acked.get(each[0], 0))
        return {name: (acked.get(name, 0), last) for name, last in found}

    async def pull_offline(self, request: PullOfflineRequest) -> PullOfflineResponse:
        """Return what came after a number, from the offline store and the log.

        Args:
            request: Who reads which conversation, after which number.

        Returns:
            The messages in order, up to the next gap.

        Raises:
            AccessDenied: The conversation is of two other users.
            NotAMember: The user is not in the group.
            NoSuchGroup: There is no such group.
            InvalidParameter: A number makes no sense.
        """
        check_bounds(0, MAX_INT, after=request.after)
        check_bounds(1, MAX_PAGE, limit=request.limit)
        await self._authorize(request.uid, request.conversation)
        last = await self.log.last_sequence(request.conversation)
        wanted = request.after + 1
        found = await self.log.read_range(request.conversation, wanted, None, request.limit)
        log_begins = found[0].sequence if found else last + 1
        if (
            log_begins > wanted
        ):  # trimmed: what had not been acknowledged by then is in the offline store
            older = await self.offline.page(
                request.uid, request.conversation, request.after, request.limit
            )
            found = [*(each for each in older if each.sequence < log_begins), *found][
                : request.limit
            ]
        return PullOfflineResponse(*_contiguous_prefix(found, wanted, last))

    async def ack(self, requests: Sequence[AckRequest]) -> list[AckResponse]:
        """Advance read positions. A late acknowledgement does not move them back.

        Nothing is stored for a conversation of two other users: whatever a client sends, its data
        stays small.

        Args:
            requests: Who has read which conversation up to where.

        Returns:
            The positions now, in the same order.

        Raises:
            InvalidParameter: A number makes no sense.
        """
        for each in requests:
            check_bounds(0, MAX_INT, sequence=each.sequence)
        own = [each for each in requests if takes_part(each.uid, each.conversation)]
        far = dict(zip(map(id, own), await self.log.ack(own), strict=True))
        return [AckResponse(far.get(id(each), 0)) for each in requests]

    async def delete_offline(self, request: AckRequest) -> int:
        """Delete what was acknowledged from the offline store.

        Args:
            request: Who has read which conversation up to where.

        Returns:
            How many messages were deleted.
        """
        return await self.offline.remove(request.uid, request.conversation, request.sequence)

    async def backlog_frames(self, uid: str) -> list[bytes]:
        """Return frames to push right after the welcome.

        Args:
            uid: The user who has connected.

        Returns:
            None of them: a client pulls what it lacks.
        """
        return []

    async def seek_to_end(self, uid: str, conversation: str, *, is_new: bool) -> int:
        """Say where a member begins to read a group.

        Args:
            uid: The user.
            conversation: The group's conversation.
            is_new: Whether the user is about to join: then it begins after the last message.

        Returns:
            The number after which it begins: the last one, or the read position.
        """
        if not is_new:
            return (await self.log.read_positions(uid)).get(conversation, 0)
        last = await self.log.last_sequence(conversation)
        await self.ack([AckRequest(uid, conversation, last)])
        return last

    async def _authorize(self, uid: str, conversation: str) -> None:
        group = group_of(conversation)
        if group is not None and uid not in await self.groups.members(group):
            raise NotAMember(f"{uid} is not in the group {group}")
        if not takes_part(uid, conversation):
            raise AccessDenied(f"{uid} does not take part in {conversation}")


def _contiguous_prefix(
    found: list[ChatMessage], first: int, last: int
) -> tuple[tuple[ChatMessage, ...], int, tuple[int, int] | None]:
    """Return the messages up to the next gap, the last number, and the gap if it comes first.

    >>> hi = ChatMessage("a:b", 3, "m3", "a", "hi")
    >>> _contiguous_prefix([hi], first=3, last=3)[1:], _contiguous_prefix([hi], first=1, last=3)[1:]
    ((3, None), (3, (1, 2)))
    >>> _contiguous_prefix([], 2, last=3)
    ((), 3, (2, 3))
    """
    missing = None
    begins = found[0].sequence if found else last + 1
    if begins > first:
        missing = (first, begins - 1)
    end = next((n for n, each in enumerate(found) if each.sequence != begins + n), len(found))
    return tuple(found[:end]), last, missing
