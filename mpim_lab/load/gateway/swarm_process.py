"""SwarmProcess: the parent's end of one process of clients."""

import asyncio
import contextlib
import json
from collections import deque
from dataclasses import asdict
from typing import Any, Self

from mpim_lab.errors import LoadFailed
from mpim_lab.lab.server.child import child_command, child_environment
from mpim_lab.lab.server.process_guard import close_in_forks
from mpim_lab.load.gateway.plan import SwarmPlan

MAX_LINE_BYTES = 1024 * 1024
LAST_LINES, STOP_TIMEOUT_S = 12, 5.0


class SwarmProcess:
    """Start a process of clients on entry; on exit it is gone, and its connections with it."""

    def __init__(self, plan: SwarmPlan) -> None:
        self.plan = plan
        self._last_lines: deque[str] = deque(maxlen=LAST_LINES)
        self._asked = self._answered = 0
        self._reading = asyncio.Lock()

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            *child_command("mpim_lab.load.gateway"),
            env=child_environment(),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=MAX_LINE_BYTES,
            start_new_session=True,  # an interrupt at the terminal is for the bench, which ends this one
        )
        assert self._process.stdin is not None
        close_in_forks(self._process.stdin.get_extra_info("pipe"))
        self._complaints = asyncio.create_task(self._keep_last_lines())
        self._write(asdict(self.plan))
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._kill()
        await asyncio.wait([self._complaints], timeout=STOP_TIMEOUT_S)
        self._complaints.cancel()  # somebody else may hold its pipe
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await self._process.wait()

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    async def ask(self, do: str, *, timeout_s: float = 60.0, **order: Any) -> dict[str, Any]:
        """Give one order, and wait for what it found.

        Raises LoadFailed with the process's last lines, or at the limit.

        What comes too late, or after a cancellation, is nobody else's answer.
        """
        self._write({"do": do, **order})
        self._asked += 1
        try:
            async with asyncio.timeout(timeout_s):
                return await self._answer(self._asked)
        except TimeoutError:
            raise LoadFailed(
                f"the clients were not done with {do!r} within {timeout_s:g} s"
            ) from None
        except ValueError as error:
            self._kill()
            raise LoadFailed(f"the clients' process wrote what cannot be read: {error}") from error

    async def _answer(self, number: int) -> dict[str, Any]:
        """Read up to the answer to one order. Raises ValueError for what is no answer."""
        assert self._process.stdout is not None
        async with self._reading:
            while True:
                line = await self._process.stdout.readline()
                if not line:
                    await asyncio.wait([self._complaints], timeout=STOP_TIMEOUT_S)
                    raise LoadFailed("\n".join(["the clients' process ended:", *self._last_lines]))
                self._answered += 1
                if self._answered == number:
                    found: dict[str, Any] = json.loads(line)
                    return found

    def _write(self, line: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(
            ConnectionError, RuntimeError
        ):  # it is gone, which the missing answer tells
            self._process.stdin.write(json.dumps(line).encode() + b"\n")

    async def _keep_last_lines(self) -> None:
        assert self._process.stderr is not None
        while not self._process.stderr.at_eof():
            with contextlib.suppress(ValueError):  # longer than any line that is of use
                self._last_lines.append(
                    (await self._process.stderr.readline()).decode(errors="replace").rstrip()
                )
