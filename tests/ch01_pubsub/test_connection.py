"""The connection on a real server: breaks, limits, time-outs, logins."""

import asyncio
import contextlib
import ssl
from urllib.parse import quote

import pytest
import trustme

from mpim_lab.errors import (
    CommandTimeout,
    ConnectionLost,
    InvalidParameter,
    LoginRejected,
    NotConnected,
    QueueClosed,
    QueueFull,
)
from mpim_lab.events import EventKind
from mpim_lab.lab.faults.server_admin import cut_connections
from mpim_lab.lab.trace.trace import Trace
from mpim_lab.mq.connection.address import Address
from mpim_lab.mq.connection.config import ConnectionConfig
from mpim_lab.mq.connection.reconnecting import ReconnectingConnection
from mpim_lab.mq.connection.resp import RespConnection, encode_command
from mpim_lab.mq.connection.retry import Backoff
from mpim_lab.mq.pubsub.queue import MessageQueue
from tests.support import tls_relay, wait_until

QUICK = ConnectionConfig(
    timeout_s=0.4, connect_timeout_s=0.4, backoff=Backoff(initial_s=0.005, max_s=0.02)
)


async def test_a_cut_connection_comes_back_and_subscribes_again(server):
    """Nobody has to do anything.

    The observer is told how long the gap was and how many channels are back.
    """
    trace, got = Trace(), []
    async with MessageQueue(server.url, name="bob", observer=trace, config=QUICK) as mq:
        await mq.subscribe("a", got.append)
        await mq.subscribe("b*", got.append, pattern=True)
        await cut_connections(server.url, "bob")
        await wait_until(lambda: any(trace.by_kind(EventKind.RESUBSCRIBED)))
        assert await mq.publish("a", b"1") == 1
        assert await mq.publish("b1", b"2") == 1
        await mq.drain()
    gap = next(trace.by_kind(EventKind.RESUBSCRIBED))
    assert gap.count == 2
    assert gap.seconds > 0
    assert len(got) == 2


async def test_commands_in_flight_when_the_line_breaks_may_have_happened(server):
    """ConnectionLost, definite=False: each caller hears it, and nothing is sent a second time."""
    link = ReconnectingConnection(Address.parse(server.url), config=QUICK, name="writer")
    await link.open()
    server.pause()
    calls = [asyncio.create_task(link.call("INCR", "counter")) for _ in range(10)]
    await asyncio.sleep(0.02)
    link.connection.abort(ConnectionLost("cut by the test"))
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    server.resume()
    assert all(isinstance(outcome, ConnectionLost) and not outcome.definite for outcome in outcomes)
    await wait_until(lambda: link.is_connected)
    assert int(await link.call("GET", "counter") or 0) in (
        0,
        10,
    )  # as the server saw it, but never more
    await link.close()


async def test_a_command_that_was_not_written_yet_certainly_did_not_happen(server):
    """Within the loop turn of `send` nothing has left.

    A line that breaks then gives NotConnected, definite=True.
    """
    link = ReconnectingConnection(Address.parse(server.url), config=QUICK)
    await link.open()
    reply = link.connection.send(b"*1\r\n$4\r\nPING\r\n")
    link.connection.connection_lost(None)
    with pytest.raises(NotConnected) as caught:
        await reply
    assert caught.value.definite
    await link.close()


async def test_a_command_without_an_answer_times_out(server):
    """CommandTimeout, definite=False.

    The server was stopped, and runs the command when it goes on.
    """
    async with MessageQueue(server.url, config=QUICK) as mq, MessageQueue(server.url) as other:
        got = []
        await other.subscribe("a", got.append)
        server.pause()
        with pytest.raises(CommandTimeout) as caught:
            await mq.publish("a", b"late")
        server.resume()
        assert not caught.value.definite
        await wait_until(lambda: got)
        assert await mq.publish("a", b"next") == 1


async def test_replies_meet_their_commands_after_cancellation(server):
    """A caller that gives up leaves its place in the order to be used up.

    The next ones get their own answers.
    """
    link = ReconnectingConnection(Address.parse(server.url))
    await link.open()
    calls = [asyncio.create_task(link.call("ECHO", str(number))) for number in range(100)]
    await asyncio.sleep(0)
    for call in calls[::3]:
        call.cancel()
    replies = await asyncio.gather(*calls, return_exceptions=True)
    for number, reply in enumerate(replies):
        assert (
            isinstance(reply, asyncio.CancelledError)
            if number % 3 == 0
            else reply == str(number).encode()
        )
    await link.close()


async def test_callers_beyond_the_limit_wait_and_all_are_served(server):
    """At most max_commands wait for the server at any time.

    The others wait for room, first come, first served.
    """
    link = ReconnectingConnection(
        Address.parse(server.url), config=ConnectionConfig(max_commands=8)
    )
    await link.open()
    most, order = 0, []

    async def call(number):
        nonlocal most
        await link.call("ECHO", str(number))
        most = max(most, 8 - link.connection.free_slots)
        order.append(number)

    await asyncio.gather(*(call(number) for number in range(500)))
    assert most <= 8
    assert order == list(range(500))
    await link.close()


async def test_bytes_are_bounded_too(server):
    """Large commands wait when max_bytes are waiting already, and all of them arrive."""
    link = ReconnectingConnection(
        Address.parse(server.url), config=ConnectionConfig(max_bytes=100_000)
    )
    await link.open()
    replies = await asyncio.gather(*(link.call("ECHO", b"x" * 60_000) for _ in range(50)))
    assert [len(reply) for reply in replies] == [60_000] * 50
    await link.close()


async def test_no_room_in_time_is_a_named_error(server):
    """QueueFull, definite=True.

    The server is stopped, the limit is reached, the caller was never written.
    """
    link = ReconnectingConnection(
        Address.parse(server.url), config=ConnectionConfig(timeout_s=0.4, max_commands=2)
    )
    await link.open()
    server.pause()
    calls = [asyncio.create_task(link.call("PING")) for _ in range(5)]
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    server.resume()
    assert [type(outcome) for outcome in outcomes[:2]] == [CommandTimeout] * 2
    assert all(
        isinstance(outcome, QueueFull | NotConnected) and outcome.definite
        for outcome in outcomes[2:]
    )
    await link.close()


async def test_callers_wait_for_a_line_that_is_down_and_go_on_when_it_is_back(server):
    """Publishing during a short gap needs no retry by the caller."""
    async with MessageQueue(server.url, name="alice", config=QUICK) as mq:
        await cut_connections(server.url, "alice")
        assert await mq.publish("a", b"x") == 0


async def test_a_server_that_is_gone_is_named_with_the_cause(server):
    """NotConnected, definite=True, within the time-out.

    The address is in the message, the password is not.
    """
    url = server.url.replace("redis://", "redis://default:secret@")
    mq = MessageQueue(server.url, config=QUICK)
    await mq.open()
    server.kill()
    await wait_until(lambda: not mq.is_connected)
    with pytest.raises(NotConnected) as caught:
        await mq.publish("a", b"x")
    assert caught.value.definite
    await mq.close()
    with pytest.raises(NotConnected) as caught:
        await MessageQueue(url, config=QUICK).open()
    assert "secret" not in str(caught.value)
    assert "127.0.0.1" in str(caught.value)


async def test_a_killed_server_is_found_again_after_its_restart(server):
    """The queue reconnects with backoff until the server is back."""
    got = []
    async with MessageQueue(server.url, config=QUICK) as mq:
        await mq.subscribe("a", got.append)
        server.kill()
        await wait_until(lambda: mq.open_connections == 0)
        await server.start()
        await wait_until(lambda: mq.is_connected)
        assert await mq.publish("a", b"again") == 1
        await mq.drain()
    assert len(got) == 1


async def test_a_silent_line_is_given_up(server):
    """A server that is stopped for too long is noticed without any command of ours."""
    trace = Trace()
    limits = ConnectionConfig(
        timeout_s=0.2, connect_timeout_s=0.2, heartbeat_s=0.1, backoff=Backoff(0.005, 0.02)
    )
    async with MessageQueue(server.url, config=limits, observer=trace) as mq:
        server.pause()
        await wait_until(lambda: any(trace.by_kind(EventKind.DISCONNECTED)))
        server.resume()
        await wait_until(lambda: mq.is_connected)
    assert "silent" in next(trace.by_kind(EventKind.DISCONNECTED)).detail


async def test_user_and_password_are_used_on_every_connection(server):
    """A login in the URL; the right one works, also after a cut, a wrong one is LoginRejected."""
    async with MessageQueue(server.url, config=QUICK) as admin:
        await admin._commands.call("ACL", "SETUSER", "alice", "on", ">s3cr:t@", "+@all", "~*", "&*")
    login = server.url.replace("redis://", f"redis://alice:{quote('s3cr:t@', safe='')}@")
    async with MessageQueue(login, name="alice", config=QUICK) as mq:
        assert await mq._commands.call("ACL", "WHOAMI") == b"alice"
        await cut_connections(server.url, "alice")
        await wait_until(lambda: mq.is_connected)
        assert await mq._commands.call("ACL", "WHOAMI") == b"alice"
    with pytest.raises(LoginRejected):
        await MessageQueue(
            server.url.replace("redis://", "redis://alice:wrong@"), config=QUICK
        ).open()


async def test_the_database_of_the_url_is_selected(server):
    """redis://…/2 means database 2; one that does not exist is LoginRejected."""
    base = server.url.rsplit("/", 1)[0] if server.url.count("/") > 2 else server.url
    link = ReconnectingConnection(Address.parse(f"{base}/2"), name="second")
    await link.open()
    assert b"db=2" in await link.call("CLIENT", "INFO")
    await link.close()
    with pytest.raises(LoginRejected):
        await MessageQueue(f"{base}/999").open()


async def test_a_unix_socket_works_as_tcp_does(server):
    """unix:// in the URL."""
    got = []
    async with MessageQueue(server.unix_url) as mq:
        await mq.subscribe("a", got.append)
        assert await mq.publish("a", b"x") == 1
        await mq.drain()
    assert len(got) == 1


@contextlib.asynccontextmanager
async def tls_in_front_of(url, tmp_path):
    """A TLS end before the server, with a certificate of our own authority.

    Gives a rediss:// URL.
    """
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(context)
    async with tls_relay(url, context) as port:
        ca = quote(str(tmp_path / "ca.pem"))
        yield f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={ca}", f"rediss://127.0.0.1:{port}"


async def test_tls_with_a_trusted_certificate_works_and_an_unknown_one_is_refused(server, tmp_path):
    """rediss:// verifies.

    Without the authority's certificate the connection is NotConnected and says why.
    """
    async with tls_in_front_of(server.url, tmp_path) as (trusted, unknown):
        got = []
        async with MessageQueue(trusted) as mq:
            await mq.subscribe("a", got.append)
            assert await mq.publish("a", b"secret") == 1
            await mq.drain()
        assert got[0].payload == b"secret"
        with pytest.raises(NotConnected, match="certificate"):
            await MessageQueue(unknown).open()


@contextlib.asynccontextmanager
async def something_that_says(words, *, once_asked):
    """A server that says these words and hangs up; gives its address."""

    async def serve(reader, writer):
        if once_asked:
            await reader.read(100)
        writer.write(words)
        await writer.drain()
        writer.close()

    end = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield Address.parse(f"redis://127.0.0.1:{end.sockets[0].getsockname()[1]}")
    end.close()


async def test_something_that_does_not_speak_resp_is_named():
    """A web server at that port gives an error with the reason, not a hang."""
    async with something_that_says(b"HTTP/1.1 400 Bad Request\r\n\r\n", once_asked=True) as address:
        with pytest.raises((NotConnected, ConnectionLost), match="RESP"):
            await ReconnectingConnection(address, name="alice", config=QUICK).open()


async def test_a_server_that_hangs_up_before_it_is_asked_is_quoted():
    """One that takes no more clients does so.

    Its words are the reason, whether or not the login was under way.
    """
    full = b"-ERR max number of clients reached\r\n"
    async with something_that_says(full, once_asked=False) as address:
        with pytest.raises((NotConnected, LoginRejected), match="max number of clients reached"):
            await ReconnectingConnection(address, name="alice", config=QUICK).open()
        lost = []
        connection = RespConnection(QUICK, lambda push: False, lambda: None, lost.append)
        await address.connect(lambda: connection)
        connection.mark_ready()  # and says nothing itself
        await wait_until(lambda: lost)
        assert "the server said, unasked: ERR max number of clients reached" in str(lost[0])


@pytest.mark.parametrize("url", ["", "http://x", "redis://host:notaport", "127.0.0.1:6379", None])
def test_a_bad_url_is_refused_at_once(url):
    """InvalidParameter, before anything is connected."""
    with pytest.raises(InvalidParameter):
        MessageQueue(url)


async def test_a_connection_that_closes_waits_for_what_was_written_and_takes_nothing_more(server):
    """Not when the first of the answers comes, either."""
    link = ReconnectingConnection(Address.parse(server.url), name="closing", config=QUICK)
    await link.open()
    first = link.connection.send(encode_command("ECHO", "first"))
    link.connection.flush()
    second = link.connection.send(encode_command("BLPOP", "nothing", "0.2"))
    closing = asyncio.create_task(link.close())
    assert await first == b"first"
    assert link.connection.is_blocked and link.connection.is_full and not closing.done()
    with pytest.raises(QueueClosed):
        await link.call("PING")
    await closing
    assert await second is None
