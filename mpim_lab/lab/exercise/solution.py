"""Solution: a learner's class, as bytes. Each actor loads it anew, so what one remembers in the class dies with it."""

import difflib
import inspect
import io
import linecache
import pickle
import sys
import traceback
from collections import ChainMap
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import CodeType, FunctionType, ModuleType
from typing import Any, ClassVar

import cloudpickle

from mpim_lab.errors import InvalidParameter

_OWN = "mpim_lab."
_SHOWN_FRAMES = 4


class Violation(Exception):
    """A guarantee of a challenge that does not hold.

    Args:
        text: what happened, in one sentence.
        guarantee: its number in the task's list, from 1; 0 for the interface itself.
        message_id: the message whose history shows it.
        error: what the learner's class raised, if it did.
    """

    def __init__(
        self,
        text: str,
        guarantee: int = 0,
        message_id: str = "",
        error: BaseException | None = None,
    ) -> None:
        super().__init__(text)
        self.text, self.guarantee, self.message_id, self.error = text, guarantee, message_id, error


@dataclass
class Solution:
    """A class that travels by value, with the source of its cells for tracebacks."""

    name: str
    data: bytes = field(repr=False)
    sources: dict[str, str] = field(default_factory=dict, repr=False)

    def load(self) -> type[Any]:
        """Return the class, made anew: nothing that another one of it remembers is in it."""
        # Cloudpickle keeps one class for each that it has loaded; here every load is a new one.
        cloudpickle.cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID.clear()
        loaded: type[Any] = pickle.loads(self.data)
        return loaded

    def install_sources(self) -> None:
        """Have tracebacks show the lines of cells that were written in another process."""
        for name, text in self.sources.items():
            linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)

    def where(self, error: BaseException) -> str:
        """Return the traceback of an error as far as it is in the learner's own code; "" if it is not."""
        frames = [
            frame
            for frame in traceback.extract_tb(error.__traceback__)
            if frame.filename in self.sources
        ]
        lines = (f"line {each.lineno}, in {each.name}: {each.line}" for each in frames)
        return "\n".join(list(lines)[-_SHOWN_FRAMES:])


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # it has no types
    """Keeps the name of the file or cell that code is from, which cloudpickle leaves out."""

    dispatch_table: ClassVar[Any] = ChainMap(
        {CodeType: lambda code: _reduce_code(code)}, cloudpickle.Pickler.dispatch_table
    )


def _reduce_code(code: CodeType) -> tuple[Any, ...]:
    make, given = cloudpickle.Pickler.dispatch_table[CodeType](code)
    return make, tuple(code.co_filename if each == "<dynamic-code>" else each for each in given)


def _dumps(value: Any) -> bytes:
    file = io.BytesIO()
    _Pickler(file).dump(value)
    return file.getvalue()


def _functions_of(kind: type[Any]) -> list[FunctionType]:
    found = []
    for value in vars(kind).values():
        value = inspect.unwrap(getattr(value, "__func__", getattr(value, "fget", value)))
        if inspect.isfunction(value):
            found.append(value)
    return found


def _travelling_modules(kind: type[Any]) -> list[ModuleType]:
    """Modules of the class and its bases that the other process could not import, or should not share."""
    names = {each.__module__ for each in kind.__mro__}
    return [
        module
        for name in names
        if name not in ("builtins", "__main__")
        and not name.startswith(_OWN)
        and name.partition(".")[0] not in sys.stdlib_module_names
        and (module := sys.modules.get(name)) is not None
    ]


def pack_solution(given: Any, methods: Sequence[str] = ()) -> Solution:
    """Make a solution of what the learner gave.

    Args:
        given: the class.
        methods: which it must have, besides `__init__`.

    Raises:
        InvalidParameter: if it is no class, a method is missing, or something in it cannot travel to
            another process; it says what.
    """
    if not isinstance(given, type):
        what = f"the text {given!r:.40}" if isinstance(given, str) else f"{given!r:.60}"
        raise InvalidParameter(f"give the class itself, `.check(YourClass)`; this is {what}")
    for name in methods:
        if not callable(getattr(given, name, None)):
            own = [word for word in dir(given) if not word.startswith("__")]
            close = difflib.get_close_matches(name, own, n=1)
            hint = f"; it has `{close[0]}`" if close else ""
            raise InvalidParameter(f"your class has no method `{name}`{hint}")
    modules = _travelling_modules(given)
    for module in modules:
        cloudpickle.register_pickle_by_value(module)
    try:
        data = _dumps(given)
    except Exception as error:
        raise InvalidParameter(_why_not(given, error)) from error
    finally:
        for module in modules:
            cloudpickle.unregister_pickle_by_value(module)
    return Solution(given.__name__, data, _sources_of(given))


def _sources_of(kind: type[Any]) -> dict[str, str]:
    files = {
        function.__code__.co_filename
        for each in kind.__mro__
        if not each.__module__.startswith(_OWN)
        for function in _functions_of(each)
    }
    return {name: text for name in files if (text := "".join(linecache.getlines(name)))}


def _why_not(kind: type[Any], error: Exception) -> str:
    for function in _functions_of(kind):
        for name in function.__code__.co_names:
            if name in function.__globals__:
                try:
                    cloudpickle.dumps(function.__globals__[name])
                except Exception:
                    return (
                        f"`{name}`, which your class uses, cannot travel to the process of the check; "
                        "make it in the class, in `__init__`"
                    )
    return f"your class cannot travel to the process of the check: {error}"


async def finished(what: str, result: Any) -> Any:
    """Await what a method of the learner's gave. Raises Violation if that is nothing to await."""
    if not inspect.isawaitable(result):
        raise Violation(f"`{what}` gave {result!r:.60} instead of something to await: `async def`")
    return await result
