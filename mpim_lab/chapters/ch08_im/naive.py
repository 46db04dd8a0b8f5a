"""The design notes' message service and presence, flaws kept.

Same methods as `MessageService` and `Presence`.

What goes wrong, in the order of the steps:

| step of the naive version                          | what goes wrong                                                       |
|----------------------------------------------------|-----------------------------------------------------------------------|
| a message id is made for each call                 | a client that sends again is not recognised: it comes twice           |
| take a number, then push                           | another gateway comes in between: 2 arrives before 1                  |
| status is "online"? then publish, and say success  | the status is a moment, an hour, old: nobody listens, and "success"   |
| otherwise store                                    | a crash before it: lost, if the client does not send again            |
| of a group: one GET and one PUBLISH per member     | 2,000 round trips for 1,000; a crash half-way leaves half without it  |
| on return: read what is stored, delete it, send it | a connection that breaks then takes the messages with it              |
| a route lives 3,600 s, and nobody unbinds it       | ghosts; who unbinds without looking deletes the new gateway's route   |
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
    DeliverRequest,
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
from mpim_lab.im.services.messages import MessageService
from mpim_lab.im.services.offline import OfflineStore
from mpim_lab.im.services.presence import ROUTE_TTL_S, Presence
from mpim_lab.keys import status_channel, user_channel
from mpim_lab.mq.connection.encoding import new_message_id
from mpim_lab.mq.pubsub.queue import MessageQueue

ROUTE_S = int(ROUTE_TTL_S)
_NAME = "naive"


class NaivePresence(Presence):
    """A status and a route of 3,600 s for each user. unbinds.

    A connection that ends deletes them, whoever's they are.
    """

    def __init__(self, queue: MessageQueue, *, unbinds: bool = False) -> None:
        super().__init__(queue)
        self._unbinds = unbinds

    async def bind_route(self, request: BindRouteRequest) -> BindRouteResponse:
        """SET route and status, and tell who watches."""
        await self._commands.call(
            "SET", self._route_key(request.uid), request.gateway, "EX", str(ROUTE_S)
        )
        await self._commands.call("SET", self._status(request.uid), "online", "EX", str(ROUTE_S))
        await self.queue.publish(status_channel(request.uid), f"online:{request.gateway}")
        return BindRouteResponse()

    async def unbind_route(self, request: BindRouteRequest) -> bool:
        """DEL both, without a look at whose they are by now."""
        if not self._unbinds:
            return False
        gone = await self._commands.call(
            "DEL", self._route_key(request.uid), self._status(request.uid)
        )
        await self.queue.publish(status_channel(request.uid), f"offline:{request.gateway}")
        return bool(gone)

    async def renew(
        self, gateway: str, bound: Sequence[BindRouteRequest]
    ) -> list[BindRouteRequest]:
        """Nobody does."""
        return []

    async def statuses(self, uids: Sequence[str]) -> dict[str, str]:
        """What was noted at the last hello; one GET a user."""
        return {uid: await self.status(uid) for uid in uids}

    async def status(self, uid: str) -> str:
        """What was noted at the last hello of a user."""
        return (
            "offline" if await self._commands.call("GET", self._status(uid)) is None else "online"
        )

    def _status(self, uid: str) -> bytes:
        return self.queue.keys.stream(status_channel(uid))


class NaiveMessages(MessageService):
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
        super().__init__(queue, groups, offline)
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
        commands, record = self.log.commands, self.queue.keys.idempotency_record(_NAME, id)
        if await commands.call("GET", record) is not None:
            return True
        await commands.call("SET", record, "1", "EX", str(ROUTE_S))
        return False

    async def _next_number(self, conversation: str) -> int:
        counter = self.queue.keys.sequence(_NAME, conversation)
        return int(await self.log.commands.call("INCR", counter))

    async def _hand_over(self, to: str, message: ChatMessage) -> str:
        """Look at the status; push or store."""
        status = await self.presence.status(to)
        await self.at("checked", message.id)
        if status == "online":
            response = await self.presence.deliver(DeliverRequest(to, encode_push(message)))
            self.reporter.hop(message.id, user_channel(to), count=response.gateways)
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
