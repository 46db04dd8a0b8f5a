"""Desk: answers what clients ask of a gateway, frame by frame. What each frame means is in `wire.py`."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from mpim_lab.errors import AccessDenied, GroupExists, InvalidMessage, MpimError, NotAMember, TooFast, Unconfirmed
from mpim_lab.events import CHAT_LOG, SERVICE, Reporter, now
from mpim_lab.im.gateway.ack_buffer import Acknowledgements
from mpim_lab.im.gateway.config import GatewayLimits, Services
from mpim_lab.im.gateway.fast_send import QuickSend
from mpim_lab.im.gateway.metrics import Figures
from mpim_lab.im.gateway.session import Session
from mpim_lab.im.gateway.session_registry import Watching
from mpim_lab.im.protocol.frames import (
    Ack,
    Group,
    Members,
    Page,
    Ping,
    Pong,
    Problem,
    Send,
    Sent,
    Sync,
    Watch,
    encode,
    from_client,
    id_of,
    problem_of,
)
from mpim_lab.im.protocol.requests import (
    PullOfflineReq,
    SendGroupMessageReq,
    SendGroupMessageResp,
    SendMessageReq,
    SendMessageResp,
    group_conversation,
    group_of,
    is_name,
)
from mpim_lab.mq.connection.handler import TaskCancellation

_log = logging.getLogger(__name__)
_PONG = encode(Pong())
_MOST_UNDER_WAY = 64  # of one client's messages; then it waits for an answer


class TooManyFaults(Exception):
    """A client sent more that cannot be read, or came more often, than is borne."""


class Desk:
    """One for all sessions of a gateway."""

    def __init__(
        self,
        services: Services,
        watching: Watching,
        acks: Acknowledgements,
        figures: Figures,
        limits: GatewayLimits,
        reporter: Reporter,
    ) -> None:
        self._reporter = reporter
        self._services, self._acks = services, acks
        self._figures, self._limits, self._watching = figures, limits, watching
        self.quick = QuickSend(services.messages, self._ended, is_observed=reporter.is_on)
        self._answers: dict[type, Callable[[Session, Any], Awaitable[None]]] = {
            Send: self._send, Sync: self._sync, Watch: self._watch, Group: self._group, Ping: self._ping
        }  # fmt: skip

    def answer_at_once(self, session: Session, raw: bytes) -> bool:
        """Answer what needs no waiting: an acknowledgement, a message between two. False: nothing is done, use `answer`."""
        try:
            frame = from_client(raw.decode())
        except (InvalidMessage, UnicodeDecodeError):
            return False
        if type(frame) is Send:
            is_done = self._send_at_once(session, frame)
        else:
            is_done = type(frame) is Ack and self._ack_at_once(session, frame)
        if is_done:
            self._figures.received += 1
            session.heard_at = now()
        return is_done

    def _send_at_once(self, session: Session, frame: Send) -> bool:
        if frame.to is None or session.is_flooded(self._limits.most_bytes) or not session.bucket.admits(now()):
            return False
        if not self._send_quickly(session, frame):
            session.bucket.give_back()
            return False
        session.sends(frame.id)
        return True

    def _ack_at_once(self, session: Session, frame: Ack) -> bool:
        conversation, sequence = frame.conversation, frame.sequence
        if session.acks >= self._limits.most_acks or not _takes_part(session.route.uid, conversation):
            return False
        session.acks += 1
        session.acknowledge(conversation, sequence)
        stored = session.stored
        is_stored = stored is not None and conversation in stored
        if stored is not None and is_stored and sequence >= stored[conversation]:
            del stored[conversation]  # what comes now is pushed
        self._acks.add(session.route.uid, conversation, sequence, is_stored=is_stored)
        return True

    async def answer(self, session: Session, raw: bytes | str) -> None:
        """Answer one frame. Raises TooManyFaults when the connection is to be ended."""
        self._figures.received += 1
        session.heard_at = now()
        cancellations = TaskCancellation()
        try:
            frame = from_client(raw)
        except InvalidMessage as error:
            self._figures.unreadable += 1
            return self._fault(session, problem_of(error))
        if type(frame) is Ack:
            return self._ack(session, frame)
        if not session.bucket.admits(session.heard_at):
            self._figures.too_fast += 1
            told = f"at most {self._limits.rate_per_s:g} frames a second; wait and ask again"
            return self._fault(session, problem_of(TooFast(told), id_of(frame)))
        answer = self._answers.get(type(frame))
        if answer is None:
            return self._fault(session, problem_of(InvalidMessage("hello is said once, as the first frame")))
        try:
            await answer(session, frame)
        except (Exception, asyncio.CancelledError) as error:
            if cancellations.was_requested:
                raise
            self._failed(session, frame, error)
        return None

    def _failed(self, session: Session, frame: Any, error: BaseException) -> None:
        """Tell a client that it was not done. What is no error of ours is logged, and named: it may have been done."""
        self._figures.failed += type(frame) is Send
        if not isinstance(error, MpimError):
            _log.error("%s of %s", type(frame).__name__, session.route.uid, exc_info=error)
            error = Unconfirmed(f"{type(error).__name__}: {error}")
        session.say(encode(problem_of(error, id_of(frame))))

    def _fault(self, session: Session, problem: Problem) -> None:
        session.faults += 1
        session.say(encode(problem))
        if session.faults > self._limits.most_faults:
            raise TooManyFaults(problem.error)

    async def _send(self, session: Session, frame: Send) -> None:
        messages, sender = self._services.messages, session.route.uid
        await self.quick.settled(session)
        session.sends(frame.id)
        if frame.to is not None:
            if self._send_quickly(session, frame):
                return
            self._report(frame, sender)
            request = SendMessageReq(frame.id, sender, frame.to, frame.text)
            self._say_sent(session, await messages.send_message(request))
        else:
            self._report(frame, sender)
            to_all = SendGroupMessageReq(frame.id, sender, str(frame.group), frame.text)
            self._say_sent(session, await messages.send_group_message(to_all))

    def _send_quickly(self, session: Session, frame: Send) -> bool:
        """Send a message to one user without waiting for the answer; False: not at this moment."""
        if session.under_way >= _MOST_UNDER_WAY or not self.quick.begin(session, frame):
            return False
        session.under_way += 1
        return True

    def _ended(self, session: Session, frame: Send, said: SendMessageResp | BaseException) -> None:
        session.under_way -= 1
        if isinstance(said, BaseException):
            self._failed(session, frame, said)
        else:
            self._say_sent(session, said)

    def _report(self, frame: Send, sender: str) -> None:
        self._reporter.passed(frame.id, self._reporter.actor, source=sender)
        self._reporter.passed(frame.id, SERVICE)

    def _say_sent(self, session: Session, response: SendMessageResp | SendGroupMessageResp) -> None:
        self._figures.sent += 1
        session.say(encode(Sent(response.id, response.conversation, response.sequence, response.told)))

    def _ack(self, session: Session, frame: Ack) -> None:
        if self._ack_at_once(session, frame):
            return None
        session.acks += 1
        if session.acks > self._limits.most_acks:
            self._figures.too_fast += 1
            return self._fault(session, problem_of(TooFast(f"at most {self._limits.most_acks} acks at once")))
        return self._fault(session, problem_of(AccessDenied("that is no conversation of yours")))

    async def _sync(self, session: Session, frame: Sync) -> None:
        messages, uid, after = self._services.messages, session.route.uid, frame.after
        if after is None:
            after = await messages.begin_at_the_end(uid, frame.conversation, is_new=False)
        page = await messages.pull_offline(PullOfflineReq(uid, frame.conversation, after))
        session.say(encode(Page(frame.conversation, page.messages, page.last, page.missing, after)))
        if self._reporter.is_on:
            for message in (each for each in page.messages if each.sender != session.route.uid):
                self._reporter.passed(message.id, self._reporter.actor, source=CHAT_LOG)

    async def _watch(self, session: Session, frame: Watch) -> None:
        await self._watching.watch(session, frame.users)

    async def _group(self, session: Session, frame: Group) -> None:
        groups, uid, last = self._services.groups, session.route.uid, 0
        name = frame.group
        if frame.action == "create":
            members = await self._create(uid, frame)
        elif frame.action == "leave":
            members = await groups.leave(name, uid)
            session.forget(group_conversation(name))
        else:
            members = await groups.members(name)
            is_new = uid not in members  # asked again after a lost answer: nothing is passed over
            begin = partial(self._services.messages.begin_at_the_end, uid, group_conversation(name), is_new=is_new)
            if frame.action == "join":
                # Should this stop halfway, whoever asks again begins here, and not with all there ever was.
                await begin()
                members = await groups.join(name, uid)
            elif is_new:
                raise NotAMember(f"{uid} is not in the group {name}")
            last = await begin()
        session.say(encode(Members(frame.group, members, last)))

    async def _create(self, uid: str, frame: Group) -> tuple[str, ...]:
        try:
            return await self._services.groups.create(frame.group, uid, frame.members)
        except GroupExists:  # perhaps by this client, who did not hear the answer
            members = await self._services.groups.members(frame.group)
            if set(members) != {uid, *frame.members}:
                raise
            return members

    async def _ping(self, session: Session, frame: Ping) -> None:
        session.say(_PONG)


def _takes_part(uid: str, conversation: str) -> bool:
    """Whether it has the name of a group, or of a conversation of two of whom this user is one."""
    group = group_of(conversation)
    if group is not None:
        return is_name(group)
    one, _, other = conversation.partition(":")
    return uid in (one, other) and one <= other and is_name(one) and is_name(other)
