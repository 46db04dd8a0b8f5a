"""The design notes' message service and presence, flaws kept.

Same methods as `MessageService` and `Presence`, as far as a gateway calls them.

What goes wrong, in the order of the steps:

| step of the naive version                | what goes wrong                                     |
|------------------------------------------|-----------------------------------------------------|
| a message id is made for each call       | who sends again is not recognised: it comes twice   |
| take a number, then push                 | another gateway comes in between: 2 before 1        |
| "online"? then publish, and say success  | the status is old: nobody listens, and "success"    |
| otherwise store                          | a crash before it: lost, unless it is sent again    |
| to a group: GET and PUBLISH per member   | 2,000 round trips for 1,000; half after a crash     |
| on return: read, delete, send            | a connection that breaks takes the messages with it |
| a route lives 3,600 s, nobody unbinds it | stale routes; a blind unbind deletes the new one    |
"""

from collections.abc import Sequence
from typing import ClassVar

from mpim_lab.events import OFFLINE_STORE, SERVICE, Observer, Reporter
from mpim_lab.im.protocol.frames import encode, encode_push
from mpim_lab.im.protocol.requests import (
    AckRequest,
    AckResponse,
    BindRouteRequest,
    BindRouteResponse,
    ChatMessage,
    PullOfflineRequest,
    PullOfflineResponse,
    SendGroupMessageRequest,
    SendGroupMessageResponse,
    SendMessageRequest,
    SendMessageResponse,
    direct_conversation,
    group_conversation,
)
from mpim_lab.im.services.groups import GroupService
from mpim_lab.im.services.offline import OfflineStore
from mpim_lab.keys import status_channel, user_channel
from mpim_lab.mq.connection.ids import new_message_id
from mpim_lab.mq.pubsub.queue import MessageQueue

ROUTE_TTL_S = 3_600.0
TTL_WORD = "3600"
_NAME = "naive"


class NaivePresence:
    """A status and a route of 3,600 s for each user.

    unbinds: a connection that ends deletes them, whoever's they are.
    """

    ttl_s = ROUTE_TTL_S

    def __init__(self, queue: MessageQueue, *, unbinds: bool = False) -> None:
        self._queue, self._unbinds = queue, unbinds

    async def bind_route(self, request: BindRouteRequest) -> BindRouteResponse:
        """SET route and status, and tell who watches."""
        call = self._queue.connection.call
        await call("SET", self._route(request.uid), request.gateway, "EX", TTL_WORD)
        await call("SET", self._status(request.uid), "online", "EX", TTL_WORD)
        await self._queue.publish(status_channel(request.uid), f"online:{request.gateway}")
        return BindRouteResponse()

    async def unbind_route(self, request: BindRouteRequest) -> bool:
        """DEL both, without a look at whose they are by now."""
        if not self._unbinds:
            return False
        keys = self._route(request.uid), self._status(request.uid)
        gone = await self._queue.connection.call("DEL", *keys)
        await self._queue.publish(status_channel(request.uid), f"offline:{request.gateway}")
        return bool(gone)

    async def renew(
        self, gateway: str, bound: Sequence[BindRouteRequest]
    ) -> list[BindRouteRequest]:
        """Nobody does."""
        return []

    async def retry_unbinds(self) -> None:
        """Nobody does."""

    async def statuses(self, uids: Sequence[str]) -> dict[str, str]:
        """What was noted at the last hello; one GET a user."""
        return {uid: await self.status(uid) for uid in uids}

    async def status(self, uid: str) -> str:
        """What was noted at the last hello of a user."""
        noted = await self._queue.connection.call("GET", self._status(uid))
        return "offline" if noted is None else "online"

    def _route(self, uid: str) -> bytes:
        return self._queue.keys.route(uid)

    def _status(self, uid: str) -> bytes:
        return self._queue.keys.stream(status_channel(uid))


class NaiveMessages:
    """SendMessage and SendGroupMessage as the notes have them.

    `at(step, id)` is awaited between the steps.
    """

    ordered: ClassVar[bool] = False

    def __init__(
        self,
        queue: MessageQueue,
        groups: GroupService,
        offline: OfflineStore,
        *,
        observer: Observer | None = None,
    ) -> None:
        self.queue, self.groups, self.offline = queue, groups, offline
        self.presence, self.reporter = NaivePresence(queue), Reporter(SERVICE, observer)

    async def at(self, step: str, id: str) -> None:
        """Between two steps; a laboratory overrides it."""

    async def send_message(self, request: SendMessageRequest) -> SendMessageResponse:
        """A fresh id, a number, a look at the status, push or store; success either way."""
        conversation = direct_conversation(request.sender, request.to)
        if await self._is_processed(new_message_id()):
            return SendMessageResponse(request.id, conversation, 0, "known")
        number = await self._next_number(conversation)
        await self.at("numbered", request.id)
        message = ChatMessage(conversation, number, request.id, request.sender, request.text)
        reported = await self._hand_over(request.to, message)
        return SendMessageResponse(request.id, conversation, number, reported)

    async def send_group_message(
        self, request: SendGroupMessageRequest
    ) -> SendGroupMessageResponse:
        """One member after the other."""
        conversation = group_conversation(request.group)
        number = await self._next_number(conversation)
        message = ChatMessage(conversation, number, request.id, request.sender, request.text)
        members = [uid for uid in await self.groups.members(request.group) if uid != request.sender]
        for count, uid in enumerate(members):
            if count == len(members) // 2:
                await self.at("half", request.id)
            await self._hand_over(uid, message)
        return SendGroupMessageResponse(request.id, conversation, number, "success")

    async def _is_processed(self, id: str) -> bool:
        call, record = self.queue.connection.call, self.queue.keys.idempotency_record(_NAME, id)
        if await call("GET", record) is not None:
            return True
        await call("SET", record, "1", "EX", TTL_WORD)
        return False

    async def _next_number(self, conversation: str) -> int:
        counter = self.queue.keys.sequence(_NAME, conversation)
        return int(await self.queue.connection.call("INCR", counter))

    async def _hand_over(self, to: str, message: ChatMessage) -> str:
        """Look at the status; push or store."""
        status = await self.presence.status(to)
        await self.at("checked", message.id)
        if status == "online":
            gateways = await self.queue.publish(user_channel(to), encode_push(message))
            self.reporter.hop(message.id, user_channel(to), count=gateways)
            await self.at("pushed", message.id)
        else:
            await self.offline.store_many([to], [message])
            self.reporter.hop(message.id, OFFLINE_STORE)
            await self.at("stored", message.id)
        return "success"

    async def conversations(self, uid: str) -> dict[str, tuple[int, int]]:
        """The naive version's clients know nothing of numbers."""
        return {}

    async def backlog_frames(self, uid: str) -> list[bytes]:
        """Read what waits, delete it, and give it to be sent."""
        frames: list[bytes] = []
        for conversation in await self.offline.pending(uid):
            page = await self.offline.page(uid, conversation, 0, 1_000)
            await self.offline.remove(uid, conversation, page[-1].sequence)
            frames += [encode(message) for message in page]
            for message in page:
                self.reporter.hop(message.id, SERVICE, source=OFFLINE_STORE)
        return frames

    async def pull_offline(self, request: PullOfflineRequest) -> PullOfflineResponse:
        """Nothing is asked for by number."""
        return PullOfflineResponse((), 0)

    async def ack(self, requests: Sequence[AckRequest]) -> list[AckResponse]:
        """Nobody acknowledges."""
        return [AckResponse(each.sequence) for each in requests]

    async def delete_offline(self, request: AckRequest) -> int:
        """Delete from the offline store."""
        return await self.offline.remove(request.uid, request.conversation, request.sequence)

    async def seek_to_end(self, uid: str, conversation: str, *, is_new: bool) -> int:
        """Whoever joins a group begins at its first number."""
        return 0
