"""`python -m mpim_lab.load.gateway`: one process of clients; `swarm_process` starts it.

The first line on stdin is the plan; each further one an order {"do": name, …}, answered by one
line: what it found. The process ends at the end of stdin: whoever started it is gone, or has no
more orders.
"""

import asyncio
import contextlib
import json
import os
import resource
import sys
from typing import Any

from mpim_lab.load.child import run_child
from mpim_lab.load.gateway.fanout_probe import FanoutProbe
from mpim_lab.load.gateway.plan import SwarmPlan
from mpim_lab.load.gateway.swarm import ClientSwarm
from mpim_lab.load.gateway.traffic import Traffic

MAX_LINE_BYTES = 1024 * 1024


async def work() -> None:
    """Take the plan, then obey one order after another."""
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_give_up)
    orders = asyncio.StreamReader(limit=MAX_LINE_BYTES)
    await loop.connect_read_pipe(lambda: _Orders(orders), sys.stdin)
    swarm = ClientSwarm(SwarmPlan(**json.loads(await orders.readline())))
    places: tuple[Any, ...] = (swarm, Traffic(swarm), FanoutProbe(swarm))
    async for line in orders:
        order = json.loads(line)
        name = order.pop("do")
        (obey,) = (method for place in places if (method := getattr(place, name, None)))
        print(json.dumps(await obey(**order)), flush=True)


def _give_up(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """A fault of ours in a callback: without an end the parent would wait for it to its limit."""
    loop.default_exception_handler(context)
    os._exit(1)


class _Orders(asyncio.StreamReaderProtocol):
    """Whatever goes on: without a parent there is nobody to report to."""

    def eof_received(self) -> bool:
        """End at once; 5,000 connections end with the process."""
        os._exit(0)

    def connection_lost(self, exc: Exception | None) -> None:
        """As at the end of stdin."""
        os._exit(0)


def allow_many_files() -> None:
    """A connection is an open file: as many as the system lets this process have."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    # macOS calls its limit infinite, and means 10,240.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


if __name__ == "__main__":
    allow_many_files()
    run_child(work())
