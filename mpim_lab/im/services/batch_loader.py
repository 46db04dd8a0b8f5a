"""Gathered: questions that are asked at the same time, answered by one query for many of them.

The first one waits for the end of the loop's turn; whoever asks until then goes along, and whoever asks during a query is in
the next one. So no answer is older than its question, and the more ask at once the fewer queries each of them costs.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import islice
from typing import Generic, TypeVar

from mpim_lab.errors import StoreFailed
from mpim_lab.mq.connection.handler import TaskCancellation

Answer = TypeVar("Answer")


class Gathered(Generic[Answer]):
    """Ask `fetch` for at most `most` names at a time: `Gathered(fetch, most=500)`.

    `fetch(names)` gives the answers by name. What waits is at most one question for each different name.

    | whoever asked ...                         | then the others                              |
    |-------------------------------------------|----------------------------------------------|
    | is answered, or told what `fetch` raised  | likewise                                     |
    | is cancelled, be it the one who was first | are served: the query runs for itself        |
    | and the query itself is cancelled         | are told StoreFailed, and nobody is cancelled |
    """

    def __init__(self, fetch: Callable[[Sequence[str]], Awaitable[Mapping[str, Answer]]], *, most: int) -> None:
        self._fetch, self._most = fetch, most
        self._waiting: dict[str, asyncio.Future[Answer | None]] = {}
        self._fetching: asyncio.Task[None] | None = None

    async def ask(self, name: str) -> Answer | None:
        """The answer for one name; None if `fetch` gave none. Raises what `fetch` raises."""
        answer = self._waiting.get(name)
        if answer is None:
            answer = self._waiting[name] = asyncio.get_running_loop().create_future()
            answer.add_done_callback(_retrieved)
        if self._fetching is None:
            self._fetching = asyncio.create_task(self._fetch_all())
        return await asyncio.shield(answer)  # others may wait for the same

    async def _fetch_all(self) -> None:
        self._cancellations = TaskCancellation()
        try:
            await asyncio.sleep(0)  # tasks that are to run in this turn still come along
            while self._waiting:
                names = list(islice(self._waiting, self._most))
                await self._fetch_some({name: self._waiting.pop(name) for name in names})
        finally:
            self._fetching = None
            for answer in self._waiting.values():  # only if this task was cancelled
                answer.set_exception(StoreFailed("the query was given up"))
            self._waiting.clear()

    async def _fetch_some(self, asked: dict[str, asyncio.Future[Answer | None]]) -> None:
        try:
            found = await self._fetch(list(asked))
            answers = {name: found.get(name) for name in asked}
        except BaseException as error:
            # a cancellation was meant for the query, and not for those who wait for it
            is_ours = isinstance(error, Exception)
            told = error if is_ours else StoreFailed(f"the query was given up: {type(error).__name__}")
            for answer in asked.values():
                answer.set_exception(told)
            if not is_ours and self._cancellations.was_requested:
                raise
        else:
            for name, answer in asked.items():
                answer.set_result(answers[name])


def _retrieved(answer: "asyncio.Future[Answer | None]") -> None:
    """Look at an error even if everybody who asked has gone: otherwise the loop reports it as lost."""
    if not answer.cancelled():
        answer.exception()
