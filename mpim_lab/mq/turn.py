"""Turn: what many callers ask for in one turn of the event loop leaves as one command."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Turn(Generic[Item, Answer]):
    """Collect items; `send(items)` gives their answers in the same order, or an exception as the answer of one of them.

    At most `most` items a command. What `send` raises, all of its items raise.
    """

    def __init__(self, send: Callable[[Sequence[Item]], Awaitable[Sequence[Answer | Exception]]], *, most: int) -> None:
        self._send, self._most = send, most
        self._items: list[tuple[Item, asyncio.Future[Answer]]] = []
        self._sending: set[asyncio.Task[Any]] = set()

    def add(self, item: Item) -> "asyncio.Future[Answer]":
        """Ask at the end of this loop turn; the future is the answer."""
        loop = asyncio.get_running_loop()
        if not self._items:
            loop.call_soon(self._flush)
        answer: asyncio.Future[Answer] = loop.create_future()
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
                _settle(waiting, answer)
        except BaseException as error:
            for _, waiting in asked:
                _settle(waiting, error)
            if isinstance(error, asyncio.CancelledError):
                raise


def _settle(waiting: "asyncio.Future[Any]", answer: Any) -> None:
    if waiting.done():
        return
    if isinstance(answer, BaseException):
        waiting.set_exception(answer)
        waiting.exception()  # whoever awaits it still gets it
    else:
        waiting.set_result(answer)
