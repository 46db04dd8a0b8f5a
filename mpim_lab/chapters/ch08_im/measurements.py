"""Chapter 8's costs: a group's message by its size, and what the guarantees cost one message."""

import asyncio
import contextlib
import statistics
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any

from mpim_lab.chapters.ch08_im.naive import NaiveMessages, NaivePresence
from mpim_lab.chapters.shared.timing import quantile_ms, time_calls
from mpim_lab.events import now
from mpim_lab.im.protocol.requests import (
    BindRouteRequest,
    SendGroupMessageRequest,
    SendMessageRequest,
)
from mpim_lab.im.services.groups import GroupService
from mpim_lab.im.services.messages import MessageService
from mpim_lab.im.services.offline import OfflineStore
from mpim_lab.lab.faults.latency_proxy import LatencyProxy
from mpim_lab.lab.server.embedded import open_server
from mpim_lab.mq.connection.bounds import check_bounds
from mpim_lab.mq.connection.encoding import Message
from mpim_lab.mq.connection.ids import new_message_id
from mpim_lab.mq.idempotency.sql_database import SqlDatabase
from mpim_lab.mq.pubsub.queue import MessageQueue

DESIGNS: dict[str, Any] = {"naive": NaiveMessages, "correct": MessageService}
GROUP, SIZES = "everybody", (1, 10, 100, 1_000)
_TIMES = {"naive": 1, "correct": 5}
_SENDERS = 32


@contextlib.asynccontextmanager
async def _members(queue: MessageQueue, members: Sequence[str]) -> AsyncIterator[SqlDatabase]:
    """A database with a group of these, all of them online at a gateway that listens."""
    async with SqlDatabase("sqlite+aiosqlite:///:memory:") as store:
        await GroupService(store, queue).create(GROUP, members[0], members[1:])
        presence = NaivePresence(queue)
        await asyncio.gather(
            *(presence.bind_route(BindRouteRequest(uid, "main", "gw-1", uid)) for uid in members)
        )
        await queue.subscribe("user:*", _listen, pattern=True)
        yield store


def _service(design: str, queue: MessageQueue, store: SqlDatabase) -> Any:
    return DESIGNS[design](queue, GroupService(store, queue), OfflineStore(store))


def _listen(message: Message) -> None:
    """What a gateway does with a push is not measured here."""


def _queue(url: str, prefix: str) -> MessageQueue:
    return MessageQueue(url, name="service", prefix=prefix)


async def group_sweep(
    sizes: Sequence[int] = SIZES, one_way_ms: float = 0.5
) -> AsyncIterator[dict[str, Any]]:
    """Measure one message to a group, by its size, over a connection with that latency.

    Round trips and milliseconds.
    """
    check_bounds(1, 10_000, sizes=sizes)
    server = open_server()
    async with server, LatencyProxy(server.url, one_way_ms=one_way_ms) as proxy:
        for size in sizes:
            members = [f"u{number}" for number in range(size + 1)]
            for design in DESIGNS:
                prefix = f"{server.prefix}{design}-{size}:"
                near, far = _queue(server.url, prefix), _queue(proxy.url, prefix)
                async with near, far, _members(near, members) as store:
                    cost = await _group_cost(_service(design, far, store), proxy, _TIMES[design])
                yield {"members": size, "design": design} | cost


async def _group_cost(messages: MessageService, proxy: LatencyProxy, times: int) -> dict[str, Any]:
    await messages.groups.members(GROUP)  # the first one fills the copy
    taken, trips = [], []
    for _ in range(times):
        before, begun = proxy.round_trips, now()
        await messages.send_group_message(
            SendGroupMessageRequest(new_message_id(), "u0", GROUP, "tea at eight?")
        )
        taken.append((now() - begun) * 1e3)
        trips.append(proxy.round_trips - before)
    return {"ms": statistics.median(taken), "round trips": int(statistics.median(trips))}


async def overhead_sweep(seconds: float = 1.0, *, rounds: int = 5) -> AsyncIterator[dict[str, Any]]:
    """One-to-one messages by 32 senders at once, straight at the service.

    Messages a second and the median time of one.

    Both designs in turn, `rounds` times, and the median of each: a machine that is busy for a
    moment is busy for both.
    """
    check_bounds(0.01, 86_400.0, seconds=seconds)
    check_bounds(1, 100, rounds=rounds)
    server = open_server()
    members = [f"u{number}" for number in range(_SENDERS)]
    measured: dict[str, list[dict[str, float]]] = {design: [] for design in DESIGNS}
    async with server, contextlib.AsyncExitStack() as opened:
        services: dict[str, Any] = {}
        for design in DESIGNS:
            queue = await opened.enter_async_context(
                _queue(server.url, f"{server.prefix}{design}:")
            )
            store = await opened.enter_async_context(_members(queue, members))
            services[design] = _service(design, queue, store)
        for _ in range(rounds):
            for design, service in services.items():
                measured[design].append(await _rate(service, members, seconds / rounds))
    for design, found in measured.items():
        yield {"design": design} | {
            name: statistics.median(each[name] for each in found) for name in found[0]
        }


async def _rate(messages: Any, members: Sequence[str], seconds: float) -> dict[str, float]:
    async def send(sender: str, to: str) -> float:
        request = SendMessageRequest(new_message_id(), sender, to, "tea at eight?")
        await messages.send_message(request)
        return 0.0

    pairs = zip(members, [*members[1:], members[0]], strict=True)
    times = await time_calls([partial(send, *pair) for pair in pairs], seconds)
    return {"messages a second": times.rate, "p50 ms": quantile_ms(times.totals, 0.5)}
