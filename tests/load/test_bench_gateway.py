"""`mpim-lab bench gateway` with twenty clients, for whoever is installed."""

import asyncio
import dataclasses
import functools
import json
import os
import signal
import sys
from pathlib import Path

import pytest

from mpim_lab.bench.command import BENCHES, run_bench_command
from mpim_lab.bench.gateway import bench as gateway
from mpim_lab.bench.gateway import servers as gateway_servers
from mpim_lab.bench.gateway.bench import bench_gateway
from mpim_lab.bench.gateway.cases import GatewaySchedule
from mpim_lab.bench.gateway.servers import CANDIDATES, GatewayServer, resident_bytes, spent_s
from mpim_lab.errors import LoadFailed, ServerFailed
from mpim_lab.load.gateway.plan import SOCKET_IO, SwarmPlan
from mpim_lab.load.gateway.swarm_process import SwarmProcess
from tests.conftest import missing
from tests.support import wait_until

TINY = GatewaySchedule(
    clients=20,
    offered_per_s=200,
    steady_s=0.3,
    closed_s=0.05,
    rounds=1,
    closed=((10, 1), (10, 4)),
    members=12,
)
PEER = "python-socketio"


def installed(who):
    reason = CANDIDATES[who].missing()
    if reason is not None:
        missing(reason)


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def descendants(pid):
    found = []
    for child in Path("/proc").glob("[0-9]*"):
        try:
            is_child = int((child / "stat").read_text().rpartition(")")[2].split()[1]) == pid
        except OSError:
            continue
        if is_child:
            found += [int(child.name), *descendants(int(child.name))]
    return found


@pytest.mark.parametrize("who", list(CANDIDATES))
async def test_a_candidate_has_all_its_rows_and_loses_nothing(who, monkeypatch):
    """Every case is measured, from a server process and two processes of clients."""
    installed(who)
    monkeypatch.delenv("MPIM_REDIS_URL", raising=False)
    report = await bench_gateway(TINY, whos=[who])
    rows = {row["case"]: row for row in report["rows"]}
    assert (
        tuple(rows)
        == TINY.cases
        == ("connect", "200 msg/s", "10 × 1", "10 × 4", "notice to all", "group of 12")
    )
    assert not [row["reason"] for row in report["rows"] if "reason" in row]
    assert all(row["note"] and row["bench"] == "gateway" for row in report["rows"])
    talks = [rows[case] for case in TINY.cases[1:4]]
    assert rows["200 msg/s"]["received"] == 60
    for row in talks:
        assert (row["lost"], row["duplicates"]) == (0, 0) and row["messages_per_s"] > 0
        assert row["p50_ms"] <= row["p99_ms"] <= row["max_ms"]
    for case, audience in (("notice to all", 20), ("group of 12", 11)):
        assert (rows[case]["clients"], rows[case]["lost"]) == (audience, 0) and rows[case][
            "seconds"
        ] > 0
    assert rows["connect"]["connects_per_s"] > 0
    assert json.loads(json.dumps(report)) == report


def test_the_command_writes_table_file_and_picture(monkeypatch, tmp_path, capsys):
    """Who is not there has a reason in every case; the others are not kept from their numbers."""
    installed(PEER)
    monkeypatch.delenv("MPIM_REDIS_URL", raising=False)
    monkeypatch.setitem(BENCHES, "gateway", BENCHES["gateway"]._replace(quick=TINY))
    absent = dataclasses.replace(
        CANDIDATES["socket.io on Node"], missing=lambda: "npm is not installed"
    )
    monkeypatch.setattr(
        gateway,
        "CANDIDATES",
        {"mpim_lab": absent, PEER: CANDIDATES[PEER], "socket.io on Node": absent},
    )
    found, picture = tmp_path / "found.json", tmp_path / "found.html"
    assert (
        run_bench_command(["gateway", "--quick", "--json", str(found), "--picture", str(picture)])
        == 0
    )
    rows = json.loads(found.read_text(encoding="utf-8"))["rows"]
    assert {row["case"] for row in rows if row.get("reason") == "npm is not installed"} == set(
        TINY.cases
    )
    assert {row["case"] for row in rows if row["who"] == PEER and "reason" not in row} == set(
        TINY.cases
    )
    said = capsys.readouterr()
    assert "npm is not installed" in said.out and "at most once" in said.out
    assert f"round 1 · connect · {PEER}: " in said.err
    assert PEER in picture.read_text(encoding="utf-8")


async def test_a_server_that_does_not_start_is_a_reason_with_its_last_line(monkeypatch):
    """In every case; and nothing of it is left."""
    argv = ("/bin/sh", "-c", "echo no Redis here; exit 1")
    broken = dataclasses.replace(CANDIDATES[PEER], command=lambda: argv, missing=lambda: None)
    monkeypatch.setattr(gateway, "CANDIDATES", {PEER: broken})
    report = await bench_gateway(TINY, whos=[PEER])
    assert [row["reason"] for row in report["rows"]] == ["no Redis here"] * len(TINY.cases)


async def test_a_server_that_is_killed_ends_the_round_with_a_reason(server):
    """Clients that are cut off tell so; nobody waits for them."""
    installed(PEER)
    async with (
        GatewayServer(CANDIDATES[PEER], server.url) as peer,
        SwarmProcess(SwarmPlan(SOCKET_IO, peer.port, clients=4)) as swarm,
    ):
        assert (await swarm.ask("connect", up_to=4))["cpu_s"] > 0
        os.kill(peer.pid, 9)
        await wait_until(lambda: not is_alive(peer.pid))
        with pytest.raises(LoadFailed, match="the connection ended"):
            await swarm.ask("count")
            await swarm.ask("count")
        with pytest.raises(ServerFailed, match="ended by itself"):
            peer.check()


async def test_processes_end_with_their_contexts_also_by_an_error(server):
    """The server, and the clients, whatever they were at."""
    installed(PEER)
    with pytest.raises(ZeroDivisionError):
        async with (
            GatewayServer(CANDIDATES[PEER], server.url) as peer,
            SwarmProcess(SwarmPlan(SOCKET_IO, peer.port, clients=4)) as swarm,
        ):
            await swarm.ask("connect", up_to=2)
            assert resident_bytes(peer.pid) is None or resident_bytes(peer.pid) > 1_000_000
            assert spent_s(peer.pid) is None or spent_s(peer.pid) > 0
            raise ZeroDivisionError
    assert not is_alive(peer.pid) and not is_alive(swarm.pid)
    assert not Path(peer._directory).exists()


LONG = """
import asyncio
from mpim_lab.bench.gateway.bench import bench_gateway
from mpim_lab.bench.gateway.cases import GatewaySchedule

schedule = GatewaySchedule(clients=20, offered_per_s=200, steady_s=60.0, closed_s=0.1, rounds=1)
asyncio.run(bench_gateway(schedule, lambda text: print(text, flush=True), whos=["python-socketio"]))
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
async def test_nothing_is_left_when_the_bench_is_interrupted_or_killed(how):
    """Neither a server nor its Redis nor clients, however the bench ends."""
    installed(PEER)
    if not Path("/proc/self/stat").exists():
        missing("without /proc the test cannot see whose children there are")
    bench = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", LONG),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        # A shell's background job ignores Ctrl-C, and so do its children.
        preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    try:
        async with asyncio.timeout(60):
            assert b"connect" in await bench.stdout.readline()
        started = descendants(bench.pid)
        assert len(started) == 6  # Redis, the server, a guard each, and two processes of clients
        bench.send_signal(how)
        async with asyncio.timeout(20):
            assert await bench.wait() != 0
        await wait_until(lambda: not [pid for pid in started if is_alive(pid)])
    finally:
        if bench.returncode is None:
            bench.kill()
            await bench.wait()


async def test_clients_that_cannot_connect_say_why(server):
    """Nobody listens there."""
    async with SwarmProcess(SwarmPlan(SOCKET_IO, port=1, clients=2)) as swarm:
        with pytest.raises(LoadFailed, match="a client could not connect"):
            await swarm.ask("connect", up_to=2)


async def test_more_clients_than_open_files_are_refused_at_once():
    """With a number that can be acted upon."""
    with pytest.raises(LoadFailed, match="open files"):
        await bench_gateway(dataclasses.replace(TINY, clients=10**9), whos=[])


def test_a_candidate_that_is_not_installed_says_how_to_get_it(monkeypatch):
    """A command for the one, a name for the other."""
    monkeypatch.setattr(gateway_servers, "find_spec", lambda name: None)
    assert "pip install 'mpim_lab[peers]'" in CANDIDATES[PEER].missing()
    monkeypatch.setenv("PATH", "")
    assert CANDIDATES["socket.io on Node"].missing() == "node is not installed"
