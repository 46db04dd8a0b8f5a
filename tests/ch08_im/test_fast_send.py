"""Messages that go without a task.

When the server fails them they keep their order, and senders are told the truth.
"""

import asyncio
import contextlib

import pytest

from mpim_lab.errors import ConnectionLost
from mpim_lab.im.gateway.config import GatewayConfig
from mpim_lab.im.protocol.requests import direct_conversation
from mpim_lab.im.system import ImSystem
from mpim_lab.keys import Keys
from mpim_lab.lab.faults.latency_proxy import LatencyProxy
from mpim_lab.lab.server.embedded import EmbeddedServer
from mpim_lab.mq.connection.config import ConnectionConfig
from mpim_lab.mq.connection.retry import Backoff
from tests.raw_clients import RawClient, system_options
from tests.support import wait_until

IMPATIENT = ConnectionConfig(
    timeout_s=0.5, connect_timeout_s=1.0, heartbeat_s=1.0, backoff=Backoff(0.02, 0.1)
)
TALK = direct_conversation("alice", "bob")


def send(number, to="bob"):
    return {"t": "send", "id": f"m{number}", "text": f"hi {number}", "to": to}


async def welcome(raw, uid):
    """Log in, and have the server know the script.

    The first message on a connection goes the long way.
    """
    await raw.hello(uid)
    assert (await raw.ask(send("first", to=uid), "sent"))["sequence"] == 1
    return raw


@contextlib.asynccontextmanager
async def message_under_way(**options):
    """A server that has stopped under alice's first message: (server, system, alice)."""
    async with (
        EmbeddedServer() as server,
        ImSystem(server.url, **options, **system_options()) as mpim,
        RawClient(mpim.gateways["gw-1"].url) as alice,
    ):
        await welcome(alice, "alice")
        server.pause()
        await alice.say(send(1))
        await wait_until(lambda: mpim.gateways["gw-1"].sessions.by_user["alice"][0].in_flight)
        yield server, mpim, alice


def link_of(mpim):
    return mpim.gateways["gw-1"].services.messages.log.commands


async def ledger_of(mpim):
    """What the log has: the ids, by number."""
    kept = await mpim.services.messages.log.read_range(TALK, 1, None, 1_000)
    return [message.id for message in kept]


@pytest.mark.parametrize("pause_s", [0.0, 0.001, 0.003, 0.006])
@pytest.mark.parametrize("trouble", ["script flush", "line"])
async def test_what_is_sent_again_keeps_its_order(server, trouble, pause_s):
    """The server has forgotten the script, or the line to it breaks; the client goes on writing."""
    async with (
        LatencyProxy(server.url, one_way_ms=2.0) as line,
        ImSystem(line.url, queue_config=IMPATIENT, **system_options()) as mpim,
        RawClient(mpim.gateways["gw-1"].url) as bob,
        RawClient(mpim.gateways["gw-1"].url) as alice,
    ):
        await bob.hello("bob")
        await welcome(alice, "alice")
        for number in range(40):
            if number == 10 and trouble == "line":
                link_of(mpim).connection.abort(ConnectionLost("cut by the test"))
            elif number == 10:
                await link_of(mpim).call("SCRIPT", "FLUSH")
            await alice.say(send(number))
            await asyncio.sleep(pause_s)
        told = [await alice.hear("sent") for _ in range(40)]
        assert sorted(each["id"] for each in told) == sorted(f"m{number}" for number in range(40))
        assert await ledger_of(mpim) == [f"m{number}" for number in range(40)]
        by_number = sorted(told, key=lambda each: each["sequence"])
        assert [each["id"] for each in by_number] == await ledger_of(mpim)


async def test_a_message_that_may_be_kept_is_not_said_to_be_certainly_not():
    """The step was written and its answer lost, and no repeat comes through.

    The error is not definite.
    """
    async with message_under_way(queue_config=IMPATIENT) as (server, _, alice):
        server.kill()
        problem = await alice.hear("error")
        assert problem["id"] == "m1" and problem["definite"] is False


async def test_an_answer_that_makes_no_sense_is_one_messages_trouble(server):
    """Somebody has written over its mark.

    Its sender is told, the line to the server holds, others are served.
    """
    async with (
        ImSystem(server.url, **system_options()) as mpim,
        RawClient(mpim.gateways["gw-1"].url) as alice,
        RawClient(mpim.gateways["gw-1"].url) as bob,
    ):
        await welcome(alice, "alice")
        await bob.hello("bob")
        link = link_of(mpim)
        for number in (1, 2):
            await link.call(
                "SET", Keys().message_id("chat", TALK, "alice", f"m{number}"), "no number"
            )
        connection = link.connection
        await alice.say(send(1))
        await alice.say(send(2))
        assert {(await alice.hear("error"))["id"] for _ in range(2)} == {"m1", "m2"}
        assert (await alice.ask(send(3), "sent"))["sequence"] == 1
        assert (await bob.hear("push"))["id"] == "m3"
        assert (
            link.connection is connection
            and mpim.gateways["gw-1"].sessions.by_user["alice"][0].in_flight == 0
        )


async def test_a_client_that_is_sent_away_is_not_served_meanwhile():
    """Too many faults, while an answer of the server is still awaited.

    What it says now is not taken.
    """
    async with message_under_way(gateway_config=GatewayConfig(max_violations=3)) as (
        server,
        mpim,
        alice,
    ):
        for _ in range(4):
            await alice.say("garbage")
        for _ in range(4):
            await alice.hear("error")
        for number in range(2, 50):
            await alice.say(send(number))
        await asyncio.sleep(0.1)
        server.resume()
        assert (await alice.ended())[0] == 1008
        assert await ledger_of(mpim) == ["m1"]


async def test_a_gateway_that_closes_waits_for_what_clients_that_left_had_sent(server, monkeypatch):
    """The message is in the log, and on its way into the offline store."""
    async with ImSystem(server.url, **system_options()) as mpim:
        messages, stored = mpim.gateways["gw-1"].services.messages, []
        store = messages.store_offline

        async def slowly(uids, message):
            await asyncio.sleep(0.2)
            await store(uids, message)
            stored.append(message.id)

        monkeypatch.setattr(messages, "store_offline", slowly)
        async with RawClient(mpim.gateways["gw-1"].url) as alice:
            await welcome(alice, "alice")
            await alice.say(send(1))
            await wait_until(lambda: len(mpim.gateways["gw-1"]._frame_handler.fast_sender._tasks))
        await mpim.stop("gw-1")
        assert stored == ["m1"]


async def test_a_text_that_is_not_utf_8_ends_the_connection_wherever_it_is(server):
    """In a member that nobody reads, too: RFC 6455, section 8.1."""
    async with (
        ImSystem(server.url, **system_options()) as mpim,
        RawClient(mpim.gateways["gw-1"].url) as alice,
    ):
        await welcome(alice, "alice")
        await alice.ws.send(b'{"t":"send","id":"m1","to":"bob","text":"hi","x":"\xff"}', text=True)
        assert (await alice.ended())[0] == 1007
        assert await ledger_of(mpim) == []


async def test_a_gateway_that_closes_takes_nothing_new():
    """After `bye` nothing is begun; what was begun is told."""
    async with message_under_way(gateway_config=GatewayConfig(drain_timeout_s=5.0)) as (
        server,
        mpim,
        alice,
    ):
        closing = asyncio.create_task(mpim.stop("gw-1"))
        await alice.hear("bye")
        await alice.say(send(2))
        await asyncio.sleep(0.1)
        server.resume()
        assert (await alice.hear("sent"))["id"] == "m1"
        await closing
        assert await ledger_of(mpim) == ["m1"]
