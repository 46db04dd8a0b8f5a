"""Messages: the message service, sound. What it has said "sent" to is delivered once and in order, whoever dies meanwhile.

| step | what                                                           | if the service dies after it                       |
|------|----------------------------------------------------------------|----------------------------------------------------|
| 1    | one atomic step: known? otherwise number, keep in the log,     | the client sends again with the same id, and is    |
|      | push to the receiver; of a group's message, note in the outbox | told "known"; the outbox pushes to a group         |
| 2    | for whom nobody listened: into the offline store               | the log has it; it is archived before it is        |
|      |                                                                | trimmed                                            |
| 3    | of a group's message: strike it from the outbox                | it is pushed again; clients know its number        |
| 4    | tell the sender                                                | as after step 1                                    |

A push may be lost on its way (Pub/Sub is at most once). The receiving client acknowledges numbers, sees gaps, and pulls by
number: from the log, and what was trimmed there from the offline store. So a push only has to be fast; the log is right.

A group's message is written once and read by everybody (fan-out on read), and its push costs a fixed number of round trips:
members (one), step 1 (one), all members' pushes in one pipeline, with a look who joined meanwhile (one), step 3 (one).
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

from mpim_lab.errors import AccessDenied, MpimError, NotAMember
from mpim_lab.events import CHAT_LOG, OFFLINE_STORE, SERVICE, Observer, Reporter
from mpim_lab.im.protocol.frames import Notice, encode, pushed
from mpim_lab.im.protocol.requests import (
    MOST_NOTICE,
    AckReq,
    AckResp,
    BroadcastSystemMessageReq,
    BroadcastSystemMessageResp,
    ChatMessage,
    PullOfflineReq,
    PullOfflineResp,
    SendGroupMessageReq,
    SendGroupMessageResp,
    SendMessageReq,
    SendMessageResp,
    checked_id,
    checked_text,
    group_conversation,
    group_of,
)
from mpim_lab.im.services.groups import Groups
from mpim_lab.im.services.message_log import Kept, Ledger
from mpim_lab.im.services.offline import MOST_PAGE, OfflineStore
from mpim_lab.keys import BROADCAST_CHANNEL, user_channel
from mpim_lab.mq.connection.bounds import MAX_INT, check_bounds
from mpim_lab.mq.connection.encoding import publish_prefix
from mpim_lab.mq.connection.reconnecting import call_many
from mpim_lab.mq.pubsub.queue import MessageQueue

_MOST_BYTES_AT_ONCE = 4 * 1024 * 1024  # of a group's pushes
_log = logging.getLogger(__name__)


class FanOut(NamedTuple):
    """What became of a message's pushes: to how many, for whom it waits, who could not be told."""

    pushed: int
    absent: tuple[str, ...]
    failed: tuple[str, ...]


class Messages:
    """The message service over one server and one database. After an error of the connection send again with the same id."""

    ordered: ClassVar[bool] = True

    def __init__(
        self,
        queue: MessageQueue,
        groups: Groups,
        offline: OfflineStore,
        *,
        ledger: Ledger | None = None,
        observer: Observer | None = None,
    ) -> None:
        self.queue, self.groups, self.offline = queue, groups, offline
        self.ledger, self.reporter = ledger or Ledger(queue), Reporter(SERVICE, observer)

    # Sending

    async def send_message(self, request: SendMessageReq) -> SendMessageResp:
        """Keep a message for one user and push it. The same id again is the same message."""
        return await self.told(request, await self.keep(request.message, [request.to, request.sender]))

    async def told(self, request: SendMessageReq, kept: Kept) -> SendMessageResp:
        """What the sender is told once the message is kept; if nobody listened, it is stored first (step 2)."""
        if kept.told == "stored":
            await self.store([request.to], kept.message)
        return SendMessageResp(request.id, kept.message.conversation, kept.message.sequence, kept.told)

    async def send_group_message(self, request: SendGroupMessageReq) -> SendGroupMessageResp:
        """Keep a message for a group and push it to its members. Raises NoSuchGroup, NotAMember."""
        members = await self.groups.members(request.group)
        if request.sender not in members:
            raise NotAMember(f"{request.sender} is not in the group {request.group}")
        conversation = group_conversation(request.group)
        kept = await self.keep(request.message)
        if not kept.is_new:
            return SendGroupMessageResp(request.id, conversation, kept.message.sequence, "known")
        # Asked again, with the pushes: who joined meanwhile begins before this number, and must be told of it.
        out, now_in = await asyncio.gather(self.push(kept.message, members), self.groups.members(request.group))
        if joined := sorted(set(now_in) - set(members)):
            more = await self.push(kept.message, joined)
            out = FanOut(out.pushed + more.pushed, out.absent + more.absent, out.failed + more.failed)
        waiting = [uid for uid in out.absent if uid != request.sender]
        await self.store(waiting, kept.message)
        if not out.failed:
            await self.strike(kept.todo)
        told = "pushed" if out.pushed else "stored"
        return SendGroupMessageResp(
            request.id, conversation, kept.message.sequence, told, out.pushed, len(waiting), out.failed
        )

    async def keep(self, message: ChatMessage, receivers: Sequence[str] = ()) -> Kept:
        """Step 1. Without receivers it is a group's."""
        checked_id(message.id)
        checked_text(message.text)
        kept = await self.ledger.append(message, receivers, is_group=not receivers)
        self.reporter.passed(message.id, CHAT_LOG)
        if receivers and kept.is_new:
            self.reporter.passed(message.id, user_channel(receivers[0]), count=kept.listened)
        return kept

    async def push(self, message: ChatMessage, members: Sequence[str]) -> FanOut:
        """Push to many in one pipeline: each answer says how many gateways listened, at that moment."""
        payload = pushed(message)
        tail = b"%d\r\n%b\r\n" % (len(payload), payload)
        at_once = max(1, _MOST_BYTES_AT_ONCE // (len(tail) + 128))
        counts, channel = list[Any](), self.queue.keys.channel
        for begin in range(0, len(members), at_once):  # once, unless the text is long and the group is large
            some = members[begin : begin + at_once]
            commands = [publish_prefix(channel(user_channel(uid))) + tail for uid in some]
            try:
                counts += await call_many(self.queue.connection, commands)
            except MpimError as error:  # nothing was written
                counts += [error] * len(some)
        failed = tuple(uid for uid, count in zip(members, counts, strict=True) if isinstance(count, BaseException))
        absent = tuple(uid for uid, count in zip(members, counts, strict=True) if count == 0)
        if self.reporter.is_on:
            for uid, count in zip(members, counts, strict=True):
                if uid != message.sender and not isinstance(count, BaseException):
                    self.reporter.passed(message.id, user_channel(uid), count=count)
        return FanOut(len(members) - len(absent) - len(failed), absent, failed)

    async def store(self, uids: Sequence[str], message: ChatMessage) -> None:
        """Step 2. A database that is away loses nothing: the log has the message, and stores it before it is trimmed."""
        if not uids:
            return
        try:
            await self.offline.store_many(uids, [message])
            self.reporter.passed(message.id, OFFLINE_STORE)
        except MpimError as error:
            _log.warning("%s %d waits in the log alone: %s", message.conversation, message.sequence, error)

    async def strike(self, todo: bytes) -> None:
        """Step 3. An entry that stays is done once more, later."""
        try:
            await self.ledger.done(todo)
        except MpimError as error:
            _log.warning("an outbox entry stays: %s", error)

    async def broadcast_system_message(self, request: BroadcastSystemMessageReq) -> BroadcastSystemMessageResp:
        """Tell everybody who is online; nobody else, and nobody twice."""
        payload = f"{checked_id(request.id)} ".encode() + encode(
            Notice(request.id, checked_text(request.text, MOST_NOTICE))
        )
        return BroadcastSystemMessageResp(await self.queue.publish(BROADCAST_CHANNEL, payload))

    # Reading

    async def conversations(self, uid: str) -> dict[str, tuple[int, int]]:
        """Each of a user's conversations, those with news first: how far she has acknowledged it, and its last number."""
        talks, groups, acked = await asyncio.gather(
            self.ledger.talks(uid), self.groups.groups_of(uid), self.ledger.acked(uid)
        )
        lasts = await self.ledger.lasts([*talks, *map(group_conversation, groups)])
        found = sorted(lasts.items(), key=lambda each: each[1] <= acked.get(each[0], 0))
        return {name: (acked.get(name, 0), last) for name, last in found}

    async def pull_offline(self, request: PullOfflineReq) -> PullOfflineResp:
        """What came after a number, from the offline store and the log.

        Raises AccessDenied, NoSuchGroup, InvalidParameter.
        """
        check_bounds(0, MAX_INT, after=request.after)
        check_bounds(1, MOST_PAGE, limit=request.limit)
        await self._admit(request.uid, request.conversation)
        last = await self.ledger.last(request.conversation)
        wanted = request.after + 1
        found = await self.ledger.between(request.conversation, wanted, None, request.limit)
        log_begins = found[0].sequence if found else last + 1
        if log_begins > wanted:  # trimmed: what had not been acknowledged by then is in the offline store
            older = await self.offline.page(request.uid, request.conversation, request.after, request.limit)
            found = [*(each for each in older if each.sequence < log_begins), *found][: request.limit]
        return PullOfflineResp(*_until_a_gap(found, wanted, last))

    async def ack(self, requests: Sequence[AckReq]) -> list[AckResp]:
        """Note how far users are. What they have is not turned back by an acknowledgement that comes late.

        Of a conversation of two others nothing is noted: whatever a client says, what is kept of it stays small.
        """
        for each in requests:
            check_bounds(0, MAX_INT, sequence=each.sequence)
        own = [each for each in requests if _may_take_part(each.uid, each.conversation)]
        far = dict(zip(map(id, own), await self.ledger.ack(own), strict=True))
        return [AckResp(far.get(id(each), 0)) for each in requests]

    async def forget_stored(self, request: AckReq) -> int:
        """After an acknowledgement: delete what the offline store has of it; gives how many messages."""
        return await self.offline.remove(request.uid, request.conversation, request.sequence)

    async def on_welcome(self, uid: str) -> list[bytes]:
        """Frames that a client gets unasked when it comes: none, it pulls what it lacks."""
        return []

    async def begin_at_the_end(self, uid: str, conversation: str, *, is_new: bool) -> int:
        """Whoever joins a group begins with what comes next; whoever is in it already, where she was. Gives the number."""
        if not is_new:
            return (await self.ledger.acked(uid)).get(conversation, 0)
        last = await self.ledger.last(conversation)
        await self.ack([AckReq(uid, conversation, last)])
        return last

    async def _admit(self, uid: str, conversation: str) -> None:
        group = group_of(conversation)
        if group is not None and uid not in await self.groups.members(group):
            raise NotAMember(f"{uid} is not in the group {group}")
        if not _may_take_part(uid, conversation):
            raise AccessDenied(f"{uid} does not take part in {conversation}")


def _may_take_part(uid: str, conversation: str) -> bool:
    """Whether it is a group's, or the user is one of the two.

    >>> _may_take_part("bob", "alice:bob"), _may_take_part("eve", "alice:bob"), _may_take_part("eve", "#tea")
    (True, False, True)
    """
    return group_of(conversation) is not None or uid in conversation.split(":")


def _until_a_gap(
    found: list[ChatMessage], wanted: int, last: int
) -> tuple[tuple[ChatMessage, ...], int, tuple[int, int] | None]:
    """The messages up to the next hole, the last number, and the hole if it comes first.

    >>> hi = ChatMessage("a:b", 3, "m3", "a", "hi")
    >>> _until_a_gap([hi], wanted=3, last=3)[1:], _until_a_gap([hi], wanted=1, last=3)[1:], _until_a_gap([], 2, last=3)
    ((3, None), (3, (1, 2)), ((), 3, (2, 3)))
    """
    missing = None
    begins = found[0].sequence if found else last + 1
    if begins > wanted:
        missing = (wanted, begins - 1)
    end = next((n for n, each in enumerate(found) if each.sequence != begins + n), len(found))
    return tuple(found[:end]), last, missing
