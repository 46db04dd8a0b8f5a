"""Whatever servers, callers and other event loops do.

Each call of a pool ends in time, and gives back what it took.
"""

import asyncio
import subprocess
import sys
import threading

import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from mpim_lab.errors import (
    CommandTimeout,
    ConnectionLost,
    InvalidMessage,
    InvalidParameter,
    LoginRejected,
    MpimError,
    NotConnected,
    QueueClosed,
    WrongLoop,
)
from mpim_lab.lab.server.embedded import EmbeddedServer
from mpim_lab.mq.pool.pool import Pool
from tests.pools import QUICK, connections, kept
from tests.support import wait_until

SHORT = {
    "call_timeout_s": 0.2,
    "connect_timeout_s": 0.2,
    "acquire_timeout_s": 0.2,
    "close_timeout_s": 0.2,
}
IN_TIME_S = 10


@pytest.fixture
def in_time():
    """Bound what is inside; a wait without an end fails here."""
    return lambda: asyncio.timeout(IN_TIME_S)


async def echo(pool, word="x"):
    async with pool.connection() as connection:
        return await connection.call("ECHO", word)


async def test_with_a_stopped_server_every_call_ends_by_name_and_the_pool_goes_on_afterwards(
    server, in_time
):
    """An idle connection, a new one, a call, a transaction, the end.

    Each has its own time limit.
    """
    pool = Pool(server.url, max_connections=2, **SHORT)
    async with in_time(), pool:
        async with pool.connection() as lent:
            server.pause()
            with pytest.raises(CommandTimeout):
                await lent.call("ECHO", "x")
            with pytest.raises(NotConnected):
                await lent.transaction([("ECHO", "x")])
            with pytest.raises(NotConnected) as opening:
                await echo(pool)
            assert opening.value.definite and opening.value.transient
        assert kept(pool.stats())
        server.resume()
        await wait_until(
            lambda: not any(each.is_circuit_open for each in pool.stats().servers.values())
        )
        assert await echo(pool) == b"x"
        server.pause()
    try:
        assert kept(pool.stats()) and pool.stats().idle == 0
    finally:
        server.resume()


async def test_a_killed_server_is_named_and_the_pool_closes(server, in_time):
    """Whoever has a connection gets ConnectionLost, whoever wants one NotConnected."""
    async with in_time(), Pool(server.url, **SHORT) as pool:
        async with pool.connection() as lent:
            waiting = asyncio.ensure_future(lent.call("BLPOP", "never", 5))
            await asyncio.sleep(0.05)
            server.kill()
            with pytest.raises(ConnectionLost) as lost:
                await waiting
            assert not lost.value.definite
        with pytest.raises(NotConnected):
            await echo(pool)
        assert kept(pool.stats())


@pytest.mark.parametrize(
    "says",
    [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"-ERR unasked\r\n", b"*1\r\n$9999999999\r\n"],
)
async def test_who_hangs_up_or_speaks_something_else_is_not_connected(says, in_time):
    """Nothing of the caller's was sent, so the error is definite."""

    async def greet(reader, writer):
        writer.write(says)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as end:
        url = f"redis://127.0.0.1:{end.sockets[0].getsockname()[1]}"
        async with in_time(), Pool(url, **SHORT) as pool:
            with pytest.raises(NotConnected) as error:
                await echo(pool)
            assert error.value.definite and error.value.__cause__ is not None


async def test_a_missing_password_is_a_refused_login_and_no_time_out(in_time):
    """By name and at once; the pool is as it was."""
    async with EmbeddedServer(config={"requirepass": "secret"}) as server:
        port = server.url.rpartition(":")[2].partition("/")[0]
        async with in_time(), Pool(f"redis://127.0.0.1:{port}", **SHORT) as pool:
            with pytest.raises(LoginRejected):
                await echo(pool)
            assert kept(pool.stats())


@pytest.mark.parametrize("host", ["a" * 70 + ".example", "no.such.host.invalid", "host%00name"])
async def test_a_host_that_cannot_be_one_is_not_connected(host, in_time):
    """Whatever the resolver says about it."""
    async with in_time(), Pool(f"redis://{host}:6379", **SHORT) as pool:
        with pytest.raises(NotConnected):
            await echo(pool)


async def test_closing_inside_a_connection_does_not_wait_for_its_own_end(server):
    """The caller's connection is of no use afterwards.

    The others may finish within `close_timeout_s`.
    """
    async with asyncio.timeout(IN_TIME_S), Pool(server.url, close_timeout_s=60, **QUICK) as pool:
        async with pool.connection() as connection:
            await pool.close()
            with pytest.raises((NotConnected, ConnectionLost)):
                await connection.call("ECHO", "x")
        assert kept(pool.stats()) and pool.stats().idle == 0
    assert await connections(server.url) == 0


async def test_a_pool_that_is_closed_while_one_is_opened_keeps_no_socket():
    """Whoever was connecting is told so."""
    accepted, answer = [], asyncio.Event()

    async def silent(reader, writer):
        accepted.append(writer)
        await answer.wait()
        writer.close()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as end:
        pool = Pool(
            f"redis://127.0.0.1:{end.sockets[0].getsockname()[1]}",
            **{**SHORT, "connect_timeout_s": 5},
        )
        async with asyncio.timeout(IN_TIME_S), pool:
            caller = asyncio.ensure_future(echo(pool))
            await wait_until(lambda: accepted)
            await pool.close()
            answer.set()
            with pytest.raises((NotConnected, QueueClosed)):
                await caller
            assert kept(pool.stats())


@pytest.mark.parametrize("turn", range(14))
async def test_a_caller_that_is_cancelled_at_any_moment_leaves_the_pool_as_it_was(one_server, turn):
    """In line, connecting, in a call, in a transaction, on its way out.

    The next caller is served.
    """
    async with asyncio.timeout(IN_TIME_S), Pool(one_server.url, max_connections=1, **QUICK) as pool:

        async def use():
            async with pool.connection() as connection:
                await connection.call("ECHO", "x")
                await connection.transaction([("INCR", "n"), ("INCR", "n")])

        callers = [asyncio.create_task(use()) for _ in range(3)]
        for victim in callers:
            for _ in range(turn):
                await asyncio.sleep(0)
            victim.cancel()
        await asyncio.wait(callers)
        assert await echo(pool) == b"x"
        await wait_until(lambda: kept(pool.stats()))
    assert await connections(one_server.url) == 0


@pytest.mark.parametrize("turn", range(6))
async def test_a_cancelled_close_leaves_no_connection_open(one_server, turn):
    """Closing goes on without whoever asked for it."""
    pool = Pool(one_server.url, close_timeout_s=0.2)
    await pool.__aenter__()
    assert await echo(pool) == b"x"
    closing = asyncio.create_task(pool.close())
    for _ in range(turn):
        await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait([closing])
    await pool.close()
    async with asyncio.timeout(IN_TIME_S):
        while await connections(one_server.url):
            await asyncio.sleep(0.01)


# Another loop, another process


def test_a_second_event_loop_is_refused_at_once(lab_server):
    """A call, a connection that was lent there, opening and closing.

    WrongLoop, which is definite, and nothing hangs.
    """
    kept_lent = []

    async def first():
        server = EmbeddedServer()
        await server.start()
        pool = Pool(server.url)
        await pool.__aenter__()
        lending = pool.connection()
        kept_lent.append((lending, await lending.__aenter__()))
        return server, pool

    async def second(call):
        async with asyncio.timeout(IN_TIME_S):
            await call()

    with asyncio.Runner() as runner:
        server, pool = runner.run(first())
        for call in (
            lambda: echo(pool),
            pool.__aenter__,
            pool.close,
            lambda: kept_lent[0][1].call("ECHO", "x"),
        ):
            found = []
            thread = threading.Thread(
                target=lambda call=call, found=found: found.append(raised(second, call))
            )
            thread.start()
            thread.join(IN_TIME_S)
            assert [type(error) for error in found] == [WrongLoop] and found[0].definite, call

        async def last():
            await kept_lent[0][0].__aexit__(None, None, None)
            assert await echo(pool) == b"x"
            await pool.close()
            await server.stop()

        runner.run(last())


def raised(second, call):
    try:
        asyncio.run(second(call))
    except Exception as error:
        return error
    return None


FORK = """
import asyncio, os, sys
from mpim_lab.errors import WrongLoop
from mpim_lab.mq.pool.pool import Pool

async def echo(pool):
    async with pool.connection() as connection:
        return await connection.call("ECHO", "x")

loop = asyncio.new_event_loop()
pool = loop.run_until_complete(Pool(sys.argv[1]).__aenter__())
assert loop.run_until_complete(echo(pool)) == b"x"
child = os.fork()
if not child:
    for again in (loop, asyncio.new_event_loop()):
        try:
            again.run_until_complete(echo(pool))
        except WrongLoop:
            continue
        os._exit(1)
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
assert loop.run_until_complete(echo(pool)) == b"x"
loop.run_until_complete(pool.close())
"""


async def test_a_forked_child_is_refused(one_server):
    """It would share its parent's sockets, and read its replies; the parent goes on."""
    ended = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", FORK, one_server.url],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert ended.returncode == 0, ended.stderr


# What is no use is said when the pool is made


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    """A folder with an authority, a certificate, its key, and the key behind a pass phrase."""
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    certificate.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    certificate.private_key_pem.write_to_path(folder / "key.pem")
    key = serialization.load_pem_private_key(certificate.private_key_pem.bytes(), None)
    locked = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.BestAvailableEncryption(b"open sesame"),
    )
    (folder / "locked.pem").write_bytes(locked)
    return folder


@pytest.mark.parametrize(
    "options",
    [
        "ssl_ca_certs={0}/none.pem",
        "ssl_ca_certs={0}/key.pem",
        "ssl_certfile={0}/none.pem&ssl_keyfile={0}/key.pem",
        "ssl_certfile={0}/cert.pem&ssl_keyfile={0}/locked.pem",
        "ssl_certfile={0}/cert.pem&ssl_keyfile={0}/locked.pem&ssl_password=wrong",
        "ssl_cert_reqs=maybe",
        "ssl_ciphers=NONE-OF-THESE",
        "ssl_no_such_option=1",
    ],
)
def test_tls_options_of_no_use_are_refused_by_name_when_the_pool_is_made(tls, options):
    """As InvalidParameter, with the cause; nobody is asked for a pass phrase on a terminal."""
    with pytest.raises(InvalidParameter):
        Pool("rediss://127.0.0.1:1/0?" + options.format(tls))


@pytest.mark.parametrize(
    "options",
    [
        "ssl_ca_certs={0}/ca.pem&ssl_certfile={0}/cert.pem&ssl_keyfile={0}/key.pem",
        "ssl_certfile={0}/cert.pem&ssl_keyfile={0}/locked.pem&ssl_password=open%20sesame",
        "ssl_cert_reqs=none",
        "ssl_ca_path={0}",
    ],
)
def test_tls_options_are_read_as_redis_py_reads_them(tls, options):
    """A pass phrase opens the key; a folder of authorities is one."""
    Pool("rediss://127.0.0.1:1/0?" + options.format(tls))


# Misuse


@pytest.mark.parametrize("words", [("GET", "\ud800"), ("GET", None), ("GET", ["k"]), (b"",)])
async def test_what_is_no_command_is_refused_and_the_connection_is_as_it_was(one_server, words):
    """InvalidMessage: nothing was sent."""
    async with Pool(one_server.url) as pool, pool.connection() as connection:
        with pytest.raises(InvalidMessage):
            await connection.call(*words)
        assert await connection.call("ECHO", "x") == b"x"


async def test_a_transaction_takes_any_iterable_of_commands(one_server):
    """Also one that can be read once only."""
    async with Pool(one_server.url) as pool, pool.connection() as connection:
        assert await connection.transaction(("INCR", "n") for _ in range(3)) == [1, 2, 3]


async def test_a_blocking_command_has_its_blocking_time_on_top_of_the_time_out(one_server):
    """In any case, as text or bytes, and whatever a group, a consumer or a stream is called."""
    async with Pool(one_server.url, call_timeout_s=0.2) as pool, pool.connection() as connection:
        await connection.call("XGROUP", "CREATE", "streams", "block", "$", "MKSTREAM")
        for words in (
            ("BLPOP", "none", 0.4),
            (b"brpop", b"none", b"0.4"),
            ("blmove", "none", "other", "LEFT", "RIGHT", "0.4"),
            ("BRPOPLPUSH", "none", "other", "0.4"),
            ("bzpopmin", "none", 0.4),
            ("BZPOPMAX", "none", 0.4),
            (b"BLMPOP", b"0.4", 1, "none", "LEFT"),
            ("bzmpop", 0.4, 1, "none", "MIN"),
            ("xread", "COUNT", 1, "block", 400, "streams", "none", "$"),
            ("XREADGROUP", "GROUP", "block", "streams", "BLOCK", "400", "STREAMS", "streams", ">"),
            (
                b"xreadgroup",
                b"group",
                b"block",
                b"count",
                b"noack",
                b"block",
                b"400",
                b"streams",
                b"streams",
                b">",
            ),
        ):
            assert not await connection.call(*words), words
        assert await connection.call("WAIT", 1, 400) == 0
        for words in (
            ("XREAD", "BLOCK", 0, "STREAMS", "none", "$"),
            (b"blpop", b"none", b"0"),
            ("WAIT", 1, 0),
        ):
            with pytest.raises(InvalidParameter):
                await connection.call(*words)


def test_every_error_of_a_pool_is_one_of_ours():
    """Callers need to catch one class only."""
    assert issubclass(WrongLoop, MpimError)
