"""What a chapter's cells stand on where the server is the reader's own."""

import asyncio
from urllib.parse import quote

import pytest
from IPython.core.interactiveshell import InteractiveShell
from redis.asyncio import Redis

from mpim_lab.errors import FaultUnavailable, LoginRejected, NotConnected
from mpim_lab.lab.exercise import notebook
from mpim_lab.lab.exercise.notebook import raw_connection, skip_unavailable
from mpim_lab.lab.faults.latency_proxy import LatencyProxy
from mpim_lab.lab.faults.proxy import FaultProxy
from mpim_lab.mq.pubsub.queue import MessageQueue
from tests.ch01_pubsub.test_connection import tls_in_front_of


async def ping(url):
    reader, writer = await raw_connection(url)
    writer.write(b"PING\r\n")
    answer = await asyncio.wait_for(reader.readline(), 5)
    writer.close()
    return answer


@pytest.fixture
async def urls(server, tmp_path):
    """One server by all ways: TCP with user and database, a unix socket, TLS."""
    async with Redis.from_url(server.url) as client:
        await client.execute_command("ACL", "SETUSER", "lab", "on", ">pa ss", "~*", "&*", "+@all")
    async with tls_in_front_of(server.url, tmp_path) as (tls, _):
        yield {
            "password": server.url.replace("redis://", f"redis://lab:{quote('pa ss')}@").replace(
                "/0", "/3"
            ),
            "unix": server.unix_url,
            "tls": tls,
        }


@pytest.mark.parametrize("way", ["password", "unix", "tls"])
async def test_a_bare_socket_is_logged_in_as_the_url_says(urls, way):
    """By TCP, a unix socket and TLS; the server talks as it does to everybody."""
    assert await ping(urls[way]) == b"+PONG\r\n"


@pytest.mark.parametrize("way", ["password", "unix", "tls"])
@pytest.mark.parametrize(
    "relay",
    [FaultProxy, lambda url: LatencyProxy(url, one_way_ms=0.1)],
    ids=["FaultProxy", "LatencyProxy"],
)
async def test_a_relay_leads_to_the_server_whatever_the_way(urls, way, relay):
    """With its user, password and database."""
    async with (
        relay(urls[way]) as line,
        MessageQueue(line.url) as mq,
        MessageQueue(urls[way]) as direct,
    ):
        await mq.stream("s").add(b"x")
        assert await direct.stream("s").length() == 1


async def test_a_login_that_is_refused_and_a_server_that_says_nothing_are_named(
    server, urls, monkeypatch
):
    """LoginRejected and NotConnected, in time."""
    monkeypatch.setattr(notebook, "ANSWER_TIMEOUT_S", 0.3)
    with pytest.raises(LoginRejected):
        await raw_connection(urls["password"].replace("pa%20ss", "wrong"))
    server.pause()
    with pytest.raises(NotConnected):
        await asyncio.wait_for(raw_connection(urls["password"]), 10)
    server.resume()


@pytest.fixture
def shell(monkeypatch):
    """A kernel's shell in which cells are run."""
    shell = InteractiveShell()
    monkeypatch.setattr(notebook, "get_ipython", lambda: shell)
    shell.user_ns |= {"FaultUnavailable": FaultUnavailable}
    yield shell
    InteractiveShell.clear_instance()


def test_a_cell_that_is_refused_says_so_and_so_do_those_that_use_what_it_makes(
    shell, monkeypatch, capsys
):
    """One sentence each; the others run, and show their last value."""
    monkeypatch.setenv("MPIM_REDIS_URL", "redis://127.0.0.1:1")
    skip_unavailable()
    skip_unavailable()
    cells = {
        "refused": "# how a server falls\n"
        "result = 1\nraise FaultUnavailable('it is yours')\nother = 2",
        "uses it": "import math\nlater = other + 1\nlater",
        "uses that": "later",
        "free": "free = math.floor(2.5)\nfree",
        "made again": "other = 5\nother",
        "a bug": "1 / 0",
    }
    results = {name: shell.run_cell(cell, store_history=False) for name, cell in cells.items()}
    shown = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Left out")]
    assert shown == [
        "Left out: how a server falls: it is yours.",
        "Left out: it uses other, which the server did not let us make.",
        "Left out: it uses later, which the server did not let us make.",
    ]
    assert [results[name].result for name in cells] == [None, None, None, 2, 5, None]
    assert isinstance(results["a bug"].error_in_exec, ZeroDivisionError)
    assert all(results[name].success for name in cells if name != "a bug")


def test_on_the_labs_own_server_nothing_is_changed(shell, monkeypatch):
    """An error is an error."""
    monkeypatch.delenv("MPIM_REDIS_URL", raising=False)
    skip_unavailable()
    assert isinstance(
        shell.run_cell("raise FaultUnavailable('no')").error_in_exec, FaultUnavailable
    )


def test_what_skips_cells_outlives_a_reset_and_leaves_future_imports_first(
    shell, monkeypatch, capsys
):
    """`%reset` forgets names, not how cells are read; `from __future__` must begin a cell."""
    monkeypatch.setenv("MPIM_REDIS_URL", "redis://127.0.0.1:1")
    skip_unavailable()
    shell.run_cell("%reset -f")
    skip_unavailable()
    refused = shell.run_cell(
        "from mpim_lab.errors import FaultUnavailable\nraise FaultUnavailable('it is yours')"
    )
    assert refused.success and capsys.readouterr().out == "Left out: it is yours.\n"
    assert (
        shell.run_cell('"""Why."""\nfrom __future__ import annotations\n1 + 1').success is False
    )  # as without us
    assert shell.run_cell("from __future__ import annotations\n1 + 1").result == 2
