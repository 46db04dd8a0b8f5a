"""Walks: which functions, in which files, one message passes.

A profile hook around one call that is warmed up.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

import mpim_lab

ROOT = str(Path(mpim_lab.__file__).parent) + "/"


class Walk(NamedTuple):
    """What was called, in order of first call: (file, function), each once, and how many calls there were."""

    functions: tuple[tuple[str, str], ...]
    calls: int

    @property
    def files(self) -> tuple[str, ...]:
        """The files, in order."""
        return tuple(dict.fromkeys(file for file, _ in self.functions))

    def __str__(self) -> str:
        lines = [f"{self.calls} calls, {len(self.functions)} functions, {len(self.files)} files"]
        for file in self.files:
            names = ", ".join(function for at, function in self.functions if at == file)
            lines.append(f"  {file}: {names}")
        return "\n".join(lines)


async def walk(work: Callable[[], Awaitable[object]], *, times: int = 10) -> Walk:
    """Walk a few times and return the shortest walk.

    Into the others some periodic task of the package fell.
    """
    for _ in range(3):
        await work()
    return min([await _walk_once(work) for _ in range(times)], key=lambda each: each.calls)


async def _walk_once(work: Callable[[], Awaitable[object]]) -> Walk:
    await asyncio.sleep(0.02)
    seen: dict[tuple[str, str], None] = {}
    calls = 0

    def hook(frame, event, _):
        nonlocal calls
        file = frame.f_code.co_filename
        if event == "call" and file.startswith(ROOT):
            calls += 1
            seen[file.removeprefix(ROOT), frame.f_code.co_qualname] = None

    sys.setprofile(hook)
    try:
        await work()
    finally:
        sys.setprofile(None)
    return Walk(tuple(seen), calls)
