"""Coalescer: what many callers ask for in one event-loop iteration leaves as one command.

An item is sent even if its caller is cancelled meanwhile; its answer goes to `on_abandoned` then,
which can release what it grants.

What `send` raises is the answer to all of its items; of a CancelledError, that it may have been
run: nobody who waits here was cancelled. The task that sends ends when all are answered.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, TypeVar

from mpim_lab.errors import Unconfirmed
from mpim_lab.mq.connection.handler import LoopAffinity

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Coalescer(Generic[Item, Answer]):
    """A micro-batcher: `send(items)` returns an answer or an exception for each, in order.

    At most `max_items` a command. on_abandoned: is called with the answers that nobody waits for
    any more. Raises WrongLoop.
    """

    def __init__(
        self,
        send: Callable[[Sequence[Item]], Awaitable[Sequence[Answer | Exception]]],
        *,
        max_items: int,
        on_abandoned: Callable[[Answer | Exception], None] | None = None,
    ) -> None:
        self._send, self._max_items, self._on_abandoned = send, max_items, on_abandoned
        self._loop = LoopAffinity("what waits here")
        self._items: list[tuple[Item, asyncio.Future[Answer]]] = []
        self._sending: set[asyncio.Task[Any]] = set()

    def submit(self, item: Item) -> "asyncio.Future[Answer]":
        """Send the item at the end of this loop iteration; return the future of its answer."""
        loop = self._loop.check()
        if not self._items:
            loop.call_soon(self._flush)
        answer: asyncio.Future[Answer] = asyncio.Future(loop=loop)
        self._items.append((item, answer))
        return answer

    def _flush(self) -> None:
        while self._items:
            now, self._items = self._items[: self._max_items], self._items[self._max_items :]
            task = asyncio.create_task(self._send_batch(now))
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)

    async def _send_batch(self, asked: Sequence[tuple[Item, "asyncio.Future[Answer]"]]) -> None:
        try:
            answers = await self._send([item for item, _ in asked])
            for (_, waiting), answer in zip(asked, answers, strict=True):
                self._resolve(waiting, answer)
        except BaseException as error:
            outcome: BaseException = error
            if isinstance(error, asyncio.CancelledError):
                outcome = Unconfirmed(
                    "the sending was cancelled by somebody else; it may have been run"
                )
                outcome.__cause__ = error
            for _, waiting in asked:
                self._resolve(waiting, outcome)
            if not isinstance(error, Exception):
                raise

    def _resolve(self, waiting: "asyncio.Future[Answer]", answer: Any) -> None:
        if waiting.done():
            if waiting.cancelled() and self._on_abandoned is not None:
                self._on_abandoned(answer)
        elif isinstance(answer, BaseException):
            waiting.set_exception(answer)
            waiting.exception()  # whoever awaits it still gets it
        else:
            waiting.set_result(answer)
