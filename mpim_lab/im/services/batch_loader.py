"""BatchLoader: concurrent lookups share one query.

The first one waits for the end of the event-loop iteration; lookups until then join it, and lookups
during a query are in the next one. So no answer is older than its lookup, and the more there are at
once the fewer queries each of them costs.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from itertools import islice
from typing import Generic, TypeVar

from mpim_lab.errors import StoreFailed
from mpim_lab.mq.connection.handler import TaskCancellation
from mpim_lab.mq.connection.resp import ignore_result

Answer = TypeVar("Answer")


class BatchLoader(Generic[Answer]):
    """A DataLoader: it calls `batch_fn` for at most `max_batch` names at a time.

    `batch_fn(names)` returns the answers by name. What waits is at most one lookup for each
    different name.

    | a caller ...                              | then the others                              |
    |-------------------------------------------|----------------------------------------------|
    | gets its answer, or what `batch_fn` raised | likewise                                    |
    | is cancelled, be it the one who was first | are served: the query runs for itself        |
    | and the query itself is cancelled         | get StoreFailed, and nobody is cancelled     |
    """

    def __init__(
        self,
        batch_fn: Callable[[Sequence[str]], Awaitable[Mapping[str, Answer]]],
        *,
        max_batch: int,
    ) -> None:
        self._batch_fn, self._max_batch = batch_fn, max_batch
        self._waiting: dict[str, asyncio.Future[Answer | None]] = {}
        self._task: asyncio.Task[None] | None = None

    async def load(self, name: str) -> Answer | None:
        """Return the answer for one name; None if `batch_fn` has none.

        Raises what `batch_fn` raises.
        """
        answer = self._waiting.get(name)
        if answer is None:
            answer = self._waiting[name] = asyncio.get_running_loop().create_future()
            answer.add_done_callback(ignore_result)
        if self._task is None:
            self._task = asyncio.create_task(self._load_all())
        return await asyncio.shield(answer)  # others may wait for the same

    async def _load_all(self) -> None:
        self._cancellations = TaskCancellation()
        try:
            await asyncio.sleep(0)  # tasks that run in this iteration still join
            while self._waiting:
                names = list(islice(self._waiting, self._max_batch))
                await self._load_batch({name: self._waiting.pop(name) for name in names})
        finally:
            self._task = None
            for answer in self._waiting.values():  # only if this task was cancelled
                answer.set_exception(StoreFailed("the query was given up"))
            self._waiting.clear()

    async def _load_batch(self, asked: dict[str, asyncio.Future[Answer | None]]) -> None:
        try:
            found = await self._batch_fn(list(asked))
            answers = {name: found.get(name) for name in asked}
        except BaseException as error:
            # a cancellation was meant for the query, and not for those who wait for it
            is_ours = isinstance(error, Exception)
            raised = (
                error if is_ours else StoreFailed(f"the query was given up: {type(error).__name__}")
            )
            for answer in asked.values():
                answer.set_exception(raised)
            if not is_ours and self._cancellations.was_requested:
                raise
        else:
            for name, answer in asked.items():
                answer.set_result(answers[name])
