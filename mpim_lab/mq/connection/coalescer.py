"""Turn: what many callers ask for in one turn of the event loop leaves as one command.

An item is sent even if its caller is cancelled meanwhile; its answer goes to `unwanted` then, which can give back what it
grants.

What `send` raises is the answer to all of its items; of a CancelledError, that it may have been run: nobody who waits
here was cancelled. The task that sends ends when all are answered.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, TypeVar

from mpim_lab.errors import Unconfirmed
from mpim_lab.mq.connection.handler import OneLoop

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Turn(Generic[Item, Answer]):
    """Collect items; `send(items)` gives their answers in the same order, or an exception as the answer of one of them.

    At most `most` items a command. unwanted: is given the answers that nobody waits for any more. Raises WrongLoop.
    """

    def __init__(
        self,
        send: Callable[[Sequence[Item]], Awaitable[Sequence[Answer | Exception]]],
        *,
        most: int,
        unwanted: Callable[[Answer | Exception], None] | None = None,
    ) -> None:
        self._send, self._most, self._unwanted = send, most, unwanted
        self._loop = OneLoop("what waits here")
        self._items: list[tuple[Item, asyncio.Future[Answer]]] = []
        self._sending: set[asyncio.Task[Any]] = set()

    def add(self, item: Item) -> "asyncio.Future[Answer]":
        """Ask at the end of this loop turn; the future is the answer."""
        loop = self._loop.check()
        if not self._items:
            loop.call_soon(self._flush)
        answer: asyncio.Future[Answer] = asyncio.Future(loop=loop)
        self._items.append((item, answer))
        return answer

    def _flush(self) -> None:
        while self._items:
            now, self._items = self._items[: self._most], self._items[self._most :]
            task = asyncio.create_task(self._ask(now))
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)

    async def _ask(self, asked: Sequence[tuple[Item, "asyncio.Future[Answer]"]]) -> None:
        try:
            answers = await self._send([item for item, _ in asked])
            for (_, waiting), answer in zip(asked, answers, strict=True):
                self._settle(waiting, answer)
        except BaseException as error:
            told: BaseException = error
            if isinstance(error, asyncio.CancelledError):
                told = Unconfirmed("the sending was cancelled by somebody else; it may have been run")
                told.__cause__ = error
            for _, waiting in asked:
                self._settle(waiting, told)
            if not isinstance(error, Exception):
                raise

    def _settle(self, waiting: "asyncio.Future[Answer]", answer: Any) -> None:
        if waiting.done():
            if waiting.cancelled() and self._unwanted is not None:
                self._unwanted(answer)
        elif isinstance(answer, BaseException):
            waiting.set_exception(answer)
            waiting.exception()  # whoever awaits it still gets it
        else:
            waiting.set_result(answer)
