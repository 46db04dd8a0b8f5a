"""Presence: who is online, on which devices, at which gateways; and delivery to a user's channel.

A route says where one device of a user is connected. It lasts for a lifetime and its gateway renews it (a heartbeat), so
that a gateway that dies leaves no ghosts for longer than that. A connection that ends deletes its own route and no
other's: a late unbind by the old gateway does not touch the new one's route (compare and delete).

| a route ends because ...                         | it is deleted                                            |
|--------------------------------------------------|----------------------------------------------------------|
| its connection ended                             | at once, by `unbind_route`                               |
| the same, and the server was away, or whoever    | by the next `unbind_due`: its gateway does not renew it, |
| unbound was cancelled                            | but an hour would be long                                |
| its connection ended while it was being renewed  | after the renewal, by `renew`                            |
| another connection of the device replaced it     | by that one's `bind_route`                               |
| its gateway died                                 | by itself, at the end of its lifetime                    |

The route answers "is she online, and where?". Whether a message reached a gateway is told by PUBLISH itself: it gives how
many listened, at the moment of sending. `deliver` believes that, and not a route that was true a moment ago.
"""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from mpim_lab.events import now
from mpim_lab.im.protocol.requests import BindRouteReq, BindRouteResp, DeliverReq, DeliverResp, checked_name
from mpim_lab.keys import gateway_channel, status_channel, user_channel
from mpim_lab.mq.connection.bounds import check_times
from mpim_lab.mq.connection.lua_script import LuaScript
from mpim_lab.mq.pubsub.queue import MessageQueue

ROUTE_LIFETIME_S = 3_600.0  # the design notes'; a gateway renews long before, and a system may choose less
_BIND, _UNBIND = LuaScript("im/services/lua/bind.lua"), LuaScript("im/services/lua/unbind.lua")
_RENEW, _ROUTES = LuaScript("im/services/lua/renew.lua"), LuaScript("im/services/lua/routes.lua")
MOST_AT_ONCE = 500  # keys in one script: it holds up the server for well under a millisecond


class Route(NamedTuple):
    """Where one device of a user is connected."""

    device: str
    gateway: str
    connection: str


class Presence:
    """Routes and statuses on one server. Raises what `ReconnectingConnection` raises.

    lifetime_s: how long a route counts after its gateway's last sign of life.
    """

    def __init__(self, queue: MessageQueue, *, lifetime_s: float = ROUTE_LIFETIME_S) -> None:
        check_times(lifetime_s=lifetime_s)
        self.queue, self.lifetime_s = queue, lifetime_s
        self._commands = queue.context("presence").connection
        self._lifetime_ms = str(max(1, int(lifetime_s * 1e3)))
        self._renewals: list[set[BindRouteReq]] = []  # each under way, with what was unbound meanwhile
        self._due: dict[BindRouteReq, float] = {}  # to be unbound: from when on their routes have ended by themselves

    async def bind_route(self, request: BindRouteReq) -> BindRouteResp:
        """Note where a device is connected; an older connection of the same device is replaced, and its gateway told."""
        route = _words_of(request)
        channels = (self._channel(status_channel(request.uid)), self._channel(gateway_channel("")))
        words = (*route, self._lifetime_ms, *channels)
        replaced = await _BIND.run(self._commands, [self._route(request.uid)], *words)
        return BindRouteResp(tuple(each.decode() for each in replaced))

    async def unbind_route(self, request: BindRouteReq) -> bool:
        """Delete this connection's route, if it is still there; gives whether it was."""
        for unbound in self._renewals:
            unbound.add(request)
        words = (*_words_of(request), self._channel(status_channel(request.uid)))
        self._due.setdefault(request, now() + self.lifetime_s)
        is_gone = await _UNBIND.run(self._commands, [self._route(request.uid)], *words)
        self._due.pop(request, None)
        return bool(is_gone)

    async def unbind_due(self) -> None:
        """Unbind what could not be unbound when it was its time."""
        self._due = {request: until for request, until in self._due.items() if until > now()}
        due = list(self._due)
        for begin in range(0, len(due), MOST_AT_ONCE):
            some = map(self.unbind_route, due[begin : begin + MOST_AT_ONCE])
            for error in await asyncio.gather(*some, return_exceptions=True):
                if isinstance(error, BaseException):
                    raise error

    async def renew(self, gateway: str, bound: Sequence[BindRouteReq]) -> list[BindRouteReq]:
        """Have a gateway's routes count for another lifetime; gives those that another connection has replaced.

        One that is unbound while this is under way stays unbound: it does not come back as a ghost.
        """
        replaced: list[BindRouteReq] = []
        unbound: set[BindRouteReq] = set()
        self._renewals.append(unbound)
        try:
            for begin in range(0, len(bound), MOST_AT_ONCE):
                some = [each for each in bound[begin : begin + MOST_AT_ONCE] if each not in unbound]
                replaced += await self._renew(gateway, some)
        finally:
            self._renewals = [each for each in self._renewals if each is not unbound]
        for each in unbound:
            await self.unbind_route(each)
        return [each for each in replaced if each not in unbound]

    async def _renew(self, gateway: str, some: Sequence[BindRouteReq]) -> list[BindRouteReq]:
        words = [word for each in some for word in (each.device, each.connection)]
        keys = [self._route(each.uid) for each in some]
        answers = await _RENEW.run(self._commands, keys, self._lifetime_ms, gateway, *words)
        return [each for each, kept in zip(some, answers, strict=True) if not kept]

    async def query_routes(self, uids: Sequence[str]) -> dict[str, list[Route]]:
        """Where each user is connected now; an empty list: nowhere. One round trip for 500 users."""
        found: dict[str, list[Route]] = {}
        for begin in range(0, len(uids), MOST_AT_ONCE):
            some = uids[begin : begin + MOST_AT_ONCE]
            answers = await _ROUTES.run(self._commands, [self._route(uid) for uid in some])
            for uid, routes in zip(some, answers, strict=True):
                found[uid] = [Route(*route.decode().split(" ")) for route in routes]
        return found

    async def query_route(self, uid: str) -> list[Route]:
        """Where one user is connected now."""
        return (await self.query_routes([uid]))[uid]

    async def statuses(self, uids: Sequence[str]) -> dict[str, str]:
        """Each user's status: "online" or "offline"."""
        return {uid: "online" if routes else "offline" for uid, routes in (await self.query_routes(uids)).items()}

    async def deliver(self, request: DeliverReq) -> DeliverResp:
        """Push to a user's channel; gives how many gateways listened. 0: she is offline, or her route is a ghost."""
        return DeliverResp(await self.queue.publish(user_channel(checked_name("uid", request.to)), request.payload))

    def _route(self, uid: str) -> bytes:
        return self.queue.keys.route(uid)

    def _channel(self, name: str) -> bytes:
        return self.queue.keys.channel(name)


def _words_of(request: BindRouteReq) -> tuple[str, str, str]:
    """Device, gateway and connection, which are words of a route. Raises InvalidParameter."""
    for what in ("uid", "device", "gateway", "connection"):
        checked_name(what, getattr(request, what))
    return request.device, request.gateway, request.connection
