"""Check process: a learner's class is examined in a process of its own, which can be ended.

| the class                       | is noticed by                                    | and the check says               |
|---------------------------------|--------------------------------------------------|----------------------------------|
| keeps the event loop busy       | a thread: no iteration for `MAX_BUSY_S`          | the line where it is             |
| makes tasks without end         | the same thread counts them                      | how many there were              |
| takes memory without end        | a limit of the process                           | that it did                      |
| raises SystemExit, BaseException| the run; at the latest the end of the process    | that the process was ended       |
| prints without end              | nobody: it goes nowhere after `MAX_PRINTED`      | nothing                          |
| does not come to an end at all  | this process, after `LIMIT_S`                    | undecided                        |

Frames on the pipes are a length of four bytes and a pickle. The parent kills the process whenever it
is done with it, or is interrupted itself; what the process had started ends with it.
"""

import asyncio
import contextlib
import importlib
import io
import os
import pickle
import re
import resource
import signal
import struct
import sys
import threading
import traceback
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep  # the real ones: others are patched in virtual time
from typing import Any

from mpim_lab.lab.exercise.solution import Solution

LIMIT_S = 240.0
MAX_BUSY_S = 5.0
MAX_TASKS = 20_000
MAX_MEMORY_BYTES = 3 * 1024**3 // 2
MAX_PRINTED = 64 * 1024
_LENGTH = struct.Struct(">I")


@dataclass(frozen=True)
class Ended:
    """How a check process ended.

    Args:
        result: what the examination gave; None if it came to none.
        failed: then what the class did to its process.
        undecided: or why nothing is known.
    """

    result: Any = None
    failed: str = ""
    undecided: str = ""


async def run_check(
    module: str, name: str, title: str, solution: Solution, *, quick: bool
) -> Ended:
    """Examine a solution in a process of its own, with a progress bar where there is a screen."""
    request = {
        "path": sys.path,
        "module": module,
        "name": name,
        "solution": solution,
        "quick": quick,
    }
    ended = Ended(failed="your class ended the process of the check (os._exit, or a signal)")
    with _progress_bar(title, quick=quick) as show:
        try:
            async with asyncio.timeout(LIMIT_S), _process(request) as frames:
                async for kind, content in frames:
                    if kind == "progress":
                        show(*content)
                    else:
                        ended = Ended(**{kind: content})
        except TimeoutError:
            return Ended(undecided=f"no end after {LIMIT_S:g} s")
    return ended


@contextlib.asynccontextmanager
async def _process(request: dict[str, Any]) -> AsyncIterator[AsyncIterator[tuple[str, Any]]]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        __name__,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
        limit=2**20,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        data = pickle.dumps(request)
        process.stdin.write(_LENGTH.pack(len(data)) + data)
        await process.stdin.drain()
        yield _frames(process.stdout)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


async def _frames(reader: asyncio.StreamReader) -> AsyncIterator[tuple[str, Any]]:
    while True:
        try:
            length = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))[0]
            yield pickle.loads(await reader.readexactly(length))
        except asyncio.IncompleteReadError:
            return


@contextlib.contextmanager
def _progress_bar(title: str, *, quick: bool) -> Any:
    """Yield a function that shows how far it is; nothing is left of it at the end."""
    is_seen = sys.stderr.isatty() and not quick

    def show(done: int, expected: int) -> None:
        if is_seen:
            width = 24 * min(done, expected) // max(1, expected)
            bar = "█" * width + "░" * (24 - width)
            sys.stderr.write(f"\r{title} {bar} {done} of {expected} ")
            sys.stderr.flush()

    try:
        yield show
    finally:
        if is_seen:
            sys.stderr.write("\r\033[K")


# In the process


class _Output:
    """The pipe to the parent, from several threads."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor, self._lock = descriptor, threading.Lock()

    def send(self, kind: str, content: Any) -> None:
        """Send a frame."""
        data = pickle.dumps((kind, content))
        with self._lock, open(self._descriptor, "wb", closefd=False) as pipe:
            pipe.write(_LENGTH.pack(len(data)) + data)

    def fail(self, why: str) -> None:
        """Say why the check ends here, and end."""
        self.send("failed", why)
        os._exit(1)


class _Watchdog(threading.Thread):
    """Notices an event loop that stands still, and tasks without end."""

    def __init__(self, output: _Output, solution: Solution) -> None:
        super().__init__(daemon=True)
        self._output, self._solution = output, solution
        self.turned_at = monotonic()
        self._main = threading.main_thread().ident
        self.loop: asyncio.AbstractEventLoop | None = None

    def run(self) -> None:
        """Look ten times a second, for ever."""
        looked_at = monotonic()
        while True:
            sleep(0.1)
            now = monotonic()
            self.turned_at += max(
                0.0, now - looked_at - 0.3
            )  # the machine stood still, not the class
            looked_at = now
            if now - self.turned_at > MAX_BUSY_S:
                where = self._where()
                text = f"your class keeps the event loop busy: for {MAX_BUSY_S:g} s nothing else could run"
                self._output.fail(text + (f"\n{where}" if where else ""))
            if self.loop is not None and _task_count(self.loop) > MAX_TASKS:
                self._output.fail(f"your class made more than {MAX_TASKS:,} tasks")

    def _where(self) -> str:
        frame = sys._current_frames().get(self._main or 0)
        own = [
            each
            for each in traceback.extract_stack(frame)
            if each.filename in self._solution.sources
        ]
        return f"line {own[-1].lineno}, in {own[-1].name}: {own[-1].line}" if own else ""

    async def beat(self) -> None:
        """Turn with the loop."""
        self.loop = asyncio.get_running_loop()
        while True:
            self.turned_at = monotonic()
            await asyncio.sleep(0.05)


def _task_count(loop: asyncio.AbstractEventLoop) -> int:
    with contextlib.suppress(RuntimeError):  # it changes while it is counted
        return len(asyncio.all_tasks(loop))
    return 0


class _Printed(io.TextIOBase):
    """Where prints go: nowhere, so that they cannot fill anything."""

    def write(self, text: str) -> int:
        return len(text)


def main() -> None:
    """Read what is to be examined, examine it, send the result."""
    output = _Output(os.dup(1))
    null = os.open(os.devnull, os.O_RDWR)
    source = os.dup(0)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    sys.stdout = sys.stderr = _Printed()
    with open(source, "rb") as pipe:
        length = _LENGTH.unpack(pipe.read(_LENGTH.size))[0]
        request = pickle.loads(pipe.read(length))
    sys.path[:] = request["path"]
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    # Imports take seconds on a busy machine, which is not the class's fault.
    challenge = getattr(importlib.import_module(request["module"]), request["name"])()
    watchdog = _Watchdog(output, request["solution"])
    watchdog.start()
    try:
        asyncio.run(_examine(challenge, request, watchdog, output.send))
    except MemoryError:
        output.fail(f"your class took more than {MAX_MEMORY_BYTES // 1024**2:,} MiB of memory")
    except BaseException as error:
        output.fail(f"your class raised {type(error).__name__}, which ends a whole process")


def _peak_memory_bytes() -> int:
    """How much of the limit this process has had at most; 0 where nobody says so."""
    with contextlib.suppress(OSError):
        found = re.search(r"VmPeak:\s+(\d+) kB", Path("/proc/self/status").read_text())
        return 1024 * int(found[1]) if found else 0
    return 0


async def _examine(
    challenge: Any,
    request: dict[str, Any],
    watchdog: _Watchdog,
    send: Callable[[str, Any], None],
) -> None:
    beating = asyncio.create_task(watchdog.beat())

    def show(done: int, expected: int) -> None:
        watchdog.turned_at = monotonic()
        send("progress", (done, expected))

    result = await challenge.examine(
        request["solution"],
        quick=request["quick"],
        progress=show,
    )
    if result.undecided and _peak_memory_bytes() > 0.8 * MAX_MEMORY_BYTES:
        raise MemoryError  # somebody else met it first: a connection that could not be opened
    send("result", result)
    beating.cancel()
    os._exit(0)  # whatever the class has left behind ends here


if __name__ == "__main__":
    main()
