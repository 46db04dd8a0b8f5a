"""A system and a client are opened once.

What is begun while they close is given back, and says why.
"""

import asyncio

import pytest

from mpim_lab.errors import GatewayClosed, InvalidParameter, NotConnected, QueueClosed, WrongLoop
from mpim_lab.im.client.client import Client
from mpim_lab.im.gateway.gateway import Gateway
from mpim_lab.im.system import ImSystem
from mpim_lab.lab.faults.server_admin import controlling
from mpim_lab.lab.system.embedded import MpimSystem
from tests.raw_clients import system_of_its_own, system_options


async def connections(server):
    """How many clients the server has, besides whoever asks."""
    async with controlling(server.url) as link:
        return bytes(await link.call("CLIENT", "LIST")).count(b"\n") - 1


async def test_of_two_gateways_of_one_name_that_are_started_at_once_one_is_started():
    """The other would be nobody's.

    Never stopped, with its socket, its routes and its connections.
    """
    async with system_of_its_own() as mpim:
        begun = await asyncio.gather(mpim.start("gw-x"), mpim.start("gw-x"), return_exceptions=True)
        assert [type(each).__name__ for each in begun] == ["Gateway", "InvalidParameter"]
        await mpim.stop("gw-x")
        assert (await mpim.start("gw-x")).name == "gw-x"


async def test_a_system_that_is_open_is_not_opened_once_more(one_server):
    """It goes on as if nobody had tried."""
    async with ImSystem(one_server.url, **system_options()) as mpim:
        with pytest.raises(InvalidParameter, match="open already"):
            await mpim.__aenter__()
        async with mpim.client("alice") as alice, mpim.client("bob") as bob:
            await alice.send("bob", "hi")
            assert (await bob.receive()).text == "hi"
    assert await connections(one_server) == 0
    with pytest.raises(QueueClosed):
        await mpim.__aenter__()


async def test_a_system_in_a_notebook_that_is_open_is_not_opened_once_more(one_server):
    """The cell was run twice."""
    async with MpimSystem(server=one_server, **system_options()) as mpim:
        with pytest.raises(InvalidParameter, match="open already"):
            await mpim.__aenter__()
        async with mpim.client("alice") as alice:
            assert (await alice.send("bob", "hi")).status == "stored"


async def test_no_gateway_is_started_before_its_system_is_open_or_after_it_was_closed(one_server):
    """Nobody would stop it."""
    mpim = ImSystem(one_server.url, **system_options())
    with pytest.raises(NotConnected, match="not opened yet"):
        await mpim.start("gw-9")
    async with mpim:
        pass
    with pytest.raises(QueueClosed):
        await mpim.start("gw-9")
    assert await connections(one_server) == 0


@pytest.mark.parametrize("turns", [0, 1, 3, 10, 30])
async def test_a_gateway_that_is_started_while_its_system_closes_is_not_left(one_server, turns):
    """Whoever starts it hears why, unless it was there in time to be stopped with the others."""
    mpim = ImSystem(one_server.url, **system_options())
    await mpim.__aenter__()
    starting = asyncio.create_task(mpim.start("gw-9"))
    for _ in range(turns):
        await asyncio.sleep(0)
    await mpim.__aexit__(None, None, None)
    (outcome,) = await asyncio.gather(starting, return_exceptions=True)
    assert isinstance(outcome, QueueClosed) or outcome.name == "gw-9"
    assert mpim.gateways == {}
    assert await connections(one_server) == 0


async def test_a_client_that_is_closed_while_it_is_opened_says_so_at_once():
    """Instead of waiting until its time is over for a gateway that it no longer looks for."""
    async with system_of_its_own() as mpim:
        client = mpim.client("alice", timeout_s=60.0)
        opening = asyncio.create_task(client.__aenter__())
        await asyncio.sleep(0)
        await client.close()
        with pytest.raises(GatewayClosed, match="is closed"):
            async with asyncio.timeout(10):
                await opening


async def test_what_is_asked_of_a_closed_client_was_not_sent_and_will_not_be():
    """Definite, and no use to try again."""
    async with system_of_its_own() as mpim:
        async with mpim.client("alice") as alice:
            pass
        for call in (alice.send("bob", "hi"), alice.watch("bob"), alice.__aenter__()):
            with pytest.raises(GatewayClosed) as raised:
                await call
            assert (raised.value.definite, raised.value.transient) == (True, False)


@pytest.mark.parametrize("end", ["drain", "abort"])
@pytest.mark.parametrize("turns", [0, 1, 3, 10])
async def test_a_gateway_that_is_closed_while_it_is_opened_is_not_left_open(one_server, end, turns):
    """No socket, no subscription, no task.

    Whoever opens it hears why, or it was open and has been closed.
    """
    async with ImSystem(one_server.url, gateways=0, **system_options()) as mpim:
        gateway = Gateway("gw-1", mpim.services)
        opening = asyncio.create_task(gateway.__aenter__())
        for _ in range(turns):
            await asyncio.sleep(0)
        await getattr(gateway, end)()
        (outcome,) = await asyncio.gather(opening, return_exceptions=True)
        assert outcome is gateway or isinstance(outcome, GatewayClosed)
        with pytest.raises(OSError, match="Connect"):
            await asyncio.open_connection("127.0.0.1", gateway.port)
        if isinstance(outcome, GatewayClosed):
            async with controlling(one_server.url) as link:
                assert await link.call("PUBSUB", "CHANNELS") == []


async def test_a_system_belongs_to_one_event_loop(one_server):
    """A gateway that is started in another thread's loop could not be stopped here."""
    async with ImSystem(one_server.url, **system_options()) as mpim:

        def elsewhere(call):
            with pytest.raises(WrongLoop):
                asyncio.run(call())

        for call in (
            lambda: mpim.start("gw-9"),
            lambda: mpim.stop("gw-1"),
            lambda: mpim.kill("gw-1"),
        ):
            await asyncio.to_thread(elsewhere, call)
        assert list(mpim.gateways) == ["gw-1"]
        async with mpim.client("alice") as alice:
            await alice.send("bob", "hi")


@pytest.mark.parametrize("number", [-1, 1.5, "7", None, float("nan")])
async def test_a_position_that_is_no_number_of_a_message_is_refused_where_it_is_given(number):
    """And not at every attempt to connect, for as long as there are any."""
    with pytest.raises(InvalidParameter, match="alice:bob"):
        Client("ws://127.0.0.1:1/ws", str, positions={"alice:bob": number})
