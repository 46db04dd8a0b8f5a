"""FrameHandler: what a gateway does with the frames of clients.

What each frame means is in `protocol/frames.py`. A frame is decoded and charged once, in
`_process`, which also handles what needs no waiting. What is left is for `handle`, in the
connection's task.
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
from mpim_lab.im.gateway.presence_watcher import PresenceWatcher
from mpim_lab.im.gateway.session import Session
from mpim_lab.im.protocol.frames import (
    Ack,
    ErrorFrame,
    FromClient,
    Group,
    Hello,
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
            Send: self._send,
            Sync: self._sync,
            WatchPresence: self._watch,
            Group: self._group,
            Ping: self._ping,
        }

    def on_frame(self, session: Session, raw: bytes) -> bool:
        """Handle a frame at once. Return False if it has to wait: then `handle` goes on with it."""
        try:
            text = raw.decode()
        except UnicodeDecodeError:  # the library ends the connection for it
            return False
        session.undone = self._process(session, text)
        return session.undone is None

    async def handle(self, session: Session, raw: bytes | str) -> None:
        """Handle one frame. Raises TooManyViolations when the connection is to be closed."""
        frame = session.undone or self._process(session, raw)
        session.undone = None
        if frame is None:
            return
        if isinstance(frame, ErrorFrame):
            session.violations += 1
            session.enqueue(encode(frame))
            if session.violations > self._config.max_violations:
                raise TooManyViolations(frame.error)
            return
        cancellations = TaskCancellation()
        try:
            await self._handlers[type(frame)](session, frame)
        except (Exception, asyncio.CancelledError) as error:
            if cancellations.was_requested:
                raise
            self._send_error(session, frame, error)

    def _process(self, session: Session, raw: bytes | str) -> FromClient | ErrorFrame | None:
        """Decode a frame, charge it, and do what needs no waiting.

        Return what is left to do: the frame, or an error, which counts as a violation.
        """
        self._metrics.received += 1
        session.last_received_at = moment = now()
        try:
            frame = decode_client(raw)
        except InvalidMessage as error:
            self._metrics.unreadable += 1
            return error_frame(error)
        if type(frame) is Ack:
            return self._ack(session, frame)
        if not session.bucket.try_acquire(moment):
            self._metrics.too_fast += 1
            text = f"at most {self._config.rate_per_s:g} frames a second; wait and ask again"
            return error_frame(TooFast(text), correlation_id(frame))
        if type(frame) is Send and self._try_send(session, frame):
            return None
        if type(frame) is Hello:
            return error_frame(InvalidMessage("hello is sent once, as the first frame"))
        return frame

    def _ack(self, session: Session, frame: Ack) -> ErrorFrame | None:
        session.ack_count += 1
        if session.ack_count > self._config.max_acks:
            self._metrics.too_fast += 1
            return error_frame(TooFast(f"at most {self._config.max_acks} acks at once"))
        uid, conversation, sequence = session.route.uid, frame.conversation, frame.sequence
        if not takes_part(uid, conversation):
            return error_frame(AccessDenied("that is no conversation of yours"))
        session.on_ack(conversation, sequence)
        stored = session.offline
        is_stored = stored is not None and conversation in stored
        if stored is not None and is_stored and sequence >= stored[conversation]:
            del stored[conversation]  # what comes now is pushed
        self._acks.add(uid, conversation, sequence, is_stored=is_stored)
        return None

    def _try_send(self, session: Session, frame: Send) -> bool:
        """Send a message to one user without waiting for the reply.

        Return False if not possible now.
        """
        if (
            frame.to is None
            or session.in_flight >= _MAX_IN_FLIGHT
            or session.is_over_limit(self._config.max_send_buffer_bytes)
            or not self.fast_sender.try_send(session, frame)
        ):
            return False
        session.in_flight += 1
        session.note_sent(frame.id)
        if self._reporter.is_on:
            self._trace(frame, session.route.uid)
        return True

    async def _send(self, session: Session, frame: Send) -> None:
        """Send what has to wait: a group's message, or one that cannot be written now."""
        messages, sender = self._services.messages, session.route.uid
        await self.fast_sender.wait_for_retries(session)
        session.note_sent(frame.id)
        self._trace(frame, sender)
        if frame.to is not None:
            request = SendMessageRequest(frame.id, sender, frame.to, frame.text)
            self._send_receipt(session, await messages.send_message(request))
        else:
            to_all = SendGroupMessageRequest(frame.id, sender, str(frame.group), frame.text)
            self._send_receipt(session, await messages.send_group_message(to_all))

    def _send_error(self, session: Session, frame: Any, error: BaseException) -> None:
        """Send an error to a client.

        What is no error of ours is logged, and becomes Unconfirmed: it may have been done.
        """
        self._metrics.failed += type(frame) is Send
        if not isinstance(error, MpimError):
            _log.error("%s of %s", type(frame).__name__, session.route.uid, exc_info=error)
            error = Unconfirmed(f"{type(error).__name__}: {error}")
        session.enqueue(encode(error_frame(error, correlation_id(frame))))

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
