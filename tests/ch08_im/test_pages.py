"""The pages of a gateway, asked for by plain HTTP, also by those who mean no good."""

import asyncio
import json

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from mpim_lab.im.services.tokens import TokenService
from mpim_lab.im.system import ImSystem
from mpim_lab.lab.server.embedded import EmbeddedServer
from tests.raw_clients import SECRET, RawClient, system_options


@pytest.fixture
async def mpim(server):
    """One gateway that lets everybody in by name."""
    async with ImSystem(server.url, allow_login=True, **system_options()) as running:
        yield running


async def ask(mpim, path, *headers, host=None, method="GET"):
    """One request; gives status, headers and body."""
    gateway = mpim.gateways["gw-1"]
    reader, writer = await asyncio.open_connection(gateway.host, gateway.port)
    lines = [f"{method} {path} HTTP/1.1"]
    lines += (
        [f"Host: {gateway.host}:{gateway.port}" if host is None else f"Host: {host}"]
        if host != ""
        else []
    )
    writer.write("\r\n".join([*lines, *headers, "", ""]).encode("latin-1"))
    async with asyncio.timeout(5):
        answer = await reader.read()
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *rest = head.decode("latin-1").split("\r\n")
    return (
        int(first.split()[1]),
        {name.lower(): value for name, _, value in (line.partition(": ") for line in rest)},
        body,
    )


async def test_the_web_page_and_its_parts_are_served_with_headers_that_lock_it_in(mpim):
    """No scripts from elsewhere, no frames, no sniffing, nothing kept; the type is right."""
    for path, content_type in (
        ("/", "text/html"),
        ("/mpim.js", "text/javascript"),
        ("/mpim.css", "text/css"),
    ):
        status, headers, body = await ask(mpim, path)
        assert status == 200 and body
        assert headers["content-type"] == f"{content_type}; charset=utf-8"
        assert int(headers["content-length"]) == len(body)
        assert "default-src 'self'" in headers["content-security-policy"]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert (
            headers["referrer-policy"] == "no-referrer" and headers["cache-control"] == "no-store"
        )


@pytest.mark.parametrize(
    "path",
    [
        "/../system.py",
        "/..%2fsystem.py",
        "/%2e%2e/system.py",
        "/static/../../system.py",
        "//etc/passwd",
        "/mpim.js/..",
        "/./mpim.js",
        "/mpim.js%00.html",
        "/index",
        "/" + "a" * 4_000,
    ],
)
async def test_nothing_but_the_pages_parts_can_be_had(mpim, path):
    """Whatever climbs out of the folder is simply not there."""
    status, headers, body = await ask(mpim, path)
    assert status == 404 and b"import" not in body and b"root:" not in body and len(body) < 300
    assert "content-security-policy" in headers


async def test_health_says_whether_it_can_do_its_work():
    """200; 503 while the server is gone, and 200 again when it is back."""
    async with EmbeddedServer() as server, ImSystem(server.url, **system_options()) as mpim:
        assert (await ask(mpim, "/healthz"))[::2] == (200, b"ok\n")
        server.kill()
        async with asyncio.timeout(10):
            while (await ask(mpim, "/healthz"))[0] != 503:
                await asyncio.sleep(0.02)
        assert "mpim_redis_up" in (text := (await ask(mpim, "/metrics"))[2].decode())
        assert 'mpim_redis_up{gateway="gw-1"} 0.0' in text
        await server.start()
        async with asyncio.timeout(10):
            while (await ask(mpim, "/healthz"))[0] != 200:
                await asyncio.sleep(0.02)


async def test_figures_are_given_as_prometheus_reads_them(mpim):
    """What has happened is counted, under the gateway's name."""
    async with RawClient(mpim.gateways["gw-1"].url) as raw:
        await raw.hello("alice")
        await raw.ask({"t": "ping"}, "pong")
        status, headers, body = await ask(mpim, "/metrics")
    assert status == 200 and headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    lines = body.decode().splitlines()
    for line in (
        'mpim_welcomed_total{gateway="gw-1"} 1.0', 'mpim_received_total{gateway="gw-1"} 1.0',
        'mpim_connected_clients{gateway="gw-1"} 1.0', 'mpim_redis_up{gateway="gw-1"} 1.0',
    ):  # fmt: skip
        assert line in lines


async def test_a_login_gives_a_token_that_lets_in_once(mpim):
    """For a good name; a bad one is told what is wrong with it."""
    status, headers, body = await ask(mpim, "/login?user=alice")
    assert status == 200 and headers["content-type"] == "application/json"
    async with RawClient(mpim.gateways["gw-1"].url) as raw:
        assert (await raw.hello("", token=json.loads(body)["token"]))["uid"] == "alice"
    for query in ("", "?user=", "?user=a%20b", "?user=" + "a" * 65, "?user=a%3Ab", "?name=alice"):
        assert (await ask(mpim, f"/login{query}"))[0] == 400


async def test_without_leave_nobody_logs_in_by_name(server):
    """The default: 403, and no token."""
    async with ImSystem(server.url, **system_options()) as mpim:
        status, _, body = await ask(mpim, "/login?user=alice")
        assert status == 403 and b"token" not in body


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "null", "http://127.0.0.1:1", "http://[", "https://localhost", ""],
)
async def test_a_page_of_another_site_gets_nothing(mpim, origin):
    """Neither a token nor a WebSocket: a request with a foreign origin is refused."""
    status, _, body = await ask(mpim, "/login?user=alice", f"Origin: {origin}")
    assert status == 403 and b"token" not in body
    with pytest.raises(InvalidStatus) as refused:
        await connect(mpim.gateways["gw-1"].url, additional_headers={"Origin": origin}, proxy=None)
    assert refused.value.response.status_code == 403


async def test_the_gateways_own_page_gets_in(mpim):
    """A WebSocket whose origin is the page's own host."""
    gateway = mpim.gateways["gw-1"]
    async with connect(gateway.url, origin=f"http://127.0.0.1:{gateway.port}", proxy=None) as ws:
        await ws.send(json.dumps({"t": "hello", "token": TokenService(SECRET).issue("alice")}))
        assert json.loads(await ws.recv())["t"] == "welcome"


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "localhost.evil.example", "[", "[::1", ""]
)
async def test_a_name_that_was_bent_to_this_machine_gets_nothing(mpim, host):
    """DNS rebinding: whoever asks under a foreign host's name, a broken one or none, is refused."""
    for path in ("/", "/login?user=alice", "/metrics"):
        status, _, body = await ask(mpim, path, host=host)
        assert status == 403 and b"token" not in body


async def test_two_hosts_or_origins_in_one_request_are_refused(mpim):
    """Whoever stands in between might look at the other one."""
    own = f"127.0.0.1:{mpim.gateways['gw-1'].port}"
    assert (await ask(mpim, "/", "Host: evil.example"))[0] == 403
    assert (await ask(mpim, "/", f"Origin: http://{own}", "Origin: http://evil.example"))[0] == 403


@pytest.mark.parametrize("path", ["//[", "/?a=%ff&b=[", "/ws", "/\x80\xff"])
async def test_odd_requests_are_answered_and_harm_nobody(mpim, path):
    """A status below 500, or a closed line; the next one is served as ever."""
    try:
        status = (await ask(mpim, path))[0]
    except (IndexError, ConnectionError):
        status = 0
    assert status < 500
    assert (await ask(mpim, "/healthz"))[0] == 200


async def test_garbage_instead_of_http_harms_nobody(mpim):
    """Bytes, a header without end, and connections that say nothing."""
    gateway = mpim.gateways["gw-1"]
    writers = []
    for garbage in (
        b"\x00\x01\x02\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 5_000,
        b"",
        b"POST / HTTP/1.1\r\n\r\n",
    ):
        _, writer = await asyncio.open_connection(gateway.host, gateway.port)
        writer.write(garbage)
        writers.append(writer)
    assert (await ask(mpim, "/healthz"))[0] == 200
    for writer in writers:
        writer.close()
