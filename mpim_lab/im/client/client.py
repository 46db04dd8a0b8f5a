"""Client: what a user of MPIM writes three lines with.

    async with Client("ws://127.0.0.1:8800/ws", token) as alice:
        await alice.send("bob", "see you at eight")
        message = await alice.receive()

It reconnects, at another gateway if it knows one; sends again, with the same id, what was not
answered; delivers each conversation's messages in order and each once; acknowledges what was read;
and fills gaps by asking for the numbers.

Exactly once, in effect, is a matter of where the position is kept: a message counts as read when
the next one is asked for (`messages`), or when `receive` returns it; `positions` is then one
further. Keep it where the effects are kept, and a client that dies begins again where they end.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, MutableMapping, Sequence
from typing import Any, Self

from mpim_lab.errors import GatewayClosed, InvalidParameter, MpimError, NotConnected
from mpim_lab.events import EventKind, Observer, Reporter, call_safely, now
from mpim_lab.im.client.connection import GatewayConnection, TokenSource
from mpim_lab.im.client.conversations import ConversationInbox
from mpim_lab.im.client.requests import RequestTracker, closed_before_sending
from mpim_lab.im.client.sequencer import MissingRange
from mpim_lab.im.protocol.frames import (
    Broadcast,
    ErrorFrame,
    FromGateway,
    Group,
    Members,
    Page,
    PresenceChanged,
    Send,
    Sent,
    WatchPresence,
    Welcome,
    correlation_id,
    validated,
)
from mpim_lab.im.protocol.periodic import run_periodically
from mpim_lab.im.protocol.requests import ChatMessage, checked_name, group_conversation
from mpim_lab.mq.connection.bounds import MAX_INT, check_bounds, check_times
from mpim_lab.mq.connection.encoding import new_message_id
from mpim_lab.mq.connection.handler import LoopAffinity, check_handler, is_async
from mpim_lab.mq.connection.retry import Backoff

_MAX_SENT_IDS = 10_000
_HOUSEKEEPING_INTERVAL_S = 0.05
_CLOSE_TIMEOUT_S = 3.0  # closing takes a second; a token that is being made may not listen


class Client:
    """One device of one user: `async with Client(address, token) as alice`. It is used once.

    Before it is opened its methods raise NotConnected, afterwards GatewayClosed, and in another
    event loop WrongLoop.

    Args:
        gateways: One gateway's address or several, tried one after another.
        token: Is called for each connection, and returns or awaits a token.
        name: Of this client, in errors and traces.
        device: Which of the user's devices it is; another connection of it is replaced.
        positions: How far each conversation was read; give your own mapping to keep it.
        response_timeout_s: Seconds that an answer may take before a message is sent again.
        timeout_s: Seconds after which `send` gives up.
        backoff: The pauses before it connects again.
        max_buffered: Messages read ahead of `receive`.
        observer: Gets an event for each step of a message.
        on_broadcast: Is called with each system notice.
        on_presence: Is called with each status of a watched user.

    Raises:
        InvalidParameter: An address, a name, a number or a callback makes no sense.
        GatewayClosed: No gateway let it in within `timeout_s`, or it is opened once more.
    """

    def __init__(
        self,
        gateways: str | Sequence[str],
        token: TokenSource,
        *,
        name: str = "client",
        device: str = "main",
        positions: MutableMapping[str, int] | None = None,
        response_timeout_s: float = 3.0,
        timeout_s: float = 30.0,
        backoff: Backoff | None = None,
        max_buffered: int = 1_000,
        observer: Observer | None = None,
        on_broadcast: Callable[[Broadcast], None] = lambda notice: None,
        on_presence: Callable[[PresenceChanged], None] = lambda status: None,
    ) -> None:
        self.name, self._reporter = name, Reporter(name, observer)
        checked_name("device", device)
        check_times(response_timeout_s=response_timeout_s, timeout_s=timeout_s)
        for callback in (on_broadcast, on_presence):
            check_handler(callback)
            if is_async(callback):
                raise InvalidParameter(
                    f"{callback!r} is async: a plain function is called, and may begin a task"
                )
        self._home = LoopAffinity(f"client {name}")
        self._is_opened = self._is_closed = False
        self.positions: MutableMapping[str, int] = {} if positions is None else positions
        for conversation, number in self.positions.items():
            check_bounds(0, MAX_INT, **{f"positions[{conversation!r}]": number})
        self._timeout_s = timeout_s
        self._on_broadcast, self._on_presence = on_broadcast, on_presence
        self.connection = GatewayConnection(
            [gateways] if isinstance(gateways, str) else list(gateways),
            token,
            device,
            on_welcome=self._on_welcome,
            on_frame=self._on_frame,
            backoff=backoff or Backoff(0.05, 2.0),
            timeout_s=5.0,
        )
        self._inbox = ConversationInbox(self.positions, max_buffered)
        self._requests = RequestTracker(self.connection, response_timeout_s, timeout_s)
        # ids sent from here: not delivered again
        self._sent_ids: OrderedDict[str, None] = OrderedDict()
        self._watched, self._welcome = set[str](), asyncio.Event()
        self.gateway = self.uid = ""
        self._tasks, self._send_tasks = list[asyncio.Task[None]](), set[asyncio.Task[Any]]()

    # Life

    async def __aenter__(self) -> Self:
        if self._is_closed or self._is_opened:
            raise closed_before_sending(f"the client {self.name} is used once; make another one")
        self._home.check()
        self._is_opened = True
        self._tasks = [
            asyncio.create_task(self.connection.run()),
            asyncio.create_task(
                run_periodically(
                    f"client {self.name}", self._housekeeping, _HOUSEKEEPING_INTERVAL_S
                )
            ),
        ]
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._welcome.wait()
            self._check_open()  # it may have been closed meanwhile
        except BaseException as error:
            await self.close()
            if isinstance(error, TimeoutError):
                raise GatewayClosed(
                    f"no gateway let {self.name} in: {self.connection.last_error}"
                ) from error
            raise
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Send what is due, and disconnect. Idempotent.

        Whoever still waits for an answer gets GatewayClosed. It takes at most four seconds,
        whatever the gateway and callbacks do.

        Raises:
            WrongLoop: It is used in another event loop or process.
        """
        self._home.check()
        try:
            if not self._is_closed:
                async with asyncio.timeout(1):
                    await self._flush_due()
        except TimeoutError:
            pass
        finally:
            await self.abort()

    async def abort(self) -> None:
        """Disconnect without a word, as a process does that is killed.

        Raises:
            WrongLoop: It is used in another event loop or process.
        """
        self._home.check()
        self._is_closed = True
        self._welcome.set()  # whoever opens it waits no longer
        self._requests.close()
        self._inbox.close()
        tasks = {*self._tasks, *self._send_tasks} - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_CLOSE_TIMEOUT_S)

    def _check_open(self, *, to_read: bool = False) -> None:
        """Refuse to send unless open; what has arrived may be read after the end."""
        self._home.check()
        if self._is_closed and to_read:
            return
        if self._is_closed:
            raise closed_before_sending(f"the client {self.name} is closed")
        if not self._is_opened:
            raise NotConnected(
                f"not opened yet: write `async with {type(self).__name__}(…) as client:`"
            )

    # Sending

    async def send(self, to: str, text: str, *, id: str | None = None) -> Sent:
        """Send a message to a user. It is kept when this returns.

        Args:
            to: The user.
            text: 1 to 4,000 characters.
            id: The message's id; the same id again is the same message. None: a new one.

        Returns:
            Its conversation, its number, and its status: "pushed", "stored" or "known".

        Raises:
            InvalidMessage: No gateway would accept it.
            TooFast: It was refused for `timeout_s`, as too many were sent.
            Unconfirmed: No answer came in time; it may be kept.
        """
        return await self._deliver(Send(new_message_id() if id is None else id, text, to=to))

    async def send_to_group(self, group: str, text: str, *, id: str | None = None) -> Sent:
        """Send a message to a group. It is kept when this returns.

        Args:
            group: The group.
            text: 1 to 4,000 characters.
            id: The message's id; the same id again is the same message. None: a new one.

        Returns:
            Its conversation, its number, and its status: "pushed", "stored" or "known".

        Raises:
            NoSuchGroup: There is no such group.
            NotAMember: The user is not in it.
            MpimError: As `send`.
        """
        return await self._deliver(Send(new_message_id() if id is None else id, text, group=group))

    async def _deliver(self, frame: Send) -> Sent:
        self._check_open()
        validated(frame)
        self._sent_ids[frame.id] = None
        if len(self._sent_ids) > _MAX_SENT_IDS:
            self._sent_ids.popitem(last=False)
        if self._reporter.is_on:
            self._trace(EventKind.ACCEPTED, frame)
        try:
            sent = await self._requests.request(frame.id, frame)
        except MpimError as error:
            if self._reporter.is_on:
                self._trace(EventKind.OUTCOME, frame, type(error).__name__)
            raise
        assert isinstance(sent, Sent)
        if self._reporter.is_on:
            self._trace(EventKind.OUTCOME, frame, sent.status)
        return sent

    def _trace(self, kind: EventKind, frame: Send, outcome: str = "") -> None:
        """Report that the application sent a message, or what it learned of it."""
        channel = f"user:{frame.to}" if frame.to is not None else f"group:{frame.group}"
        self._reporter.message(kind, frame.id.encode(), channel, outcome=outcome)

    # Groups and presence

    async def create_group(self, group: str, *members: str) -> tuple[str, ...]:
        """Create a group of this user and others.

        Args:
            group: Its name.
            members: The others.

        Returns:
            All members, sorted.

        Raises:
            GroupExists: There is one of this name.
            InvalidMessage: A name is none, or there are more than 200.
        """
        return await self._group_request(Group(group, "create", members))

    async def join(self, group: str) -> tuple[str, ...]:
        """Join a group, from its next message on.

        Args:
            group: The group.

        Returns:
            All members, sorted.

        Raises:
            NoSuchGroup: There is no such group.
        """
        return await self._group_request(Group(group, "join"))

    async def leave(self, group: str) -> tuple[str, ...]:
        """Leave a group.

        Args:
            group: The group.

        Returns:
            The members that are left, sorted.

        Raises:
            NoSuchGroup: There is no such group.
        """
        return await self._group_request(Group(group, "leave"))

    async def members(self, group: str) -> tuple[str, ...]:
        """Return who is in a group now.

        Args:
            group: A group of this user.

        Returns:
            All members, sorted.

        Raises:
            NoSuchGroup: There is no such group.
            NotAMember: The user is not in it.
        """
        return await self._group_request(Group(group, "members"))

    async def _group_request(self, frame: Group) -> tuple[str, ...]:
        self._check_open()
        validated(frame)
        with self._inbox.joining(
            group_conversation(frame.group) if frame.action == "join" else None
        ):
            answer = await self._requests.request(correlation_id(frame), frame)
        assert isinstance(answer, Members)
        return answer.members

    async def watch(self, *uids: str) -> None:
        """Have `on_presence` called with each user's status, now and whenever it changes.

        Args:
            uids: The users, in addition to those who are watched already.

        Raises:
            InvalidMessage: A name is none, or there are more than 200.
        """
        self._check_open()
        validated(WatchPresence(tuple(self._watched | set(uids))))
        self._watched.update(uids)
        # if it cannot be sent, it is sent to the next gateway
        await self.connection.send(WatchPresence(uids))

    # Reading

    async def receive(self) -> ChatMessage:
        """Return the next message; it counts as read.

        Returns:
            A message that somebody else sent, or another device of this user.

        Raises:
            GatewayClosed: The client is closed, and everything was read.
        """
        self._check_open(to_read=True)
        message = await self._inbox.next()
        self._mark_read(message)
        return message

    async def messages(self) -> AsyncIterator[ChatMessage]:
        """Iterate over the messages until the client is closed.

        One counts as read when the next is asked for.

        Yields:
            Each message, once and in the order of its conversation.
        """
        self._check_open(to_read=True)
        while True:
            try:
                message = await self._inbox.next()
            except GatewayClosed:
                return
            yield message
            self._mark_read(message)

    def _mark_read(self, message: ChatMessage) -> None:
        if self._reporter.is_on:
            self._reporter.message(EventKind.EFFECT, message.id.encode(), message.conversation)
        self._inbox.mark_read(message)

    @property
    def missing(self) -> list[MissingRange]:
        """Sequence numbers that are lost for good."""
        return self._inbox.missing

    # Frames from the gateway

    def _on_welcome(self, welcome: Welcome) -> None:
        self.gateway, self.uid = welcome.gateway, welcome.uid
        self._inbox.on_welcome(welcome)
        for frame in (*self._inbox.due_syncs(now()), *self._requests.pending):
            self._send_soon(frame)
        if self._watched:
            self._send_soon(WatchPresence(tuple(self._watched)))
        self._welcome.set()

    def _on_frame(self, frame: FromGateway) -> None:
        if isinstance(frame, Sent):
            self._inbox.on_frame(frame, now(), self._sent_ids)
            self._requests.on_response(frame.id, frame)
        elif isinstance(frame, Members):
            self._inbox.on_membership(
                group_conversation(frame.group), frame.last, is_in=self.uid in frame.members
            )
            self._requests.on_response(correlation_id(frame), frame)
        elif isinstance(frame, ErrorFrame):
            self._requests.on_error(frame)
            self._inbox.on_error(frame, now())
        elif isinstance(frame, Broadcast):
            call_safely(self._on_broadcast, frame)
        elif isinstance(frame, PresenceChanged):
            call_safely(self._on_presence, frame)
        else:
            if self._reporter.is_on:
                self._trace_received(frame)
            moment = now()
            self._inbox.on_frame(frame, moment, self._sent_ids)
            for sync in self._inbox.due_syncs(moment):
                self._send_soon(sync)

    def _trace_received(self, frame: FromGateway) -> None:
        """Report a push or a page that arrived, without the messages that were sent from here."""
        arrived = frame.messages if isinstance(frame, Page) else [frame]
        for message in arrived:
            if isinstance(message, ChatMessage) and message.id not in self._sent_ids:
                self._reporter.hop(message.id, self.name, source=self.gateway)

    # Housekeeping

    def _send_soon(self, frame: Any) -> None:
        task = asyncio.create_task(self.connection.send(frame))
        self._send_tasks.add(task)
        task.add_done_callback(self._send_tasks.discard)

    async def _flush_due(self) -> None:
        for frame in [*self._inbox.due_syncs(now()), *self._inbox.due_acks()]:
            await self.connection.send(frame)

    async def _housekeeping(self) -> None:
        if self.connection.is_connected:
            await self._flush_due()
            await self.connection.send_keepalive()
