"""ParentChannel: the lines between a load process and the process that started it.

| direction | line                      | meaning                                              |
|-----------|---------------------------|------------------------------------------------------|
| in        | the plan                  | the first line; argv could be read by everybody      |
| in        | `"go"`                    | publisher: begin                                     |
| in        | `"stop"`                  | publisher: send no more, even if "go" is yet to come |
| in        | `{"expect": n}`           | receiver: n messages were sent in all                |
| in        | end of file               | the parent is gone: end at once                      |
| out       | `{"type": "ready"}`       | connected, warmed up, subscribed                     |
| out       | `{"type": "interval", …}` | what was counted since the last one                  |
| out       | `{"type": "summary", …}`  | the last line                                        |
"""

import asyncio
import json
import os
import sys
from collections.abc import Callable
from typing import Any

from mpim_lab.load.redis.plan import LoadPlan

MAX_UNREAD_BYTES = 256 * 1024


class ParentChannel(asyncio.Protocol):
    """The worker's end. It never waits for a parent that is busy: unread intervals are left out."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.plan: asyncio.Future[LoadPlan] = loop.create_future()
        self.expected: asyncio.Future[int] = loop.create_future()
        self.go = asyncio.Event()
        self.on_stop: Callable[[], None] = lambda: None
        self._buffer = b""
        self._out: asyncio.WriteTransport
        self._out_end: _Out

    @classmethod
    async def open(cls) -> "ParentChannel":
        """Take over stdin and stdout."""
        loop = asyncio.get_running_loop()
        _, wire = await loop.connect_read_pipe(cls, sys.stdin)
        wire._out, wire._out_end = await loop.connect_write_pipe(_Out, sys.stdout)
        return wire

    def data_received(self, data: bytes) -> None:
        """Obey whole lines."""
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            self._obey(json.loads(line))

    def _obey(self, order: Any) -> None:
        if order == "go":
            self.go.set()
        elif order == "stop":
            self.on_stop()
        elif "expect" in order:
            self.expected.set_result(order["expect"])
        else:
            self.plan.set_result(LoadPlan(**order))

    def eof_received(self) -> None:
        """The parent is gone, however it went; nobody is left to report to."""
        os._exit(1)

    def connection_lost(self, exc: Exception | None) -> None:
        """As at the end of file."""
        os._exit(1)

    def report(self, kind: str, **numbers: Any) -> None:
        """Write one line; an interval only if the parent has kept up reading."""
        if kind != "interval" or self._out.get_write_buffer_size() < MAX_UNREAD_BYTES:
            self._out.write(json.dumps({"type": kind, **numbers}).encode() + b"\n")

    async def close(self) -> None:
        """Wait until everything has been handed over."""
        self._out.close()
        await self._out_end.closed


class _Out(asyncio.BaseProtocol):
    def __init__(self) -> None:
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed.set_result(None)
