"""Handler: how the user's own code is called, once for every part that calls any.

| the handler ...                          | then it has                                                       |
|------------------------------------------|-------------------------------------------------------------------|
| returns None, or its awaitable gives any | succeeded                                                         |
| raises                                   | failed                                                            |
| returns something else, or a generator   | failed: it was not run as its author meant it                     |
| meets a CancelledError of another task   | failed: whoever was cancelled, it was not the task that called it |
| is called by a task that is cancelled    | been cancelled, and so is the caller                              |
"""

import asyncio
import contextlib
import inspect
from collections.abc import Awaitable, Callable, Iterator
from contextvars import ContextVar
from typing import Any

from mpim_lab.errors import InvalidParameter

LEAVING = 0.2  # of the time that an end may take, what is kept for giving back and closing, after the handlers
_INSIDE: ContextVar[frozenset[object]] = ContextVar("mpim_lab handlers that this code runs in", default=frozenset())


def checked_handler(handler: Any) -> None:
    """Refuse what can never be a handler: what is not callable, and generator functions. Raise InvalidParameter."""
    if not callable(handler):
        raise InvalidParameter(f"the handler must be callable, not {type(handler).__name__}")
    for called in (handler, getattr(handler, "__call__", None)):
        if inspect.isgeneratorfunction(called) or inspect.isasyncgenfunction(called):
            raise InvalidParameter(f"the handler {handler!r} has a `yield`: calling it would run nothing of it")


def is_async(handler: Callable[..., Any]) -> bool:
    """Whether calling the handler gives something to await; callable objects with `async __call__` included."""
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(getattr(handler, "__call__", None))


async def settled(result: Any) -> None:
    """Await what a handler returned. Raise TypeError for what is neither None nor awaitable."""
    if inspect.isawaitable(result):
        await result
    else:
        refuse(result)


def refuse(result: Any) -> None:
    """Raise TypeError if a handler that was to return None has returned something else."""
    if result is None:
        return
    if inspect.iscoroutine(result):
        result.close()
        raise TypeError("a plain handler returned a coroutine; write `async def` if it awaits")
    raise TypeError(f"a handler returns None, not {type(result).__name__}")


class Cancellations:
    """Whose a CancelledError is: made when a task begins its work, asked when it meets one."""

    __slots__ = ("_before", "_task")

    def __init__(self) -> None:
        self._task = asyncio.current_task()
        self._before = 0 if self._task is None else self._task.cancelling()

    @property
    def are_ours(self) -> bool:
        """Somebody has cancelled this task since, as opposed to something that its handler awaited."""
        return self._task is None or self._task.cancelling() > self._before


@contextlib.contextmanager
def inside(owner: object) -> Iterator[None]:
    """Mark what runs here, tasks begun here included, as a handler of `owner`."""
    token = _INSIDE.set(_INSIDE.get() | {owner})
    try:
        yield
    finally:
        _INSIDE.reset(token)


def is_inside(owner: object) -> bool:
    """Whether this code is run by a handler of `owner`, which must not wait for itself."""
    return owner in _INSIDE.get()


class Loop:
    """Whether a loop like `Worker.run` goes on, and a bounded wait for its end that never waits for itself.

    `with loop: ...` around the loop; `await loop.end(timeout_s)` elsewhere, after asking it to stop.
    """

    def __init__(self) -> None:
        self._task: asyncio.Task[Any] | None = None
        self._cancellations: Cancellations | None = None
        self._ended = asyncio.Event()
        self._ended.set()  # it has not begun
        self._overdue = False
        self._token: Any = None

    @property
    def is_running(self) -> bool:
        """It has begun and not ended."""
        return not self._ended.is_set()

    @property
    def is_cancelled(self) -> bool:
        """Somebody has cancelled the task of the loop, be it `end`."""
        return self._cancellations is not None and self._cancellations.are_ours

    def __enter__(self) -> "Loop":
        if self.is_running:
            raise InvalidParameter("it runs already: make a second one, with a name of its own")
        self._task, self._cancellations, self._overdue = asyncio.current_task(), Cancellations(), False
        self._ended.clear()
        self._token = _INSIDE.set(_INSIDE.get() | {self})
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        _INSIDE.reset(self._token)
        self._ended.set()
        if self._overdue and self._task is not None:
            is_ours_alone = self._task.uncancel() == 0
            return is_ours_alone and isinstance(
                error, asyncio.CancelledError
            )  # asked to stop: no news to who awaits it
        return False

    async def end(self, timeout_s: float) -> bool:
        """Wait until the loop has ended, at most `timeout_s`; cancel it shortly before that. Return whether it has ended.

        Returns False at once inside a handler of the loop: it ends when the handler has returned.
        """
        if is_inside(self):
            return False
        for part, cancel in ((1 - LEAVING, False), (LEAVING, True)):
            if self.is_running and cancel and self._task is not None:
                self._overdue = True
                self._task.cancel()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s * part):
                    await self._ended.wait()
                    return True
        return False


Handler = Callable[..., None] | Callable[..., Awaitable[None]]
