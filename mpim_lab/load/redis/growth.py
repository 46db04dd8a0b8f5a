"""Growth: one publisher and one receiver as ever, but many channels, or many subscribers to one."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from mpim_lab.load.redis.adapters import minimal_client
from mpim_lab.load.redis.adapters.ours import connected
from mpim_lab.load.redis.plan import HEAD, LoadPlan, OnPayload, Publish

AT_ONCE = 100  # connections: a server's queue of those it has yet to accept holds a few hundred
SUBSCRIBED_AT_ONCE = 1_000
_SEQUENCE = slice(HEAD.size)


def round_robin_channels(plan: LoadPlan, publish: Publish) -> Publish:
    """Publish to one of the plan's channels, by chance; the same ones in every run."""
    if plan.channels == 1:
        return publish
    draw, channels, channel = random.Random(0).random, plan.channels, plan.channel

    def send(_channel: str, payload: Any) -> Any:
        return publish(f"{channel}:{int(draw() * channels)}", payload)

    return send


def subscribe_many(
    plan: LoadPlan, on_payload: OnPayload
) -> AbstractAsyncContextManager["asyncio.Future[Exception] | None"]:
    """As `candidates.subscribe_with`, for a plan with several channels or several subscribers."""
    return (
        _all_channels(plan, on_payload) if plan.channels > 1 else _all_subscribers(plan, on_payload)
    )


@asynccontextmanager
async def _all_channels(plan: LoadPlan, on_payload: OnPayload) -> AsyncIterator[None]:
    """One `MessageQueue`, subscribed to every channel."""
    async with connected(plan) as mq:
        for some in _chunks(plan.channels, SUBSCRIBED_AT_ONCE):
            await asyncio.gather(
                *(
                    mq.subscribe(
                        f"{plan.channel}:{number}", lambda message: on_payload(message.payload)
                    )
                    for number in some
                )
            )
        yield


@asynccontextmanager
async def _all_subscribers(
    plan: LoadPlan, on_payload: OnPayload
) -> AsyncIterator["asyncio.Future[Exception]"]:
    """So many bare connections, the cheapest there are.

    What is measured is the server's fan-out.
    """
    fan_in, lines = LastReceiver(plan.subscribers, on_payload), []
    lost: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()

    def end(broken: "asyncio.Future[Exception]") -> None:
        if not lost.done():
            lost.set_result(broken.result())

    try:
        for some in _chunks(plan.subscribers, AT_ONCE):
            lines += await asyncio.gather(
                *(minimal_client.connect(plan.url, fan_in.on_payload) for _ in some)
            )
        for line in lines:
            line.subscribe(plan.prefix + plan.channel)
            line.lost.add_done_callback(end)
        for refusal in await asyncio.gather(*(line.subscribed for line in lines)):
            if refusal is not None:
                raise refusal
        yield lost
    finally:
        for line in lines:
            line.transport.close()


class LastReceiver:
    """Hand a message on once the last of `subscribers` has it.

    >>> got = []
    >>> fan_in = LastReceiver(2, got.append)
    >>> for payload in (b"message 1", b"message 2", b"message 1"): fan_in.on_payload(payload)
    >>> got
    [b'message 1']
    """

    def __init__(self, subscribers: int, on_payload: OnPayload) -> None:
        self._subscribers, self._hand_on = subscribers, on_payload
        self._missing: dict[bytes, int] = {}  # head of a payload → how many have yet to get it

    def on_payload(self, payload: bytes) -> None:
        """Count a payload that one of the subscribers got."""
        head = payload[_SEQUENCE]
        missing = self._missing.get(head, self._subscribers) - 1
        if missing:
            self._missing[head] = missing
        else:
            self._missing.pop(head, None)
            self._hand_on(payload)


def _chunks(count: int, most: int) -> Iterable[range]:
    return (range(first, min(first + most, count)) for first in range(0, count, most))
