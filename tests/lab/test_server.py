"""The embedded server: private, restartable, breakable, and never left behind."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import quote

import pytest
from redis.asyncio import Redis

from mpim_lab.errors import FaultUnavailable, InvalidParameter, ServerFailed
from mpim_lab.lab.server import embedded as server_module
from mpim_lab.lab.server.embedded import EmbeddedServer, open_server
from mpim_lab.lab.server.external import ExternalServer
from mpim_lab.lab.server.process_guard import ProcessGuard
from mpim_lab.mq.pubsub.queue import MessageQueue
from tests.conftest import SERVERS
from tests.support import wait_until


@pytest.fixture
def binary(server):
    """The program of each installed server in turn."""
    return server.binary


async def call(url, *command):
    async with Redis.from_url(url, protocol=3, decode_responses=True) as client:
        return await client.execute_command(*command)


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"


async def test_both_of_its_addresses_answer(server):
    """A TCP port on loopback and a unix socket."""
    for url in (server.url, server.unix_url):
        async with MessageQueue(url) as mq:
            assert await mq.publish("a", b"x") == 0


async def test_it_listens_on_loopback_only(server):
    """Nobody on the network can reach it."""
    assert (await call(server.url, "CONFIG", "GET", "bind"))["bind"] == "127.0.0.1"


async def test_starting_and_stopping_twice_is_harmless(binary):
    """The second call finds nothing to do."""
    server = EmbeddedServer(binary)
    await server.start()
    pid = server.pid
    await server.start()
    assert server.pid == pid
    await server.stop()
    await server.stop()
    assert not server.is_running
    assert not is_alive(pid)


async def test_many_run_at_once(binary):
    """Each has its own port, socket, directory and data."""
    servers = [EmbeddedServer(binary) for _ in range(8)]
    await asyncio.gather(*(server.start() for server in servers))
    assert (
        len({server.url for server in servers}) == len({server.unix_url for server in servers}) == 8
    )
    await call(servers[0].url, "SET", "key", "here")
    assert await call(servers[1].url, "GET", "key") is None
    await asyncio.gather(*(server.stop() for server in servers))


async def test_stopping_removes_the_directory(binary):
    """Nothing is left on the disk."""
    server = EmbeddedServer(binary)
    await server.start()
    directory = Path(server.unix_url.removeprefix("unix://").partition("?")[0]).parent
    assert directory.is_dir()
    await server.stop()
    assert not directory.exists()


@pytest.mark.parametrize(("persistence", "survives"), [("none", False), ("always", True)])
async def test_what_survives_a_kill_depends_on_persistence(binary, persistence, survives):
    """appendfsync always: what was acknowledged is there after SIGKILL, at the same address."""
    async with EmbeddedServer(binary, persistence=persistence) as server:
        url = server.url
        await call(url, "SET", "key", "value")
        server.kill()
        assert not server.is_running
        await server.start()
        assert server.url == url
        assert await call(url, "GET", "key") == ("value" if survives else None)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="threads are counted in /proc")
def test_a_process_of_which_threads_still_live_has_not_ended(tmp_path):
    """Its first thread is a zombie, the others hold its port.

    A server that starts again must wait for them.
    """
    lives_on = (
        "import ctypes, threading, time; threading.Thread(target=time.sleep, args=(60,)).start(); "
    )
    lives_on += "print('on', flush=True); ctypes.CDLL(None).pthread_exit(None)"
    guard = ProcessGuard([sys.executable, "-c", lives_on], tmp_path)
    try:
        deadline = time.monotonic() + 10
        while is_alive(guard.pid) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not is_alive(guard.pid) and guard.is_running
    finally:
        guard.stop(keep_directory=True)
    assert not guard.is_running


async def test_a_restart_keeps_the_address(server):
    """Clients find it again without being told."""
    before = (server.url, server.unix_url, server.pid)
    await server.restart()
    assert (server.url, server.unix_url) == before[:2]
    assert server.pid != before[2]
    assert await call(server.url, "PING")


async def test_a_paused_server_answers_after_it_goes_on(server):
    """SIGSTOP keeps connections open and answers nothing."""
    server.pause()
    asked = asyncio.create_task(call(server.url, "PING"))
    await asyncio.sleep(0.1)
    assert not asked.done()
    assert server.is_running
    server.resume()
    assert await asked


async def test_a_server_that_dies_by_itself_is_not_running(server):
    """Seen without asking it."""
    os.kill(server.pid, signal.SIGKILL)
    await wait_until(lambda: not server.is_running)


@pytest.mark.parametrize("paused", [False, True])
async def test_no_server_outlives_a_python_process_killed_with_sigkill(binary, paused):
    """Not even a paused one, and its directory goes with it."""
    code = f"""
import asyncio, time
from mpim_lab.lab.server.embedded import EmbeddedServer
async def main():
    server = EmbeddedServer({binary!r})
    await server.start()
    if {paused}:
        server.pause()
    print(server.pid, server.unix_url, flush=True)
    time.sleep(60)
asyncio.run(main())
"""
    python = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    pid, url = python.stdout.readline().split()
    assert is_alive(int(pid))
    python.kill()
    python.wait()
    python.stdout.close()
    await wait_until(lambda: not is_alive(int(pid)))
    directory = Path(url.removeprefix("unix://").partition("?")[0]).parent
    await wait_until(lambda: not directory.exists())


async def test_an_interrupt_of_the_process_group_does_not_reach_the_server(server):
    """Jupyter interrupts a cell by signalling the whole group."""
    assert os.getpgid(server.pid) != os.getpgid(0)


@pytest.mark.parametrize("after_s", [0.0, 0.002, 0.005, 0.01])
async def test_a_start_that_is_cancelled_leaves_nothing_behind(binary, after_s, monkeypatch):
    """Neither a process nor a directory; a restart that is cancelled keeps what is on disk."""
    server = EmbeddedServer(binary=binary, persistence="always")
    monkeypatch.setattr(server, "_answers", lambda: asyncio.sleep(0, False))
    starting = asyncio.create_task(server.start())
    await asyncio.sleep(0.02 + after_s)
    guard, directory = server._guard, server._directory
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert not guard.is_running and not directory.exists()
    monkeypatch.undo()
    async with server:
        kept = server._directory
        server.kill()
        monkeypatch.setattr(server, "_answers", lambda: asyncio.sleep(0, False))
        starting = asyncio.create_task(server.start())
        await asyncio.sleep(0.02)
        starting.cancel()
        await asyncio.wait([starting])
        assert kept.exists() and not server.is_running


async def test_a_missing_program_is_said_at_once():
    """Before anything is started, with what to do instead."""
    with pytest.raises(ServerFailed, match="no program 'no-such-server'"):
        EmbeddedServer("no-such-server")


async def test_a_taken_port_is_said_with_the_servers_own_words(binary):
    """A port that the caller chose is not replaced by another."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        server = EmbeddedServer(binary, port=taken.getsockname()[1])
        with pytest.raises(ServerFailed, match="Address already in use"):
            await server.start()
    await server.start()  # the same object works once the port is free
    await server.stop()


async def test_a_setting_that_does_not_exist_is_said_with_the_servers_own_words(binary):
    """Not a time-out, and nothing is left."""
    server = EmbeddedServer(binary, config={"no-such-setting": "1"})
    with pytest.raises(ServerFailed, match="no-such-setting"):
        await server.start()
    assert not server.is_running


async def test_a_program_that_is_no_server_is_said(tmp_path):
    """It ended at once, and what it wrote is shown."""
    program = tmp_path / "server"
    program.write_text("#!/bin/sh\necho I am no server\nexit 3\n")
    program.chmod(0o755)
    with pytest.raises(ServerFailed, match="I am no server"):
        await EmbeddedServer(str(program)).start()


def test_an_unknown_persistence_is_refused():
    """InvalidParameter with the choices."""
    with pytest.raises(InvalidParameter, match="everysec"):
        EmbeddedServer(persistence="sometimes")


def test_signals_to_a_server_that_does_not_run_are_named():
    """ServerFailed, not a signal to nobody."""
    with pytest.raises(ServerFailed):
        EmbeddedServer().pause()


async def test_the_readers_own_server_is_used_and_left_as_it_was(server, monkeypatch):
    """Keys carry the run's prefix and are removed; other keys stay."""
    monkeypatch.setenv("MPIM_REDIS_URL", server.url)
    await call(server.url, "SET", "mine", "1")
    async with open_server() as lab:
        assert isinstance(lab, ExternalServer)
        await call(lab.url, "SET", f"{lab.prefix}key", "1")
    assert await call(server.url, "KEYS", "*") == ["mine"]


async def test_the_readers_own_server_is_not_killed_and_the_reason_is_said(server):
    """FaultUnavailable, without the password."""
    lab = ExternalServer(server.url.replace("redis://", "redis://default:secret@"))
    for deed in (lab.kill, lab.pause, lab.resume):
        with pytest.raises(FaultUnavailable, match="yours") as caught:
            deed()
        assert "secret" not in str(caught.value)
    assert lab.unavailable_reason("limit")
    assert lab.unavailable_reason("cut") is None


async def test_a_readers_server_that_does_not_answer_is_named():
    """ServerFailed with the address and the reason."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(ServerFailed, match="MPIM_REDIS_URL"):
            await ExternalServer(f"redis://127.0.0.1:{unused.getsockname()[1]}").start()


def test_everything_that_ci_must_have_is_there():
    """Where CI says that everything must be installed, Redis is."""
    if os.environ.get("MPIM_TEST_FULL"):
        assert all(shutil.which(name) for name in SERVERS.values() if name)


@pytest.mark.parametrize(
    "password",
    [
        "pa ss",
        "it's",
        'a"b',
        "back\\slash",
        "hash#tag",
        "'quoted'",
        '"',
        "two\nlines",
        "\t",
        "密码",
        "$HOME",
        "%20",
    ],
)
async def test_a_setting_arrives_as_it_was_given(binary, password):
    """Whatever characters it has: nothing is split, unquoted or expanded on its way."""
    async with EmbeddedServer(binary, config={"requirepass": password}) as server:
        async with MessageQueue(
            server.url.replace("redis://", f"redis://:{quote(password, safe='')}@")
        ) as mq:
            assert await mq.publish("a", b"x") == 0
        shown = await asyncio.to_thread(
            subprocess.check_output, ["ps", "-o", "args=", "-p", str(server.pid)], text=True
        )
        assert "requirepass" not in shown


async def test_a_setting_of_several_words_is_written_as_in_redis_conf(binary):
    """Or as a list; words in quotes are one."""
    config = {
        "save": "900 1 300 10",
        "client-output-buffer-limit": ["pubsub", "1mb", "0", "0"],
        "user": 'alice on ">pa ss\'s" ~* +@all',
        "maxmemory": 100_000_000,
    }
    async with EmbeddedServer(binary, config=config) as server:
        password = quote("pa ss's", safe="")
        url = server.url.replace("redis://", f"redis://alice:{password}@")
        assert (await call(url, "CONFIG", "GET", "save"))["save"] == "900 1 300 10"
        assert (
            "pubsub 1048576 0 0"
            in (await call(url, "CONFIG", "GET", "client-output-buffer-limit")).popitem()[1]
        )


def test_what_cannot_be_written_down_is_refused():
    """A NUL would end the value, a line end in a name begin another setting.

    A refusal shows no value.
    """
    refused = ({"requirepass": value} for value in ("a\0b", "\ud800", None, True, 1.5, b"b", [1]))
    for config in (*refused, {"requirepass x\nport": "1"}, {1: "1"}):
        with pytest.raises(InvalidParameter) as caught:
            EmbeddedServer(config=config)
        assert "a\0b" not in str(caught.value) and repr("a\0b") not in str(caught.value)


@pytest.mark.parametrize("name", ["port", "PORT", "unixsocket", "dir", "daemonize"])
def test_a_setting_that_says_where_it_is_or_whose_is_refused(name):
    """It would be somewhere else than `url` says, or outlive us. A port is given as `port`."""
    with pytest.raises(InvalidParameter, match=name):
        EmbeddedServer(config={name: "20000"})


@pytest.mark.parametrize(
    "options",
    [{"port": 70_000}, {"port": -1}, {"port": "6379"}, {"port": True}]
    + [{"start_timeout_s": value} for value in (float("nan"), -1, None, "5")],
    ids=str,
)
def test_a_port_and_a_time_that_make_no_sense_are_named(options):
    """Before anything is started."""
    with pytest.raises(InvalidParameter, match=next(iter(options))):
        EmbeddedServer(**options)


async def test_what_a_program_that_is_a_script_has_started_ends_with_it(tmp_path):
    """A wrapper that does not become the server, but starts it: nothing of it is left."""
    program, told = tmp_path / "wrapper", tmp_path / "pid"
    program.write_text(f"#!/bin/sh\nsleep 60 &\necho $! > {told}\nwait\n")
    program.chmod(0o755)
    with pytest.raises(ServerFailed, match="did not answer"):
        await EmbeddedServer(str(program), start_timeout_s=0.5).start()
    pid = int(told.read_text())
    await wait_until(lambda: not is_alive(pid))


async def test_where_tmp_cannot_be_written_another_place_is_taken(tmp_path, monkeypatch):
    """The one that TMPDIR names."""
    monkeypatch.setattr(os, "access", lambda path, mode: path != "/tmp")
    monkeypatch.setattr(server_module.tempfile, "tempdir", "/var/tmp")  # type: ignore[attr-defined]
    async with EmbeddedServer() as server:
        assert server.unix_url.startswith("unix:///var/tmp/")


FORKS = """
import asyncio, os, sys, time
from mpim_lab.errors import WrongLoop
from mpim_lab.lab.server.embedded import EmbeddedServer
server = EmbeddedServer()
asyncio.run(server.start())
child = os.fork()
if child == 0:
    stop = lambda: asyncio.run(server.stop())
    for deed in (server.kill, server.pause, lambda: server.is_running, stop):
        try:
            deed()
        except WrongLoop:
            continue
        os._exit(1)
    print(server.pid, os.getpid(), flush=True)
    time.sleep(60)
    os._exit(0)
time.sleep(60)
"""


async def test_a_forked_child_neither_stops_nor_keeps_the_server():
    """What it asks of the server is WrongLoop.

    The server ends with the parent, though the child lives on.
    """
    python = subprocess.Popen([sys.executable, "-c", FORKS], stdout=subprocess.PIPE, text=True)
    server, child = map(int, python.stdout.readline().split())
    try:
        assert is_alive(server) and is_alive(child)
        python.kill()
        python.wait()
        await wait_until(lambda: not is_alive(server))
        assert is_alive(child)
    finally:
        os.kill(child, signal.SIGKILL)
        python.stdout.close()


async def test_a_start_and_a_stop_at_the_same_time_come_one_after_the_other(binary):
    """However many: nothing is left, and nothing is started twice."""
    server = EmbeddedServer(binary)
    deeds = [server.start, server.start, server.stop, server.restart, server.start, server.stop]
    await asyncio.wait_for(asyncio.gather(*(deed() for deed in deeds)), 60)
    assert not server.is_running and server._directory is None


@pytest.mark.parametrize("after_s", [0.0, 0.001, 0.01, 0.05])
async def test_a_stop_that_is_cancelled_stops_it_nevertheless(binary, after_s):
    """A stopped server would take its time to end; nobody would ask again."""
    server = EmbeddedServer(binary)
    await server.start()
    pid, directory = server.pid, server._directory
    server.pause()
    stopping = asyncio.create_task(server.stop())
    await asyncio.sleep(after_s)
    stopping.cancel()
    await asyncio.wait([stopping])
    await server.stop()
    assert not is_alive(pid) and not directory.exists()


async def test_a_server_that_is_stopped_while_it_starts_is_said_in_time(binary):
    """ServerFailed at the limit; nothing is left."""
    server = EmbeddedServer(binary, start_timeout_s=0.5)
    starting = asyncio.create_task(server.start())
    await wait_until(lambda: server.pid)
    os.kill(server.pid, signal.SIGSTOP)
    await asyncio.wait([starting])
    if starting.exception() is not None:  # it may have answered before
        assert isinstance(starting.exception(), ServerFailed)
        assert not server.is_running
    await server.stop()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_guard_that_is_killed_or_stopped_does_not_keep_the_server(
    binary, number, monkeypatch
):
    """It is ended without the guard's help."""
    monkeypatch.setattr("mpim_lab.lab.server.process_guard.STOP_TIMEOUT_S", 0.3)
    server = EmbeddedServer(binary)
    await server.start()
    pid, directory = server.pid, server._directory
    os.kill(server._guard._process.pid, number)
    await asyncio.wait_for(server.stop(), 20)
    assert not is_alive(pid) and not directory.exists()


def test_it_serves_one_event_loop_after_the_other():
    """Nothing of it belongs to a loop."""
    server = EmbeddedServer()
    asyncio.run(server.start())
    assert asyncio.run(call(server.url, "PING"))
    asyncio.run(server.restart())
    asyncio.run(server.stop())
    assert not server.is_running


async def test_no_place_for_its_directory_is_said(monkeypatch):
    """ServerFailed, not the system's error."""

    def full(**_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.mkdtemp", full)
    with pytest.raises(ServerFailed, match="No space left"):
        await EmbeddedServer().start()
