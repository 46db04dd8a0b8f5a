"""Processes that the lab starts find the package and nothing else, and show no password."""

import asyncio
import os
import subprocess
import sys

import pytest
from redis.asyncio import Redis

from mpim_lab.bench.gateway.servers import CANDIDATES, GatewayServer
from mpim_lab.lab.faults.injector import wait_until
from mpim_lab.lab.server.child import child_command, child_environment
from mpim_lab.lab.server.embedded import EmbeddedServer
from mpim_lab.lab.server.external import ExternalServer
from mpim_lab.lab.server.process_guard import ProcessGuard
from mpim_lab.lab.system.launcher import start_gateway
from tests.raw_clients import SECRET

PASSWORD = "not-to-be-shown"
WORK = """
import asyncio, os, sys
from mpim_lab.lab.server.external import ExternalServer
from mpim_lab.load.load import measure
os.chdir(sys.argv[2])
async def main():
    async with ExternalServer(sys.argv[1]) as server:
        print((await measure(server.url, messages=5, tasks=1, prefix=server.prefix)).received)
        assert await server._guard.stop() is None
asyncio.run(main())
"""


async def test_a_learners_file_in_the_working_directory_is_not_taken_for_a_module(
    one_server, tmp_path
):
    """Load process and guard work from any folder, also one with a `queue.py` in it."""
    for name in ("queue", "redis", "json"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('not this one')")
    (tmp_path / "scripts").mkdir()
    script = tmp_path / "scripts" / "work.py"
    script.write_text(WORK)
    done = await asyncio.create_subprocess_exec(
        *(sys.executable, str(script), one_server.url, str(tmp_path)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=child_environment(),
    )
    out, complaints = await asyncio.wait_for(done.communicate(), 60)
    assert out == b"5\n", complaints.decode()


async def test_a_child_finds_the_package_where_its_parent_found_it(tmp_path, monkeypatch):
    """Also by a path that the parent has added to its own, and after it has gone elsewhere."""
    (tmp_path / "only_here.py").write_text("print('found')")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    monkeypatch.chdir("/")
    process = await asyncio.create_subprocess_exec(
        *child_command("only_here"), env=child_environment(), stdout=subprocess.PIPE
    )
    assert (await asyncio.wait_for(process.communicate(), 30))[0] == b"found\n"


def command_lines():
    shown = subprocess.run(
        ["ps", "axww", "-o", "args="], capture_output=True, text=True, check=True
    )
    return shown.stdout


@pytest.mark.parametrize("which", ["serve", "bench"])
async def test_a_gateway_process_shows_no_password(which):
    """It gets the server's URL by its environment, which nobody else can read."""
    async with EmbeddedServer(config={"requirepass": PASSWORD}) as server:
        url = server.url.replace("redis://", f"redis://:{PASSWORD}@")
        if which == "bench":
            async with GatewayServer(CANDIDATES["mpim_lab"], url):
                assert PASSWORD not in command_lines()
            return
        gateway = await start_gateway("gw-1", url, {"MPIM_SECRET": SECRET})
        try:
            assert PASSWORD not in command_lines()
        finally:
            await gateway.end()


async def test_a_run_that_dies_before_its_guard_has_begun_leaves_nothing(server):
    """Nobody reads any more what the guard says; it removes everything all the same."""
    lab = ExternalServer(server.url)
    async with Redis.from_url(server.url) as client:
        await client.set(f"{lab.prefix}kept", b"x")
        guard = await asyncio.create_subprocess_exec(
            *child_command("mpim_lab.lab.server.run_keys"),
            env=child_environment(),
            stdin=-1,
            stdout=_closed_pipe(),
        )
        guard.stdin.write(f'{{"url": "{server.url}", "prefix": "{lab.prefix}"}}\n'.encode())
        guard.stdin.close()

        async def is_gone():
            return not await client.exists(f"{lab.prefix}kept")

        await wait_until(is_gone, "the removal", timeout_s=30)
        await asyncio.wait_for(guard.wait(), 60)


def _closed_pipe():
    """The end to write to of a pipe that nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    return writer


async def test_a_guard_removes_the_directory_also_where_path_names_no_programs(
    monkeypatch, tmp_path
):
    """The shell knows itself where `rm` is."""
    binary = EmbeddedServer().binary
    monkeypatch.setenv("PATH", "")
    (tmp_path / "lab").mkdir()
    guard = ProcessGuard((binary, "--port", "0"), tmp_path / "lab")
    guard.stop(keep_directory=False)
    assert not (tmp_path / "lab").exists()
