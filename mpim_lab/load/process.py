"""The parent's end of a child process that speaks in lines of JSON, and of a load process."""

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Self

from mpim_lab.errors import LoadFailed
from mpim_lab.lab.server.child import child_command, child_environment
from mpim_lab.lab.server.process_guard import close_in_forks
from mpim_lab.load.redis.plan import LoadPlan

LAST_LINES, STOP_TIMEOUT_S = 12, 5.0
MAX_LINE_BYTES = 1024 * 1024


class ChildProcess:
    """Start a module of ours on entry, with a plan for its first line; on exit it is gone.

    A child whose parent is killed ends at the end of its input, also when forked children stay:
    those close their copy of the pipe at once.
    """

    def __init__(self, plan: Any, *command: str) -> None:
        self.plan = plan
        self._command = command
        self._ends_by_itself = False
        self._last_lines: deque[str] = deque(maxlen=LAST_LINES)

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            *child_command(*self._command),
            env=child_environment(),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=MAX_LINE_BYTES,
            start_new_session=True,  # an interrupt of a cell or at a terminal is for the parent
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        assert self._process.stderr is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        self._stderr = self._process.stderr
        close_in_forks(self._stdin.get_extra_info("pipe"))
        self._following = asyncio.create_task(self._follow())
        self.tell(asdict(self.plan))
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if not self._ends_by_itself:
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
        # Its pipes, too; there is no public way.
        self._process._transport.close()  # type: ignore[attr-defined]

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def tell(self, order: Any) -> None:
        """Send an order; one that comes too late is lost, as the missing answer shows."""
        with contextlib.suppress(ConnectionError, RuntimeError):
            self._stdin.write(json.dumps(order).encode() + b"\n")

    async def _follow(self) -> None:
        """Keep what the process complains of; a line that is too long raises ValueError."""
        async for line in self._stderr:
            self._keep(line)

    def _keep(self, line: bytes) -> None:
        self._last_lines.append(line.decode("utf-8", "replace").rstrip())


class LoadProcess(ChildProcess):
    """A publisher or a receiver; the lines are described in `load.redis.parent_channel`.

    `ready` and `summary` are futures. Both raise LoadFailed with the process's last lines when it
    ends before its time, or writes what cannot be read. A process that has summed up ends by
    itself; on an error, a time-out or a cancellation it is killed.
    """

    def __init__(
        self, role: str, plan: LoadPlan, on_interval: Callable[[str, dict[str, Any]], None]
    ) -> None:
        super().__init__(plan, "mpim_lab.load.redis", role)
        loop = asyncio.get_running_loop()
        self.role, self._on_interval = role, on_interval
        self.ready: asyncio.Future[None] = loop.create_future()
        self.summary: asyncio.Future[dict[str, Any]] = loop.create_future()

    async def __aexit__(self, *exc_info: object) -> None:
        await super().__aexit__(*exc_info)
        self.ready.cancel()

    async def _follow(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._read_reports())
                group.create_task(super()._follow())
            ended = f"ended with code {await self._process.wait()}"
        except ExceptionGroup as errors:
            self._kill()
            ended = f"wrote what cannot be read ({errors.exceptions[0]!r})"
        said = ":\n" + "\n".join(self._last_lines) if self._last_lines else " and said nothing"
        for future in (self.ready, self.summary):
            if not future.done():
                future.set_exception(
                    LoadFailed(f"the {self.role} of {self.plan.who} {ended}{said}")
                )
                future.exception()  # whoever awaits it still gets it; nobody need do so

    async def _read_reports(self) -> None:
        async for line in self._stdout:
            if line.startswith(b'{"type": '):
                self._take(json.loads(line))
            else:
                self._keep(line)

    def _take(self, report: dict[str, Any]) -> None:
        kind = report.pop("type")
        if kind == "ready":
            _settle(self.ready, None)
        elif kind == "interval":
            self._on_interval(self.role, report)
        else:
            self._ends_by_itself = True
            _settle(self.summary, report)


def _settle(future: asyncio.Future[Any], result: Any) -> None:
    """Set a result, unless whoever waited for it was cancelled, and the future with them."""
    if not future.done():
        future.set_result(result)
