"""Load processes end: well, badly, when they are told to, and when whoever started them is gone."""

import asyncio
import subprocess
import sys

import pytest
from redis.asyncio import Redis

from mpim_lab.errors import InvalidParameter, LoadFailed
from mpim_lab.lab.trace.trace import Trace
from mpim_lab.load import load as load_module
from mpim_lab.load.gateway.plan import SwarmPlan
from mpim_lab.load.gateway.swarm_process import SwarmProcess
from mpim_lab.load.load import measure, start_load
from mpim_lab.load.process import LoadProcess
from mpim_lab.load.redis import candidates
from mpim_lab.load.redis.plan import LoadPlan
from tests.bench.test_load import is_going
from tests.lab.test_server import is_alive
from tests.support import wait_until


@pytest.fixture
def pids(monkeypatch):
    """The id of every load process, as soon as it is started."""
    found = []

    class Noted(LoadProcess):
        async def __aenter__(self):
            await super().__aenter__()
            found.append(self.pid)
            return self

    monkeypatch.setattr(load_module, "LoadProcess", Noted)
    return found


@pytest.mark.parametrize(
    "bad",
    [
        {"who": "nobody"},
        {"tasks": 0},
        {"messages": 0},
        {"seconds": 0.0},
        {"seconds": float("nan")},
        {"payload_bytes": 15},
        {"offered_per_s": 0},
        {"offered_per_s": float("nan")},
        {"offered_per_s": float("inf")},
    ],
    ids=str,
)
async def test_a_number_out_of_bounds_is_refused_before_anything_starts(pids, bad):
    """InvalidParameter names the parameter."""
    with pytest.raises(InvalidParameter, match=next(iter(bad))):
        start_load("redis://127.0.0.1:1", trace=Trace(), **bad)
    assert pids == []


async def test_a_candidate_that_is_not_installed_is_named_with_the_advice(pids, monkeypatch):
    """LoadFailed, before anything starts."""
    monkeypatch.setattr(candidates, "find_spec", lambda name: None)
    with pytest.raises(
        LoadFailed, match=r"coredis is not installed: pip install 'mpim_lab\[peers\]'"
    ):
        start_load("redis://127.0.0.1:1", "coredis")
    assert pids == []


@pytest.mark.parametrize("who", ["mpim_lab", "redis-py"])
async def test_a_server_that_dies_ends_the_load_with_the_reason(server, pids, who):
    """LoadFailed ends with the error itself, not with the frame around the errors of 32 tasks.

    Nobody is left.
    """
    trace = Trace()
    load = start_load(server.url, who, tasks=32, seconds=60.0, trace=trace)
    await is_going(load, trace)
    server.kill()
    with pytest.raises(LoadFailed, match=rf"of {who} ended with code 1:") as caught:
        async with asyncio.timeout(20):
            await load.result()
    assert "Connection" in str(caught.value).splitlines()[-1]
    assert len(pids) == 2 and not any(map(is_alive, pids))


async def test_a_user_who_may_not_subscribe_is_told_so(server):
    """The server's own words, at once and not after a time-out."""
    async with Redis.from_url(server.url) as client:
        await client.execute_command(
            "ACL", "SETUSER", "bob", "on", ">secret", "+@all", "resetchannels"
        )
    with pytest.raises(LoadFailed, match="NOPERM") as caught:
        async with asyncio.timeout(20):
            await measure(
                server.url.replace("redis://", "redis://bob:secret@"), "bare protocol", seconds=0.1
            )
    assert "secret" not in str(caught.value)


async def test_a_load_that_does_not_end_is_ended(server, pids, monkeypatch):
    """LoadFailed at its time limit, here because the server answers nothing; nobody is left."""
    monkeypatch.setattr(LoadPlan, "limit_s", -4.0)  # 5 s later the parent loses its patience
    server.pause()
    with pytest.raises(LoadFailed, match="did not end within"):
        await measure(server.url, "bare protocol")
    assert len(pids) == 2 and not any(map(is_alive, pids))


@pytest.mark.parametrize("when", ["starting", "going on"])
async def test_whoever_cancels_the_result_ends_both_processes(server, pids, when):
    """Also while they start."""
    trace = Trace()
    load = start_load(server.url, seconds=60.0, trace=trace)
    waiting = asyncio.create_task(load.result())
    await (wait_until(lambda: len(pids) == 2) if when == "starting" else is_going(load, trace))
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert load.done
    assert len(pids) == 2 and not any(map(is_alive, pids))


@pytest.mark.parametrize("future", ["ready", "summary"])
async def test_a_process_is_killed_although_the_wait_for_its_word_was_cancelled(server, future):
    """A cancelled wait cancels the future it waits for; what comes for it later is no error."""
    plan = LoadPlan(
        url=server.url, who="mpim_lab", channel="load", tasks=1, messages=1, seconds=1.0
    )
    async with LoadProcess("receiver", plan, lambda *interval: None) as process:
        getattr(process, future).cancel()
        if future == "ready":
            process.tell({"expect": 0})
            await process.summary
        else:
            await process.ready
    assert not is_alive(process.pid)


async def test_no_load_process_outlives_a_python_process_killed_with_sigkill(server):
    """The end of their input tells them."""
    code = f"""
import asyncio
from mpim_lab.load import load
from mpim_lab.lab.trace.trace import Trace
class Told(load.LoadProcess):
    async def __aenter__(self):
        await super().__aenter__()
        print(self.pid, flush=True)
        return self
load.LoadProcess = Told
async def main():
    trace = Trace()
    running = load.start_load({server.url!r}, seconds=60.0, trace=trace)
    while not any(rate.messages for rate in trace.rates):
        await asyncio.sleep(0.01)
    print("going", flush=True)
    await running.result()
asyncio.run(main())
"""
    python = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdout=subprocess.PIPE
    )
    pids = [int(await python.stdout.readline()) for _ in range(2)]
    assert await python.stdout.readline() == b"going\n"
    assert all(map(is_alive, pids))
    python.kill()
    await python.wait()
    await wait_until(lambda: not any(map(is_alive, pids)))


def speaks(monkeypatch, code):
    """Have every load process be a program that says what it likes."""
    start = asyncio.create_subprocess_exec

    async def another(program, *_, **options):
        return await start(program, "-c", code, **options)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", another)


LONG_LINE = "print('x' * 3_000_000, flush=True)"


@pytest.mark.parametrize(
    "said",
    [
        """print('{"type": ', flush=True)""",
        """print('{"type": "interval", "x": }', flush=True)""",
        LONG_LINE,
    ],
    ids=["half a line", "no JSON", "a line without end"],
)
async def test_a_process_that_writes_what_cannot_be_read_is_ended(pids, monkeypatch, said):
    """LoadFailed at once, not at the limit."""
    speaks(monkeypatch, f"import time; {said}; time.sleep(60)")
    with pytest.raises(LoadFailed, match="cannot be read"):
        await asyncio.wait_for(measure("redis://127.0.0.1:1", messages=1), 20)
    assert not any(map(is_alive, pids))


async def test_a_process_that_has_summed_up_and_does_not_end_is_ended(monkeypatch):
    """Leaving is bounded, also when another process holds its output open."""
    monkeypatch.setattr("mpim_lab.load.process.STOP_TIMEOUT_S", 0.3)
    holder = "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(5)'])"
    said = """print('{"type": "ready"}', flush=True); print('{"type": "summary"}', flush=True)"""
    speaks(monkeypatch, f"import subprocess, sys, time; {holder}; {said}; time.sleep(60)")
    plan = LoadPlan(
        url="redis://127.0.0.1:1", who="mpim_lab", channel="load", tasks=1, messages=1, seconds=1.0
    )
    async with (
        asyncio.timeout(10),
        LoadProcess("receiver", plan, lambda *interval: None) as process,
    ):
        await process.summary
    assert not is_alive(process.pid)


async def test_a_load_process_that_hangs_ends_with_its_parent():
    """It reads no end-of-file; it looks for its parent in a thread of its own."""
    code = "from mpim_lab.lab.server.process_guard import end_with_parent; import os, time; "
    code += "end_with_parent(0.05); print(os.getpid(), flush=True); time.sleep(60)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {code!r}])"
    python = await asyncio.create_subprocess_exec(
        sys.executable, "-c", parent, stdout=subprocess.PIPE
    )
    pid = int(await python.stdout.readline())
    assert is_alive(pid)
    python.kill()
    await python.wait()
    await wait_until(lambda: not is_alive(pid))


CROWD = """
import json, sys, time
sys.stdin.readline()
for line in sys.stdin:
    order = json.loads(line)
    time.sleep(order.get("after", 0))
    print(order.get("say") or json.dumps({"did": order["do"]}), flush=True)
"""


async def test_an_answer_that_comes_too_late_is_nobody_elses(monkeypatch):
    """After a time-out and after a cancellation, the next order gets its own answer."""
    speaks(monkeypatch, CROWD)
    async with SwarmProcess(SwarmPlan("mpim", 80, clients=1)) as swarm:
        with pytest.raises(LoadFailed, match="'slow'"):
            await swarm.ask("slow", timeout_s=0.1, after=0.5)
        assert await swarm.ask("next") == {"did": "next"}
        asking = asyncio.create_task(swarm.ask("cancelled", after=0.3))
        await asyncio.sleep(0.1)
        asking.cancel()
        await asyncio.wait([asking])
        assert await swarm.ask("last") == {"did": "last"}


@pytest.mark.parametrize(
    "said", ["no JSON", "x" * 3_000_000], ids=["no JSON", "a line without end"]
)
async def test_an_answer_that_cannot_be_read_is_named(monkeypatch, said):
    """LoadFailed, and the process is gone."""
    code = CROWD.replace('order.get("say")', repr(said) if len(said) < 100 else "'x' * 3_000_000")
    speaks(monkeypatch, code)
    async with SwarmProcess(SwarmPlan("mpim", 80, clients=1)) as swarm:
        with pytest.raises(LoadFailed, match="cannot be read"):
            await asyncio.wait_for(swarm.ask("it"), 20)
    assert not is_alive(swarm.pid)
