"""Sandbox: a learner's class whose `sys.exit()` ends its trial, and not the kernel.

The same for KeyboardInterrupt: asyncio passes these two on through its event loop, whatever task
they were raised in.
"""

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any


class ExitRequested(Exception):
    """Code of the learner's asked for the end of the whole process.

    Its class has the name of what was raised.
    """


def contain_exit(solution: Any) -> Any:
    """Return the same class, with an `ExitRequested` for what would end the process.

    Return what is no class as it is.

    >>> class Leaves:
    ...     def __init__(self):
    ...         raise SystemExit(3)
    >>> contain_exit(Leaves)()
    Traceback (most recent call last):
    mpim_lab.lab.exercise.sandbox.SystemExit: 3
    """
    if not isinstance(solution, type):
        return solution
    own = {
        name: _contain_method(value)
        for name, value in vars(solution).items()
        if inspect.isfunction(value)
    }
    return type(solution)(
        solution.__name__, (solution,), {"__module__": solution.__module__, **own}
    )


def _contain_method(method: Callable[..., Any]) -> Callable[..., Any]:
    if inspect.isgeneratorfunction(method) or inspect.isasyncgenfunction(method):
        return method

    @functools.wraps(method)
    async def awaited(*given: Any, **named: Any) -> Any:
        with _contained():
            return await method(*given, **named)

    @functools.wraps(method)
    def called(*given: Any, **named: Any) -> Any:
        with _contained():
            return method(*given, **named)

    return awaited if inspect.iscoroutinefunction(method) else called


@contextlib.contextmanager
def _contained() -> Iterator[None]:
    try:
        yield
    except (SystemExit, KeyboardInterrupt) as error:
        raise type(type(error).__name__, (ExitRequested,), {"__module__": __name__})(
            *error.args
        ) from error
