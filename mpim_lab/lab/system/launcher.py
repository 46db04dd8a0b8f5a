"""Launcher: `mpim-lab serve --gateways N`, with a process for each gateway, until Ctrl-C.

Several machines are the same thing: give each `MPIM_REDIS_URL`, `MPIM_DATABASE_URL` and
`MPIM_SECRET`, and let each start its gateways, with names of their own (`--first`).
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from mpim_lab.errors import InvalidParameter, ServerFailed
from mpim_lab.im.services.tokens import new_secret
from mpim_lab.lab.server.child import child_command, child_environment
from mpim_lab.lab.server.embedded import open_server
from mpim_lab.lab.server.process_guard import close_in_forks

_START_S, _END_S = 20.0, 40.0  # a gateway cuts off by itself what does not end in time


class GatewayProcess(NamedTuple):
    """One gateway in a process of its own."""

    name: str
    port: int
    process: asyncio.subprocess.Process

    async def end(self) -> int:
        """End it in good order; kill it if that takes too long, or if we are cancelled."""
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
        try:
            async with asyncio.timeout(_END_S):
                await self.process.wait()
        except TimeoutError:
            pass
        finally:
            if self.process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    self.process.kill()
        return await self.process.wait()


async def start_gateway(
    name: str,
    url: str,
    settings: Mapping[str, str],
    *,
    port: int = 0,
    prefix: str = "",
    allow_login: bool = False,
) -> GatewayProcess:
    """Start one and wait until it listens. Raise ServerFailed."""
    options = ["--name", name, "--port", str(port), "--until-eof", "--prefix", prefix]
    options += ["--allow-login"] if allow_login else []
    process = await asyncio.create_subprocess_exec(
        *child_command("mpim_lab.im", *options),
        stdin=asyncio.subprocess.PIPE,  # it ends when we do, however we do
        stdout=asyncio.subprocess.PIPE,
        env=child_environment(
            MPIM_REDIS_URL=url, **settings
        ),  # not on argv: the URL may hold a password
        start_new_session=True,
    )
    assert process.stdin is not None and process.stdout is not None
    close_in_forks(process.stdin.get_extra_info("pipe"))
    try:
        async with asyncio.timeout(_START_S):
            line = await process.stdout.readline()
        return GatewayProcess(name, int(json.loads(line)["port"]), process)
    except BaseException as error:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        await process.wait()
        if isinstance(error, TimeoutError | ValueError | KeyError | TypeError):
            raise ServerFailed(f"gateway {name} did not start; its own words are above") from error
        raise


def _check_serve(gateways: int, port: int) -> None:
    if not 1 <= gateways <= 64:
        raise InvalidParameter(f"gateways={gateways}: from 1 to 64")
    if not 0 <= port <= 65_536 - gateways:
        raise InvalidParameter(
            f"port={port}: 0 for any, or up to {65_536 - gateways}, for {gateways} of them"
        )
    if gateways > 1 and ":memory:" in os.environ.get("MPIM_DATABASE_URL", ""):
        why = "a database in memory belongs to one process, and each gateway is one"
        raise InvalidParameter(f"MPIM_DATABASE_URL: {why}")


async def serve(gateways: int, *, port: int = 8800, first: int = 1) -> int:
    """Run gateways over one server and one database, until a signal or until one ends by itself.

    Args:
        gateways: how many, from 1 to 64, each in a process of its own.
        port: the first one's, on this machine only; 0: any.
        first: the first one's number: they are called gw-1, gw-2 and so on.

    Returns:
        The exit status: 0 after a signal, 1 if a gateway ended by itself.

    Raises:
        InvalidParameter: a number is out of its bounds, or the database is in memory.
        ServerFailed: the server or a gateway did not start.
    """
    _check_serve(gateways, port)
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    async with contextlib.AsyncExitStack() as stack:
        for each in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(each, ended.set)
            stack.callback(loop.remove_signal_handler, each)
        server = open_server(persistence="everysec")
        await stack.enter_async_context(server)
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="mpim-"))
        settings = {
            "MPIM_SECRET": os.environ.get("MPIM_SECRET", "").strip() or new_secret(),
            "MPIM_DATABASE_URL": os.environ.get("MPIM_DATABASE_URL", "").strip()
            or f"sqlite+aiosqlite:///{Path(folder, 'mpim.db')}",
        }
        running: list[GatewayProcess] = []
        stack.push_async_callback(_end_all, running)
        for number in range(gateways):
            name = f"gw-{first + number}"
            own_port = port + number if port else 0
            gateway = await start_gateway(
                name, server.url, settings, port=own_port, prefix=server.prefix, allow_login=True
            )
            running.append(gateway)
            print(
                f"{name}: http://127.0.0.1:{gateway.port}/  (process {gateway.process.pid})",
                flush=True,
            )
        print(
            "Open two of these addresses side by side and log in as two users. Ctrl-C ends it.",
            flush=True,
        )
        return await _watch(running, ended)


async def _watch(running: list[GatewayProcess], ended: asyncio.Event) -> int:
    waiting = asyncio.create_task(ended.wait())
    lives = {asyncio.create_task(each.process.wait()): each for each in running}
    try:
        done, _ = await asyncio.wait([waiting, *lives], return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (waiting, *lives):
            task.cancel()
    for task in done - {waiting}:
        print(f"{lives[task].name} ended by itself, with status {task.result()}", file=sys.stderr)
    return 0 if waiting in done else 1


async def _end_all(running: list[GatewayProcess]) -> None:
    await asyncio.gather(*(each.end() for each in running))
