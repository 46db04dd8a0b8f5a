"""FrameHandler: dispatches the frames of clients.

What each frame means is in `protocol/frames.py`.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from mpim_lab.errors import (
    AccessDenied,
    GroupExists,
    InvalidMessage,
    MpimError,
    NotAMember,
    TooFast,
    Unconfirmed,
)
from mpim_lab.events import CHAT_LOG, SERVICE, Reporter, now
from mpim_lab.im.gateway.ack_buffer import AckBuffer
from mpim_lab.im.gateway.config import GatewayConfig, GatewayServices
from mpim_lab.im.gateway.fast_send import FastSender
from mpim_lab.im.gateway.metrics import GatewayMetrics
from mpim_lab.im.gateway.session import Session
from mpim_lab.im.gateway.session_registry import PresenceWatcher
from mpim_lab.im.protocol.frames import (
    Ack,
    ErrorFrame,
    Group,
    Members,
    Page,
    Ping,
    Pong,
    Send,
    Sent,
    Sync,
    WatchPresence,
    correlation_id,
    decode_client,
    encode,
    error_frame,
)
from mpim_lab.im.protocol.requests import (
    PullOfflineRequest,
    SendGroupMessageRequest,
    SendGroupMessageResponse,
    SendMessageRequest,
    SendMessageResponse,
    group_conversation,
    takes_part,
)
from mpim_lab.mq.connection.handler import TaskCancellation

_log = logging.getLogger(__name__)
_PONG = encode(Pong())
_MAX_IN_FLIGHT = 64  # messages of one client; then it waits for an answer


class TooManyViolations(Exception):
    """A client sent more frames that cannot be read, or came too fast, than `max_violations`."""


class FrameHandler:
    """The dispatcher of one gateway's frames, for all its sessions."""

    def __init__(
        self,
        services: GatewayServices,
        presence_watcher: PresenceWatcher,
        acks: AckBuffer,
        metrics: GatewayMetrics,
        config: GatewayConfig,
        reporter: Reporter,
    ) -> None:
        self._reporter = reporter
        self._services, self._acks = services, acks
        self._metrics, self._config, self._presence_watcher = metrics, config, presence_watcher
        self.fast_sender = FastSender(services.messages, self._on_send_done)
        self._handlers: dict[type, Callable[[Session, Any], Awaitable[None]]] = {
            Send: self._send, Sync: self._sync, WatchPresence: self._watch, Group: self._group, Ping: self._ping
        }  # fmt: skip

    def try_handle_sync(self, session: Session, raw: bytes) -> bool:
        """Handle what needs no waiting: an acknowledgement, a direct message.

        Return False if not: use `handle`.
        """
        try:
            frame = decode_client(raw.decode())
        except (InvalidMessage, UnicodeDecodeError):
            return False
        if type(frame) is Send:
            is_done = self._try_send_sync(session, frame)
        else:
            is_done = type(frame) is Ack and self._try_ack_sync(session, frame)
        if is_done:
            self._metrics.received += 1
            session.last_received_at = now()
        return is_done

    def _try_send_sync(self, session: Session, frame: Send) -> bool:
        if (
            frame.to is None
            or session.is_over_limit(self._config.max_send_buffer_bytes)
            or not session.bucket.try_acquire(now())
        ):
            return False
        if not self._try_send(session, frame):
            session.bucket.refund()
            return False
        session.note_sent(frame.id)
        return True

    def _try_ack_sync(self, session: Session, frame: Ack) -> bool:
        conversation, sequence = frame.conversation, frame.sequence
        if session.ack_count >= self._config.max_acks or not takes_part(
            session.route.uid, conversation
        ):
            return False
        session.ack_count += 1
        session.on_ack(conversation, sequence)
        stored = session.offline
        is_stored = stored is not None and conversation in stored
        if stored is not None and is_stored and sequence >= stored[conversation]:
            del stored[conversation]  # what comes now is pushed
        self._acks.add(session.route.uid, conversation, sequence, is_stored=is_stored)
        return True

    async def handle(self, session: Session, raw: bytes | str) -> None:
        """Handle one frame. Raises TooManyViolations when the connection is to be closed."""
        self._metrics.received += 1
        session.last_received_at = now()
        cancellations = TaskCancellation()
        try:
            frame = decode_client(raw)
        except InvalidMessage as error:
            self._metrics.unreadable += 1
            return self._violation(session, error_frame(error))
        if type(frame) is Ack:
            return self._ack(session, frame)
        if not session.bucket.try_acquire(session.last_received_at):
            self._metrics.too_fast += 1
            text = f"at most {self._config.rate_per_s:g} frames a second; wait and ask again"
            return self._violation(session, error_frame(TooFast(text), correlation_id(frame)))
        handler = self._handlers.get(type(frame))
        if handler is None:
            return self._violation(
                session, error_frame(InvalidMessage("hello is sent once, as the first frame"))
            )
        try:
            await handler(session, frame)
        except (Exception, asyncio.CancelledError) as error:
            if cancellations.was_requested:
                raise
            self._send_error(session, frame, error)
        return None

    def _send_error(self, session: Session, frame: Any, error: BaseException) -> None:
        """Send an error to a client.

        What is no error of ours is logged, and becomes Unconfirmed: it may have been done.
        """
        self._metrics.failed += type(frame) is Send
        if not isinstance(error, MpimError):
            _log.error("%s of %s", type(frame).__name__, session.route.uid, exc_info=error)
            error = Unconfirmed(f"{type(error).__name__}: {error}")
        session.enqueue(encode(error_frame(error, correlation_id(frame))))

    def _violation(self, session: Session, error: ErrorFrame) -> None:
        session.violations += 1
        session.enqueue(encode(error))
        if session.violations > self._config.max_violations:
            raise TooManyViolations(error.error)

    async def _send(self, session: Session, frame: Send) -> None:
        messages, sender = self._services.messages, session.route.uid
        await self.fast_sender.wait_for_retries(session)
        session.note_sent(frame.id)
        if frame.to is not None:
            if self._try_send(session, frame):
                return
            self._trace(frame, sender)
            request = SendMessageRequest(frame.id, sender, frame.to, frame.text)
            self._send_receipt(session, await messages.send_message(request))
        else:
            self._trace(frame, sender)
            to_all = SendGroupMessageRequest(frame.id, sender, str(frame.group), frame.text)
            self._send_receipt(session, await messages.send_group_message(to_all))

    def _try_send(self, session: Session, frame: Send) -> bool:
        """Send a message to one user without waiting for the reply.

        Return False if not possible now.
        """
        if session.in_flight >= _MAX_IN_FLIGHT or not self.fast_sender.try_send(session, frame):
            return False
        session.in_flight += 1
        if self._reporter.is_on:
            self._trace(frame, session.route.uid)
        return True

    def _on_send_done(
        self, session: Session, frame: Send, outcome: SendMessageResponse | BaseException
    ) -> None:
        session.in_flight -= 1
        if isinstance(outcome, BaseException):
            self._send_error(session, frame, outcome)
        else:
            self._send_receipt(session, outcome)

    def _trace(self, frame: Send, sender: str) -> None:
        self._reporter.hop(frame.id, self._reporter.actor, source=sender)
        self._reporter.hop(frame.id, SERVICE)

    def _send_receipt(
        self, session: Session, response: SendMessageResponse | SendGroupMessageResponse
    ) -> None:
        self._metrics.sent += 1
        session.enqueue(
            encode(Sent(response.id, response.conversation, response.sequence, response.status))
        )

    def _ack(self, session: Session, frame: Ack) -> None:
        if self._try_ack_sync(session, frame):
            return None
        session.ack_count += 1
        if session.ack_count > self._config.max_acks:
            self._metrics.too_fast += 1
            return self._violation(
                session, error_frame(TooFast(f"at most {self._config.max_acks} acks at once"))
            )
        return self._violation(
            session, error_frame(AccessDenied("that is no conversation of yours"))
        )

    async def _sync(self, session: Session, frame: Sync) -> None:
        messages, uid, after = self._services.messages, session.route.uid, frame.after
        if after is None:
            after = await messages.seek_to_end(uid, frame.conversation, is_new=False)
        page = await messages.pull_offline(PullOfflineRequest(uid, frame.conversation, after))
        session.enqueue(
            encode(Page(frame.conversation, page.messages, page.last, page.missing, after))
        )
        if self._reporter.is_on:
            for message in (each for each in page.messages if each.sender != session.route.uid):
                self._reporter.hop(message.id, self._reporter.actor, source=CHAT_LOG)

    async def _watch(self, session: Session, frame: WatchPresence) -> None:
        await self._presence_watcher.watch(session, frame.users)

    async def _group(self, session: Session, frame: Group) -> None:
        groups, uid, last = self._services.groups, session.route.uid, 0
        name = frame.group
        if frame.action == "create":
            members = await self._create(uid, frame)
        elif frame.action == "leave":
            members = await groups.leave(name, uid)
            session.drop_conversation(group_conversation(name))
        else:
            members = await groups.members(name)
            is_new = uid not in members  # asked again after a lost answer: nothing is skipped
            begin = partial(
                self._services.messages.seek_to_end, uid, group_conversation(name), is_new=is_new
            )
            if frame.action == "join":
                # Should this stop halfway, whoever asks again begins here, and not with all there
                # ever was.
                await begin()
                members = await groups.join(name, uid)
            elif is_new:
                raise NotAMember(f"{uid} is not in the group {name}")
            last = await begin()
        session.enqueue(encode(Members(frame.group, members, last)))

    async def _create(self, uid: str, frame: Group) -> tuple[str, ...]:
        try:
            return await self._services.groups.create(frame.group, uid, frame.members)
        except GroupExists:  # perhaps by this client, which did not receive the answer
            members = await self._services.groups.members(frame.group)
            if set(members) != {uid, *frame.members}:
                raise
            return members

    async def _ping(self, session: Session, frame: Ping) -> None:
        session.enqueue(_PONG)
