"""Ours, batching: many messages in one frame, unpacked on the receiving side."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

from mpim_lab.load.redis.adapters.ours import connected, subscribing
from mpim_lab.load.redis.plan import LoadPlan, OnPayload, Publish
from mpim_lab.mq.batching.policies import BatchPolicy

Call = Callable[[Any], Awaitable[Any]]


class _Line:
    """Those who come before the batcher of their channel is open wait in a line.

    Nobody who comes later overtakes them.
    """

    def __init__(self, begin: Callable[[], Awaitable[Call]]) -> None:
        self.call: Call | None = None  # once it is open, and the line empty
        self._waiting: list[asyncio.Future[Call]] = []
        self._opening = asyncio.ensure_future(begin())
        self._opening.add_done_callback(self._go_on)

    async def turn(self) -> Call:
        """Wait until it is open, and those before are gone. Raises why it could not be opened."""
        if self._opening.done():
            self._opening.result()  # raises what went wrong
        turn: asyncio.Future[Call] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        return await turn

    def _go_on(self, opening: asyncio.Future[Call]) -> None:
        waiting, self._waiting = self._waiting, []
        for turn in (each for each in waiting if not each.done()):
            if (error := opening.exception()) is not None:
                turn.set_exception(error)
            else:
                turn.set_result(opening.result())
        if waiting:  # they run before this is called again
            asyncio.get_running_loop().call_soon(self._go_on, opening)
        elif opening.exception() is None:
            self.call = opening.result()


class Batchers:
    """Publish through the batcher of a channel, opened for the first message, or before it."""

    def __init__(self, begin: Callable[[str], Awaitable[Call]]) -> None:
        self._begin, self._lines = begin, dict[str, _Line]()

    async def __call__(self, channel: str, payload: Any) -> Any:
        """Publish a payload, or many."""
        line = self._line(channel)
        return await (line.call or await line.turn())(payload)

    async def open(self, channel: str) -> None:
        """Open a channel's batcher now, so that its first message need not wait for that."""
        await self._line(channel).turn()

    def _line(self, channel: str) -> _Line:
        return self._lines.get(channel) or self._lines.setdefault(
            channel, _Line(lambda: self._begin(channel))
        )


def with_rule(
    policy: BatchPolicy, *, many: bool = False
) -> Callable[[LoadPlan], AbstractAsyncContextManager[Publish]]:
    """A `Batcher` with this rule; `many`: each call hands it many messages."""

    @asynccontextmanager
    async def connect(plan: LoadPlan) -> AsyncIterator[Publish]:
        from mpim_lab.mq.batching.batcher import Batcher

        async with connected(plan) as mq, AsyncExitStack() as opened:

            async def begin(channel: str) -> Call:
                batcher = await opened.enter_async_context(
                    Batcher.to_channel(mq, channel, policy=policy)
                )
                return batcher.publish_many if many else batcher.publish

            yield Batchers(begin)

    return connect


def unpacking(plan: LoadPlan, on_payload: OnPayload) -> AbstractAsyncContextManager[None]:
    """A subscription that unpacks: its handler is called once for each message."""
    from mpim_lab.mq.batching.decoder import FrameDecoder

    return subscribing(plan, on_payload, FrameDecoder)
