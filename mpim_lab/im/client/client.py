"""Client: what a user of MPIM writes three lines with.

    async with Client("ws://127.0.0.1:8800/ws", token) as alice:
        await alice.send("bob", "see you at eight")
        message = await alice.receive()

It reconnects, at another gateway if it knows one; sends again, with the same id, what was not answered; hands over each
conversation's messages in order and each once; acknowledges what was taken; and fills gaps by asking for the numbers.

Exactly once, in effect, is a matter of where the position is kept: a message counts as read when the next one is asked for
(`messages`), or when `receive` returns it; `positions` is then one further. Keep it where the effects are kept, and a client
that dies begins again where they end.

Journal: what a client reports of its messages to a trace. Nothing is built where nobody observes.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Container, MutableMapping, Sequence
from typing import Any, Self

from mpim_lab.errors import GatewayClosed, InvalidParameter, MpimError, NotConnected
from mpim_lab.events import Kind, Observer, Reporter, call_safely, now
from mpim_lab.im.client.connection import Line, Token
from mpim_lab.im.client.conversations import Readers
from mpim_lab.im.client.requests import Asking, not_sent
from mpim_lab.im.client.sequencer import Missing
from mpim_lab.im.protocol.frames import (
    FromGateway,
    Group,
    Members,
    Notice,
    Page,
    Problem,
    Send,
    Sent,
    Status,
    Watch,
    Welcome,
    checked,
)
from mpim_lab.im.protocol.periodic import go_round
from mpim_lab.im.protocol.requests import ChatMessage, checked_name, group_conversation
from mpim_lab.mq.connection.bounds import MAX_INT, check_bounds, check_times
from mpim_lab.mq.connection.handler import LoopAffinity, check_handler, is_async
from mpim_lab.mq.connection.ids import new_message_id
from mpim_lab.mq.connection.retry import Backoff


class Journal:
    """One client's."""

    def __init__(self, name: str, observer: Observer | None) -> None:
        self._name, self._reporter = name, Reporter(name, observer)

    def accepted(self, frame: Send) -> None:
        """The application handed over a message."""
        self._of(Kind.ACCEPTED, frame)

    def told(self, frame: Send, what: str) -> None:
        """The application was told what became of it."""
        self._of(Kind.TOLD, frame, what)

    def _of(self, kind: Kind, frame: Send, detail: str = "") -> None:
        if self._reporter.is_on:
            channel = f"user:{frame.to}" if frame.to is not None else f"group:{frame.group}"
            self._reporter.message(kind, frame.id.encode(), channel, detail=detail)

    def arrived(self, frame: FromGateway, gateway: str, own: Container[str]) -> None:
        """A push or a page arrived; what was sent from here is no news."""
        if self._reporter.is_on:
            arrived = frame.messages if isinstance(frame, Page) else [frame] if isinstance(frame, ChatMessage) else []
            for message in arrived:
                if message.id not in own:
                    self._reporter.passed(message.id, self._name, source=gateway)

    def read(self, message: ChatMessage) -> None:
        """The application has read a message."""
        if self._reporter.is_on:
            self._reporter.message(Kind.EFFECT, message.id.encode(), message.conversation)


_MOST_KNOWN = 10_000
_TICK_S = 0.05
_CLOSE_S = 3.0  # hanging up takes a second; a token that is being made may not listen


class Client:
    """One device of one user. `token()` makes a token for each connection; gateways: one address or several.

    positions: how far each conversation was read; give your own mapping to keep it. answer_s: how long an answer may take
    before a message is sent again; timeout_s: after which `send` gives up. limit: messages read ahead of `receive`.
    Of one event loop: WrongLoop elsewhere. Before it is opened its methods raise NotConnected, afterwards GatewayClosed.
    """

    def __init__(
        self,
        gateways: str | Sequence[str],
        token: Token,
        *,
        name: str = "client",
        device: str = "main",
        positions: MutableMapping[str, int] | None = None,
        answer_s: float = 3.0,
        timeout_s: float = 30.0,
        backoff: Backoff | None = None,
        limit: int = 1_000,
        observer: Observer | None = None,
        on_notice: Callable[[Notice], None] = lambda notice: None,
        on_status: Callable[[Status], None] = lambda status: None,
    ) -> None:
        self.name, self._journal = name, Journal(name, observer)
        checked_name("device", device)
        check_times(answer_s=answer_s, timeout_s=timeout_s)
        for callback in (on_notice, on_status):
            check_handler(callback)
            if is_async(callback):
                raise InvalidParameter(f"{callback!r} is async: a plain function is called, and may begin a task")
        self._home, self._is_opened, self._is_closed = LoopAffinity(f"client {name}"), False, False
        self.positions: MutableMapping[str, int] = {} if positions is None else positions
        for conversation, number in self.positions.items():
            check_bounds(0, MAX_INT, **{f"positions[{conversation!r}]": number})
        self._timeout_s, self._on_notice, self._on_status = timeout_s, on_notice, on_status
        self.line = Line(
            [gateways] if isinstance(gateways, str) else list(gateways), token, device,
            on_welcome=self._on_welcome, on_frame=self._on_frame, backoff=backoff or Backoff(0.05, 2.0), timeout_s=5.0,
        )  # fmt: skip
        self._readers, self._asking = Readers(self.positions, limit), Asking(self.line, answer_s, timeout_s)
        self._own: OrderedDict[str, None] = OrderedDict()  # ids sent from here: not handed over again
        self._watched, self._welcome, self.gateway, self.uid = set[str](), asyncio.Event(), "", ""
        self._tasks, self._later = list[asyncio.Task[None]](), set[asyncio.Task[Any]]()

    # Life

    async def __aenter__(self) -> Self:
        if self._is_closed or self._is_opened:
            raise not_sent(f"the client {self.name} is used once; make another one")
        self._home.check()
        self._is_opened = True
        self._tasks = [
            asyncio.create_task(self.line.run()),
            asyncio.create_task(go_round(f"client {self.name}", self._look, _TICK_S)),
        ]
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._welcome.wait()
            self._check_open()  # it may have been closed meanwhile
        except BaseException as error:
            await self.close()
            if isinstance(error, TimeoutError):
                raise GatewayClosed(f"no gateway let {self.name} in: {self.line.why}") from error
            raise
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Say what is due, and leave. Whoever still waits for an answer gets GatewayClosed. Twice is harmless.

        Takes a second for what is due, and at most `_CLOSE_S` for the rest, whatever the gateway and callbacks do.
        """
        self._home.check()
        try:
            if not self._is_closed:
                async with asyncio.timeout(1):
                    await self._say_due()
        except TimeoutError:
            pass
        finally:
            await self.die()

    async def die(self) -> None:
        """Leave without a word, as a process does that is killed."""
        self._home.check()
        self._is_closed = True
        self._welcome.set()  # whoever opens it waits no longer
        self._asking.close()
        self._readers.close()
        tasks = {*self._tasks, *self._later} - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_CLOSE_S)

    def _check_open(self) -> None:
        self._home.check()
        if self._is_closed:
            raise not_sent(f"the client {self.name} is closed")
        if not self._is_opened:
            raise NotConnected(f"not opened yet: write `async with {type(self).__name__}(…) as client:`")

    # Sending

    async def send(self, to: str, text: str, *, id: str | None = None) -> Sent:
        """Send to a user; returns when the message is kept. The same id again is the same message.

        Raises InvalidMessage, TooFast when it stays too fast, Unconfirmed when no answer came in time: it may be kept.
        """
        return await self._deliver(Send(new_message_id() if id is None else id, text, to=to))

    async def send_to_group(self, group: str, text: str, *, id: str | None = None) -> Sent:
        """Send to a group. Raises NoSuchGroup, NotAMember, and as `send`."""
        return await self._deliver(Send(new_message_id() if id is None else id, text, group=group))

    async def _deliver(self, frame: Send) -> Sent:
        self._check_open()
        checked(frame)
        self._own[frame.id] = None
        if len(self._own) > _MOST_KNOWN:
            self._own.popitem(last=False)
        self._journal.accepted(frame)
        try:
            sent = await self._asking.ask(frame)
        except MpimError as error:
            self._journal.told(frame, type(error).__name__)
            raise
        assert isinstance(sent, Sent)
        self._journal.told(frame, sent.told)
        return sent

    # Groups and presence

    async def create_group(self, group: str, *members: str) -> tuple[str, ...]:
        """Make a group of me and these; gives its members. Raises GroupExists."""
        return await self._ask_of(Group(group, "create", members))

    async def join(self, group: str) -> tuple[str, ...]:
        """Join a group: I get what is written from now on. Raises NoSuchGroup."""
        return await self._ask_of(Group(group, "join"))

    async def leave(self, group: str) -> tuple[str, ...]:
        """Leave a group."""
        return await self._ask_of(Group(group, "leave"))

    async def members(self, group: str) -> tuple[str, ...]:
        """Who is in a group of mine now. Raises NoSuchGroup, NotAMember."""
        return await self._ask_of(Group(group, "members"))

    async def _ask_of(self, frame: Group) -> tuple[str, ...]:
        self._check_open()
        checked(frame)
        with self._readers.joining(group_conversation(frame.group) if frame.action == "join" else None):
            answer = await self._asking.ask(frame)
        assert isinstance(answer, Members)
        return answer.members

    async def watch(self, *uids: str) -> None:
        """Have `on_status` called with each user's status, now and whenever it changes. InvalidMessage: more than 200."""
        self._check_open()
        checked(Watch(tuple(self._watched | set(uids))))
        self._watched.update(uids)
        await self.line.say(Watch(uids))  # if it cannot be said, it is when the next gateway lets us in

    # Reading

    async def receive(self) -> ChatMessage:
        """The next message; it counts as read. Raises GatewayClosed once the client is closed."""
        self._check_reading()
        message = await self._readers.next()
        self._has_read(message)
        return message

    async def messages(self) -> AsyncIterator[ChatMessage]:
        """Every message, until the client is closed; one counts as read when the next is asked for."""
        self._check_reading()
        while True:
            try:
                message = await self._readers.next()
            except GatewayClosed:
                return
            yield message
            self._has_read(message)

    def _check_reading(self) -> None:
        """What has arrived is read after the end, too."""
        self._home.check()
        if not self._is_closed:
            self._check_open()

    @property
    def missing(self) -> list[Missing]:
        """Numbers that could not be had any more."""
        return self._readers.missing

    def _has_read(self, message: ChatMessage) -> None:
        self._journal.read(message)
        self._readers.read(message)

    # What the gateway says

    def _on_welcome(self, welcome: Welcome) -> None:
        self.gateway, self.uid = welcome.gateway, welcome.uid
        self._readers.welcome(welcome, now())
        self._ask_for_missing()
        for frame in self._asking.unanswered:
            self._say_later(frame)
        if self._watched:
            self._say_later(Watch(tuple(self._watched)))
        self._welcome.set()

    def _on_frame(self, frame: FromGateway) -> None:
        if isinstance(frame, Sent):
            self._readers.sent(frame, now(), self._own)
            self._asking.answered(frame)
        elif isinstance(frame, Members):
            self._readers.member(group_conversation(frame.group), frame.last, is_in=self.uid in frame.members)
            self._asking.answered(frame)
        elif isinstance(frame, Problem):
            self._asking.problem(frame)
            self._readers.problem(frame, now())
        elif isinstance(frame, Notice):
            call_safely(self._on_notice, frame)
        elif isinstance(frame, Status):
            call_safely(self._on_status, frame)
        else:
            self._journal.arrived(frame, self.gateway, self._own)
            self._readers.take(frame, now(), self._own)
            self._ask_for_missing()

    # Now and then

    def _ask_for_missing(self) -> None:
        for frame in self._readers.syncs(now()):
            self._say_later(frame)

    def _say_later(self, frame: Any) -> None:
        task = asyncio.create_task(self.line.say(frame))
        self._later.add(task)
        task.add_done_callback(self._later.discard)

    async def _say_due(self) -> None:
        for frame in [*self._readers.syncs(now()), *self._readers.acks()]:
            await self.line.say(frame)

    async def _look(self) -> None:
        if self.line.is_connected:
            await self._say_due()
            await self.line.say_alive()
