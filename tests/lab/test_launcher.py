"""Gateways in processes of their own: `mpim_lab.im`, and `mpim-lab serve`."""

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
import urllib.request

import pytest

from mpim_lab.errors import InvalidParameter, ServerFailed
from mpim_lab.events import now
from mpim_lab.im.client.client import Client
from mpim_lab.im.services.tokens import TokenService
from mpim_lab.lab.server.embedded import EmbeddedServer
from mpim_lab.lab.system.launcher import serve, start_gateway
from tests.raw_clients import SECRET
from tests.support import wait_until


@contextlib.asynccontextmanager
async def two_processes(tmp_path):
    """Two gateways in processes of their own, over one server and one SQLite file."""
    settings = {
        "MPIM_SECRET": SECRET,
        "MPIM_DATABASE_URL": f"sqlite+aiosqlite:///{tmp_path / 'mpim.db'}",
    }
    async with EmbeddedServer() as server:
        gateways = await asyncio.gather(
            *(start_gateway(f"gw-{n}", server.url, settings) for n in (1, 2))
        )
        try:
            yield gateways
        finally:
            await asyncio.gather(*(each.end() for each in gateways))


def client(uid, gateways, **options):
    """A client that tries these gateways in this order."""
    addresses = [f"ws://127.0.0.1:{each.port}/ws" for each in gateways]
    return Client(
        addresses, lambda: TokenService(SECRET).issue(uid), response_timeout_s=1.0, **options
    )


@contextlib.asynccontextmanager
async def two_clients(*gateways):
    """alice and bob, both at the first one while it lives."""
    async with client("alice", gateways) as alice, client("bob", gateways) as bob:
        yield alice, bob


async def texts(reader, count):
    async with asyncio.timeout(20):
        return [(await reader.receive()).text for _ in range(count)]


async def test_two_processes_are_one_system(tmp_path):
    """Messages and a group between them.

    What waits for one who is away is in the file that both read.
    """
    async with two_processes(tmp_path) as (one, two), client("alice", [one]) as alice:
        await alice.send("bob", "while you were away")
        await alice.create_group("tea", "bob")
        async with client("bob", [two]) as bob:
            await alice.send("bob", "and now")
            await alice.send_to_group("tea", "to all")
            assert sorted(await texts(bob, 3)) == sorted(
                ["while you were away", "and now", "to all"]
            )
            assert (await bob.send_to_group("tea", "thanks")).status == "pushed"
        assert await texts(alice, 1) == ["thanks"]


async def test_sigterm_drains_and_ends_with_zero(tmp_path):
    """Its clients go to the other one under traffic; nothing is lost, nothing comes twice."""
    async with two_processes(tmp_path) as (one, two), two_clients(one, two) as (alice, bob):
        writing = asyncio.create_task(_write(alice, 200))
        await asyncio.sleep(0.2)
        one.process.terminate()
        assert await asyncio.wait_for(one.process.wait(), 15) == 0
        await writing
        assert await texts(bob, 200) == [f"{number}" for number in range(200)]
        assert bob.missing == []


async def test_kill_9_of_a_gateway_loses_nothing_that_was_confirmed(tmp_path):
    """As above, without a good-bye."""
    async with two_processes(tmp_path) as (one, two), two_clients(one, two) as (alice, bob):
        writing = asyncio.create_task(_write(alice, 200))
        await asyncio.sleep(0.2)
        one.process.kill()
        await writing
        assert await texts(bob, 200) == [f"{number}" for number in range(200)]


async def _write(alice, count):
    for number in range(count):
        await alice.send("bob", f"{number}")


async def test_a_gateway_without_a_secret_or_with_a_port_that_is_taken_does_not_start(tmp_path):
    """ServerFailed; the process is gone."""
    async with EmbeddedServer() as server:
        settings = {"MPIM_SECRET": SECRET, "MPIM_DATABASE_URL": "sqlite+aiosqlite://"}
        with pytest.raises(ServerFailed):
            await start_gateway("gw-1", server.url, settings | {"MPIM_SECRET": ""})
        with pytest.raises(ServerFailed):
            await start_gateway("gw-1", server.url, settings | {"MPIM_SECRET": "short"})
        first = await start_gateway("gw-1", server.url, settings)
        try:
            with pytest.raises(ServerFailed):
                await start_gateway("gw-2", server.url, settings, port=first.port)
        finally:
            assert await first.end() == 0


# mpim-lab serve


class Serving:
    """`mpim-lab serve --gateways 2 --port 0`, and what it printed."""

    async def __aenter__(self):
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("MPIM_")
        }
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "mpim_lab.cli", "serve", "--gateways", "2", "--port", "0"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment | {"PYTHONUNBUFFERED": "1"},
        )
        self.gateways = {}
        async with asyncio.timeout(40):
            while len(self.gateways) < 2:
                line = (await self.process.stdout.readline()).decode()
                if not line:
                    raise AssertionError((await self.process.stderr.read()).decode())
                if found := re.match(
                    r"(gw-\d): (http://127\.0\.0\.1:\d+)/  \(process (\d+)\)", line
                ):
                    self.gateways[found[1]] = found[2], int(found[3])
        self.family = [self.process.pid, *_children(self.process.pid)]
        return self

    async def __aexit__(self, *exc_info):
        if self.process.returncode is None:
            self.process.terminate()
            await self.process.wait()

    async def ended(self):
        """Wait for its end.

        Gives its status, and which of its processes are left a moment later.
        """
        async with asyncio.timeout(25):
            status = await self.process.wait()
        deadline = now() + 3
        while (left := [pid for pid in self.family if _is_there(pid)]) and now() < deadline:
            await asyncio.sleep(0.05)
        return status, left

    def client(self, uid, *names):
        """A client that logs in by name, as the web page does."""
        urls = [self.gateways[name][0] for name in names]

        async def token():
            for url in urls:
                with contextlib.suppress(OSError):
                    answer = await asyncio.to_thread(
                        urllib.request.urlopen, f"{url}/login?user={uid}"
                    )
                    return json.loads(answer.read())["token"]
            raise OSError("no gateway gives tokens")

        return Client([f"{url.replace('http', 'ws')}/ws" for url in urls], token, name=uid)


def _is_there(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def _children(pid):
    found = []
    with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{pid}/children") as children:
        for child in map(int, children.read().split()):
            found += [child, *_children(child)]
    return found


needs_proc = pytest.mark.skipif(
    not os.path.exists("/proc/self/stat"), reason="needs /proc to see processes"
)


@needs_proc
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
async def test_serve_works_and_leaves_no_process_behind(number):
    """Two users at two gateways write to each other.

    Then it ends with 0, and with it the gateways and the server.
    """
    async with Serving() as serving:
        async with serving.client("alice", "gw-1") as alice, serving.client("bob", "gw-2") as bob:
            await alice.send("bob", "hi")
            assert await texts(bob, 1) == ["hi"]
        assert len(serving.family) >= 4
        serving.process.send_signal(number)
        assert await serving.ended() == (0, [])


@needs_proc
async def test_serve_ends_with_one_when_a_gateway_dies_and_leaves_no_process_behind():
    """It says which one it was."""
    async with Serving() as serving:
        os.kill(serving.gateways["gw-2"][1], signal.SIGKILL)
        assert await serving.ended() == (1, [])
        assert b"gw-2 ended by itself" in await serving.process.stderr.read()


@needs_proc
async def test_gateways_do_not_outlive_a_serve_that_was_killed():
    """kill -9: nobody tells them, they see it themselves."""
    async with Serving() as serving:
        serving.process.kill()
        try:
            await wait_until(lambda: not any(map(_is_there, serving.family)), within_s=25)
        finally:
            for pid in filter(_is_there, serving.family):
                os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("gateways", "port", "database", "word"),
    [
        (0, 8800, "", "gateways=0"),
        (65, 8800, "", "gateways=65"),
        (2, 65_535, "", "port=65535"),
        (1, 70_000, "", "port=70000"),
        (1, -1, "", "port=-1"),
        (2, 0, "sqlite+aiosqlite:///:memory:", "MPIM_DATABASE_URL"),
    ],
)
async def test_what_cannot_be_served_is_refused_before_anything_is_started(
    monkeypatch, gateways, port, database, word
):
    """InvalidParameter names what is wrong."""
    monkeypatch.setenv("MPIM_DATABASE_URL", database)
    with pytest.raises(InvalidParameter, match=word):
        await serve(gateways, port=port)
