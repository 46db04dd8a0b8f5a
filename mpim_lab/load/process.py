"""LoadProcess: the parent's end of one load process.

The lines between them are described in `load.redis.parent_channel`.

| exit                                | what ends the process                                                       |
|-------------------------------------|-----------------------------------------------------------------------------|
| it has summed up                    | itself; SIGKILL if it has not within `STOP_TIMEOUT_S`                          |
| error, time-out, cancellation       | SIGKILL                                                                     |
| it writes what cannot be read       | SIGKILL; `ready` and `summary` raise LoadFailed                              |
| we are killed, forked children stay | itself, at end-of-file: a forked child closes its copy of the pipe at once   |
"""

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import Callable
from dataclasses import asdict
from types import TracebackType
from typing import Any

from mpim_lab.errors import LoadFailed
from mpim_lab.lab.server.child import child_command, child_environment
from mpim_lab.lab.server.process_guard import close_in_forks
from mpim_lab.load.redis.plan import LoadPlan

LAST_LINES, STOP_TIMEOUT_S = 12, 5.0
MAX_LINE_BYTES = 1024 * 1024


class LoadProcess:
    """Start a load process on entry, and make sure on exit that it is gone.

    `ready` and `summary` are futures; both raise LoadFailed with the process's last lines when it
    ends before its time.
    """

    def __init__(
        self, role: str, plan: LoadPlan, on_interval: Callable[[str, dict[str, Any]], None]
    ) -> None:
        loop = asyncio.get_running_loop()
        self.role, self._plan, self._on_interval = role, plan, on_interval
        self.ready: asyncio.Future[None] = loop.create_future()
        self.summary: asyncio.Future[dict[str, Any]] = loop.create_future()
        self._has_summed_up = False
        self._last_lines: deque[str] = deque(maxlen=LAST_LINES)

    async def __aenter__(self) -> "LoadProcess":
        self._process = await asyncio.create_subprocess_exec(
            *child_command("mpim_lab.load.redis", self.role),
            env=child_environment(),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=MAX_LINE_BYTES,
            start_new_session=True,  # an interrupt of the notebook's cell is for the notebook
        )
        assert self._process.stdin is not None
        close_in_forks(self._process.stdin.get_extra_info("pipe"))
        self._following = asyncio.create_task(self._follow())
        self.tell(asdict(self._plan))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._has_summed_up:
            self._kill()
        try:
            await asyncio.wait([self._following], timeout=STOP_TIMEOUT_S)
        finally:
            self._kill()  # it hangs, or the wait for it was cancelled
        await asyncio.wait([self._following], timeout=STOP_TIMEOUT_S)
        self._following.cancel()  # somebody else may hold its pipes
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await self._process.wait()
        self._process._transport.close()  # type: ignore[attr-defined]  # its pipes, too; it has no public way
        if not self.ready.done():
            self.ready.cancel()

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def tell(self, order: Any) -> None:
        """Send an order; one that comes too late is lost, which `summary` tells."""
        assert self._process.stdin is not None
        with contextlib.suppress(ConnectionError, RuntimeError):
            self._process.stdin.write(json.dumps(order).encode() + b"\n")

    async def _follow(self) -> None:
        assert self._process.stdout is not None and self._process.stderr is not None
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._read(self._process.stdout))
                group.create_task(self._read(self._process.stderr))
            ended = f"ended with code {await self._process.wait()}"
        except ExceptionGroup as errors:
            self._kill()
            ended = f"wrote what cannot be read ({errors.exceptions[0]!r})"
        said = ":\n" + "\n".join(self._last_lines) if self._last_lines else " and said nothing"
        for future in (self.ready, self.summary):
            if not future.done():
                future.set_exception(
                    LoadFailed(f"the {self.role} of {self._plan.who} {ended}{said}")
                )
                future.exception()  # whoever awaits it still gets it; nobody need do so

    async def _read(self, stream: asyncio.StreamReader) -> None:
        async for line in stream:
            if line.startswith(b'{"type": '):
                self._take(json.loads(line))
            else:
                self._last_lines.append(line.decode("utf-8", "replace").rstrip())

    def _take(self, report: dict[str, Any]) -> None:
        kind = report.pop("type")
        if kind == "ready":
            _settle(self.ready, None)
        elif kind == "interval":
            self._on_interval(self.role, report)
        else:
            self._has_summed_up = True
            _settle(self.summary, report)


def _settle(future: asyncio.Future[Any], result: Any) -> None:
    """Set a result, unless whoever waited for it was cancelled, and the future with them."""
    if not future.done():
        future.set_result(result)
