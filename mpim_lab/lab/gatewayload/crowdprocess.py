"""CrowdProcess: the parent's end of one process of clients."""

import asyncio
import contextlib
import json
import sys
from collections import deque
from dataclasses import asdict
from typing import Any, Self

from mpim_lab.errors import LoadFailed
from mpim_lab.lab.gatewayload.plan import CrowdPlan

MOST_LINE_BYTES = 1024 * 1024
LAST_LINES = 12


class CrowdProcess:
    """Start a process of clients on entry; on exit it is gone, and its connections with it."""

    def __init__(self, plan: CrowdPlan) -> None:
        self.plan = plan
        self._last_lines: deque[str] = deque(maxlen=LAST_LINES)

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "mpim_lab.lab.gatewayload"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=MOST_LINE_BYTES,
            start_new_session=True,  # an interrupt at the terminal is for the bench, which ends this one
        )
        self._complaints = asyncio.create_task(self._keep_last_lines())
        self._write(asdict(self.plan))
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()
        await self._complaints

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    async def ask(self, do: str, *, within_s: float = 60.0, **order: Any) -> dict[str, Any]:
        """Give one order, and wait for what it found. Raises LoadFailed with the process's last lines, or at the limit."""
        assert self._process.stdout is not None
        self._write({"do": do, **order})
        try:
            async with asyncio.timeout(within_s):
                line = await self._process.stdout.readline()
        except TimeoutError:
            raise LoadFailed(f"the clients were not done with {do!r} within {within_s:g} s") from None
        if not line:
            await self._complaints
            raise LoadFailed("\n".join(["the clients' process ended:", *self._last_lines]))
        found: dict[str, Any] = json.loads(line)
        return found

    def _write(self, line: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(ConnectionError, RuntimeError):  # it is gone, which the missing answer tells
            self._process.stdin.write(json.dumps(line).encode() + b"\n")

    async def _keep_last_lines(self) -> None:
        assert self._process.stderr is not None
        async for line in self._process.stderr:
            self._last_lines.append(line.decode(errors="replace").rstrip())
