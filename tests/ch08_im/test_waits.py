"""Every wait of client, gateway and system ends.

Whatever the server, the database, peers and callbacks do.
"""

import asyncio
import contextlib
import sqlite3
import threading

import pytest
from websockets.asyncio.server import serve as serve_websockets

from mpim_lab.errors import (
    GatewayClosed,
    InvalidParameter,
    MpimError,
    NotConnected,
    StoreFailed,
    Unconfirmed,
    WrongLoop,
)
from mpim_lab.events import now
from mpim_lab.im.client.client import Client
from mpim_lab.im.gateway.config import GatewayConfig
from mpim_lab.im.protocol.frames import Ping, Welcome, encode
from mpim_lab.im.services.offline import OfflineStore
from mpim_lab.im.system import ImSystem
from mpim_lab.lab.server.embedded import EmbeddedServer
from mpim_lab.lab.system.embedded import MpimSystem
from mpim_lab.mq.connection.config import ConnectionConfig
from mpim_lab.mq.connection.retry import Backoff
from mpim_lab.mq.idempotency.sql_database import SqlDatabase
from tests.raw_clients import RawClient, system_options
from tests.support import wait_until

LIMITS = GatewayConfig(maintenance_interval_s=0.05, drain_timeout_s=1.0, close_timeout_s=1.5)
IMPATIENT = ConnectionConfig(
    timeout_s=1.0, close_timeout_s=1.0, connect_timeout_s=1.0, backoff=Backoff(0.02, 0.2)
)
END_S = 9.0  # drain, close and queue, one after the other, and some air


@contextlib.asynccontextmanager
async def a_gateway(handler):
    """A gateway that does what the test wants; gives its address."""
    async with serve_websockets(handler, "127.0.0.1", 0, close_timeout=0.1) as server:
        yield f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}/"


async def never_reads(ws):
    """Welcomes, and reads nothing more."""
    await ws.recv()
    await ws.send(encode(Welcome("alice", "deaf", {}, idle_timeout_s=0.3)), text=True)
    ws.transport.pause_reading()
    with contextlib.suppress(asyncio.CancelledError):
        while True:
            await asyncio.sleep(0.05)
            await ws.send(encode(Welcome("alice", "deaf", {}, idle_timeout_s=0.3)), text=True)


async def filled(alice):
    """Send until what the gateway does not read fills the socket."""
    texts = [asyncio.create_task(alice.send("bob", "x" * 4_000)) for _ in range(32)]
    ws = alice.connection._ws
    ws.transport.write(b"\x81\x7f" + (16_000_000).to_bytes(8, "big") + b"x" * 16_000_000)
    await asyncio.sleep(0.1)
    return texts


# The client


async def test_a_client_closes_although_its_gateway_reads_nothing():
    """Its socket is full, and thirty-two messages wait in it.

    They are told so, and the client is gone.
    """
    async with a_gateway(never_reads) as url:
        alice = await Client(url, lambda: "x").__aenter__()
        sending = await filled(alice)
        began = now()
        async with asyncio.timeout(END_S):
            await alice.close()
            results = await asyncio.gather(*sending, return_exceptions=True)
        assert now() - began < 6
        assert {type(each) for each in results} == {GatewayClosed}
        assert all(task.done() for task in (*alice._tasks, *alice._send_tasks))


async def test_what_is_said_to_a_gateway_that_reads_nothing_ends_and_the_line_is_given_up():
    """`watch`, `send` and `join` return within their limits.

    The client goes on at the next gateway.
    """
    async with (
        EmbeddedServer() as server,
        ImSystem(server.url, **system_options()) as mpim,
        a_gateway(never_reads) as url,
        Client(
            [url, *mpim.addresses],
            lambda: mpim.tokens.issue("alice"),
            timeout_s=20,
            response_timeout_s=0.5,
        ) as alice,
    ):
        assert alice.gateway == "deaf"
        sending = await filled(alice)
        async with asyncio.timeout(20):
            await alice.watch("bob")
            await asyncio.gather(*sending)
        assert alice.gateway == "gw-1"


async def test_nothing_is_said_into_a_line_that_was_given_up():
    """`say` tells that there is none, from the moment at which it was given up.

    What is asked is asked again elsewhere.
    """
    async with (
        EmbeddedServer() as server,
        ImSystem(server.url, **system_options()) as mpim,
        mpim.client("alice") as alice,
    ):
        ws = alice.connection._ws
        alice.connection._abort(ws, "for the test")
        assert await alice.connection.send(Ping()) is False
        assert (await alice.send("bob", "hi")).status == "stored"


async def test_a_gateway_that_never_answers_the_handshake_is_not_waited_for():
    """It accepts and is silent.

    `GatewayClosed` after `timeout_s`; from another gateway an answer comes before.
    """

    async def silent(reader, writer):
        await asyncio.sleep(3_600)

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/ws"
    began = now()
    with pytest.raises(GatewayClosed):
        async with Client(url, lambda: "x", timeout_s=0.5):
            pass
    assert now() - began < 5
    server.close()


async def test_a_token_that_takes_for_ever_ends_with_the_client():
    """Also one that does not let itself be cancelled."""

    async def stubborn():
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(1.0 if not over else 0.0)
            if over:
                return "x"

    over = []
    client = Client("ws://127.0.0.1:9/ws", stubborn, timeout_s=0.3)
    async with asyncio.timeout(END_S):
        with pytest.raises(GatewayClosed):
            await client.__aenter__()
    over.append(True)
    await asyncio.wait(client._tasks, timeout=5)


async def test_a_client_may_be_closed_by_its_own_token_function():
    """It does not wait for itself; whoever waits for a message or an answer is told."""
    async with EmbeddedServer() as server, ImSystem(server.url, **system_options()) as mpim:
        tokens = iter([mpim.tokens.issue("alice")])

        async def token():
            with contextlib.suppress(StopIteration):
                return next(tokens)
            await alice.close()
            raise RuntimeError("no second time")

        alice = await Client(mpim.addresses, token).__aenter__()
        reading = asyncio.create_task(alice.receive())
        await mpim.stop("gw-1")
        async with asyncio.timeout(END_S):
            with pytest.raises(GatewayClosed):
                await reading
            await alice.close()
        assert all(task.done() for task in alice._tasks)


# The system


@pytest.mark.parametrize("fault", ["paused", "killed"])
async def test_a_system_ends_in_time_although_its_server_does_not_answer(fault):
    """Three gateways, clients that watch many, one that does not read, messages under way.

    All of it is given back.
    """
    before = asyncio.all_tasks()
    options = system_options(gateway_config=LIMITS, queue_config=IMPATIENT)
    async with EmbeddedServer() as server:
        mpim = await ImSystem(server.url, gateways=3, **options).__aenter__()
        async with contextlib.AsyncExitStack() as stack:
            for number, url in enumerate(mpim.addresses * 10):
                raw = await stack.enter_async_context(RawClient(url))
                await raw.hello(f"u{number}")
                await raw.say(
                    {"t": "presence", "users": [f"w{number}-{each}" for each in range(20)]}
                )
                await raw.hear("presence")
            raw.ws.transport.pause_reading()
            mpim.gateways["gw-3"].sessions.by_user["u29"][0].enqueue(b"x" * 12_000_000)
            (server.pause if fault == "paused" else server.kill)()
            await asyncio.gather(
                *(
                    RawClient.say(raw, {"t": "send", "id": f"m{n}", "to": "x", "text": "hi"})
                    for n in range(5)
                )
            )
            began = now()
            async with asyncio.timeout(30):
                await mpim.__aexit__(None, None, None)
            assert now() - began < END_S
            if fault == "paused":
                server.resume()
    await wait_until(lambda: not asyncio.all_tasks() - before)


async def test_a_gateway_closes_in_time_although_the_database_is_locked(tmp_path):
    """Somebody else holds its write lock.

    Acknowledgements, and a message for somebody away, wait for it.
    """
    database = tmp_path / "chat.db"
    options = system_options(gateway_config=LIMITS, database=f"sqlite+aiosqlite:///{database}")
    async with EmbeddedServer() as server:
        mpim = await ImSystem(server.url, **options).__aenter__()
        async with RawClient(mpim.addresses[0]) as alice, RawClient(mpim.addresses[0]) as bob:
            await alice.hello("alice")
            await alice.ask({"t": "send", "id": "m1", "to": "bob", "text": "hi"}, "sent")
            await bob.hello("bob")
            locked = sqlite3.connect(database, isolation_level=None)
            locked.execute("BEGIN IMMEDIATE")
            await bob.say({"t": "ack", "conversation": "alice:bob", "sequence": 1})
            await alice.say({"t": "send", "id": "m2", "to": "carol", "text": "hi"})
            await asyncio.sleep(0.1)
            began = now()
            async with asyncio.timeout(30):
                await mpim.stop("gw-1")
            assert now() - began < END_S
            locked.close()
        await mpim.__aexit__(None, None, None)
        # The statement that waited ends in a thread of the driver's, which still asks for this
        # loop.
        await wait_until(lambda: "_connection_worker_thread" not in str(threading.enumerate()))


async def test_a_drain_that_is_cancelled_leaves_nothing_open():
    """Its sockets, tasks and connections are given back at once."""
    async with EmbeddedServer() as server:
        mpim = await ImSystem(
            server.url, **system_options(gateway_config=LIMITS, queue_config=IMPATIENT)
        ).__aenter__()
        gateway = mpim.gateways["gw-1"]
        async with RawClient(gateway.url) as raw:
            await raw.hello("alice")
            server.pause()
            await raw.say({"t": "send", "id": "m1", "to": "x", "text": "hi"})
            await asyncio.sleep(0.05)
            draining = asyncio.create_task(gateway.drain())
            await asyncio.sleep(0.1)
            draining.cancel()
            await asyncio.wait([draining])
            await wait_until(
                lambda: not gateway._handlers and not gateway._tasks and not gateway.connections
            )
            server.resume()
        await mpim.__aexit__(None, None, None)


# Named errors


async def test_a_client_and_a_gateway_belong_to_one_event_loop():
    """Elsewhere: WrongLoop, at once, and nothing is done."""
    async with (
        EmbeddedServer() as server,
        ImSystem(server.url, **system_options()) as mpim,
        mpim.client("alice") as alice,
    ):
        gateway, told = mpim.gateways["gw-1"], []

        def elsewhere():
            for call in (
                lambda: alice.send("bob", "hi"),
                alice.receive,
                lambda: alice.watch("bob"),
                lambda: alice.join("tea"),
                alice.close,
                alice.abort,
                gateway.drain,
                gateway.abort,
            ):
                try:
                    asyncio.run(asyncio.wait_for(call(), 5))
                except Exception as error:
                    told.append(type(error))

        thread = threading.Thread(target=elsewhere)
        thread.start()
        await asyncio.to_thread(thread.join, 20)
        assert told == [WrongLoop] * 8
        assert (await alice.send("bob", "still here")).status == "stored"


async def test_before_it_is_opened_and_after_it_was_closed_a_client_says_so():
    """NotConnected and GatewayClosed, at once; a second opening is refused, too."""
    async with EmbeddedServer() as server, ImSystem(server.url, **system_options()) as mpim:
        alice = mpim.client("alice")
        calls = (
            lambda: alice.send("bob", "hi"),
            lambda: alice.send_to_group("tea", "hi"),
            lambda: alice.join("tea"),
            lambda: alice.watch("bob"),
            alice.receive,
            lambda: anext(alice.messages()),
        )
        for call in calls:
            with pytest.raises(NotConnected, match="not opened"):
                await asyncio.wait_for(call(), 1)
        async with alice:
            with pytest.raises(GatewayClosed, match="used once"):
                await alice.__aenter__()
            assert (await alice.send("bob", "hi")).status == "stored"
        for call in calls[:5]:
            with pytest.raises(GatewayClosed):
                await asyncio.wait_for(call(), 1)
        with pytest.raises(GatewayClosed, match="used once"):
            await alice.__aenter__()
    with pytest.raises(MpimError):
        await mpim.broadcast("too late")


async def test_a_system_that_was_not_opened_says_so():
    """It has no gateways yet, and its queue is not connected."""
    mpim = ImSystem("redis://127.0.0.1:9/0", **system_options())
    with pytest.raises(InvalidParameter):
        mpim.client("alice")
    with pytest.raises(NotConnected, match="not opened"):
        await mpim.broadcast("too early")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://127.0.0.1/ws",
        "127.0.0.1:80",
        "ws://",
        "ws://[::1",
        "ws://a:99999/",
        "ws://a/#x",
        5,
        None,
    ],
)
def test_what_is_no_address_of_a_gateway_is_refused_where_it_is_given(url):
    """InvalidParameter, and not a client that tries for half a minute."""
    with pytest.raises(InvalidParameter):
        Client(["ws://127.0.0.1:80/ws", url], lambda: "x")


def test_callbacks_that_would_not_be_run_are_refused():
    """A `yield` in one, or `async`: nobody would run what it says."""

    def generator(frame=None):
        yield

    async def asynchronous(frame):
        pass

    for given in ({"on_broadcast": generator}, {"on_presence": asynchronous}, {"on_presence": 5}):
        with pytest.raises(InvalidParameter):
            Client("ws://127.0.0.1:80/ws", lambda: "x", **given)
    with pytest.raises(InvalidParameter):
        Client("ws://127.0.0.1:80/ws", generator)


async def test_nothing_that_was_refused_for_certain_is_told_as_perhaps_done():
    """The gateway says each time that nothing was done.

    The last of its errors is raised, and it is definite.
    """

    async def refuses(ws):
        await ws.recv()
        await ws.send(encode(Welcome("alice", "full", {})), text=True)
        async for raw in ws:
            if '"send"' in raw:
                await ws.send(
                    '{"t":"error","error":"QueueFull","text":"no room","id":"m1","transient":true}'
                )

    async with a_gateway(refuses) as url, Client(url, lambda: "x", timeout_s=0.5) as alice:
        with pytest.raises(MpimError) as raised:
            await alice.send("bob", "hi", id="m1")
        assert raised.value.definite and not isinstance(raised.value, Unconfirmed)


async def test_what_is_under_way_at_the_end_is_not_told_as_certainly_not_done():
    """It was refused for certain, and said once more: nobody knows what became of that."""

    async def refuses_once(ws):
        await ws.recv()
        await ws.send(encode(Welcome("alice", "odd", {})), text=True)
        heard = 0
        async for raw in ws:
            heard += '"send"' in raw
            if heard == 1:
                heard += 1
                await ws.send(
                    '{"t":"error","error":"QueueFull","text":"no room","id":"m1","transient":true}'
                )

    async with a_gateway(refuses_once) as url, Client(url, lambda: "x", timeout_s=1.0) as alice:
        with pytest.raises(Unconfirmed) as raised:
            await alice.send("bob", "hi", id="m1")
        assert not raised.value.definite


async def test_a_system_in_a_notebook_that_was_not_opened_says_so():
    """NotConnected, which says what to write; what it never has is an AttributeError as ever."""
    mpim = MpimSystem()
    for use in (lambda: mpim.client("alice"), lambda: mpim.gateways, lambda: mpim.services):
        with pytest.raises(NotConnected, match="not opened yet: write `async with MpimSystem"):
            use()
    assert not hasattr(mpim, "_repr_html_")
    async with mpim:
        assert list(mpim.gateways) == ["gw-1"] and not hasattr(mpim, "nothing")


async def test_many_who_wait_for_a_database_that_hangs_wait_together(tmp_path):
    """Not one after the other: each is told within what one of them would wait.

    Whoever is cancelled takes nobody along.
    """
    database = tmp_path / "chat.db"
    locked = sqlite3.connect(database, isolation_level=None)
    locked.execute("BEGIN EXCLUSIVE")
    async with SqlDatabase(f"sqlite+aiosqlite:///{database}", timeout_s=0.3) as store:
        offline = OfflineStore(store)
        calls = [
            asyncio.create_task(offline.page("bob", "alice:bob", number, 10))
            for number in range(40)
        ]
        await asyncio.sleep(0)
        calls[0].cancel()
        async with asyncio.timeout(6):  # one by one it would be forty times as long
            results = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(each) for each in results[1:]} == {StoreFailed}
        locked.close()
        assert await offline.page("bob", "alice:bob", 0, 10) == []
