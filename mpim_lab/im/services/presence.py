"""Presence: who is online, on which devices, at which gateways; and delivery to a user's channel.

A route is where one device of a user is connected. It expires after `ttl_s`, and its gateway renews
it (a heartbeat), so that a gateway that dies leaves stale routes for no longer than that. A
connection that ends deletes its own route and no other's: a late unbind by the old gateway does not
touch the new one's route (compare and delete).

| a route ends because ...                       | it is deleted                                   |
|------------------------------------------------|-------------------------------------------------|
| its connection ended                           | at once, by `unbind_route`                      |
| the same, and the server was away, or the      | by the next `retry_unbinds`: its gateway does   |
| unbind was cancelled                           | not renew it, but an hour would be long         |
| its connection ended while it was being        | after the renewal, by `renew`                   |
| renewed                                        |                                                 |
| another connection of the device replaced it   | by that one's `bind_route`                      |
| its gateway died                               | by itself, at the end of its lifetime           |

The route answers "is she online, and where?". Whether a message reached a gateway is answered by
PUBLISH itself: it returns how many were subscribed, at that moment. `deliver` believes that, and
not a route that was true a moment ago.
"""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from mpim_lab.events import now
from mpim_lab.im.protocol.requests import (
    BindRouteRequest,
    BindRouteResponse,
    DeliverRequest,
    DeliverResponse,
    checked_name,
)
from mpim_lab.keys import gateway_channel, status_channel, user_channel
from mpim_lab.mq.connection.bounds import check_times
from mpim_lab.mq.connection.lua_script import LuaScript
from mpim_lab.mq.pubsub.queue import MessageQueue

# of the design notes; a gateway renews long before, and a system may choose less
ROUTE_TTL_S = 3_600.0
BIND_ROUTE = LuaScript("im/services/lua/bind_route.lua")
UNBIND = LuaScript("im/services/lua/unbind.lua")
RENEW_ROUTES = LuaScript("im/services/lua/renew_routes.lua")
LIST_ROUTES = LuaScript("im/services/lua/list_routes.lua")
MAX_KEYS_PER_SCRIPT = 500  # keys in one script: it holds up the server for well under a millisecond


class Route(NamedTuple):
    """Where one device of a user is connected."""

    device: str
    gateway: str
    connection: str


class Presence:
    """The presence service: routes and statuses on one server.

    Every method raises what the connection raises.

    Args:
        queue: Over which it talks to the server.
        ttl_s: Seconds that a route counts after its gateway's last heartbeat.

    Raises:
        InvalidParameter: `ttl_s` makes no sense.
    """

    def __init__(self, queue: MessageQueue, *, ttl_s: float = ROUTE_TTL_S) -> None:
        check_times(ttl_s=ttl_s)
        self.queue, self.ttl_s = queue, ttl_s
        self._commands = queue.context("presence").connection
        self._ttl_ms = str(max(1, int(ttl_s * 1e3)))
        # those in flight, each with what was unbound meanwhile
        self._renewals: list[set[BindRouteRequest]] = []
        # and when their routes expire by themselves
        self._pending_unbinds: dict[BindRouteRequest, float] = {}

    async def bind_route(self, request: BindRouteRequest) -> BindRouteResponse:
        """Store where a device is connected.

        An older connection of the device is replaced, and its gateway notified.

        Args:
            request: The user, the device, the gateway and the connection.

        Returns:
            The routes that were replaced.

        Raises:
            InvalidParameter: One of the four is no name.
        """
        route = _route_arguments(request)
        channels = (
            self._channel_key(status_channel(request.uid)),
            self._channel_key(gateway_channel("")),
        )
        words = (*route, self._ttl_ms, *channels)
        replaced = await BIND_ROUTE.run(self._commands, [self._route_key(request.uid)], *words)
        return BindRouteResponse(tuple(each.decode() for each in replaced))

    async def unbind_route(self, request: BindRouteRequest) -> bool:
        """Delete this connection's route, and no other's.

        Args:
            request: What `bind_route` was called with.

        Returns:
            Whether it was still there.

        Raises:
            InvalidParameter: One of its words is no name.
        """
        for unbound in self._renewals:
            unbound.add(request)
        words = (*_route_arguments(request), self._channel_key(status_channel(request.uid)))
        self._pending_unbinds.setdefault(request, now() + self.ttl_s)
        is_gone = await UNBIND.run(self._commands, [self._route_key(request.uid)], *words)
        self._pending_unbinds.pop(request, None)
        return bool(is_gone)

    async def retry_unbinds(self) -> None:
        """Retry the unbinds that have failed.

        Raises:
            MpimError: One failed again; the next call retries it.
        """
        self._pending_unbinds = {
            request: until for request, until in self._pending_unbinds.items() if until > now()
        }
        due = list(self._pending_unbinds)
        for begin in range(0, len(due), MAX_KEYS_PER_SCRIPT):
            some = map(self.unbind_route, due[begin : begin + MAX_KEYS_PER_SCRIPT])
            for error in await asyncio.gather(*some, return_exceptions=True):
                if isinstance(error, BaseException):
                    raise error

    async def renew(
        self, gateway: str, bound: Sequence[BindRouteRequest]
    ) -> list[BindRouteRequest]:
        """Renew a gateway's routes for another `ttl_s`.

        A route that is unbound meanwhile stays unbound: it does not come back as a stale one.

        Args:
            gateway: The gateway's name.
            bound: Its routes.

        Returns:
            Those that another connection has replaced.
        """
        replaced: list[BindRouteRequest] = []
        unbound: set[BindRouteRequest] = set()
        self._renewals.append(unbound)
        try:
            for begin in range(0, len(bound), MAX_KEYS_PER_SCRIPT):
                some = [
                    each
                    for each in bound[begin : begin + MAX_KEYS_PER_SCRIPT]
                    if each not in unbound
                ]
                replaced += await self._renew(gateway, some)
        finally:
            self._renewals = [each for each in self._renewals if each is not unbound]
        for each in unbound:
            await self.unbind_route(each)
        return [each for each in replaced if each not in unbound]

    async def _renew(
        self, gateway: str, some: Sequence[BindRouteRequest]
    ) -> list[BindRouteRequest]:
        words = [word for each in some for word in (each.device, each.connection)]
        keys = [self._route_key(each.uid) for each in some]
        answers = await RENEW_ROUTES.run(self._commands, keys, self._ttl_ms, gateway, *words)
        return [each for each, kept in zip(some, answers, strict=True) if not kept]

    async def query_routes(self, uids: Sequence[str]) -> dict[str, list[Route]]:
        """Return where each user is connected now.

        It takes one round trip for 500 users.

        Args:
            uids: The users.

        Returns:
            The routes by user; an empty list: nowhere.
        """
        found: dict[str, list[Route]] = {}
        for begin in range(0, len(uids), MAX_KEYS_PER_SCRIPT):
            some = uids[begin : begin + MAX_KEYS_PER_SCRIPT]
            answers = await LIST_ROUTES.run(self._commands, [self._route_key(uid) for uid in some])
            for uid, routes in zip(some, answers, strict=True):
                found[uid] = [Route(*route.decode().split(" ")) for route in routes]
        return found

    async def query_route(self, uid: str) -> list[Route]:
        """Return where one user is connected now.

        Args:
            uid: The user.

        Returns:
            A route for each device that is connected.
        """
        return (await self.query_routes([uid]))[uid]

    async def statuses(self, uids: Sequence[str]) -> dict[str, str]:
        """Return each user's status.

        Args:
            uids: The users.

        Returns:
            "online" or "offline", by user.
        """
        return {
            uid: "online" if routes else "offline"
            for uid, routes in (await self.query_routes(uids)).items()
        }

    async def deliver(self, request: DeliverRequest) -> DeliverResponse:
        """Push to a user's channel.

        Args:
            request: The user, and what to push.

        Returns:
            How many gateways were subscribed. 0: offline, or the route is stale.

        Raises:
            InvalidParameter: The user's name is none.
        """
        return DeliverResponse(
            await self.queue.publish(user_channel(checked_name("uid", request.to)), request.payload)
        )

    def _route_key(self, uid: str) -> bytes:
        return self.queue.keys.route(uid)

    def _channel_key(self, name: str) -> bytes:
        return self.queue.keys.channel(name)


def _route_arguments(request: BindRouteRequest) -> tuple[str, str, str]:
    """Return device, gateway and connection, the words of a route. Raises InvalidParameter."""
    for what in ("uid", "device", "gateway", "connection"):
        checked_name(what, getattr(request, what))
    return request.device, request.gateway, request.connection
