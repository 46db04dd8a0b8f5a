"""On the reader's own server: what the lab writes is under the run's prefix, and gone afterwards, however the run ends."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys

import pytest
from redis.asyncio import Redis

from mpim_lab.bench.gateway_servers import CANDIDATES, GatewayServer
from mpim_lab.chapters.ch01_pubsub.experiment import PubSubDelivery
from mpim_lab.chapters.ch04_ordering.measurements import guarantee_overhead
from mpim_lab.chapters.shared.timing import time_calls
from mpim_lab.errors import FaultUnavailable, LoadFailed, ServerFailed, WrongLoop
from mpim_lab.lab.faults import injector
from mpim_lab.lab.server import external, run_keys
from mpim_lab.lab.server.embedded import EmbeddedServer, open_server
from mpim_lab.lab.server.external import ExternalServer
from mpim_lab.lab.server.run_keys import escape_glob, open_run_keys
from mpim_lab.load.load import measure
from mpim_lab.load.redis.candidates import CANDIDATES as LOADS
from mpim_lab.mq.pubsub.queue import MessageQueue
from mpim_lab.soak.runner import run_schedule
from tests.conftest import missing
from tests.lab.test_server import is_alive
from tests.support import wait_until

MINE = {b"mine", b"lab-", b"lab-zzzzzzzz:not a run's", b"lab-0123456789:neither", b"load:booked"}


@pytest.fixture
async def readers(server, monkeypatch):
    """The reader's own server with keys of the reader's own; the lab is pointed at it."""
    monkeypatch.setenv("MPIM_REDIS_URL", server.url)
    async with Redis.from_url(server.url) as client:
        for key in MINE:
            await client.set(key, "1")
        yield client


async def as_it_was(client):
    return set(await client.keys()) == MINE


async def seen_while(client, work):
    """All keys that are there at some time while something goes on."""
    going, seen = asyncio.create_task(work), set()
    while not going.done():
        seen.update(await client.keys())
        await asyncio.sleep(0.005)
    await going
    return seen - MINE


def strangers(seen, prefixes=rb"lab-"):
    return {key for key in seen if not key.startswith(prefixes)}


async def loads():
    async with open_server() as server:
        for who in LOADS:
            if (
                who.startswith(("streams:mpim_lab", "batching:mpim_lab"))
                or who == "streams:redis-py pipelined"
            ):
                await measure(server.url, who, messages=200, tasks=8, prefix=server.prefix)


async def gateway():
    async with (
        open_server() as redis,
        GatewayServer(CANDIDATES["mpim_lab"], redis.url, redis.prefix) as running,
    ):
        running.check()
        await asyncio.sleep(0.3)


@pytest.mark.parametrize(
    "work",
    [
        pytest.param(lambda: guarantee_overhead(seconds=0.05), id="what guarantees cost"),
        pytest.param(
            lambda: PubSubDelivery(design="confirmed", fault="cut", messages=20).run(),
            id="an experiment",
        ),
        pytest.param(lambda: run_schedule(3), id="a schedule of the soak"),
        pytest.param(loads, id="load processes"),
        pytest.param(gateway, id="a gateway of the bench"),
    ],
)
async def test_everything_that_is_written_is_under_the_prefix_and_gone_afterwards(readers, work):
    """The reader's own keys stay, those with names like ours included."""
    seen = await seen_while(readers, work())
    assert strangers(seen) == set() and seen
    assert await as_it_was(readers)


async def test_who_cannot_keep_to_the_prefix_is_not_run(readers):
    """taskiq keeps a lock of its own: LoadFailed says so."""
    if LOADS["streams:taskiq"].missing:
        missing(LOADS["streams:taskiq"].missing)
    async with open_server() as server:
        with pytest.raises(LoadFailed, match="autoclaim"):
            await measure(server.url, "streams:taskiq", messages=10, prefix=server.prefix)


RUN = """
import asyncio
from mpim_lab.load.load import start_load
from mpim_lab.lab.server.embedded import open_server
from mpim_lab.mq.pubsub.queue import MessageQueue
async def main():
    async with open_server() as server, MessageQueue(server.url, prefix=server.prefix) as mq:
        for number in range(300):
            await mq.stream("kept:%d" % number).add(b"x")
        load = start_load(server.url, "streams:mpim_lab, + ordering", seconds=60, prefix=server.prefix)
        print(server._guard.pid, flush=True)
        await load.result()
asyncio.run(main())
"""


@contextlib.contextmanager
def a_run(url):
    """A process that writes a lot; gives it and its guard's id."""
    environment = os.environ | {"MPIM_REDIS_URL": url}
    python = subprocess.Popen(
        [sys.executable, "-c", RUN], stdout=subprocess.PIPE, text=True, env=environment
    )
    try:
        yield python, int(python.stdout.readline())
    finally:
        python.kill()
        python.wait()
        python.stdout.close()


async def writes(client):
    """The run's load is going on."""
    await injector.wait_until(lambda: is_going(client), "the load's first message", timeout_s=30)


async def is_going(client):
    return bool([key async for key in client.scan_iter(match="lab-*load:*", count=1_000)])


async def test_a_run_that_is_killed_leaves_nothing(server, readers):
    """kill -9 in the middle of a load: the guard removes it all, and ends."""
    with a_run(server.url) as (python, guard):
        await writes(readers)
        python.kill()
        await injector.wait_until(lambda: as_it_was(readers), "the removal", timeout_s=40)
        await wait_until(lambda: not is_alive(guard), within_s=20)
        assert await as_it_was(readers)


@pytest.mark.parametrize("finder", ["the next run", "the doctor"])
async def test_what_a_killed_guard_left_is_found(server, readers, finder, monkeypatch):
    """By its heartbeat, which has ended; the keys of a run that lives are left alone."""
    from mpim_lab.doctor import diagnose

    with a_run(server.url) as (python, guard):
        await writes(readers)
        os.kill(guard, signal.SIGKILL)
        python.kill()
        python.wait()
        async with (
            ExternalServer(server.url) as living,
            MessageQueue(server.url, prefix=living.prefix) as mq,
        ):
            await mq.stream("kept").add(b"x")
            (dead,) = await readers.smembers(run_keys.RUNS) - {living.prefix.encode()}
            assert await readers.exists(dead + b"lab:alive")
            await readers.delete(dead + b"lab:alive")  # as ALIVE_S later
            if finder == "the doctor":
                await readers.srem(run_keys.RUNS, dead)  # not even on record
                said = {check.name: check.found for check in await diagnose()}
                assert "are removed" in said["leftovers of dead runs"]
            else:
                async with open_server():
                    pass

            async def is_removed():
                return not [key async for key in readers.scan_iter(match=dead + b"*", count=1_000)]

            await injector.wait_until(is_removed, "the removal", timeout_s=30)
            assert await mq.stream("kept").length() == 1
    await injector.wait_until(lambda: as_it_was(readers), "the end of both")


async def test_a_run_keeps_its_heartbeat(readers, server, monkeypatch):
    """The guard renews it, so that nobody takes the run for dead."""
    async with ExternalServer(server.url) as lab:
        alive = lab.prefix + "lab:alive"
        await readers.expire(alive, run_keys.ALIVE_S - 5)

        async def is_renewed():
            return await readers.ttl(alive) > run_keys.ALIVE_S - 3

        await injector.wait_until(is_renewed, "the heartbeat", timeout_s=20)
    assert await as_it_was(readers)


async def test_the_guard_shows_no_password(server, readers):
    """Neither the URL nor the prefix is on its command line."""
    async with ExternalServer(server.url.replace("redis://", "redis://default:@")) as lab:
        shown = subprocess.run(
            ["ps", "-o", "args=", "-p", str(lab._guard.pid)],
            capture_output=True,
            text=True,
            check=True,
        )
        assert "redis://" not in shown.stdout and "run_keys" in shown.stdout


async def test_a_user_who_may_not_unlink_has_it_deleted_and_one_who_may_not_look_is_told(
    server, readers
):
    """UNLINK falls back to DEL; without SCAN there is one sentence that says so."""
    for name, rights in (("slow", ("+@all", "-unlink")), ("blind", ("+@all", "-scan"))):
        await readers.execute_command("ACL", "SETUSER", name, "on", ">p", "~*", "&*", *rights)
        async with open_run_keys(server.url.replace("redis://", f"redis://{name}:p@")) as found:
            await readers.set("lab-00000000:x", "1")
            if name == "slow":
                assert await found.remove("lab-00000000:") == 1
            else:
                with pytest.raises(ServerFailed, match="may not"):
                    async with open_run_keys(
                        server.url.replace("redis://", f"redis://{name}:p@")
                    ) as blind:
                        await blind.remove("lab-00000000:")
    await readers.delete("lab-00000000:x")
    assert await as_it_was(readers)


def test_a_prefix_is_no_pattern():
    """Whatever characters it has."""
    assert escape_glob(rb"a[b]*?\c:") == rb"a\[b\]\*\?\\c:"


async def test_leaving_a_server_that_is_gone_raises_nothing(server, monkeypatch, caplog):
    """The log names what could not be removed; an error of the reader's own is not hidden by it."""
    monkeypatch.setenv("MPIM_REDIS_URL", server.url)
    with pytest.raises(ZeroDivisionError):
        async with open_server() as lab:
            server.kill()
            raise ZeroDivisionError
    assert lab.prefix in caplog.text and "still there" in caplog.text


async def test_a_server_that_goes_away_in_the_middle_of_a_run_is_named(server, monkeypatch):
    """ServerFailed, soon: not a verdict on messages that nobody could send."""
    monkeypatch.setenv("MPIM_REDIS_URL", server.url)
    run = PubSubDelivery(design="naive", messages=200, pace_ms=10).start()
    await wait_until(lambda: len(run.trace) > 20)
    server.kill()
    with pytest.raises(ServerFailed, match="the server is gone"):
        await asyncio.wait_for(run.result(), 60)


@pytest.mark.parametrize("paused", [False, True])
async def test_a_server_that_says_nothing_is_named_in_time(server, paused, monkeypatch):
    """ServerFailed within the limit, be it killed or stopped."""
    monkeypatch.setattr("mpim_lab.lab.server.external.START_TIMEOUT_S", 0.5)
    (server.pause if paused else server.kill)()
    with pytest.raises(ServerFailed, match="does not answer"):
        await asyncio.wait_for(ExternalServer(server.url).start(), 10)
    if paused:
        server.resume()


@pytest.mark.parametrize("after_s", [0.0, 0.01, 0.03, 0.3])
async def test_a_start_and_a_stop_that_are_cancelled_leave_nothing(readers, server, after_s):
    """Whenever it happens: the guard sees to it."""
    for deed in ("start", "stop"):
        lab = ExternalServer(server.url)
        if deed == "stop":
            await lab.start()
            await readers.set(lab.prefix + "x", "1")
        going = asyncio.create_task(getattr(lab, deed)())
        await asyncio.sleep(after_s)
        going.cancel()
        await asyncio.wait([going])
        await lab.stop()
    await injector.wait_until(lambda: as_it_was(readers), "the removal", timeout_s=30)


async def test_a_forked_child_does_not_end_its_parents_run(readers, server):
    """WrongLoop there; the parent's keys stay, and go when it ends."""
    async with ExternalServer(server.url) as lab:
        await readers.set(lab.prefix + "x", "1")
        reading, writing = os.pipe()
        if (child := os.fork()) == 0:
            try:
                asyncio.events._set_running_loop(None)
                asyncio.run(lab.stop())
            except WrongLoop:
                os.write(writing, b"WrongLoop")
            finally:
                os._exit(0)
        await asyncio.to_thread(os.waitpid, child, 0)
        os.close(writing)
        assert os.read(reading, 100) == b"WrongLoop"
        os.close(reading)
        assert await readers.exists(lab.prefix + "x")
    assert await as_it_was(readers)


async def test_a_fault_that_this_user_may_not_cause_is_said_before_the_run(
    readers, server, monkeypatch
):
    """Not as an outcome of the first message that it would strike."""
    await readers.execute_command(
        "ACL", "SETUSER", "lab", "on", ">p", "~*", "&*", "+@all", "-@admin", "-@dangerous"
    )
    monkeypatch.setenv("MPIM_REDIS_URL", server.url.replace("redis://", "redis://lab:p@"))
    with pytest.raises(FaultUnavailable, match="does not let this user"):
        await PubSubDelivery(design="naive", fault="cut").run()
    assert (
        await PubSubDelivery(design="confirmed", fault="away", messages=12).run()
    ).verdict.lost == ()


@pytest.mark.parametrize("mode", ["cluster", "replica", "no RESP3"])
async def test_a_server_of_another_kind_is_named_at_once(tmp_path, mode):
    """ServerFailed with what it is, before anything is written there."""
    old = tmp_path / "old.conf"
    old.write_text('rename-command HELLO ""')
    async with EmbeddedServer() as primary:
        port = primary.url.rpartition(":")[2].split("/")[0]
        config = {
            "cluster": {"cluster-enabled": "yes"},
            "replica": {"replicaof": f"127.0.0.1 {port}"},
            "no RESP3": {"include": str(old)},
        }
        async with EmbeddedServer(config=config[mode]) as other:
            with pytest.raises(ServerFailed, match=mode):
                await ExternalServer(other.url).start()


async def test_a_guard_that_is_killed_is_replaced_while_the_run_lives(server, readers, monkeypatch):
    """Its heartbeat goes on, so that nobody takes the run for dead; in the end all is gone."""
    monkeypatch.setattr(external, "RENEW_EVERY_S", 0.05)
    async with ExternalServer(server.url) as lab, open_run_keys(server.url) as found:
        await readers.set(f"{lab.prefix}kept", b"x")
        first = lab._guard
        await injector.wait_until(lambda: first.is_ready, "the guard", timeout_s=30)
        os.kill(first.pid, signal.SIGKILL)
        await injector.wait_until(
            lambda: lab._guard is not first and lab._guard.is_ready, "another guard", timeout_s=30
        )
        alive = f"{lab.prefix}lab:alive"
        await readers.expire(alive, 1_000)

        async def is_renewed():
            return await readers.ttl(alive) <= run_keys.ALIVE_S

        await injector.wait_until(is_renewed, "the heartbeat", timeout_s=30)
        await found.remove_dead_runs(everywhere=True)
        assert await readers.exists(f"{lab.prefix}kept")
    assert await as_it_was(readers)


async def test_a_sweep_of_the_pool_names_what_ended_it():
    """One error of ours, not the group of all callers that met it."""

    async def fails():
        raise ServerFailed("it is gone")

    with pytest.raises(ServerFailed, match="it is gone"):
        await time_calls([fails, lambda: asyncio.sleep(60)], seconds=1.0)
