"""SwarmProcess: the parent's end of one process of clients."""

import asyncio
import contextlib
import json
from typing import Any

from mpim_lab.errors import LoadFailed
from mpim_lab.load.gateway.plan import SwarmPlan
from mpim_lab.load.process import STOP_TIMEOUT_S, ChildProcess


class SwarmProcess(ChildProcess):
    """Start a process of clients on entry; on exit it is gone, and its connections with it."""

    def __init__(self, plan: SwarmPlan) -> None:
        super().__init__(plan, "mpim_lab.load.gateway")
        self._asked = self._answered = 0
        self._reading = asyncio.Lock()

    async def ask(self, do: str, *, timeout_s: float = 60.0, **order: Any) -> dict[str, Any]:
        """Give one order, and wait for what it found.

        Raises LoadFailed with the process's last lines, or at the limit.

        What comes too late, or after a cancellation, is nobody else's answer.
        """
        self.tell({"do": do, **order})
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
        async with self._reading:
            while self._answered < number:
                line = await self._stdout.readline()
                if not line:
                    await asyncio.wait([self._following], timeout=STOP_TIMEOUT_S)
                    raise LoadFailed("\n".join(["the clients' process ended:", *self._last_lines]))
                self._answered += 1
        found: dict[str, Any] = json.loads(line)
        return found

    async def _follow(self) -> None:
        while not self._stderr.at_eof():
            with contextlib.suppress(ValueError):  # longer than any line that is of use
                await super()._follow()
