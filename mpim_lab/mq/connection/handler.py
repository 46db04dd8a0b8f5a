"""Handler: how the user's own code is called, once for every part that calls any.

| the handler ...                          | then it has                                        |
|------------------------------------------|----------------------------------------------------|
| returns None, or its awaitable gives any | succeeded                                          |
| raises                                   | failed                                             |
| returns something else, or a generator   | failed: it was not run as its author meant it      |
| meets a CancelledError of another task   | failed: whoever was cancelled, it was not the task |
|                                          | that called it                                     |
| is called by a task that is cancelled    | been cancelled, and so is the caller               |

LoopAffinity: an object with sockets, tasks or futures belongs to one event loop of one process.
"""

import asyncio
import contextlib
import inspect
import os
import random
from _thread import get_ident
from asyncio import AbstractEventLoop, get_running_loop
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

from mpim_lab.errors import InvalidParameter, MpimError, WrongLoop
from mpim_lab.mq.connection.retry import Backoff

# that lie between the first process and this one; asking for the process id costs a system call
# each time
_forks = 0


def _forked() -> None:
    global _forks
    _forks += 1


os.register_at_fork(after_in_child=_forked)


class LoopAffinity:
    """The affinity of an object to one event loop and process.

    Those of whoever called `check` first.

    What waits in one loop is not woken from another one: a call from a second `asyncio.run`, from
    another thread or from a forked child would wait for ever, or break what it touches. So it is
    refused before it touches anything.
    """

    __slots__ = ("_forks", "_loop", "_thread", "_what")

    def __init__(self, what: str) -> None:
        self._what = what
        self._loop: AbstractEventLoop | None = None
        self._forks = self._thread = 0

    @property
    def is_closed(self) -> bool:
        """Nothing can be begun in it any more: it was closed, or nobody has called `check` yet."""
        return self._loop is None or self._loop.is_closed()

    def check(self) -> AbstractEventLoop:
        """Return the loop.

        Raise WrongLoop if this is called in another event loop or process than the first time.
        """
        loop = self._loop
        # In this thread no other loop runs while this one does. To ask for the running loop costs a
        # system call.
        if (
            loop is not None
            and get_ident() == self._thread
            and loop.is_running()
            and self._forks == _forks
        ):
            return loop
        try:
            running = get_running_loop()
        except RuntimeError:
            raise WrongLoop(
                f"{self._what} was used without an event loop: use it inside `asyncio.run(…)`"
            ) from None
        if loop is not None:
            raise WrongLoop(
                f"{self._what} belongs to the event loop and process that used it first: make "
                "one for each"
            )
        self._loop, self._thread, self._forks = running, get_ident(), _forks
        return running


# of the time that an end may take, what is kept for giving back and closing, after the handlers
RELEASE_SHARE = 0.2
_INSIDE: ContextVar[frozenset[object]] = ContextVar(
    "mpim_lab handlers that this code runs in", default=frozenset()
)


def check_handler(handler: Any) -> None:
    """Refuse what can never be a handler: what is not callable, and generator functions.

    Raise InvalidParameter.
    """
    if not callable(handler):
        raise InvalidParameter(f"the handler must be callable, not {type(handler).__name__}")
    for called in (handler, getattr(handler, "__call__", None)):
        if inspect.isgeneratorfunction(called) or inspect.isasyncgenfunction(called):
            raise InvalidParameter(
                f"the handler {handler!r} has a `yield`: calling it would run nothing of it"
            )


def is_async(handler: Callable[..., Any]) -> bool:
    """Whether calling the handler gives something to await.

    Callable objects with `async __call__` included.
    """
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(
        getattr(handler, "__call__", None)
    )


async def await_result(result: Any) -> None:
    """Await what a handler returned. Raise TypeError for what is neither None nor awaitable."""
    if inspect.isawaitable(result):
        await result
    else:
        reject_result(result)


def reject_result(result: Any) -> None:
    """Raise TypeError if a handler that was to return None has returned something else."""
    if result is None:
        return
    if inspect.iscoroutine(result):
        result.close()
        raise TypeError("a plain handler returned a coroutine; write `async def` if it awaits")
    raise TypeError(f"a handler returns None, not {type(result).__name__}")


class TaskCancellation:
    """Tells whose a CancelledError is.

    Made when a task begins its work, asked when it meets one.
    """

    __slots__ = ("_before", "_task")

    def __init__(self) -> None:
        self._task = asyncio.current_task()
        self._before = 0 if self._task is None else self._task.cancelling()

    @property
    def was_requested(self) -> bool:
        """Somebody has cancelled this task since, and not something that its handler awaited."""
        return self._task is None or self._task.cancelling() > self._before


class handler_scope:
    """Mark what runs here, tasks begun here included, as a handler of `owner`."""

    __slots__ = ("_owner", "_token")

    def __init__(self, owner: object) -> None:
        self._owner = owner

    def __enter__(self) -> None:
        self._token = _INSIDE.set(_INSIDE.get() | {self._owner})

    def __exit__(self, *exc_info: object) -> None:
        _INSIDE.reset(self._token)


def is_in_handler(owner: object) -> bool:
    """Whether this code is run by a handler of `owner`, which must not wait for itself."""
    return owner in _INSIDE.get()


class StoppableLoop:
    """The state of a loop like `Worker.run`: whether it goes on, and a bounded wait for its end.

    `with loop: await loop.run(...)`, or a loop of one's own that looks at `is_stopping`; `await
    loop.stop(timeout_s)` elsewhere. It may be used again after its end.
    """

    def __init__(self) -> None:
        self.is_stopping = False
        self._has_begun = self._overdue = False
        self._task: asyncio.Task[Any] | None = None
        self._cancellations: TaskCancellation | None = None
        self._stop_requested, self._ended = asyncio.Event(), asyncio.Event()
        self._ended.set()  # it has not begun
        self._token: Any = None

    @property
    def is_running(self) -> bool:
        """It has begun and not ended."""
        return not self._ended.is_set()

    @property
    def is_cancelled(self) -> bool:
        """Somebody has cancelled the task of the loop, be it `join`."""
        return self._cancellations is not None and self._cancellations.was_requested

    def __enter__(self) -> "StoppableLoop":
        if self.is_running:
            raise InvalidParameter("it runs already: make a second one, with a name of its own")
        self._task = asyncio.current_task()
        self._cancellations = TaskCancellation()
        self._overdue = False
        self._has_begun = True
        self._ended.clear()
        self._token = _INSIDE.set(_INSIDE.get() | {self})
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> bool:
        _INSIDE.reset(self._token)
        self.is_stopping = False
        self._stop_requested.clear()
        self._ended.set()
        if self._overdue and self._task is not None:
            is_ours_alone = self._task.uncancel() == 0
            return is_ours_alone and isinstance(
                error, asyncio.CancelledError
            )  # asked to stop: no news to who awaits it
        return False

    async def run(
        self,
        step: Callable[[], Awaitable[None]],
        backoff: Backoff,
        on_error: Callable[[MpimError], None],
    ) -> None:
        """Await one step after the other until asked to stop.

        Wait after an error, longer after each in a row.

        `on_error` is told the error, and raises it if it is no use to go on.
        """
        failures = 0
        while not self.is_stopping:
            try:
                await step()
                failures = 0
            except MpimError as error:
                if self.is_cancelled:
                    raise asyncio.CancelledError from error
                on_error(error)
                failures += 1
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(backoff.delay_s(failures, random.random())):
                        await self._stop_requested.wait()

    async def request_stop(self) -> None:
        """Ask it to stop. One that has never begun stops as soon as it begins."""
        if not self.is_running:
            await asyncio.sleep(0)  # the task that is to run it may not have had its first turn
        if self.is_running or not self._has_begun:
            self.is_stopping = True
            self._stop_requested.set()

    async def stop(self, timeout_s: float) -> bool:
        """Ask it to stop, and wait for its end; see `join`."""
        await self.request_stop()
        return await self.join(timeout_s)

    async def join(self, timeout_s: float) -> bool:
        """Wait until the loop has ended, at most `timeout_s`; cancel it shortly before that.

        Return whether it has ended.

        Returns False at once inside a handler of the loop: it ends when the handler has returned.
        """
        if is_in_handler(self):
            return False
        for part, cancel in ((1 - RELEASE_SHARE, False), (RELEASE_SHARE, True)):
            if self.is_running and cancel and self._task is not None:
                self._overdue = True
                self._task.cancel()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s * part):
                    await self._ended.wait()
                    return True
        return False
