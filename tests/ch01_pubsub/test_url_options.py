"""The options of a server's URL do what they say, as redis-py reads them.

One that does nothing is refused by name.
"""

import asyncio
import contextlib
import shutil
import ssl
from urllib.parse import quote

import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from redis.asyncio import Redis

from mpim_lab import MessageQueue
from mpim_lab.errors import CommandTimeout, InvalidParameter, MpimError
from mpim_lab.mq.connection.address import Address
from mpim_lab.mq.pool.pool import Pool
from tests.support import tls_relay


@pytest.mark.parametrize("login", ["alice@", "alice:@", "alice:pw@", ":pw@", ""])
async def test_who_we_are_is_what_redis_py_says(server, login):
    """A user without a password is that user, not the default one with its rights."""
    async with MessageQueue(server.url) as admin:
        call = admin._commands.call
        await call("ACL", "SETUSER", "alice", "on", "nopass", "~alice:*", "&alice:*", "+@all")
        if login == ":pw@":
            await call("ACL", "SETUSER", "default", ">pw")
        url = server.url.replace("redis://", f"redis://{login}")
        client = Redis.from_url(url, protocol=3)
        expected = await client.execute_command("ACL", "WHOAMI")
        await client.aclose()
        async with MessageQueue(url) as mq:
            assert await mq._commands.call("ACL", "WHOAMI") == expected
        async with Pool(url) as pool, pool.connection() as connection:
            assert await connection.call("ACL", "WHOAMI") == expected


@pytest.mark.parametrize(
    "url",
    [
        "redis://h?foo=1", "redis://h?ssl_ca_certs=/x", "redis://h?decode_responses=1",
        "redis://h?protocol=2", "redis://h?socket_timeout=0", "redis://h?socket_timeout=x",
        "redis://h/db", "redis://h:0x10", "redis://h:70000", "http://h", "h:6379", "",
        "rediss://h?ssl_cert_reqs=CERT_NONE", "rediss://h?ssl_ca_certs=/nowhere",
        "rediss://h?ssl_min_version=99", "rediss://h?ssl_ciphers=none-such",
        "rediss://h?ssl_check=1", "unix://", "unix://relative.sock", "redis://h?path=/x",
        "redis://h?port=x", "redis://:1234#word@h", "redis://:1234?word@h", "redis://h/١",
    ],
)  # fmt: skip
def test_what_is_no_url_or_no_option_is_refused_where_the_queue_is_made(url):
    """Not at the first message, and never in silence."""
    for make in (MessageQueue, Pool):
        with pytest.raises(InvalidParameter):
            make(url)


def test_times_and_names_of_the_url_are_used():
    """They stand above what the constructor says, as in redis-py."""
    times = "socket_timeout=2&socket_connect_timeout=3&health_check_interval=7"
    url = f"redis://h?{times}&client_name=shop&protocol=3"
    mq = MessageQueue(url)
    limits = mq._commands.config
    assert (limits.timeout_s, limits.connect_timeout_s, limits.heartbeat_s) == (2, 3, 7)
    assert b"shop" in [
        word.encode() for word in mq._address.handshake_commands("mq")[0] if isinstance(word, str)
    ]
    assert Address.parse("redis://h?health_check_interval=0").config_overrides[
        "heartbeat_s"
    ] == float("inf")


async def test_the_pool_uses_the_times_of_the_url(one_server):
    """As the queue does."""
    url = one_server.url + "?socket_timeout=0.2&client_name=shop"
    async with Pool(url, call_timeout_s=60) as pool, pool.connection() as connection:
        assert b"name=shop " in await connection.call("CLIENT", "INFO")
        one_server.pause()
        try:
            with pytest.raises(CommandTimeout):
                async with asyncio.timeout(30):
                    await connection.call("PING")
        finally:
            one_server.resume()


def test_a_password_is_never_shown():
    """Two addresses that differ are shown differently all the same."""
    shown = {
        str(Address.parse(url))
        for url in ("redis://h", "redis://a@h", "redis://a:pw@h", "redis://:pw@h", "redis://[::1]")
    }
    assert shown == {
        "redis://h:6379",
        "redis://a@h:6379",
        "redis://a:***@h:6379",
        "redis://:***@h:6379",
        "redis://[::1]:6379",
    }


@pytest.fixture
def certificates(tmp_path):
    """An authority's certificate, in a file and in a folder.

    A server's and a client's; the client's key encrypted.
    """
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    (tmp_path / "folder").mkdir()
    for name, cert in (
        ("server", authority.issue_cert("127.0.0.1")),
        ("client", authority.issue_cert("client@example.org")),
    ):
        cert.private_key_pem.write_to_path(tmp_path / f"{name}.key")
        cert.cert_chain_pems[0].write_to_path(tmp_path / f"{name}.pem")
    key = serialization.load_pem_private_key((tmp_path / "client.key").read_bytes(), None)
    encrypted = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"open sesame"),
    )
    (tmp_path / "encrypted.key").write_bytes(encrypted)
    return tmp_path


@contextlib.asynccontextmanager
async def tls_end(url, folder, version=None):
    """A TLS end before the server that asks for the client's certificate.

    Gives the beginning of its URL.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=folder / "ca.pem")
    context.load_cert_chain(folder / "server.pem", folder / "server.key")
    context.verify_mode = ssl.CERT_REQUIRED
    if version is not None:
        context.maximum_version = version
    async with tls_relay(url, context) as port:
        yield f"rediss://127.0.0.1:{port}/0"


async def outcome(call):
    """Whether it works; None for an error of ours."""
    try:
        async with asyncio.timeout(20):
            return await call
    except MpimError:
        return None


async def through_redis_py(url):
    client = Redis.from_url(url, protocol=3)
    try:
        async with asyncio.timeout(20):
            return await client.ping()
    except Exception:
        return None
    finally:
        await client.aclose()


async def through_the_queue(url):
    async with MessageQueue(url) as mq:
        return await mq.publish("a", b"x") == 0


async def through_the_pool(url):
    async with Pool(url) as pool, pool.connection() as connection:
        return await connection.call("PING") in (b"PONG", "PONG")


CLIENT = "ssl_ca_certs={0}/ca.pem&ssl_certfile={0}/client.pem&"
CASES = {
    "a plain key": (CLIENT + "ssl_keyfile={0}/client.key", True),
    "an encrypted key and its pass phrase": (
        CLIENT + "ssl_keyfile={0}/encrypted.key&ssl_password=open%20sesame",
        True,
    ),
    "a wrong pass phrase": (CLIENT + "ssl_keyfile={0}/encrypted.key&ssl_password=wrong", False),
    "no pass phrase": (CLIENT + "ssl_keyfile={0}/encrypted.key", False),
    "no certificate of ours": ("ssl_ca_certs={0}/ca.pem", False),
    "an unknown authority": ("ssl_certfile={0}/client.pem&ssl_keyfile={0}/client.key", False),
    "no verification": (
        "ssl_cert_reqs=none&ssl_certfile={0}/client.pem&ssl_keyfile={0}/client.key",
        True,
    ),
    "a host name that is not looked at": (
        CLIENT + "ssl_keyfile={0}/client.key&ssl_check_hostname=false",
        True,
    ),
    "a version that the other end has": (
        CLIENT + "ssl_keyfile={0}/client.key&ssl_min_version=771",
        True,
    ),
    "a version that the other end lacks": (
        CLIENT + "ssl_keyfile={0}/client.key&ssl_min_version=772",
        False,
    ),
    "ciphers": (CLIENT + "ssl_keyfile={0}/client.key&ssl_ciphers=ECDHE%2BAESGCM", True),
    "a missing file": ("ssl_ca_certs={0}/nowhere.pem", False),
}


@pytest.mark.parametrize("name", CASES)
async def test_tls_options_do_what_they_do_in_redis_py(one_server, certificates, name):
    """The queue and the pool get through where redis-py does.

    Where it does not, the error is one of ours.
    """
    options, works = CASES[name]
    async with tls_end(one_server.url, certificates, ssl.TLSVersion.TLSv1_2) as base:
        url = f"{base}?{options.format(quote(str(certificates)))}"
        if name != "no pass phrase":  # redis-py would ask at the terminal
            assert bool(await through_redis_py(url)) == works
        assert bool(await outcome(through_the_queue(url))) == works
        assert bool(await outcome(through_the_pool(url))) == works


async def test_authorities_may_stand_in_a_folder(one_server, certificates):
    """ssl_ca_path: a folder in which each certificate has its hash as its name."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl, which names the files of such a folder, is not installed")
    shutil.copy(certificates / "ca.pem", certificates / "folder" / "ca.pem")
    process = await asyncio.create_subprocess_exec(openssl, "rehash", str(certificates / "folder"))
    assert await process.wait() == 0
    folder = quote(str(certificates))
    async with tls_end(one_server.url, certificates) as base:
        own = f"ssl_certfile={folder}/client.pem&ssl_keyfile={folder}/client.key"
        url = f"{base}?ssl_ca_path={folder}/folder&{own}"
        assert await through_the_queue(url)
        assert await through_the_pool(url)


@pytest.mark.parametrize(
    "url",
    ["redis://:se/cret@h", "redis://:1/secret@h", "redis://:se#cret@h", "redis://:secret\uff0f@h"],
)
def test_a_url_that_cannot_be_read_shows_no_piece_of_the_password(url):
    """Characters that belong into %XX take it apart wrongly.

    Neither the error nor its cause says where.
    """
    with pytest.raises(InvalidParameter, match="%XX") as caught:
        Address.parse(url)
    assert "cret" not in str(caught.value) and "se'" not in str(caught.value)
    assert caught.value.__cause__ is None and caught.value.__suppress_context__
